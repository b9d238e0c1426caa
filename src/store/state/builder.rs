//! Making new versions of a room's state.

use std::sync::Arc;

use bytes::Bytes;
use hearth_ports::{Key, Table};

use super::{
    Chunks, Tree,
    node::{
        Chunk, HEIGHT_MAX, INNER_BYTES_MAX, Leaf, NodeAt, WIDTH, corrupt, encode_chunk, encode_inner, encode_leaf,
        holds, slot,
    },
};
use crate::{
    EventNumber, LoadError, RoomNumber, StateKeyNumber, StateVersion, Store, Write,
    codec::read_u32,
    encode,
    tables::{StateChunk, StateDifference, StateHeader, equal_state_key, state_version_key},
};

/// A row of nodes is closed when it reaches so many bytes.
const CHUNK_BYTES: usize = 60_000;

/// A version lists its changes if they are no more than this: more are found as fast by comparing trees.
const CHANGES_LISTED_MAX: usize = 200;

/// Makes versions of one room's state that are stored by one batch. A version may be made from one of the same batch.
pub struct StateBuilder<'a> {
    store: &'a Store,
    room: RoomNumber,
    /// The rows of new versions.
    pending: Chunks,
    rows: Vec<(StateVersion, Key, Bytes)>,
    hashes: Vec<([u8; 16], StateVersion)>,
}

/// What a pair is to become.
type Change = (StateKeyNumber, Option<EventNumber>);

impl<'a> StateBuilder<'a> {
    /// Nothing yet.
    pub fn new(store: &'a Store, room: RoomNumber) -> Self {
        Self { store, room, pending: Chunks::new(), rows: Vec::new(), hashes: Vec::new() }
    }

    /// The version that results from these changes; of several to one pair the last counts.
    ///
    /// It is `parent` if they change nothing, [`StateVersion::EMPTY`] if nothing remains, otherwise `new`, the room's
    /// next free version. For changes that bring in an event which this batch stores: no earlier version can be equal.
    pub async fn apply(
        &mut self,
        parent: StateVersion,
        changes: &[Change],
        new: StateVersion,
    ) -> Result<StateVersion, LoadError> {
        assert!(new > parent, "versions are made from earlier ones");
        let Some(made) = self.make(parent, changes).await? else { return Ok(parent) };
        let Some(root) = made.root else { return Ok(StateVersion::EMPTY) };
        self.keep(new, &made.header, root)?;
        self.hashes.push((made.header.hash, new));
        Ok(new)
    }

    /// As [`Self::apply`], but an earlier version of the room that is equal is returned instead: for the outcome of a
    /// resolution, which is often what one side had.
    pub async fn apply_or_find(
        &mut self,
        parent: StateVersion,
        changes: &[Change],
        new: StateVersion,
    ) -> Result<StateVersion, LoadError> {
        let made = self.apply(parent, changes, new).await?;
        if made != new {
            return Ok(made);
        }
        let Some((hash, _)) = self.hashes.pop() else { return Ok(made) };
        if let Some(equal) = self.find(hash).await?
            // Hashes can be made to collide by who tries; states are equal if they don't differ.
            && self.tree().difference(equal, new).await?.is_empty()
        {
            self.pending.retain(|(version, _), _| *version != new);
            self.rows.retain(|(version, ..)| *version != new);
            return Ok(equal);
        }
        self.hashes.push((hash, new));
        Ok(new)
    }

    /// The event that a version, perhaps a new one, has for a pair.
    pub async fn get(
        &self,
        version: StateVersion,
        state_key: StateKeyNumber,
    ) -> Result<Option<EventNumber>, LoadError> {
        self.tree().get(version, state_key).await
    }

    /// The events that a version, perhaps a new one, has for pairs, in the order of `state_keys`.
    pub async fn get_many(
        &self,
        version: StateVersion,
        state_keys: &[StateKeyNumber],
    ) -> Result<Vec<Option<EventNumber>>, LoadError> {
        self.tree().get_many(version, state_keys).await
    }

