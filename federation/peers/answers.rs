//! Answers taken apart. Events stay slices of the answer; lists end at their bounds; what nests deeply is passed over
//! without being descended into.

use std::borrow::Cow;

use bytes::Bytes;
use hearth_core::{Event, ID_BYTES_MAX, Limits, RoomVersion, check_json};
use hearth_ports::{AliasTarget, EventBytes, JoinAnswer, PeerError, StateEvents, StateIds, Template};
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    slices::{List, slice},
    xmatrix::ITEM,
};

/// Events of a state or an auth chain: what fits into the largest answer, at 100 bytes each.
const STATE_MAX: usize = 500_000;
/// Events of a page.
const PAGE_MAX: usize = 1_000;
/// Servers that an answer may name.
const SERVERS_MAX: usize = 50_000;

/// Events of `invite_room_state` and the like.
const STRIPPED_MAX: usize = 1_000;

fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, PeerError> {
    serde_json::from_slice(body).map_err(|error| malformed(&error.to_string()))
}

fn malformed(reason: &str) -> PeerError {
    PeerError::Malformed(reason.to_owned())
}

fn slices<const MAX: usize>(body: &Bytes, list: &List<&RawValue, MAX>) -> Vec<EventBytes> {
    list.0.iter().map(|raw| slice(body, raw)).collect()
}

/// Names that are none are left out.
fn servers<const MAX: usize>(list: List<Cow<'_, str>, MAX>) -> Vec<OwnedServerName> {
    list.0.into_iter().filter_map(|name| ServerName::parse(&*name).ok()).collect()
}

/// Ids that are none, or too long, are of events that cannot be had; they are left out.
fn ids<const MAX: usize>(list: List<Cow<'_, str>, MAX>) -> Vec<OwnedEventId> {
    let short = list.0.into_iter().filter(|id| id.len() <= ID_BYTES_MAX);
    short.filter_map(|id| EventId::parse(&*id).ok()).collect()
}

pub(super) fn template(body: &Bytes) -> Result<Template, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        room_version: Option<Cow<'a, str>>,
        #[serde(borrow)]
        event: &'a RawValue,
    }
    let Answer { room_version, event } = read(body)?;
    // "Room versions must be treated as "1" if not specified."
    let version = RoomVersion::parse(room_version.as_deref().unwrap_or("1"));
    let version = version.ok_or_else(|| malformed("the room's version is not known here"))?;
    Ok(Template { version, event: slice(body, event) })
}

#[derive(Deserialize)]
struct Join<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    state: List<&'a RawValue, STATE_MAX>,
    #[serde(borrow)]
    auth_chain: List<&'a RawValue, STATE_MAX>,
    #[serde(default)]
    members_omitted: bool,
    #[serde(borrow)]
    servers_in_room: Option<List<Cow<'a, str>, SERVERS_MAX>>,
}

impl Join<'_> {
    fn answer(self, body: &Bytes) -> Result<JoinAnswer, PeerError> {
        let Self { event, state, auth_chain, members_omitted, servers_in_room } = self;
        if members_omitted && servers_in_room.is_none() {
            return Err(malformed("members are omitted, but the servers in the room are not named"));
        }
        Ok(JoinAnswer {
            event: event.map(|event| slice(body, event)),
            state: slices(body, &state),
            auth_chain: slices(body, &auth_chain),
            members_omitted,
            servers_in_room: servers_in_room.map(servers).unwrap_or_default(),
        })
    }
}

pub(super) fn join(body: &Bytes) -> Result<JoinAnswer, PeerError> {
    read::<Join<'_>>(body)?.answer(body)
}

/// "The response format is an array with the first item being the constant integer `200`."
pub(super) fn join_v1(body: &Bytes) -> Result<JoinAnswer, PeerError> {
    let (_, join): (IgnoredAny, Join<'_>) = read(body)?;
    join.answer(body)
}

pub(super) fn knock(body: &Bytes) -> Result<Vec<EventBytes>, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        knock_room_state: List<&'a RawValue, STRIPPED_MAX>,
    }
    let answer: Answer<'_> = read(body)?;
    Ok(slices(body, &answer.knock_room_state))
}

/// The body of `PUT /v2/invite`.
pub(super) fn invite_body(event: &Event, state: &[EventBytes]) -> Bytes {
    let mut body = b"{\"event\":".to_vec();
    body.extend_from_slice(event.json());
    body.extend_from_slice(b",\"invite_room_state\":");
    write_list(&mut body, state);
    body.extend_from_slice(b",\"room_version\":\"");
    body.extend_from_slice(event.version().as_str().as_bytes());
    body.extend_from_slice(b"\"}");
    body.into()
}

/// The body of `PUT /v1/invite`: the event itself.
pub(super) fn invite_body_v1(event: &Event, state: &[EventBytes]) -> Bytes {
    let json = event.json();
    let mut body = json.strip_suffix(b"}").unwrap_or(json).to_vec();
    body.extend_from_slice(b",\"unsigned\":{\"invite_room_state\":");
    write_list(&mut body, state);
    body.extend_from_slice(b"}}");
    body.into()
}

