//! Who is found.

use std::{cmp::Reverse, collections::HashSet};

use hearth_ports::{Key, KeyRange, Page, Table};
use hearth_store::{
    LoadError, RoomNumber, UserNumber,
    tables::{Circle, Membership, PersonRow, parts_of_word_key, person_key, word_user_prefix, words_prefix},
};
use ruma::{OwnedUserId, UserId};

use super::{
    People,
    words::{cut, folded, words},
};

/// The longest term, in bytes: longer than any name that is shown.
pub const TERM_BYTES_MAX: usize = 1_024;

/// Words of a term that are looked at: enough for every name that people have.
const TERM_WORDS_MAX: usize = 8;

/// Rooms of the one who asks that are looked into, those first that they came into last. Each costs a read.
const ROOMS_MAX: usize = 1_000;

/// Rows of the index that one question looks at, of all circles and of one.
const ROWS_MAX: usize = 10_000;
const CIRCLE_ROWS_MAX: usize = 2_000;

/// Rows read at once: most circles have fewer.
const ROWS_AT_ONCE: usize = 50;

/// People from whom the best are chosen; more than any answer has.
const CANDIDATES_MAX: usize = 200;

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub user_id: OwnedUserId,
    /// Their name, if they have one.
    pub display_name: Option<String>,
    /// Their picture, if they have one; not checked to be an address.
    pub avatar_url: Option<String>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeopleFound {
    /// The best first.
    pub results: Vec<Found>,
    /// There are more, or may be.
    pub limited: bool,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Term {
    /// All of it, folded.
    whole: String,
    /// Each begins a word of whoever is found. The longest first: it is what is looked up.
    words: Vec<String>,
    /// Of a user id: what its server's name begins with.
    server: Option<String>,
}

/// A question on its way through the circles.
struct Search<'a> {
    people: &'a People,
    asker: UserNumber,
    term: &'a Term,
    found: Vec<(u8, Found)>,
    seen: HashSet<UserNumber>,
    rows_left: usize,
    is_cut: bool,
}

impl People {
    /// Those whom `asker` may know and who are meant by `term`, at most `limit`. Every word of the term begins a word of the
    /// name or of the localpart; a term that begins with `@` is the beginning of a user id. An empty term finds nobody, and of
    /// a term of more than [`TERM_BYTES_MAX`] the beginning counts.
    pub async fn search(&self, asker: &UserId, term: &str, limit: usize) -> Result<PeopleFound, LoadError> {
        let term = Term::parse(term);
        let Some(asker) = self.store.user_number(asker).await?.filter(|_| self.settings.enabled) else {
            return Ok(PeopleFound::default());
        };
        if term.words.is_empty() {
            return Ok(PeopleFound::default());
        }
        metrics::counter!("hearth_people_searches_total").increment(1);
        let mut search = Search {
            people: self,
            asker,
            term: &term,
            found: Vec::new(),
            seen: HashSet::new(),
            rows_left: ROWS_MAX,
            is_cut: false,
        };
        for circle in self.circles_of(asker).await? {
            if search.found.len() >= CANDIDATES_MAX || search.rows_left == 0 {
                search.is_cut = true;
                break;
            }
            search.look_into(circle).await?;
        }
        Ok(search.best(limit))
    }

    /// Where somebody finds others: nearest first.
    async fn circles_of(&self, asker: UserNumber) -> Result<Vec<Circle>, LoadError> {
        let rooms = self.store.user_rooms(asker).await?;
        let mut joined: Vec<_> = rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join).collect();
        joined.sort_unstable_by_key(|(_, row)| Reverse(row.joined_position));
        let mut circles: Vec<Circle> = joined.into_iter().take(ROOMS_MAX).map(|(room, _)| Circle::Room(room)).collect();
        circles.push(Circle::Public);
        if self.settings.all_accounts {
            circles.push(Circle::Accounts);
        }
        Ok(circles)
    }
}

impl Term {
    fn parse(text: &str) -> Self {
        let text = cut(text.trim(), TERM_BYTES_MAX);
        let (text, server) = match text.strip_prefix('@') {
            Some(id) => match id.split_once(':') {
                Some((localpart, server)) => (localpart, Some(server.to_lowercase())),
                None => (id, None),
            },
            None => (text, None),
        };
        let whole = folded(text);
        let mut words = words(&whole);
        words.truncate(TERM_WORDS_MAX);
        words.sort_by_key(|word| Reverse(word.len()));
        Self { whole, words, server }
    }

