//! What other servers tell beside events: [typing](https://spec.matrix.org/v1.19/server-server-api/#typing-notifications),
//! [receipts](https://spec.matrix.org/v1.19/server-server-api/#receipts),
//! [presence](https://spec.matrix.org/v1.19/server-server-api/#presence).
//!
//! A server speaks for its own users only, about rooms that they are in and whose access list lets the server in. Each
//! item stands alone: what is wrong with one is counted and does no harm to the others.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use hearth_core::ID_BYTES_MAX;
use hearth_users::{PresenceState, ReceiptError, RemotePresence};
use metrics::counter;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Inbound;

/// The largest content that is read, in bytes: four times what an event may have. Messages to devices may be larger, as
/// what decrypts others' messages must not be lost.
pub(super) const CONTENT_BYTES_MAX: usize = 256 << 10;

/// Receipts that are taken of one transaction. Servers that tell of more at once tell of all a room's readers.
const RECEIPTS_MAX: usize = 500;

/// Receipts that are set at the same time, so that those of a room become one write.
const RECEIPTS_AT_ONCE: usize = 100;

/// Presences that are taken of one transaction: each wakes all who share a room with the user.
const PRESENCES_MAX: usize = 200;

/// How long somebody types who does not say so again.
const TYPING_FOR: Duration = Duration::from_secs(60);

/// What of a transaction's items is to be done, sorted by how long it takes.
#[derive(Default)]
pub(super) struct Ephemeral {
    typing: Vec<Typing>,
    receipts: Vec<Receipt>,
    presences: Vec<Presence>,
}

/// An EDU.
#[derive(Deserialize)]
pub(super) struct Item<'a> {
    #[serde(borrow)]
    pub(super) edu_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) content: &'a RawValue,
}

#[derive(Deserialize)]
struct Typing {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    typing: bool,
}

struct Receipt {
    room_id: OwnedRoomId,
    user_id: OwnedUserId,
    event_id: OwnedEventId,
    thread: Option<String>,
    ts_ms: u64,
}

#[derive(Deserialize)]
struct Presence {
    user_id: OwnedUserId,
    presence: String,
    status_msg: Option<String>,
    #[serde(default)]
    last_active_ago: u64,
    #[serde(default)]
    currently_active: bool,
}

/// Why an item was not heeded.
pub(super) enum Ignored {
    /// It is not what it has to be.
    Malformed,
    /// The server may not speak for this user, or in this room; or the user is not there.
    Stranger,
    /// Too many, or too large.
    TooMuch,
    /// Nothing is done here with such items.
    Unknown,
    /// Our fault; the text is for the log.
    Failed(String),
    /// Our fault, and what is stored must come again; the text is for the log.
    Later(String),
}

