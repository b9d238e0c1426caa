//! The directory of published rooms.
//! [Published room directory](https://spec.matrix.org/v1.19/client-server-api/#published-room-directory).

use std::sync::Arc;

use hearth_ports::{Key, KeyRange, Table};
use hearth_store::{
    LoadError, RoomNumber, Write,
    tables::{PUBLIC_LIST, PublishedRow, published_key, published_prefix},
};
use ruma::{RoomId, UserId};

use crate::{AliasError, rooms::Rooms, summary::RoomSummary};

/// Published rooms that are looked at; the rest would be no longer a list for people.
const PUBLISHED_MAX: usize = 10_000;

/// Rooms on a page, whatever the client asks for.
const PAGE_ROOMS_MAX: usize = 500;

/// What of the directory is asked for.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// How many rooms at most; `None`: as many as a page may have.
    pub limit: Option<usize>,
    /// A token of an earlier answer: the page before or after.
    pub since: Option<String>,
    /// Part of a name, topic or alias; case does not matter.
    pub search: Option<String>,
    /// Only rooms of these types; `None` in the list stands for rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
    /// Only rooms that users of other servers may join (`m.federate`).
    pub is_for_server: bool,
}

/// A page of the directory, largest rooms first.
#[derive(Clone, Debug)]
pub struct DirectoryPage {
    /// The rooms.
    pub rooms: Vec<Arc<RoomSummary>>,
    /// The token of the page behind this one.
    pub next: Option<String>,
    /// The token of the page before this one.
    pub previous: Option<String>,
    /// How many rooms there are in all that the filter lets through.
    pub total: usize,
}

/// Why the directory was not read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The token is none of ours (`M_INVALID_PARAM`).
    #[error("since is no token of this list")]
    BadToken,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for DirectoryError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A place in the list: between rooms, so that it holds while rooms come and go.
struct Place {
    is_backward: bool,
    joined: u32,
    room_id: String,
}

impl Place {
    fn parse(token: &str) -> Option<Self> {
        let (direction, rest) = token.split_at_checked(1)?;
        let (joined, room_id) = rest.split_once('_')?;
        let is_backward = match direction {
            "n" => false,
            "p" => true,
            _ => return None,
        };
        Some(Self { is_backward, joined: joined.parse().ok()?, room_id: room_id.to_owned() })
    }

    fn token(direction: char, room: &RoomSummary) -> String {
        format!("{direction}{}_{}", room.joined, room.room_id)
    }
}

impl Rooms {
    /// A page of the directory.
    pub async fn directory(&self, query: &DirectoryQuery) -> Result<DirectoryPage, DirectoryError> {
        let place = query.since.as_deref().filter(|since| !since.is_empty());
        let place = place.map(|since| Place::parse(since).ok_or(DirectoryError::BadToken)).transpose()?;
        let mut rooms = Vec::new();
        for room in self.published().await? {
            let Some(summary) = self.summary(room).await? else { continue };
            if passes(&summary, query) {
                rooms.push(summary);
            }
        }
        rooms.sort_by(|one, other| rank(one).cmp(&rank(other)));
        Ok(page(rooms, place, query.limit.unwrap_or(PAGE_ROOMS_MAX).clamp(1, PAGE_ROOMS_MAX)))
    }

    /// Whether a room is published; `NotFound` if there is no such room.
    pub async fn is_published(&self, room_id: &RoomId) -> Result<bool, AliasError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(AliasError::NotFound)?;
        Ok(store.get_bytes(Table::Rm, &published_key(PUBLIC_LIST, room)).await?.is_some())
    }

    /// Publishes a room or takes it out of the directory: for those who may set its canonical alias, and administrators.
    pub async fn set_published(
        &self,
        user: &UserId,
        is_admin: bool,
        room_id: &RoomId,
        is_published: bool,
    ) -> Result<(), AliasError> {
        let room = self.writer.store.room_number(room_id).await?.ok_or(AliasError::NotFound)?;
        if !is_admin {
            if is_published && !self.settings.users_publish_rooms {
                return Err(AliasError::Forbidden("only administrators publish rooms on this server"));
            }
            if !self.may_set_state(room, user, "m.room.canonical_alias").await? {
                return Err(AliasError::Forbidden("you may not change whether this room is published"));
            }
        }
        self.put_published(room, is_published).await
    }

    pub(crate) async fn put_published(&self, room: RoomNumber, is_published: bool) -> Result<(), AliasError> {
        let mut write = Write::new(room.partition());
        if is_published {
            let row = PublishedRow { since_ts_ms: self.writer.clock.now_ms() };
            write.put(Table::Rm, published_key(PUBLIC_LIST, room), &row);
        } else {
            write.delete(Table::Rm, published_key(PUBLIC_LIST, room));
        }
        self.writer.store.commit(write).await?;
        Ok(())
    }

    async fn published(&self) -> Result<Vec<RoomNumber>, LoadError> {
        let prefix = published_prefix(PUBLIC_LIST);
        let range = KeyRange::prefix(prefix.clone());
        let entries = self.writer.store.scan_all(Table::Rm, range, PUBLISHED_MAX, false).await?;
        let room = |key: &Key| Some(RoomNumber(u64::from_be_bytes(key.get(prefix.len()..)?.try_into().ok()?)));
        Ok(entries.iter().filter_map(|entry| room(&entry.key)).collect())
    }
}

/// Largest first; those of one size by id.
fn rank(room: &RoomSummary) -> (std::cmp::Reverse<u32>, &str) {
    (std::cmp::Reverse(room.joined), room.room_id.as_str())
}

fn passes(room: &RoomSummary, query: &DirectoryQuery) -> bool {
    if query.is_for_server && !room.is_federated {
        return false;
    }
    if query.room_types.as_ref().is_some_and(|types| !types.contains(&room.room_type)) {
        return false;
    }
    let Some(search) = query.search.as_deref().filter(|search| !search.is_empty()) else { return true };
    let search = search.to_lowercase();
    let fields = [&room.name, &room.topic, &room.canonical_alias];
    fields.into_iter().flatten().any(|field| field.to_lowercase().contains(&search))
}

fn page(rooms: Vec<Arc<RoomSummary>>, place: Option<Place>, limit: usize) -> DirectoryPage {
    let total = rooms.len();
    let (from, until) = match &place {
        None => (0, limit.min(total)),
        Some(place) => {
            let at = (std::cmp::Reverse(place.joined), place.room_id.as_str());
            if place.is_backward {
                let until = rooms.partition_point(|room| rank(room) < at);
                (until.saturating_sub(limit), until)
            } else {
                let from = rooms.partition_point(|room| rank(room) <= at);
                (from, (from + limit).min(total))
            }
        }
    };
    let page = rooms.get(from..until).unwrap_or_default().to_vec();
    let next = page.last().filter(|_| until < total).map(|last| Place::token('n', last));
    let previous = page.first().filter(|_| from > 0).map(|first| Place::token('p', first));
    DirectoryPage { rooms: page, next, previous, total }
}
