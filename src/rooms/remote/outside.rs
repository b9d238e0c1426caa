//! What users of ours are told of rooms that this server is not in: invites and knocks, and that they have ended.

use hearth_core::{Event, RawEvent, RoomVersion, format::stripped_json};
use hearth_ports::{EventBytes, Table};
use hearth_store::{
    CommitError, LoadError, LogEntry, MemberNote, RoomNumber, UserNumber, Write, decode,
    tables::{Membership, MembershipRow, OutsideRow, STRIPPED_BYTES_MAX, member_rooms_key, outside_key, put_outside},
};
use ruma::{EventId, OwnedServerName, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{SendError, handshake::PREVIEW_KINDS, rooms::Rooms};

/// Events of stripped state that are looked at: some more than a server has reason to send.
pub(crate) const PREVIEW_EVENTS_MAX: usize = 50;

/// How often a row is written again when somebody names the same room meanwhile.
const WRITE_ATTEMPTS_MAX: usize = 4;

/// Why state that is given along is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadPreview(&'static str);

impl Rooms {
    /// What a user of ours was told of a room from outside, if that is newer than what the room itself says of them here.
    pub(crate) async fn outside(&self, user: &UserId, room_id: &RoomId) -> Result<Option<OutsideRow>, LoadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(None) };
        let Some(user) = store.user_number(user).await? else { return Ok(None) };
        let Some(row) = store.outside(user, room).await? else { return Ok(None) };
        let known = store.membership(user, room).await?;
        Ok(Some(row).filter(|row| known.is_none_or(|known| known.position < row.position)))
    }

    /// Tells a user of ours what has become of them in a room that this server is not in, unless that is old news. The room
    /// is given a number if it has none. `false`: they have come into the room meanwhile, and nothing is told.
    pub(crate) async fn tell_outside(
        &self,
        user: &UserId,
        room_id: &RoomId,
        row: &OutsideRow,
    ) -> Result<bool, SendError> {
        let store = &self.writer.store;
        let user = store.ensure_user_number(user).await?;
        for _ in 0..WRITE_ATTEMPTS_MAX {
            let (room, mut write) = self.begin_outside(room_id).await?;
            let key = member_rooms_key(user, room);
            let bytes = store.get_bytes(Table::Rm, &key).await?;
            let known = bytes.as_deref().map(decode::<MembershipRow>).transpose().map_err(LoadError::from)?;
            let is_joined = known.is_some_and(|known| known.membership == Membership::Join);
            if is_joined && self.is_kept_here(room_id).await? {
                return Ok(false);
            }
            let outside = outside_key(user, room);
            let told = store.get_bytes(Table::Rm, &outside).await?;
            let standing = told.as_deref().map(decode::<OutsideRow>).transpose().map_err(LoadError::from)?;
            let standing = standing.filter(|standing| known.is_none_or(|known| known.position < standing.position));
            let ended = standing.filter(|standing| standing.membership == Membership::Leave);
            if ended.is_some_and(|ended| is_old_news(room_id, &ended, row)) {
                return Ok(true);
            }
            write.require(Table::Rm, key, bytes);
            write.require(Table::Rm, outside, told);
            if self.commit_outside(write, (user, room), row).await? {
                return Ok(true);
            }
        }
        Err(SendError::Conflict)
    }

    /// A batch that names the room, if nothing does yet.
    async fn begin_outside(&self, room_id: &RoomId) -> Result<(RoomNumber, Write), SendError> {
        let store = &self.writer.store;
        let is_named = store.room_number(room_id).await?.is_some();
        let room = store.assign_room_number(room_id).await?;
        let mut write = Write::new(room.partition());
        if !is_named {
            write.name_room(room, room_id);
        }
        Ok((room, write))
    }

    /// `false`: something that the batch rests on has changed.
    async fn commit_outside(
        &self,
        mut write: Write,
        (user, room): (UserNumber, RoomNumber),
        row: &OutsideRow,
    ) -> Result<bool, SendError> {
        put_outside(&mut write, user, room, row);
        match self.writer.store.commit(write).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict) => Ok(false),
            Err(error) => Err(SendError::Unavailable(error.to_string())),
        }
    }

    /// Takes out of a user's sight what they were told of a room from outside, once it has ended.
    pub(crate) async fn forget_outside(&self, user: UserNumber, room: RoomNumber) -> Result<(), CommitError> {
        let mut write = Write::new(room.partition());
        write.delete(Table::Rm, outside_key(user, room));
        let at = write.position();
        write.log(at, LogEntry::Membership(MemberNote { room, user, membership: Membership::Leave }));
        self.writer.store.commit(write).await.map(drop)
    }
}

/// Whether there is nothing to tell a user who was told that they are out: who gets out by two devices at once, or is put
/// out at that moment, is told so once; and a request that comes a second time does not bring back the invite that has
/// ended since, which the event that ended it cites.
fn is_old_news(room_id: &RoomId, ended: &OutsideRow, row: &OutsideRow) -> bool {
    row.membership == Membership::Leave
        || event_of(room_id, ended).is_some_and(|event| event.auth_events().iter().any(|id| *id == row.event_id))
}

