//! What waits for a device: handed out until the device says that it has it, and deleted with the device.

use hearth_ports::{KeyRange, Page};
use hearth_store::{
    Entry, Table, UserNumber, Write, decode,
    tables::users::{
        ToDeviceRow, ended_device_key, ended_device_of_key, ended_devices_prefix, to_device_count_key, to_device_key,
        to_device_position, to_device_prefix,
    },
};
use ruma::{DeviceId, OwnedDeviceId};

use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// Messages that are deleted in one batch: the largest fill 6 MB while they are read.
const DELETED_AT_ONCE: usize = 100;

/// Ended devices whose messages are deleted in one go.
const ENDED_AT_ONCE: usize = 1_000;

/// A message as its device gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToDeviceMessage {
    /// The id of the user who sent it.
    pub sender: String,
    /// Its type.
    pub kind: String,
    /// Its content, a JSON object.
    pub content: String,
}

/// Some messages for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToDeviceMessages {
    /// In the order in which they came.
    pub messages: Vec<ToDeviceMessage>,
    /// If there are more: the position of the last of these.
    pub more_behind: Option<u64>,
}

impl Users {
    /// The messages that wait for a device and came after a position, up to another, at most so many.
    pub async fn messages_to_device(
        &self,
        user: UserNumber,
        device_id: &DeviceId,
        (after, until): (u64, u64),
        limit: usize,
    ) -> Result<ToDeviceMessages, Fault> {
        // Not asked of memory: it learns of a message only after those who wait for it.
        let Some(range) = between(user, device_id.as_str(), after, until) else {
            return Ok(ToDeviceMessages::default());
        };
        let mut rows = self.store.scan_all(Table::Us, range, limit.saturating_add(1), false).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let last = rows.last().and_then(|row| to_device_position(&row.key));
        let messages = rows.iter().map(|row| {
            let ToDeviceRow { sender, kind, content } = decode(&row.value)?;
            Ok(ToDeviceMessage { sender, kind, content })
        });
        let messages = messages.collect::<Result<_, Fault>>()?;
        Ok(ToDeviceMessages { messages, more_behind: last.filter(|_| has_more) })
    }

    /// A device has what came up to a position: it is deleted. "When the client calls `/sync` again with the `next_batch`
    /// token from the first response, the server should infer that any send-to-device messages in that response have been
    /// delivered successfully". Costs a look into memory if nothing waits, mostly.
    pub async fn delivered_to_device(&self, user: UserNumber, device_id: &DeviceId, until: u64) -> Result<(), Fault> {
        let place = (user, device_id.to_owned());
        if self.to_device.idle.get(&place).is_some() {
            return Ok(());
        }
        let _turn = self.to_device.turn(user).await;
        let mut attempts = 0;
        while attempts < COMMIT_ATTEMPTS {
            let begun = self.to_device.idle.begin();
            let (mut count, bytes) = self.load_to_device_count(user, device_id.as_str()).await?;
            if bytes.is_none() {
                self.to_device.idle.insert(begun, place, ());
                return Ok(());
            }
            let Some(range) = between(user, device_id.as_str(), 0, until) else { return Ok(()) };
            let rows = self.store.scan_all(Table::Us, range, DELETED_AT_ONCE, false).await?;
            if rows.is_empty() {
                return Ok(());
            }
            for row in &rows {
                count.messages = count.messages.saturating_sub(1);
                count.bytes = count.bytes.saturating_sub(decode::<ToDeviceRow>(&row.value)?.size_bytes() as u64);
            }
            let key = to_device_count_key(user, device_id.as_str());
            let mut write = Write::new(user.partition());
            write.require(Table::Us, key.clone(), bytes);
            match count.messages {
                0 => write.delete(Table::Us, key),
                _ => write.put(Table::Us, key, &count),
            }
            let is_last = rows.len() < DELETED_AT_ONCE;
            delete(&mut write, rows);
            match committed(self.store.commit(write).await)? {
                true if is_last => return Ok(()),
                true => {}
                false => attempts += 1,
            }
        }
        Err(Fault::contended())
    }

    /// Adds to the batch that ends a device what becomes of its messages: they go, at once or later, and until then nobody
    /// gets a device of this id.
    pub(crate) async fn end_messages(&self, write: &mut Write, user: UserNumber, device_id: &str) -> Result<(), Fault> {
        let (_, bytes) = self.load_to_device_count(user, device_id).await?;
        let key = to_device_count_key(user, device_id);
        if bytes.is_some() {
            write.delete(Table::Us, key.clone());
            write.put_bytes(Table::Mi, ended_device_key(user, device_id), Vec::new());
        }
        write.require(Table::Us, key, bytes);
        Ok(())
    }

    /// Makes sure that a new device of this id gets nothing that was meant for one before. The batch that makes it requires
    /// that there is no [`ended_device_key`].
    pub(crate) async fn clear_ended_device(&self, user: UserNumber, device_id: &str) -> Result<(), Fault> {
        let job = ended_device_key(user, device_id);
        while self.store.get_bytes(Table::Mi, &job).await?.is_some() {
            let range = KeyRange::prefix(to_device_prefix(user, device_id));
            let rows = self.store.scan_all(Table::Us, range, DELETED_AT_ONCE, false).await?;
            let mut write = Write::new(user.partition());
            write.require(Table::Mi, job.clone(), Some(bytes::Bytes::new()));
            if rows.len() < DELETED_AT_ONCE {
                write.delete(Table::Mi, job.clone());
            }
            delete(&mut write, rows);
            // Whoever was first has done the same.
            committed(self.store.commit(write).await)?;
        }
        Ok(())
    }

    /// Deletes what ended devices have left.
    pub(crate) async fn clear_ended_devices(&self) -> Result<(), Fault> {
        let range = KeyRange::prefix(ended_devices_prefix());
        for row in self.store.scan_bytes(Table::Mi, range, Page::first(ENDED_AT_ONCE)).await? {
            let ended = ended_device_of_key(&row.key);
            let (user, device_id) = ended.ok_or_else(|| Fault::Broken("an ended device of nobody".to_owned()))?;
            self.clear_ended_device(user, device_id).await?;
            self.to_device.idle.remove([&(user, OwnedDeviceId::from(device_id))]);
        }
        Ok(())
    }
}

/// The messages after a position, up to and with another.
fn between(user: UserNumber, device_id: &str, after: u64, until: u64) -> Option<KeyRange> {
    let mut range = KeyRange::prefix(to_device_prefix(user, device_id));
    range.from = to_device_key(user, device_id, after.checked_add(1)?);
    if let Some(end) = until.checked_add(1) {
        range.until = Some(to_device_key(user, device_id, end));
    }
    (after < until).then_some(range)
}

fn delete(write: &mut Write, rows: Vec<Entry>) {
    rows.into_iter().for_each(|row| write.delete(Table::Us, row.key));
}