impl Ephemeral {
    /// Reads a transaction's items. What cannot be heeded is counted and left out.
    pub(super) fn read(origin: &ServerName, items: &[&RawValue]) -> Self {
        let mut all = Self::default();
        for item in items {
            match serde_json::from_str::<Item<'_>>(item.get()) {
                Ok(item) => all.add(origin, &item),
                Err(_) => count(origin, "malformed", &Err(Ignored::Malformed)),
            }
        }
        all
    }

    fn add(&mut self, origin: &ServerName, item: &Item<'_>) {
        let content = item.content.get();
        let kind = known(&item.edu_type);
        let read = match kind {
            // `lasting.rs` has taken and counted them, as the two below.
            "m.direct_to_device" => Ok(()),
            _ if content.len() > CONTENT_BYTES_MAX => Err(Ignored::TooMuch),
            "m.typing" => read_typing(origin, content).map(|typing| self.typing.push(typing)),
            "m.receipt" => self.add_receipts(origin, content),
            "m.presence" => self.add_presences(origin, content),
            "m.device_list_update" | "m.signing_key_update" => Ok(()),
            _ => Err(Ignored::Unknown),
        };
        if read.is_err() {
            count(origin, kind, &read);
        }
    }

    fn add_receipts(&mut self, origin: &ServerName, content: &str) -> Result<(), Ignored> {
        #[derive(Deserialize)]
        struct Rooms<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);
        #[derive(Deserialize)]
        struct Kinds<'a> {
            // Others are not spoken of between servers.
            #[serde(borrow, default, rename = "m.read")]
            read: BTreeMap<Cow<'a, str>, &'a RawValue>,
        }
        let rooms: Rooms<'_> = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
        for (room_id, kinds) in rooms.0 {
            let room_id = OwnedRoomId::try_from(&*room_id).ok();
            let (Some(room_id), Ok(kinds)) = (room_id, serde_json::from_str::<Kinds<'_>>(kinds.get())) else {
                count(origin, "m.receipt", &Err(Ignored::Malformed));
                continue;
            };
            for (user_id, receipt) in kinds.read {
                if self.receipts.len() == RECEIPTS_MAX {
                    return Err(Ignored::TooMuch);
                }
                match read_receipt(origin, &room_id, &user_id, receipt.get()) {
                    Ok(receipt) => self.receipts.push(receipt),
                    Err(ignored) => count(origin, "m.receipt", &Err(ignored)),
                }
            }
        }
        Ok(())
    }

    fn add_presences(&mut self, origin: &ServerName, content: &str) -> Result<(), Ignored> {
        #[derive(Deserialize)]
        struct Content<'a> {
            #[serde(borrow)]
            push: Vec<&'a RawValue>,
        }
        let content: Content<'_> = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
        for item in content.push {
            if self.presences.len() == PRESENCES_MAX {
                return Err(Ignored::TooMuch);
            }
            match serde_json::from_str::<Presence>(item.get()) {
                Ok(presence) if presence.user_id.server_name() == origin => self.presences.push(presence),
                Ok(_) => count(origin, "m.presence", &Err(Ignored::Stranger)),
                Err(_) => count(origin, "m.presence", &Err(Ignored::Malformed)),
            }
        }
        Ok(())
    }

    /// Does what is done at once: typing and presence.
    pub(super) async fn tell(&mut self, state: &Inbound, origin: &ServerName) {
        for typing in self.typing.drain(..) {
            count(origin, "m.typing", &set_typing(state, origin, &typing).await);
        }
        for presence in self.presences.drain(..) {
            count(origin, "m.presence", &set_presence(state, presence).await);
        }
    }

    /// Sets the receipts: that takes a tenth of a second.
    pub(super) async fn read_up_to(self, state: &Inbound, origin: &ServerName) {
        let allowed = self.allowed_receipts(state, origin).await;
        let set = stream::iter(allowed).map(|receipt| async move { set_receipt(state, &receipt).await });
        let results: Vec<_> = set.buffer_unordered(RECEIPTS_AT_ONCE).collect().await;
        results.iter().for_each(|result| count(origin, "m.receipt", result));
    }

    /// The receipts of rooms whose access list lets the server in.
    async fn allowed_receipts(self, state: &Inbound, origin: &ServerName) -> Vec<Receipt> {
        let mut allowed = Vec::with_capacity(self.receipts.len());
        let mut last: Option<(OwnedRoomId, bool)> = None;
        for receipt in self.receipts {
            let known = last.as_ref().filter(|(room_id, _)| *room_id == receipt.room_id).map(|(_, lets)| Ok(*lets));
            let lets = match known {
                Some(known) => known,
                None => lets_in(state, origin, &receipt.room_id).await,
            };
            match lets {
                Ok(lets) => {
                    last = Some((receipt.room_id.clone(), lets));
                    if lets {
                        allowed.push(receipt);
                    } else {
                        count(origin, "m.receipt", &Err(Ignored::Stranger));
                    }
                }
                Err(ignored) => count(origin, "m.receipt", &Err(ignored)),
            }
        }
        allowed
    }
}

/// The kinds that the specification knows: others are counted as one, whatever strangers call them.
fn known(kind: &str) -> &'static str {
    const KNOWN: [&str; 6] =
        ["m.typing", "m.receipt", "m.presence", "m.direct_to_device", "m.device_list_update", "m.signing_key_update"];
    KNOWN.into_iter().find(|known| *known == kind).unwrap_or("other")
}

fn read_typing(origin: &ServerName, content: &str) -> Result<Typing, Ignored> {
    let typing: Typing = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
    if typing.user_id.server_name() == origin { Ok(typing) } else { Err(Ignored::Stranger) }
}