/// The event of a row; `None`: it does not read.
fn event_of(room_id: &RoomId, row: &OutsideRow) -> Option<Event> {
    let id = <&EventId>::try_from(&*row.event_id).ok()?.to_owned();
    Event::parse_stored(RoomVersion::parse(&row.version)?, id, room_id.to_owned(), row.event.clone().into()).ok()
}

/// The row of a member event in a room that this server is not in.
pub(crate) fn outside_row(
    event: &Event,
    membership: Membership,
    stripped: Vec<String>,
    via: &[OwnedServerName],
) -> OutsideRow {
    OutsideRow {
        position: 0,
        membership,
        version: event.version().to_string(),
        event_id: event.event_id().to_string(),
        event: event.json_str().to_owned(),
        stripped,
        via: via.iter().map(ToString::to_string).collect(),
    }
}

/// Full events of state that was given along, as far as they are of this room and version: by
/// [`hearth_core::RawEvent::parse`] their format is right, and from room version 12 on the create event is truly this
/// room's.
pub(crate) fn preview_events(version: RoomVersion, room_id: &RoomId, given: &[EventBytes]) -> Vec<Event> {
    let parsed = given.iter().take(PREVIEW_EVENTS_MAX).filter_map(|bytes| RawEvent::parse(version, bytes).ok());
    let events = parsed.map(|raw| raw.unchecked().clone());
    events.filter(|event| event.is_state() && event.room_id() == room_id).collect()
}

/// The stripped form of state that was given along: of full events, and in rooms up to version 11, "while migrating", of
/// what older servers sent instead, which says no more than what its sender claims.
/// [Inviting to a room](https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room).
pub(crate) fn stripped_of(
    version: RoomVersion,
    room_id: &RoomId,
    given: &[EventBytes],
) -> Result<Vec<String>, BadPreview> {
    let full = preview_events(version, room_id, given);
    let has_create = full.iter().any(Event::is_create);
    let is_old = !version.has_hashed_room_id();
    if !is_old && (!has_create || full.len() != given.len().min(PREVIEW_EVENTS_MAX)) {
        return Err(BadPreview("the state given along must be full events of the room, the create event among them"));
    }
    let texts: Vec<(String, String)> = if has_create && full.len() == given.len().min(PREVIEW_EVENTS_MAX) {
        let text = |event: &Event| String::from_utf8_lossy(&stripped_json(event)).into_owned();
        full.iter().map(|event| (event.kind().to_owned(), text(event))).collect()
    } else {
        given.iter().take(PREVIEW_EVENTS_MAX).filter_map(legacy).collect()
    };
    Ok(fitting(texts))
}

/// What an older server sent: stripped state, or more of the event than that.
fn legacy(bytes: &EventBytes) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Stripped {
        #[serde(rename = "type")]
        kind: String,
        state_key: String,
        sender: ruma::OwnedUserId,
        content: serde_json::Map<String, Value>,
    }
    let Stripped { kind, state_key, sender, content } = serde_json::from_slice(bytes).ok()?;
    let text = json!({ "content": content, "sender": sender, "state_key": state_key, "type": kind }).to_string();
    Some((kind, text))
}

/// As many as fit, the most telling first.
fn fitting(mut texts: Vec<(String, String)>) -> Vec<String> {
    let rank = |kind: &str| PREVIEW_KINDS.iter().position(|known| *known == kind).unwrap_or(PREVIEW_KINDS.len());
    texts.sort_by_key(|(kind, _)| rank(kind));
    let mut left = STRIPPED_BYTES_MAX;
    let mut fits = Vec::with_capacity(texts.len());
    for (_, text) in texts {
        if let Some(rest) = left.checked_sub(text.len()) {
            left = rest;
            fits.push(text);
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ruma::room_id;

    use super::*;

    fn entry(kind: &str, content: Value) -> EventBytes {
        Bytes::from(json!({ "type": kind, "state_key": "", "sender": "@a:b", "content": content }).to_string())
    }

    #[test]
    fn older_servers_are_believed_in_older_rooms_only() {
        let given = [entry("m.room.name", json!({ "name": "n" })), Bytes::from_static(b"{}"), Bytes::from_static(b"[")];
        let stripped = stripped_of(RoomVersion::V11, room_id!("!r:b"), &given).unwrap();
        assert_eq!(stripped.len(), 1);
        assert!(stripped[0].contains("\"name\":\"n\"") && !stripped[0].contains("event_id"));
        assert!(stripped_of(RoomVersion::V12, room_id!("!r"), &given).is_err());
        assert!(stripped_of(RoomVersion::V12, room_id!("!r"), &[]).is_err());
    }

    #[test]
    fn what_is_given_along_is_bounded_and_the_room_itself_comes_first() {
        let mut given = vec![entry("m.room.topic", json!({ "topic": "t".repeat(STRIPPED_BYTES_MAX) }))];
        given.extend((0..2 * PREVIEW_EVENTS_MAX).map(|_| entry("x", json!({ "x": "x".repeat(1_000) }))));
        given.insert(3, entry("m.room.create", json!({})));
        let stripped = stripped_of(RoomVersion::V5, room_id!("!r:b"), &given).unwrap();
        assert!(stripped[0].contains("m.room.create"));
        assert!(stripped.iter().map(String::len).sum::<usize>() <= STRIPPED_BYTES_MAX);
        assert!(stripped.len() > 2);
    }
}
