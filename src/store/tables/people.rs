//! Who is found by which words: `Rm` rows `n circle word user room` (the index), `N room user` (what it has of one person)
//! and `M room` (how a room's people are found), `Mi` row `b name` (how far the first building of an index is).

use hearth_ports::{Key, Partition};
use serde::{Deserialize, Serialize};

use crate::{RoomNumber, UserNumber, id16, key, row};

/// Among whom a word is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Circle {
    /// The accounts of this server.
    Accounts,
    /// Those in rooms that anybody may join or read.
    Public,
    /// Those in one room, which is not of that sort.
    Room(RoomNumber),
}

impl Circle {
    /// No room has the first two numbers, or as good as none.
    const fn number(self) -> u64 {
        match self {
            Self::Accounts => 0,
            Self::Public => 1,
            Self::Room(RoomNumber(room)) => room,
        }
    }
}

/// What stands for the room in the rows of somebody in [`Circle::Accounts`].
pub const NO_ROOM: RoomNumber = RoomNumber(0);

/// What the index has of one person in one room, or of one account of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRow {
    /// They are in [`Circle::Public`].
    pub is_public: bool,
    /// The name that is shown, at most 1,024 bytes.
    pub display_name: Option<String>,
    /// The picture that is shown, at most 1,024 bytes.
    pub avatar_url: Option<String>,
    /// The words by which they are found, sorted.
    pub words: Vec<String>,
}

row!(PersonRow, "person", version 1);

/// How a room's people are found. Without a row they are not: nobody of ours is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRow {
    /// They are in [`Circle::Public`].
    pub is_public: bool,
    /// All of them are; else it is being worked on.
    pub is_complete: bool,
}

row!(ListedRow, "listed room", version 1);

/// How far the first building of an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRow {
    /// What is built: another version is built anew.
    pub version: u32,
    /// The rooms up to this one are done.
    pub behind: Option<RoomNumber>,
    /// Everything is.
    pub is_done: bool,
}

row!(BuildRow, "building of an index", version 1);

/// `Rm`: one word of one person in one room. The row has no value; it belongs to the room's partition, with [`NO_ROOM`] to
/// the user's. The word ends with a byte 0, which no word has: it comes before those that begin with it.
pub fn word_key(circle: Circle, word: &str, user: UserNumber, room: RoomNumber) -> Key {
    key(b'n').u64(circle.number()).raw(word.as_bytes()).u8(0).user(user).room(room).build()
}

/// The prefix of all [`word_key`]s of words that begin with `start`.
pub fn words_prefix(circle: Circle, start: &str) -> Key {
    key(b'n').u64(circle.number()).raw(start.as_bytes()).build()
}

/// The prefix of all [`word_key`]s of this word and this user.
pub fn word_user_prefix(circle: Circle, word: &str, user: UserNumber) -> Key {
    key(b'n').u64(circle.number()).raw(word.as_bytes()).u8(0).user(user).build()
}

/// The word, the user and the room of a [`word_key`].
pub fn parts_of_word_key(key: &[u8]) -> Option<(&str, UserNumber, RoomNumber)> {
    let rest = key.get(9..)?;
    let (word, numbers) = rest.split_at_checked(rest.len().checked_sub(17)?)?;
    let (user, room) = numbers.strip_prefix(&[0])?.split_at_checked(8)?;
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some((std::str::from_utf8(word).ok()?, UserNumber(number(user)?), RoomNumber(number(room)?)))
}

/// `Rm`: a person in a room. Its partition is that of its words.
pub fn person_key(room: RoomNumber, user: UserNumber) -> Key {
    key(b'N').room(room).user(user).build()
}

/// The prefix of all [`person_key`]s of a room.
pub fn persons_prefix(room: RoomNumber) -> Key {
    key(b'N').room(room).build()
}

/// The user of a [`person_key`].
pub fn user_of_person_key(key: &[u8]) -> Option<UserNumber> {
    Some(UserNumber(u64::from_be_bytes(key.get(9..)?.try_into().ok()?)))
}

/// `Rm`: how a room's people are found.
pub fn listed_key(room: RoomNumber) -> Key {
    key(b'M').room(room).build()
}

/// `Mi`: how far the building of the index of this name is.
pub fn build_key(name: &str) -> Key {
    key(b'b').raw(name.as_bytes()).build()
}

/// Where [`build_key`] lives.
pub fn build_partition(name: &str) -> Partition {
    Partition::of(u64::from(id16(name)[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_by_its_beginning_and_read_back() {
        let (user, room) = (UserNumber(u64::MAX), RoomNumber(0xff00));
        for (word, start) in [("a", "a"), ("ann", "an"), ("\u{10ffff}", ""), ("", "")] {
            let key = word_key(Circle::Room(room), word, user, room);
            assert_eq!(parts_of_word_key(&key), Some((word, user, room)));
            assert!(key.starts_with(&words_prefix(Circle::Room(room), start)));
            assert!(key.starts_with(&word_user_prefix(Circle::Room(room), word, user)));
        }
        assert!(word_key(Circle::Public, "an", user, room) < word_key(Circle::Public, "ann", user, room));
        assert_eq!(parts_of_word_key(b"n12345678"), None);
    }
}