    /// All of a version, perhaps a new one, by state key.
    pub async fn all(&self, version: StateVersion) -> Result<Vec<(StateKeyNumber, EventNumber)>, LoadError> {
        let all = self.tree().difference(StateVersion::EMPTY, version).await?;
        Ok(all.into_iter().filter_map(|pair| Some((pair.state_key, pair.after?))).collect())
    }

    /// In which pairs two versions, perhaps new ones, differ.
    pub async fn difference(&self, from: StateVersion, to: StateVersion) -> Result<Vec<StateDifference>, LoadError> {
        self.tree().difference(from, to).await
    }

    /// Adds the new versions to the batch.
    pub fn finish(self, write: &mut Write) {
        for (_, key, row) in self.rows {
            write.put_bytes(Table::St, key, row);
        }
        for (hash, version) in self.hashes {
            write.put_bytes(Table::St, equal_state_key(self.room, hash), version.0.to_be_bytes().to_vec());
        }
    }

    fn tree(&self) -> Tree<'_> {
        Tree { pending: Some(&self.pending), ..Tree::new(self.store, self.room) }
    }

    async fn find(&self, hash: [u8; 16]) -> Result<Option<StateVersion>, LoadError> {
        if let Some((_, version)) = self.hashes.iter().find(|(known, _)| *known == hash) {
            return Ok(Some(*version));
        }
        let Some(bytes) = self.store.get_bytes(Table::St, &equal_state_key(self.room, hash)).await? else {
            return Ok(None);
        };
        Ok(Some(StateVersion(read_u32("equal state", &bytes)?)))
    }

    /// The tree that the changes make of `parent`; `None`: they change nothing.
    async fn make(&self, parent: StateVersion, changes: &[Change]) -> Result<Option<Made>, LoadError> {
        let tree = self.tree();
        let root = tree.root(parent).await?;
        let (mut height, mut count, hash) = match &root {
            Some(root) => (root.header().height, root.header().count, u128::from_le_bytes(root.header().hash)),
            None => (0, 0, 0),
        };
        let mut changes = last_of_each(changes);
        changes.retain(|(key, after)| after.is_some() || holds(height, key.0));
        let chunks = match &root {
            Some(root) => tree.load_paths(root.at, height, &changes).await?,
            None => Chunks::new(),
        };
        let mut part = root.map(|root| Part::Old(root.at));
        while let Some((key, _)) = changes.last()
            && !holds(height, key.0)
        {
            debug_assert!(height < HEIGHT_MAX, "a tree of full height holds every key");
            height += 1;
            part = part.map(above);
        }
        let mut rebuild = Rebuild { chunks: &chunks, hash, differences: Vec::new() };
        let root = rebuild.part(part, height, &changes)?;
        let (hash, differences) = (rebuild.hash, rebuild.differences);
        if differences.is_empty() {
            return Ok(None);
        }
        for difference in &differences {
            count = count + u32::from(difference.after.is_some()) - u32::from(difference.before.is_some());
        }
        let root = root.map(|part| match part {
            Part::New(node) => node,
            Part::Old(_) => unreachable!("where something changed, the root did"),
        });
        let changes = (differences.len() <= CHANGES_LISTED_MAX).then_some(differences);
        Ok(Some(Made { root, header: StateHeader { parent, height, count, hash: hash.to_le_bytes(), changes } }))
    }

    /// Lays the new nodes out in rows.
    fn keep(&mut self, version: StateVersion, header: &StateHeader, root: New) -> Result<(), LoadError> {
        let head = encode(header);
        let (nodes, places) = flatten(root, head.len());
        let mut chunk_nodes: Vec<Vec<Vec<u8>>> = Vec::new();
        for (node, (chunk, _)) in nodes.into_iter().zip(&places) {
            let bytes = match node {
                Flat::Leaf(bytes) => bytes,
                Flat::Inner(children) => {
                    let place = |nth: usize| NodeAt { version, chunk: places[nth].0, index: places[nth].1 };
                    let at = |child: FlatChild| match child {
                        FlatChild::Old(at) => at,
                        FlatChild::New(nth) => place(nth),
                    };
                    encode_inner(version, &children.map(|child| child.map(at)))
                }
            };
            chunk_nodes.resize_with(usize::from(*chunk) + 1, Vec::new);
            chunk_nodes[usize::from(*chunk)].push(bytes);
        }
        let mut head = Some(head);
        for (chunk, nodes) in (0..).zip(chunk_nodes) {
            let row = encode_chunk(head.take().unwrap_or_else(|| encode(&StateChunk)), &nodes);
            self.pending.insert((version, chunk), Arc::new(Chunk::parse(chunk, &row)?));
            self.rows.push((version, state_version_key(self.room, version, chunk), row));
        }
        Ok(())
    }
}