    /// Whether somebody is meant.
    fn means(&self, user_id: &UserId, row: &PersonRow) -> bool {
        let begins = |word: &String| row.words.iter().any(|known| known.starts_with(word));
        let is_there = |server: &String| user_id.server_name().as_str().starts_with(server);
        self.words.iter().all(begins) && self.server.as_ref().is_none_or(is_there)
    }

    /// How well, 0 is best.
    fn rank(&self, user_id: &UserId, row: &PersonRow) -> u8 {
        let names = [Some(folded(user_id.localpart())), row.display_name.as_deref().map(folded)];
        let best = |is: fn(&str, &str) -> bool| names.iter().flatten().any(|name| is(name, &self.whole));
        let by_name = match (best(|name, whole| name == whole), best(|name, whole| name.starts_with(whole))) {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 4,
        };
        by_name + u8::from(row.display_name.is_none())
    }
}

impl Search<'_> {
    /// Reads the words of a circle that begin with the first of the term.
    async fn look_into(&mut self, circle: Circle) -> Result<(), LoadError> {
        let Some(first) = self.term.words.first() else { return Ok(()) };
        let mut range = KeyRange::prefix(words_prefix(circle, first));
        let mut rows_left = CIRCLE_ROWS_MAX.min(self.rows_left);
        while rows_left > 0 && self.found.len() < CANDIDATES_MAX {
            let page = Page::first(ROWS_AT_ONCE.min(rows_left));
            let rows = self.people.store.scan_bytes(Table::Rm, range.clone(), page).await?;
            rows_left -= rows.len();
            self.rows_left -= rows.len();
            let parts: Vec<_> = rows.iter().filter_map(|row| parts_of_word_key(&row.key)).collect();
            self.consider(circle, &parts).await?;
            match parts.last() {
                Some((word, user, _)) if rows.len() == page.rows_max => {
                    // Somebody may be in very many rooms: a page of them is enough.
                    let Some(behind) = KeyRange::prefix(word_user_prefix(circle, word, *user)).until else { break };
                    range.from = behind;
                }
                _ => return Ok(()),
            }
        }
        self.is_cut = true;
        Ok(())
    }

    /// Looks at people whose words were found.
    async fn consider(&mut self, circle: Circle, parts: &[(&str, UserNumber, RoomNumber)]) -> Result<(), LoadError> {
        // Whoever asks is told of others; in open rooms everybody finds everybody.
        let is_self = |user: UserNumber| user == self.asker && circle != Circle::Public;
        let news: Vec<(UserNumber, RoomNumber)> = parts
            .iter()
            .map(|(_, user, room)| (*user, *room))
            .filter(|(user, _)| !self.seen.contains(user) && !is_self(*user))
            .collect();
        let keys: Vec<Key> = news.iter().map(|(user, room)| person_key(*room, *user)).collect();
        let rows = self.people.store.multi_get::<PersonRow>(Table::Rm, &keys).await?;
        for ((user, _), row) in news.into_iter().zip(rows) {
            // Whoever has left since the word was read, or is found in another room already.
            let Some(row) = row.filter(|_| !self.seen.contains(&user)) else { continue };
            let Some(user_id) = self.people.store.user_id(user).await? else { continue };
            if self.term.means(&user_id, &row) {
                let rank = self.term.rank(&user_id, &row);
                let PersonRow { display_name, avatar_url, .. } = row;
                self.seen.insert(user);
                self.found.push((rank, Found { user_id, display_name, avatar_url }));
            }
        }
        Ok(())
    }

    fn best(mut self, limit: usize) -> PeopleFound {
        // The order of the circles stays among equals.
        self.found.sort_by_key(|(rank, _)| *rank);
        let limited = self.is_cut || self.found.len() > limit;
        let results = self.found.into_iter().take(limit).map(|(_, found)| found).collect();
        PeopleFound { results, limited }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(whole: &str, words: &[&str], server: Option<&str>) -> Term {
        let words = words.iter().map(ToString::to_string).collect();
        Term { whole: whole.to_owned(), words, server: server.map(str::to_owned) }
    }

    #[test]
    fn a_term_is_words_or_the_beginning_of_a_user_id() {
        assert_eq!(Term::parse(" Jo Smíth "), term("jo smith", &["smith", "jo"], None));
        assert_eq!(Term::parse("@Ann.s:Hearth.o"), term("ann.s", &["ann", "s"], Some("hearth.o")));
        assert_eq!(Term::parse("@ann"), term("ann", &["ann"], None));
        assert_eq!(Term::parse("re: ann").server, None);
        assert!(Term::parse("  ").words.is_empty());
        assert_eq!(Term::parse(&"x y ".repeat(10_000)).words.len(), 2);
    }
}
