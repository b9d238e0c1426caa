//! What other servers tell beside events and is stored: messages to devices, changes of device lists and of cross-signing
//! keys. All of it is taken before the events of its transaction, which may need it.
//! [Send-to-device messaging](https://spec.matrix.org/v1.19/server-server-api/#send-to-device-messaging),
//! [Device Management](https://spec.matrix.org/v1.19/server-server-api/#device-management),
//! [End-to-End Encryption](https://spec.matrix.org/v1.19/server-server-api/#end-to-end-encryption)
//!
//! A server speaks for its own users only. What is wrong with one item does no harm to the others; if something of ours
//! fails, the transaction is to be sent again, and what was taken of it is not taken twice.

use std::{borrow::Cow, fmt};

use hearth_edge::Error;
use hearth_users::{
    Fault, TO_DEVICE_MESSAGES_MAX, ToDeviceContents, ToDeviceError,
    keys::{DeviceUpdate, SigningKeysUpdate},
};
use ruma::{OwnedDeviceId, OwnedUserId, ServerName};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    Inbound,
    ephemeral::{CONTENT_BYTES_MAX, Ignored, Item, count},
};

/// The longest id of a message, in bytes: 32 characters.
const MESSAGE_ID_BYTES_MAX: usize = 32 * 4;

#[derive(Deserialize)]
struct Direct<'a> {
    sender: OwnedUserId,
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    message_id: Cow<'a, str>,
    #[serde(borrow)]
    messages: Entries<'a>,
}

/// An object's entries, the first [`TO_DEVICE_MESSAGES_MAX`] of them: of short ones a body holds more than memory should.
struct Entries<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    if entries.len() < TO_DEVICE_MESSAGES_MAX {
                        entries.push(entry);
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[derive(Deserialize)]
struct Device {
    user_id: OwnedUserId,
    device_id: OwnedDeviceId,
    stream_id: i64,
    #[serde(default)]
    prev_id: Option<Vec<i64>>,
    #[serde(default)]
    deleted: Option<bool>,
    keys: Option<Box<RawValue>>,
    device_display_name: Option<String>,
}

#[derive(Deserialize)]
struct SigningKeys {
    user_id: OwnedUserId,
    master_key: Option<Box<RawValue>>,
    self_signing_key: Option<Box<RawValue>>,
}

/// Takes what of a transaction's items is stored, in their order.
pub(super) async fn take(state: &Inbound, origin: &ServerName, items: &[&RawValue]) -> Result<(), Error> {
    for item in items {
        // What does not read is counted with what is not stored.
        let Ok(Item { edu_type, content }) = serde_json::from_str::<Item<'_>>(item.get()) else { continue };
        let content = content.get();
        let is_small = content.len() <= CONTENT_BYTES_MAX;
        let (kind, result) = match &*edu_type {
            // Some servers put all messages for us into one: it may be as large as the body.
            "m.direct_to_device" => ("m.direct_to_device", take_direct(state, origin, content).await),
            "m.device_list_update" if is_small => ("m.device_list_update", take_device(state, origin, content).await),
            "m.signing_key_update" if is_small => ("m.signing_key_update", take_keys(state, origin, content).await),
            _ => continue,
        };
        count(origin, kind, &result);
        if let Err(Ignored::Later(_)) = result {
            return Err(Error::unavailable());
        }
    }
    Ok(())
}

async fn take_direct(state: &Inbound, origin: &ServerName, content: &str) -> Result<(), Ignored> {
    let direct: Direct<'_> = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
    if direct.sender.server_name() != origin {
        return Err(Ignored::Stranger);
    }
    if direct.message_id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(Ignored::TooMuch);
    }
    let (contents, mut left_out) = contents_for_us(state, &direct.messages);
    let Direct { sender, kind, message_id, .. } = direct;
    let taken = state.users.receive_to_device(origin, &sender, &kind, &message_id, contents).await;
    left_out += taken.map_err(|error| match error {
        ToDeviceError::Malformed => Ignored::Malformed,
        ToDeviceError::TooLarge(_) => Ignored::TooMuch,
        ToDeviceError::Fault(fault) => failed(&fault),
    })?;
    if left_out == 0 { Ok(()) } else { Err(Ignored::TooMuch) }
}

/// What is for users of ours, and how much of it does not read, or is more than is taken at once.
fn contents_for_us(state: &Inbound, messages: &Entries<'_>) -> (ToDeviceContents, usize) {
    let mut contents = ToDeviceContents::new();
    let (mut taken, mut left_out) = (0, 0);
    for (user_id, devices) in &messages.0 {
        let user_id = OwnedUserId::try_from(&**user_id).ok().filter(|user_id| state.users.is_local(user_id));
        let Some(user_id) = user_id else { continue };
        let Ok(devices) = serde_json::from_str::<Entries<'_>>(devices.get()) else {
            left_out += 1;
            continue;
        };
        let fit = devices.0.len().min(TO_DEVICE_MESSAGES_MAX - taken);
        left_out += devices.0.len() - fit;
        taken += fit;
        let devices = devices.0.into_iter().take(fit);
        let devices = devices.map(|(device_id, content)| (OwnedDeviceId::from(&*device_id), content.to_owned()));
        contents.insert(user_id, devices.collect());
    }
    (contents, left_out)
}

async fn take_device(state: &Inbound, origin: &ServerName, content: &str) -> Result<(), Ignored> {
    let device: Device = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
    let Device { user_id, device_id, stream_id, prev_id, deleted, keys, device_display_name } = device;
    if user_id.server_name() != origin {
        return Err(Ignored::Stranger);
    }
    let update = DeviceUpdate {
        user_id,
        device_id,
        stream_id,
        prev_id: prev_id.unwrap_or_default(),
        deleted: deleted.unwrap_or_default(),
        keys,
        display_name: device_display_name,
    };
    known(state.users.take_device_update(update).await)
}

async fn take_keys(state: &Inbound, origin: &ServerName, content: &str) -> Result<(), Ignored> {
    let keys: SigningKeys = serde_json::from_str(content).map_err(|_| Ignored::Malformed)?;
    let SigningKeys { user_id, master_key, self_signing_key } = keys;
    if user_id.server_name() != origin {
        return Err(Ignored::Stranger);
    }
    known(state.users.take_signing_keys(SigningKeysUpdate { user_id, master_key, self_signing_key }).await)
}

fn known(taken: Result<bool, Fault>) -> Result<(), Ignored> {
    match taken {
        Ok(true) => Ok(()),
        Ok(false) => Err(Ignored::Stranger),
        Err(fault) => Err(failed(&fault)),
    }
}

/// What is broken does not get better by coming again.
fn failed(fault: &Fault) -> Ignored {
    match fault {
        Fault::Unavailable(_) => Ignored::Later(fault.to_string()),
        Fault::Broken(_) => Ignored::Failed(fault.to_string()),
    }
}
