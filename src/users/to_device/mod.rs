//! Messages to devices, which wait until their device has them.
//! [Send-to-Device messaging](https://spec.matrix.org/v1.19/client-server-api/#send-to-device-messaging).
//!
//! [`Users::send_to_device`] takes what a device here sends, [`Users::receive_to_device`] what another server brings. Each
//! recipient's part is a batch of its own with a row that says that it was done, so whoever sends again finishes what is
//! missing and doubles nothing. What goes to other servers is queued in their rows; `waiting.rs` hands out and deletes.

mod deliver;
mod waiting;

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, stream};
use hearth_ports::{BoxFuture, Partition};
use hearth_store::{
    CommitError, Table, UserNumber, Write,
    tables::{
        QueuedRow, TransactionRow, put_queued, server_number, server_partition, transaction_key,
        users::TO_DEVICE_CONTENT_BYTES_MAX,
    },
};
use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Fault, Users, keys::is_canonical, memory::Memory};
use deliver::Once;

pub use waiting::{ToDeviceMessage, ToDeviceMessages};

/// The longest type of a message, in bytes, as of all events.
const TYPE_BYTES_MAX: usize = 255;

/// The longest id of a device that a message may be for, in bytes.
const DEVICE_ID_BYTES_MAX: usize = 255;

/// Users to whom one request may send. Clients send to some hundred devices at once.
pub const TO_DEVICE_USERS_MAX: usize = 1_000;

/// Messages of one request or EDU: all devices of a user count as one.
pub const TO_DEVICE_MESSAGES_MAX: usize = 10_000;

/// Recipients whose batches are made at once for one request.
const RECIPIENTS_AT_ONCE: usize = 16;

/// What the messages of one EDU may take, in bytes: with its frame it is as large as an event.
const EDU_MESSAGES_BYTES_MAX: usize = 62 << 10;

/// The length of the ids that we give messages: at most 32 by the specification.
const MESSAGE_ID_CHARACTERS: usize = 24;

/// For all devices of a user.
const EVERY_DEVICE: &str = "*";

/// Contents by user and device; the device `*` is all of the user's.
pub type ToDeviceContents = BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, Box<RawValue>>>;

/// Why messages were not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ToDeviceError {
    /// A content is no object, or one that cannot be signed on its way to another server (`M_BAD_JSON`).
    #[error("the content of a message must be an object, and its numbers integers within ±(2^53 − 1)")]
    Malformed,
    /// A type or content is too long, or there are too many messages (`M_TOO_LARGE`).
    #[error("{0}")]
    TooLarge(&'static str),
    /// Ours; what was done is not done again when the request comes again.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A message but for its contents.
#[derive(Clone, Copy, Debug)]
struct Letter<'a> {
    sender: &'a UserId,
    kind: &'a str,
}

/// What is kept in memory of messages.
pub(crate) struct ToDeviceMemory {
    /// Devices for which nothing waits: all but a few.
    idle: Memory<(UserNumber, OwnedDeviceId), ()>,
    /// Who changes what waits for a user goes one after the other, by partition: a saving of lost races.
    turns: [tokio::sync::Mutex<()>; Partition::COUNT],
}

/// Devices that are known to have nothing waiting: some 100 bytes each.
const IDLE_MAX: usize = 65_536;

impl ToDeviceMemory {
    pub(crate) fn new() -> Self {
        Self { idle: Memory::new(IDLE_MAX), turns: std::array::from_fn(|_| tokio::sync::Mutex::default()) }
    }

    async fn turn(&self, user: UserNumber) -> tokio::sync::MutexGuard<'_, ()> {
        self.turns[usize::from(user.partition().index())].lock().await
    }
}

impl Users {
    /// Takes messages that a device of ours sends: when this returns they are stored, for our users with their devices, for
    /// others in the queues to their servers. Unknown users and devices are passed over. The same transaction of a device
    /// does nothing twice.
    pub async fn send_to_device(
        &self,
        sender: &UserId,
        device_id: &DeviceId,
        kind: &str,
        transaction: &str,
        contents: &ToDeviceContents,
    ) -> Result<(), ToDeviceError> {
        check(kind, contents)?;
        let user = self.store.user_number(sender).await.map_err(Fault::from)?;
        let user = user.ok_or_else(|| Fault::Broken("a session of nobody".to_owned()))?;
        let letter = Letter { sender, kind };
        let path = format!("sendToDevice/{kind}");
        let key_for = |target: u64| transaction_key(user, device_id.as_str(), target, &path, transaction);
        let mut elsewhere: BTreeMap<OwnedServerName, Vec<(&OwnedUserId, &Devices)>> = BTreeMap::new();
        let mut parts: Vec<BoxFuture<'_, Result<(), Fault>>> = Vec::with_capacity(contents.len());
        for (recipient, devices) in contents {
            if self.is_local(recipient) {
                let once: Once<'_> = Box::new(|recipient: UserNumber| key_for(recipient.0));
                parts.push(Box::pin(self.deliver(recipient, devices, letter, once)));
            } else {
                elsewhere.entry(recipient.server_name().to_owned()).or_default().push((recipient, devices));
            }
        }
        if self.settings.federates {
            for (server, messages) in &elsewhere {
                parts.push(Box::pin(self.queue_for(server, messages, letter, key_for(server_number(server)))));
            }
        }
        all(parts).await?;
        Ok(())
    }

