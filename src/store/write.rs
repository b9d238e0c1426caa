//! Batches in terms of rows.

use bytes::Bytes;
use hearth_core::Event;
use hearth_ports::{Batch, Fill, FillIn, Key, LogItem, Partition, Put, Requirement, Table};
use smallvec::SmallVec;

use ruma::RoomId;

use crate::{
    EventNumber, LogEntry, RoomNumber, Row,
    codec::encode,
    tables::{
        AuthEdges, EventHeader, RoomIdRow, auth_runs, encode_event, event_key, room_index_key, room_name_key,
        users::{DeviceListRow, device_list_key, own_keys_key},
    },
};

/// Which of a batch's positions: 0 is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PositionIndex(pub u16);

/// A conditional write in one partition: what must hold, what is written, what the log says of it.
#[derive(Clone, Debug)]
pub struct Write {
    pub(crate) batch: Batch,
    entries: Vec<(PositionIndex, LogEntry)>,
    /// Events whose stored form this changes: caches forget them at commit.
    rewritten: Vec<(RoomNumber, EventNumber)>,
    /// Live events that this stores: caches have them from the commit on.
    kept: Vec<Kept>,
    /// Joined to runs when the batch is complete.
    auth_edges: Vec<(RoomNumber, AuthEdges)>,
}

/// What follows in memory from a batch that is committed.
pub(crate) struct Commitment {
    pub(crate) entries: Vec<(PositionIndex, LogEntry)>,
    pub(crate) rewritten: Vec<(RoomNumber, EventNumber)>,
    pub(crate) kept: Vec<Kept>,
}

/// A live event as it is once its batch is committed, but for its position.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) room: RoomNumber,
    pub(crate) number: EventNumber,
    pub(crate) header: EventHeader,
    pub(crate) event: Event,
    pub(crate) position: PositionIndex,
}

impl Write {
    /// Nothing yet.
    pub fn new(partition: Partition) -> Self {
        let batch = Batch::new(partition);
        Self { batch, entries: Vec::new(), rewritten: Vec::new(), kept: Vec::new(), auth_edges: Vec::new() }
    }

    /// Whose partition this is.
    pub const fn partition(&self) -> Partition {
        self.batch.partition
    }

    /// How large the batch is so far, in bytes.
    pub fn size_bytes(&self) -> usize {
        let edges: usize = self.auth_edges.iter().map(|(_, edges)| edges.size_bytes()).sum();
        self.batch.size_bytes() + edges
    }

    /// Asks for one more position, after all asked for before.
    pub fn position(&mut self) -> PositionIndex {
        let index = self.batch.positions;
        self.batch.positions = index.checked_add(1).expect("a batch has fewer than 65,536 positions");
        PositionIndex(index)
    }

    /// This row must not exist.
    pub fn require_absent(&mut self, table: Table, key: Key) {
        self.batch.require.push(Requirement { table, key, value: None });
    }

    /// This row must hold exactly these bytes, or be absent for `None`.
    pub fn require(&mut self, table: Table, key: Key, value: Option<Bytes>) {
        self.batch.require.push(Requirement { table, key, value });
    }

    /// Writes a row; with `row` the positions it declares are as they stand in it.
    pub fn put<R: Row>(&mut self, table: Table, key: Key, row: &R) {
        self.put_bytes(table, key, encode(row));
    }

    /// Writes a row whose positions are filled at commit, one index for each that the row declares.
    pub fn put_at<R: Row>(&mut self, table: Table, key: Key, row: &R, positions: &[PositionIndex]) {
        self.put_filled(table, key, encode(row), None, positions);
    }

    /// Writes a value that is not a [`Row`]: a marker, a number.
    pub fn put_bytes(&mut self, table: Table, key: Key, value: impl Into<Bytes>) {
        self.batch.put.push(Put { table, key, value: value.into(), fill: SmallVec::new() });
    }

    /// Writes a row whose key has a position at `in_key` (offset, index), and whose value begins, behind its version
    /// byte, with these positions.
    pub fn put_filled(
        &mut self,
        table: Table,
        key: Key,
        value: Bytes,
        in_key: Option<(u16, PositionIndex)>,
        in_value: &[PositionIndex],
    ) {
        let mut fill = SmallVec::new();
        if let Some((offset, index)) = in_key {
            fill.push(Fill { place: FillIn::Key, offset, index: index.0 });
        }
        for (nth, index) in in_value.iter().enumerate() {
            let offset = u16::try_from(1 + 8 * nth).expect("rows have few positions");
            fill.push(Fill { place: FillIn::Value, offset, index: index.0 });
        }
        self.batch.put.push(Put { table, key, value, fill });
    }

