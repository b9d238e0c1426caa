//! One recipient's part of a message: into what waits for each of their devices.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_ports::Key;
use hearth_store::{
    LogEntry, PositionIndex, Table, UserNumber, Write, encode,
    tables::{
        TransactionRow,
        users::{
            ToDeviceCountRow, ToDeviceRow, device_key, to_device_count_key, to_device_key, to_device_position_offset,
        },
    },
};
use ruma::{OwnedDeviceId, UserId};
use serde_json::value::RawValue;

use super::{Devices, EVERY_DEVICE, Letter};
use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// Messages that wait for one device at most. Who is away for months misses what comes beyond it, and asks for keys again.
const WAITING_MAX: u32 = 20_000;

/// What they may take together, in bytes: a stranger may send, and the device may never come back.
const WAITING_BYTES_MAX: u64 = 64 << 20;

/// A batch that has grown to so many bytes takes no more; engines like batches of at most 1 MB.
const BATCH_BYTES: usize = 800_000;

/// The key of the row that says that a recipient has a message.
pub(super) type Once<'a> = Box<dyn Fn(UserNumber) -> Key + Send + Sync + 'a>;

/// A device that gets a message, and its row as it was read.
type Target<'a> = (String, Bytes, &'a RawValue);

impl Users {
    /// Puts a message into what waits for a user's devices, unless that was done. Devices that do not exist get nothing.
    pub(super) async fn deliver(
        &self,
        recipient: &UserId,
        devices: &Devices,
        letter: Letter<'_>,
        once: Once<'_>,
    ) -> Result<(), Fault> {
        let Some(user) = self.active_user(recipient).await? else { return Ok(()) };
        let once = once(user);
        let _turn = self.to_device.turn(user).await;
        let mut attempts = 0;
        while attempts < COMMIT_ATTEMPTS {
            let done = self.store.get_bytes(Table::Ix, &once).await?;
            let row = done.as_deref().map(hearth_store::decode::<TransactionRow>).transpose()?;
            let after = match row {
                Some(row) if row.answer.is_empty() => return Ok(()),
                Some(row) => row.answer,
                None => String::new(),
            };
            let mut targets = self.targets(user, devices).await?;
            targets.retain(|(device_id, ..)| *device_id > after);
            if targets.is_empty() && done.is_none() {
                // Nobody: not worth a row, which strangers could make any number of.
                return Ok(());
            }
            let mut write = Write::new(user.partition());
            write.require(Table::Ix, once.clone(), done);
            let (reached, is_whole) = self.add_messages(&mut write, user, &targets, letter).await?;
            let answer = match reached.last() {
                Some(device_id) if !is_whole => device_id.to_string(),
                _ => String::new(),
            };
            write.put(Table::Ix, once.clone(), &TransactionRow { answer, answered_ts_ms: self.clock.now_ms() });
            if !committed(self.store.commit(write).await)? {
                attempts += 1;
                continue;
            }
            let places: Vec<_> = reached.into_iter().map(|device_id| (user, device_id)).collect();
            self.to_device.idle.remove(&places);
            if is_whole {
                return Ok(());
            }
        }
        Err(Fault::contended())
    }

    /// The devices that get something, by rising id.
    async fn targets<'d>(&self, user: UserNumber, devices: &'d Devices) -> Result<Vec<Target<'d>>, Fault> {
        let every: Option<&RawValue> = devices.get(<&ruma::DeviceId>::from(EVERY_DEVICE)).map(|content| &**content);
        let mut targets = Vec::new();
        if let Some(every) = every {
            let named: BTreeMap<&str, &RawValue> =
                devices.iter().map(|(device_id, content)| (device_id.as_str(), &**content)).collect();
            for (device_id, bytes, _) in self.load_devices(user).await? {
                let content = named.get(device_id.as_str()).copied().unwrap_or(every);
                targets.push((device_id, bytes, content));
            }
            return Ok(targets);
        }
        for (device_id, content) in devices {
            if let Some((_, bytes)) = self.load_device(user, device_id.as_str()).await? {
                targets.push((device_id.to_string(), bytes, &**content));
            }
        }
        Ok(targets)
    }

    /// Adds as many as fit into a batch: which, and whether that was all.
    async fn add_messages(
        &self,
        write: &mut Write,
        user: UserNumber,
        targets: &[Target<'_>],
        letter: Letter<'_>,
    ) -> Result<(Vec<OwnedDeviceId>, bool), Fault> {
        let mut reached = Vec::new();
        let mut last = None;
        let mut is_whole = true;
        for (device_id, device, content) in targets {
            if write.size_bytes() >= BATCH_BYTES {
                is_whole = false;
                break;
            }
            // A device that ends meanwhile takes what waits for it with it.
            write.require(Table::Us, device_key(user, device_id), Some(device.clone()));
            last = self.add_message(write, user, device_id, letter, content).await?.or(last);
            reached.push(OwnedDeviceId::from(device_id.as_str()));
        }
        if let Some(last) = last {
            write.log(last, LogEntry::ToDevice { user });
        }
        Ok((reached, is_whole))
    }

    /// `None`: too much waits already.
    async fn add_message(
        &self,
        write: &mut Write,
        user: UserNumber,
        device_id: &str,
        letter: Letter<'_>,
        content: &RawValue,
    ) -> Result<Option<PositionIndex>, Fault> {
        let Letter { sender, kind } = letter;
        let row = ToDeviceRow { sender: sender.to_string(), kind: kind.to_owned(), content: content.get().to_owned() };
        let (mut count, bytes) = self.load_to_device_count(user, device_id).await?;
        count.messages += 1;
        count.bytes += row.size_bytes() as u64;
        if count.messages > WAITING_MAX || count.bytes > WAITING_BYTES_MAX {
            metrics::counter!("hearth_to_device_dropped_total").increment(1);
            tracing::debug!(user = user.0, device_id, "a device does not fetch its messages: a further one is dropped");
            return Ok(None);
        }
        write.require(Table::Us, to_device_count_key(user, device_id), bytes);
        write.put(Table::Us, to_device_count_key(user, device_id), &count);
        let at = write.position();
        let in_key = Some((to_device_position_offset(device_id), at));
        write.put_filled(Table::Us, to_device_key(user, device_id, 0), encode(&row), in_key, &[]);
        Ok(Some(at))
    }

    /// How much waits for a device, and the row's bytes.
    pub(super) async fn load_to_device_count(
        &self,
        user: UserNumber,
        device_id: &str,
    ) -> Result<(ToDeviceCountRow, Option<Bytes>), Fault> {
        let bytes = self.store.get_bytes(Table::Us, &to_device_count_key(user, device_id)).await?;
        let row = bytes.as_deref().map(hearth_store::decode::<ToDeviceCountRow>).transpose()?;
        Ok((row.unwrap_or_default(), bytes))
    }
}