fn read_receipt(origin: &ServerName, room_id: &OwnedRoomId, user_id: &str, receipt: &str) -> Result<Receipt, Ignored> {
    #[derive(Deserialize)]
    struct Body {
        event_ids: Vec<OwnedEventId>,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        ts: u64,
        thread_id: Option<String>,
    }
    let user_id = OwnedUserId::try_from(user_id).map_err(|_| Ignored::Malformed)?;
    if user_id.server_name() != origin {
        return Err(Ignored::Stranger);
    }
    let Body { event_ids, data } = serde_json::from_str(receipt).map_err(|_| Ignored::Malformed)?;
    // "The extremity event IDs that the user has read up to": exactly one.
    let [event_id] = <[OwnedEventId; 1]>::try_from(event_ids).map_err(|_| Ignored::Malformed)?;
    // It need not be known here, so that it may be any text: it waits in memory only if it can be an event's.
    if event_id.as_str().len() > ID_BYTES_MAX {
        return Err(Ignored::Malformed);
    }
    Ok(Receipt { room_id: room_id.clone(), user_id, event_id, thread: data.thread_id, ts_ms: data.ts })
}

async fn lets_in(state: &Inbound, origin: &ServerName, room_id: &OwnedRoomId) -> Result<bool, Ignored> {
    state.rooms.acl_allows(room_id, origin).await.map_err(|error| Ignored::Failed(error.to_string()))
}

async fn set_typing(state: &Inbound, origin: &ServerName, typing: &Typing) -> Result<(), Ignored> {
    let room = state.users.joined_room(&typing.user_id, &typing.room_id).await;
    let room = room.map_err(|fault| Ignored::Failed(fault.to_string()))?.ok_or(Ignored::Stranger)?;
    if !lets_in(state, origin, &typing.room_id).await? {
        return Err(Ignored::Stranger);
    }
    state.users.set_typing(room, &typing.user_id, typing.typing.then_some(TYPING_FOR));
    Ok(())
}

async fn set_presence(state: &Inbound, presence: Presence) -> Result<(), Ignored> {
    let told = RemotePresence {
        state: PresenceState::of_name(&presence.presence).ok_or(Ignored::Malformed)?,
        status_msg: presence.status_msg,
        last_active_ago_ms: presence.last_active_ago,
        currently_active: presence.currently_active,
    };
    match state.users.set_remote_presence(&presence.user_id, told).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Ignored::Stranger),
        Err(fault) => Err(Ignored::Failed(fault.to_string())),
    }
}

async fn set_receipt(state: &Inbound, receipt: &Receipt) -> Result<(), Ignored> {
    let Receipt { room_id, user_id, event_id, thread, ts_ms } = receipt;
    let set = state.users.set_remote_receipt(user_id, room_id, thread.as_deref(), event_id, *ts_ms).await;
    set.map_err(|error| match error {
        ReceiptError::NotJoined | ReceiptError::UnknownThread => Ignored::Stranger,
        ReceiptError::IdTooLong => Ignored::Malformed,
        ReceiptError::Fault(fault) => Ignored::Failed(fault.to_string()),
    })
}

/// Counts what became of an item.
pub(super) fn count(origin: &ServerName, kind: &'static str, result: &Result<(), Ignored>) {
    let outcome = match result {
        Ok(()) => "taken",
        Err(Ignored::Malformed) => "malformed",
        Err(Ignored::Stranger) => "stranger",
        Err(Ignored::TooMuch) => "too_much",
        Err(Ignored::Unknown) => "unknown",
        Err(Ignored::Failed(_)) => "failed",
        Err(Ignored::Later(_)) => "later",
    };
    counter!("hearth_federation_edus_received_total", "kind" => kind, "outcome" => outcome).increment(1);
    match result {
        Ok(()) | Err(Ignored::Unknown) => {}
        Err(Ignored::Failed(cause)) => tracing::warn!(%origin, kind, cause, "news of another server was lost"),
        Err(Ignored::Later(cause)) => tracing::debug!(%origin, kind, cause, "news of another server is to come again"),
        Err(Ignored::Malformed | Ignored::Stranger | Ignored::TooMuch) => {
            tracing::debug!(%origin, kind, outcome, "news of another server was not heeded");
        }
    }
}