impl Tree<'_> {
    /// The rows of all nodes on the way to these keys, as far as there are any.
    async fn load_paths(&self, root: NodeAt, height: u8, changes: &[Change]) -> Result<Chunks, LoadError> {
        let inside = changes.partition_point(|(key, _)| holds(height, key.0));
        let mut all = Chunks::new();
        let mut frontier = vec![(root, &changes[..inside])];
        for level in (0..=height).rev() {
            let chunks = self.load(frontier.iter().map(|(at, _)| *at).collect::<Vec<_>>()).await?;
            let mut below = Vec::new();
            for (at, changes) in frontier.iter().filter(|_| level > 0) {
                let inner = chunks[&at.row()].inner(*at)?;
                for changes in changes.chunk_by(|(a, _), (b, _)| slot(a.0, level) == slot(b.0, level)) {
                    below.extend(inner[slot(changes[0].0.0, level)].map(|child| (child, changes)));
                }
            }
            all.extend(chunks);
            frontier = below;
        }
        Ok(all)
    }
}

struct Made {
    root: Option<New>,
    header: StateHeader,
}

/// A part of a tree under construction.
enum Part {
    Old(NodeAt),
    New(New),
}

enum New {
    Leaf(Box<Leaf>),
    Inner(Box<[Option<Part>; WIDTH]>),
}

/// A node whose only child is this part: for keys too large for the present root.
fn above(below: Part) -> Part {
    let mut children = std::array::from_fn(|_| None);
    children[0] = Some(below);
    Part::New(New::Inner(Box::new(children)))
}

struct Rebuild<'a> {
    chunks: &'a Chunks,
    hash: u128,
    differences: Vec<StateDifference>,
}