/// Those that would keep the body from being signed are left out: the state of an old room may hold any number.
fn write_list(body: &mut Vec<u8>, items: &[EventBytes]) {
    body.push(b'[');
    for (index, item) in items.iter().filter(|item| check_json(item, &ITEM).is_ok()).enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.push(b']');
}

#[derive(Deserialize)]
struct Invited<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
}

pub(super) fn invited(body: &Bytes) -> Result<EventBytes, PeerError> {
    let Invited { event } = read(body)?;
    Ok(slice(body, event))
}

pub(super) fn invited_v1(body: &Bytes) -> Result<EventBytes, PeerError> {
    let (_, Invited { event }): (IgnoredAny, Invited<'_>) = read(body)?;
    Ok(slice(body, event))
}

pub(super) fn missing_events(body: &Bytes) -> Result<Vec<EventBytes>, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        events: List<&'a RawValue, PAGE_MAX>,
    }
    let answer: Answer<'_> = read(body)?;
    Ok(slices(body, &answer.events))
}

#[derive(Deserialize)]
struct Pdus<'a> {
    #[serde(borrow)]
    pdus: List<&'a RawValue, PAGE_MAX>,
}

pub(super) fn backfill(body: &Bytes) -> Result<Vec<EventBytes>, PeerError> {
    let answer: Pdus<'_> = read(body)?;
    Ok(slices(body, &answer.pdus))
}

pub(super) fn event(body: &Bytes) -> Result<EventBytes, PeerError> {
    let answer: Pdus<'_> = read(body)?;
    match answer.pdus.0.as_slice() {
        [event] => Ok(slice(body, event)),
        other => Err(malformed(&format!("{} events in place of one", other.len()))),
    }
}

pub(super) fn state_ids(body: &Bytes) -> Result<StateIds, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        pdu_ids: List<Cow<'a, str>, STATE_MAX>,
        #[serde(borrow)]
        auth_chain_ids: List<Cow<'a, str>, STATE_MAX>,
    }
    let Answer { pdu_ids, auth_chain_ids } = read(body)?;
    Ok(StateIds { state: ids(pdu_ids), auth_chain: ids(auth_chain_ids) })
}

pub(super) fn state(body: &Bytes) -> Result<StateEvents, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        pdus: List<&'a RawValue, STATE_MAX>,
        #[serde(borrow)]
        auth_chain: List<&'a RawValue, STATE_MAX>,
    }
    let Answer { pdus, auth_chain } = read(body)?;
    Ok(StateEvents { state: slices(body, &pdus), auth_chain: slices(body, &auth_chain) })
}

pub(super) fn event_auth(body: &Bytes) -> Result<Vec<EventBytes>, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        auth_chain: List<&'a RawValue, STATE_MAX>,
    }
    let answer: Answer<'_> = read(body)?;
    Ok(slices(body, &answer.auth_chain))
}

pub(super) fn event_near(body: &Bytes) -> Result<(OwnedEventId, u64), PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        event_id: Cow<'a, str>,
        origin_server_ts: u64,
    }
    let Answer { event_id, origin_server_ts } = read(body)?;
    let event_id = Some(event_id).filter(|id| id.len() <= ID_BYTES_MAX).and_then(|id| EventId::parse(&*id).ok());
    Ok((event_id.ok_or_else(|| malformed("no event id"))?, origin_server_ts))
}

pub(super) fn alias(body: &Bytes) -> Result<AliasTarget, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        room_id: Cow<'a, str>,
        #[serde(borrow)]
        servers: List<Cow<'a, str>, SERVERS_MAX>,
    }
    let answer: Answer<'_> = read(body)?;
    let room_id = Some(answer.room_id).filter(|id| id.len() <= ID_BYTES_MAX).and_then(|id| RoomId::parse(&*id).ok());
    let room_id = room_id.ok_or_else(|| malformed("no room id"))?;
    Ok(AliasTarget { room_id, servers: servers(answer.servers) })
}

/// Whatever object it is, within the bounds that our clients' bodies have.
pub(super) fn object(body: Bytes) -> Result<Bytes, PeerError> {
    check_json(&body, &Limits::BODY).map_err(|error| malformed(&error.to_string()))?;
    let is_object = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_object { Ok(body) } else { Err(malformed("no object")) }
}

/// A server speaks for its own users only.
pub(super) fn openid_user(body: &Bytes, server: &ServerName) -> Result<OwnedUserId, PeerError> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        sub: Cow<'a, str>,
    }
    let Answer { sub } = read(body)?;
    let user = Some(sub).filter(|id| id.len() <= ID_BYTES_MAX).and_then(|id| UserId::parse(&*id).ok());
    user.filter(|user| user.server_name() == server).ok_or_else(|| malformed("no user of that server"))
}
