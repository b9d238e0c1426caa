//! Numbers for rooms and users, and back.

use std::{str::FromStr, sync::Arc};

use hearth_core::RoomVersion;
use hearth_ports::{CommitError, Table, Unavailable};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};

use crate::{
    Corrupt, LoadError, RoomNumber, Row as _, Store, UserNumber, Write,
    cache::Weight,
    codec::read_u64,
    id16,
    tables::{Head, RoomIdRow, UserIdRow, head_key, room_index_key, room_name_key, user_index_key, user_name_key},
};

/// So often a number is sought anew because another took it first. Each time that other made progress.
const NUMBER_ATTEMPTS_MAX: usize = 16;

/// What never changes about a room.
#[derive(Clone, Debug)]
pub struct RoomIdentity {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersion,
}

impl Weight for RoomIdentity {
    fn weight(&self) -> u64 {
        self.room_id.as_str().len() as u64 + 48
    }
}

impl Store {
    /// The number of a room; `None` if it is not known here.
    pub async fn room_number(&self, room_id: &RoomId) -> Result<Option<RoomNumber>, LoadError> {
        let hash = id16(room_id.as_str());
        if let Some(number) = self.caches.rooms_by_id.get(&hash) {
            return Ok(Some(number));
        }
        let Some(bytes) = self.get_bytes(Table::Ix, &room_index_key(room_id)).await? else { return Ok(None) };
        let number = RoomNumber(read_u64("room number", &bytes)?);
        self.caches.rooms_by_id.insert(hash, number);
        Ok(Some(number))
    }

    /// The id of a room; `None` if the number was never given.
    pub async fn room_id(&self, room: RoomNumber) -> Result<Option<OwnedRoomId>, LoadError> {
        if let Some(identity) = self.caches.rooms.get(&room) {
            return Ok(Some(identity.room_id.clone()));
        }
        let Some(row) = self.get::<RoomIdRow>(Table::Ix, &room_name_key(room)).await? else { return Ok(None) };
        Ok(Some(parse_id("room id", &row.room_id)?))
    }

    /// What never changes about a room; `None` if it has no head: it is not known here, or being made.
    pub async fn room_identity(&self, room: RoomNumber) -> Result<Option<Arc<RoomIdentity>>, LoadError> {
        if let Some(identity) = self.caches.rooms.get(&room) {
            return Ok(Some(identity));
        }
        let Some(room_id) = self.room_id(room).await? else { return Ok(None) };
        let Some(head) = self.get::<Head>(Table::Rm, &head_key(room)).await? else { return Ok(None) };
        let unknown = || Corrupt { what: Head::NAME, reason: "its room version is not known".to_owned() };
        let version = RoomVersion::parse(&head.create.version).ok_or_else(unknown)?;
        let identity = Arc::new(RoomIdentity { room_id, version });
        self.caches.rooms.insert(room, identity.clone());
        Ok(Some(identity))
    }

    /// The number that a room has, or else one that is free: the batch that makes the room then calls
    /// [`Write::name_room`].
    pub async fn assign_room_number(&self, room_id: &RoomId) -> Result<RoomNumber, LoadError> {
        if let Some(number) = self.room_number(room_id).await? {
            return Ok(number);
        }
        let mut number = RoomNumber::first_candidate(room_id.as_str());
        while let Some(row) = self.get::<RoomIdRow>(Table::Ix, &room_name_key(number)).await? {
            if row.room_id == room_id.as_str() {
                break;
            }
            number = number.next_candidate();
        }
        Ok(number)
    }

    /// The number of a user; `None` if none was given.
    pub async fn user_number(&self, user_id: &UserId) -> Result<Option<UserNumber>, LoadError> {
        let hash = id16(user_id.as_str());
        if let Some(number) = self.caches.users_by_id.get(&hash) {
            return Ok(Some(number));
        }
        let Some(bytes) = self.get_bytes(Table::Ix, &user_index_key(user_id)).await? else { return Ok(None) };
        let number = UserNumber(read_u64("user number", &bytes)?);
        self.caches.users_by_id.insert(hash, number);
        Ok(Some(number))
    }

    /// The id of a user; `None` if the number was never given.
    pub async fn user_id(&self, user: UserNumber) -> Result<Option<OwnedUserId>, LoadError> {
        if let Some(user_id) = self.caches.users.get(&user) {
            return Ok(Some(user_id));
        }
        let Some(row) = self.get::<UserIdRow>(Table::Ix, &user_name_key(user)).await? else { return Ok(None) };
        let user_id: OwnedUserId = parse_id("user id", &row.user_id)?;
        self.caches.users.insert(user, user_id.clone());
        Ok(Some(user_id))
    }

    /// The number of a user, which is given by a commit of its own if there is none. It must be there before a room's
    /// rows name the user.
    pub async fn ensure_user_number(&self, user_id: &UserId) -> Result<UserNumber, LoadError> {
        for _ in 0..NUMBER_ATTEMPTS_MAX {
            if let Some(number) = self.user_number(user_id).await? {
                return Ok(number);
            }
            let mut number = UserNumber::first_candidate(user_id.as_str());
            while self.get_bytes(Table::Ix, &user_name_key(number)).await?.is_some() {
                number = number.next_candidate();
            }
            let mut write = Write::new(number.partition());
            write.require_absent(Table::Ix, user_index_key(user_id));
            write.require_absent(Table::Ix, user_name_key(number));
            write.put(Table::Ix, user_name_key(number), &UserIdRow { user_id: user_id.as_str().to_owned() });
            write.put_bytes(Table::Ix, user_index_key(user_id), number.0.to_be_bytes().to_vec());
            match self.commit(write).await {
                Ok(_) => return Ok(number),
                Err(CommitError::Conflict) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
                Err(CommitError::Malformed(error)) => return Err(Unavailable(error.to_string()).into()),
            }
        }
        Err(Unavailable("the number of a user was contended for too long".to_owned()).into())
    }
}

fn parse_id<T: FromStr>(what: &'static str, text: &str) -> Result<T, Corrupt> {
    text.parse().map_err(|_| Corrupt { what, reason: "it is not an identifier".to_owned() })
}