    /// Takes messages that another server brings for our users' devices, each of its ids once. The caller has found that
    /// the sender is of that server and bounds how many messages there are. The answer is how many of them were left out
    /// because they are no objects or too large: they do no harm to the others.
    pub async fn receive_to_device(
        &self,
        origin: &ServerName,
        sender: &UserId,
        kind: &str,
        message_id: &str,
        mut contents: ToDeviceContents,
    ) -> Result<usize, ToDeviceError> {
        check_kind(kind)?;
        let mut left_out = 0;
        for devices in contents.values_mut() {
            let all = devices.len();
            devices.retain(|device_id, content| check_message(device_id, content).is_ok());
            left_out += all - devices.len();
        }
        let letter = Letter { sender, kind };
        let mut parts: Vec<BoxFuture<'_, Result<(), Fault>>> = Vec::with_capacity(contents.len());
        for (recipient, devices) in contents.iter().filter(|(recipient, _)| self.is_local(recipient)) {
            let once: Once<'_> = Box::new(move |recipient: UserNumber| {
                hearth_store::tables::remote_transaction_key(recipient, origin, message_id)
            });
            parts.push(Box::pin(self.deliver(recipient, devices, letter, once)));
        }
        all(parts).await?;
        Ok(left_out)
    }

    /// Queues messages for users of another server, unless that was done.
    async fn queue_for(
        &self,
        server: &ServerName,
        messages: &[(&OwnedUserId, &Devices)],
        letter: Letter<'_>,
        once: hearth_ports::Key,
    ) -> Result<(), Fault> {
        let mut write = Write::new(server_partition(server));
        let done = TransactionRow { answer: String::new(), answered_ts_ms: self.clock.now_ms() };
        write.require_absent(Table::Ix, once.clone());
        write.put(Table::Ix, once, &done);
        for messages in in_edus(messages) {
            let json = edu_json(letter, &self.entropy.alphanumeric(MESSAGE_ID_CHARACTERS), &messages);
            put_queued(&mut write, server, &QueuedRow::Edu { json });
        }
        match self.store.commit(write).await {
            // It was queued before.
            Ok(_) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

type Devices = BTreeMap<OwnedDeviceId, Box<RawValue>>;

async fn all(parts: Vec<BoxFuture<'_, Result<(), Fault>>>) -> Result<(), Fault> {
    // Who can be served is served, also if another fails: the next attempt has less to do.
    let results: Vec<_> = stream::iter(parts).buffer_unordered(RECIPIENTS_AT_ONCE).collect().await;
    results.into_iter().collect()
}

fn check(kind: &str, contents: &ToDeviceContents) -> Result<(), ToDeviceError> {
    check_kind(kind)?;
    let messages: usize = contents.values().map(BTreeMap::len).sum();
    if contents.len() > TO_DEVICE_USERS_MAX || messages > TO_DEVICE_MESSAGES_MAX {
        return Err(ToDeviceError::TooLarge("too many messages at once"));
    }
    for (device_id, content) in contents.values().flatten() {
        check_message(device_id, content)?;
        if !is_canonical(content.get()) {
            return Err(ToDeviceError::Malformed);
        }
    }
    Ok(())
}

fn check_kind(kind: &str) -> Result<(), ToDeviceError> {
    match kind.len() {
        ..=TYPE_BYTES_MAX => Ok(()),
        _ => Err(ToDeviceError::TooLarge("the type is longer than 255 bytes")),
    }
}

fn check_message(device_id: &DeviceId, content: &RawValue) -> Result<(), ToDeviceError> {
    if !content.get().starts_with('{') {
        return Err(ToDeviceError::Malformed);
    }
    if content.get().len() > TO_DEVICE_CONTENT_BYTES_MAX || device_id.as_str().len() > DEVICE_ID_BYTES_MAX {
        let what = "a message is larger than 60 KiB, or the id of its device longer than 255 bytes";
        return Err(ToDeviceError::TooLarge(what));
    }
    Ok(())
}

/// `messages` of an EDU: contents by user and device, as the sender wrote them.
type EduMessages<'a> = BTreeMap<&'a UserId, BTreeMap<&'a DeviceId, &'a RawValue>>;

/// Parts the messages for one server so that each part fits into an EDU.
fn in_edus<'a>(messages: &[(&'a OwnedUserId, &'a Devices)]) -> Vec<EduMessages<'a>> {
    let mut edus = Vec::new();
    let (mut edu, mut bytes) = (EduMessages::new(), 0);
    for (recipient, devices) in messages {
        for (device_id, content) in *devices {
            let size = recipient.as_str().len() + device_id.as_str().len() + content.get().len() + 16;
            if bytes > 0 && bytes + size > EDU_MESSAGES_BYTES_MAX {
                edus.push(std::mem::take(&mut edu));
                bytes = 0;
            }
            bytes += size;
            edu.entry(recipient).or_default().insert(device_id, content);
        }
    }
    if bytes > 0 {
        edus.push(edu);
    }
    edus
}

/// [`m.direct_to_device`](https://spec.matrix.org/v1.19/server-server-api/#definition-mdirect_to_device)
fn edu_json(letter: Letter<'_>, message_id: &str, messages: &EduMessages<'_>) -> String {
    #[derive(Serialize)]
    struct Edu<'a> {
        edu_type: &'a str,
        content: Content<'a>,
    }
    #[derive(Serialize)]
    struct Content<'a> {
        sender: &'a UserId,
        #[serde(rename = "type")]
        kind: &'a str,
        message_id: &'a str,
        messages: &'a EduMessages<'a>,
    }
    let content = Content { sender: letter.sender, kind: letter.kind, message_id, messages };
    let edu = Edu { edu_type: "m.direct_to_device", content };
    serde_json::to_string(&edu).expect("text and JSON under text keys serialise")
}