    /// Deletes a row, if it is there.
    pub fn delete(&mut self, table: Table, key: Key) {
        self.batch.delete.push((table, key));
    }

    /// Tells the log's readers, at this position. Of a change of a device list or of keys that are the user's own affair it
    /// writes the row, too, so that none is forgotten: the batch is of the user's partition.
    pub fn log(&mut self, at: PositionIndex, entry: LogEntry) {
        if let Some(user) = entry.device_list_of() {
            self.put_at(Table::Us, device_list_key(user), &DeviceListRow::default(), &[at]);
        }
        if let LogEntry::OwnKeys { user } = entry {
            self.put_at(Table::Us, own_keys_key(user), &DeviceListRow::default(), &[at]);
        }
        self.batch.log.push(LogItem { index: at.0, body: entry.encode() });
        self.entries.push((at, entry));
    }

    /// Gives a room its number: see `Store::assign_room_number`. The number must be free; of two that name a room at
    /// once, one is a conflict.
    pub fn name_room(&mut self, number: RoomNumber, room_id: &RoomId) {
        debug_assert_eq!(number.partition(), self.partition(), "a room's rows are of its partition");
        self.require_absent(Table::Ix, room_name_key(number));
        self.put(Table::Ix, room_name_key(number), &RoomIdRow { room_id: room_id.as_str().to_owned() });
        self.put_bytes(Table::Ix, room_index_key(room_id), number.0.to_be_bytes().to_vec());
    }

    /// Stores an event in another form: redacted, or with another verdict. `header` is as it was read, changed. Once
    /// committed, readers get the new form.
    pub fn rewrite_event(&mut self, room: RoomNumber, number: EventNumber, header: &EventHeader, json: &[u8]) {
        self.put_bytes(Table::Ev, event_key(room, number), encode_event(header, json));
        self.rewritten.push((room, number));
    }

    /// As [`Self::rewrite_event`], of an event that gets its place in the timeline only now, at this position: it was
    /// stored because others cite it, or waited for something.
    pub fn place_event(
        &mut self,
        room: RoomNumber,
        number: EventNumber,
        header: &EventHeader,
        json: &[u8],
        position: Option<PositionIndex>,
    ) {
        self.put_filled(Table::Ev, event_key(room, number), encode_event(header, json), None, position.as_slice());
        self.rewritten.push((room, number));
    }

    /// Readers will ask for this live event at once: when the batch that stores it is committed, they find it in memory.
    /// `header` and `event` are what the batch stores.
    pub fn keep_event(
        &mut self,
        room: RoomNumber,
        number: EventNumber,
        header: EventHeader,
        event: Event,
        position: PositionIndex,
    ) {
        self.kept.push(Kept { room, number, header, event, position });
    }

    /// Adds a state event to the auth graph: `auths` are its auth events, all numbered before it.
    pub fn auth_edges(&mut self, room: RoomNumber, event: EventNumber, auths: &[EventNumber]) {
        self.auth_edges.push((room, AuthEdges::new(event, auths)));
    }

    /// What the log is told.
    pub(crate) fn entries(&self) -> &[(PositionIndex, LogEntry)] {
        &self.entries
    }

    /// The engine's batch, what the log is told, and the events that caches forget and learn.
    pub(crate) fn into_parts(mut self) -> (Batch, Commitment) {
        for (key, run) in auth_runs(std::mem::take(&mut self.auth_edges)) {
            self.put(Table::St, key, &run);
        }
        (self.batch, Commitment { entries: self.entries, rewritten: self.rewritten, kept: self.kept })
    }

    /// Takes over everything of `other`, its positions behind ours. Both must be of one partition.
    pub fn append(&mut self, other: Self) {
        assert_eq!(self.batch.partition, other.batch.partition, "a batch touches one partition");
        let shift = self.batch.positions;
        self.batch.positions =
            shift.checked_add(other.batch.positions).expect("a batch has fewer than 65,536 positions");
        self.batch.require.extend(other.batch.require);
        self.batch.delete.extend(other.batch.delete);
        self.batch.put.extend(other.batch.put.into_iter().map(|mut put| {
            put.fill.iter_mut().for_each(|fill| fill.index += shift);
            put
        }));
        self.batch.log.extend(other.batch.log.into_iter().map(|item| LogItem { index: item.index + shift, ..item }));
        self.rewritten.extend(other.rewritten);
        self.kept.extend(
            other.kept.into_iter().map(|kept| Kept { position: PositionIndex(kept.position.0 + shift), ..kept }),
        );
        self.auth_edges.extend(other.auth_edges);
        self.entries.extend(other.entries.into_iter().map(|(at, entry)| (PositionIndex(at.0 + shift), entry)));
    }
}