impl Rebuild<'_> {
    /// The part after the changes, which are all within it; `None` where nothing remains.
    fn part(&mut self, part: Option<Part>, level: u8, changes: &[Change]) -> Result<Option<Part>, LoadError> {
        if changes.is_empty() {
            return Ok(part);
        }
        let changed_before = self.differences.len();
        let old = match part {
            Some(Part::Old(at)) => Some(at),
            _ => None,
        };
        let new = if level == 0 { self.leaf(part, changes)? } else { self.inner(part, level, changes)? };
        // A new part above an old root must stay, whatever changed below it.
        if let (Some(at), true) = (old, self.differences.len() == changed_before) {
            return Ok(Some(Part::Old(at)));
        }
        Ok(new.map(Part::New))
    }

    fn leaf(&mut self, part: Option<Part>, changes: &[Change]) -> Result<Option<New>, LoadError> {
        let mut leaf = match part {
            None => [None; WIDTH],
            Some(Part::Old(at)) => self.chunks[&at.row()].leaf(at)?,
            Some(Part::New(New::Leaf(leaf))) => *leaf,
            Some(Part::New(New::Inner(_))) => return Err(corrupt("its levels don't fit").into()),
        };
        for (state_key, after) in changes {
            let place = &mut leaf[slot(state_key.0, 0)];
            let before = std::mem::replace(place, *after);
            if before != *after {
                let hash = |event: Option<EventNumber>| event.map_or(0, |event| pair_hash(*state_key, event));
                self.hash = self.hash.wrapping_sub(hash(before)).wrapping_add(hash(*after));
                self.differences.push(StateDifference { state_key: *state_key, before, after: *after });
            }
        }
        Ok(leaf.iter().any(Option::is_some).then(|| New::Leaf(Box::new(leaf))))
    }

    fn inner(&mut self, part: Option<Part>, level: u8, changes: &[Change]) -> Result<Option<New>, LoadError> {
        let mut children = match part {
            None => std::array::from_fn(|_| None),
            Some(Part::Old(at)) => self.chunks[&at.row()].inner(at)?.map(|child| child.map(Part::Old)),
            Some(Part::New(New::Inner(children))) => *children,
            Some(Part::New(New::Leaf(_))) => return Err(corrupt("its levels don't fit").into()),
        };
        for changes in changes.chunk_by(|(a, _), (b, _)| slot(a.0, level) == slot(b.0, level)) {
            let child = &mut children[slot(changes[0].0.0, level)];
            *child = self.part(child.take(), level - 1, changes)?;
        }
        Ok(children.iter().any(Option::is_some).then(|| New::Inner(Box::new(children))))
    }
}

/// What a pair with its event adds to a state's hash.
pub(crate) fn pair_hash(state_key: StateKeyNumber, event: EventNumber) -> u128 {
    let mut input = [0; 8];
    input[..4].copy_from_slice(&state_key.0.to_be_bytes());
    input[4..].copy_from_slice(&event.0.to_be_bytes());
    let hash = blake3::hash(&input);
    hash.as_bytes().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// Sorted by key, one for each.
fn last_of_each(changes: &[Change]) -> Vec<Change> {
    let mut sorted = changes.to_vec();
    sorted.reverse();
    // Stable: of equal keys the one given last comes first, and stays.
    sorted.sort_by_key(|(key, _)| *key);
    sorted.dedup_by_key(|(key, _)| *key);
    sorted
}

enum Flat {
    Leaf(Vec<u8>),
    Inner(Box<[Option<FlatChild>; WIDTH]>),
}

enum FlatChild {
    Old(NodeAt),
    New(usize),
}

/// The new nodes breadth first, root first, and the chunk and index of each.
fn flatten(root: New, head_bytes: usize) -> (Vec<Flat>, Vec<(u16, u16)>) {
    let mut waiting = std::collections::VecDeque::from([root]);
    let (mut nodes, mut places) = (Vec::new(), Vec::new());
    let (mut chunk, mut index, mut bytes) = (0, 0, head_bytes);
    while let Some(node) = waiting.pop_front() {
        let (node, node_bytes) = match node {
            New::Leaf(leaf) => {
                let leaf = encode_leaf(&leaf);
                let bytes = leaf.len();
                (Flat::Leaf(leaf), bytes)
            }
            New::Inner(children) => {
                let children = children.map(|child| {
                    Some(match child? {
                        Part::Old(at) => FlatChild::Old(at),
                        Part::New(node) => {
                            waiting.push_back(node);
                            FlatChild::New(nodes.len() + waiting.len())
                        }
                    })
                });
                let (each, own) = INNER_BYTES_MAX;
                let bytes = own + each * children.iter().flatten().count();
                (Flat::Inner(Box::new(children)), bytes)
            }
        };
        if bytes + node_bytes > CHUNK_BYTES && index > 0 {
            (chunk, index, bytes) = (chunk + 1, 0, 0);
        }
        places.push((chunk, index));
        nodes.push(node);
        // Its length is a varint of its own, of at most two bytes for a node of this size.
        (index, bytes) = (index + 1, bytes + node_bytes + 2);
    }
    (nodes, places)
}
