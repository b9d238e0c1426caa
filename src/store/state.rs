//! The state of a room at any point of its history: a map from state key to event, kept as a tree whose unchanged parts
//! are shared between versions.
//!
//! The tree is a radix tree over the state key's number, 32 children to a node. A version's row holds the nodes that are
//! new in it, the root first; a pointer to a child names the version whose row holds it. One change in a room of 100,000
//! members writes four nodes; comparing two versions visits only the nodes that differ. Rows are never changed, so they
//! are cached without a thought. [`StateBuilder`] makes new versions.

mod builder;
mod check;
mod node;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use hearth_ports::{Key, Table};

pub use builder::StateBuilder;
pub(crate) use builder::pair_hash;
pub(crate) use check::Levels;
pub(crate) use node::Chunk;

use crate::{
    EventNumber, LoadError, RoomNumber, StateKeyNumber, StateVersion, Store,
    tables::{StateDifference, StateHeader, state_version_key},
};
use node::{Inner, LEVEL_BITS, Leaf, NodeAt, WIDTH, corrupt, holds, slot};

/// Chunks by version and place.
type Chunks = HashMap<(StateVersion, u16), Arc<Chunk>>;

/// A version's summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSummary {
    /// How many pairs are set.
    pub count: u32,
    /// Equal for equal states.
    pub hash: [u8; 16],
    /// The version that it was made from.
    pub parent: StateVersion,
}

impl Store {
    /// The event that a version has for a pair. [`StateVersion::UNKNOWN`], here and below, is an error.
    pub async fn state_get(
        &self,
        room: RoomNumber,
        version: StateVersion,
        state_key: StateKeyNumber,
    ) -> Result<Option<EventNumber>, LoadError> {
        Tree::new(self, room).get(version, state_key).await
    }

    /// The events that a version has for pairs, in the order of `state_keys`.
    pub async fn state_get_many(
        &self,
        room: RoomNumber,
        version: StateVersion,
        state_keys: &[StateKeyNumber],
    ) -> Result<Vec<Option<EventNumber>>, LoadError> {
        Tree::new(self, room).get_many(version, state_keys).await
    }

    /// All of a version, by state key. Memory is about 16 bytes a pair.
    pub async fn state_all(
        &self,
        room: RoomNumber,
        version: StateVersion,
    ) -> Result<Vec<(StateKeyNumber, EventNumber)>, LoadError> {
        let all = Tree::new(self, room).difference(StateVersion::EMPTY, version).await?;
        Ok(all.into_iter().filter_map(|pair| Some((pair.state_key, pair.after?))).collect())
    }

    /// In which pairs two versions differ, by state key.
    pub async fn state_difference(
        &self,
        room: RoomNumber,
        from: StateVersion,
        to: StateVersion,
    ) -> Result<Vec<StateDifference>, LoadError> {
        Tree::new(self, room).difference(from, to).await
    }

    /// A version's summary: one read.
    pub async fn state_summary(&self, room: RoomNumber, version: StateVersion) -> Result<StateSummary, LoadError> {
        let tree = Tree::new(self, room);
        let Some(root) = tree.root(version).await? else {
            return Ok(StateSummary { count: 0, hash: [0; 16], parent: StateVersion::EMPTY });
        };
        let StateHeader { count, hash, parent, .. } = root.header();
        Ok(StateSummary { count: *count, hash: *hash, parent: *parent })
    }
}

/// Reads the trees of one room.
struct Tree<'a> {
    store: &'a Store,
    room: RoomNumber,
    /// Rows that are not stored yet.
    pending: Option<&'a Chunks>,
}

struct Root {
    at: NodeAt,
    chunk: Arc<Chunk>,
}

impl Root {
    fn header(&self) -> &StateHeader {
        self.chunk.header.as_ref().expect("the chunk of a root was found to have a head")
    }
}

impl<'a> Tree<'a> {
    fn new(store: &'a Store, room: RoomNumber) -> Self {
        Self { store, room, pending: None }
    }

    /// A version's root; `None`: the state is empty.
    async fn root(&self, version: StateVersion) -> Result<Option<Root>, LoadError> {
        if version == StateVersion::EMPTY {
            return Ok(None);
        }
        if version == StateVersion::UNKNOWN {
            return Err(corrupt("the state at this place is not known").into());
        }
        let at = NodeAt::root(version);
        let chunk = self.chunk(at).await?;
        if chunk.header.is_none() {
            return Err(corrupt("it has no head").into());
        }
        Ok(Some(Root { at, chunk }))
    }

    /// The row that holds this node.
    async fn chunk(&self, node: NodeAt) -> Result<Arc<Chunk>, LoadError> {
        let (version, chunk) = node.row();
        let pending = self.pending.and_then(|pending| pending.get(&node.row()).cloned());
        if let Some(known) = pending.or_else(|| self.store.caches.state_chunks.get(&(self.room, version, chunk))) {
            return Ok(known);
        }
        let row = self.store.get_bytes(Table::St, &state_version_key(self.room, version, chunk)).await?;
        self.keep(version, chunk, row)
    }

    fn keep(&self, version: StateVersion, chunk: u16, row: Option<Bytes>) -> Result<Arc<Chunk>, LoadError> {
        let row = row.ok_or_else(|| corrupt("a row of it is missing"))?;
        let parsed = Arc::new(Chunk::parse(chunk, &row)?);
        self.store.caches.state_chunks.insert((self.room, version, chunk), parsed.clone());
        Ok(parsed)
    }

    /// The rows that hold these nodes.
    async fn load(&self, nodes: impl IntoIterator<Item = NodeAt>) -> Result<Chunks, LoadError> {
        let mut chunks = Chunks::new();
        let mut missing: Vec<(StateVersion, u16)> = Vec::new();
        for node in nodes {
            let row = node.row();
            if chunks.contains_key(&row) {
                continue;
            }
            let pending = self.pending.and_then(|pending| pending.get(&row).cloned());
            match pending.or_else(|| self.store.caches.state_chunks.get(&(self.room, row.0, row.1))) {
                Some(chunk) => drop(chunks.insert(row, chunk)),
                None => missing.push(row),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(chunks);
        }
        let keys: Vec<Key> = missing.iter().map(|(v, chunk)| state_version_key(self.room, *v, *chunk)).collect();
        let rows = self.store.engine().multi_get(Table::St, &keys).await?;
        for ((version, chunk), row) in missing.into_iter().zip(rows) {
            chunks.insert((version, chunk), self.keep(version, chunk, row)?);
        }
        Ok(chunks)
    }

    async fn get(
        &self,
        version: StateVersion,
        StateKeyNumber(state_key): StateKeyNumber,
    ) -> Result<Option<EventNumber>, LoadError> {
        let Some(root) = self.root(version).await? else { return Ok(None) };
        let height = root.header().height;
        if !holds(height, state_key) {
            return Ok(None);
        }
        let (mut at, mut chunk) = (root.at, root.chunk);
        for level in (1..=height).rev() {
            let Some(child) = chunk.inner(at)?[slot(state_key, level)] else { return Ok(None) };
            if child.row() != at.row() {
                chunk = self.chunk(child).await?;
            }
            at = child;
        }
        Ok(chunk.leaf(at)?[slot(state_key, 0)])
    }

    async fn get_many(
        &self,
        version: StateVersion,
        state_keys: &[StateKeyNumber],
    ) -> Result<Vec<Option<EventNumber>>, LoadError> {
        let mut found = vec![None; state_keys.len()];
        let Some(root) = self.root(version).await? else { return Ok(found) };
        let height = root.header().height;
        let mut wanted: Vec<(u32, usize)> = state_keys.iter().enumerate().map(|(at, key)| (key.0, at)).collect();
        wanted.retain(|(key, _)| holds(height, *key));
        wanted.sort_unstable();
        let mut frontier = vec![(root.at, &wanted[..])];
        for level in (1..=height).rev() {
            let chunks = self.load(frontier.iter().map(|(at, _)| *at)).await?;
            let mut below = Vec::with_capacity(frontier.len());
            for (at, wanted) in frontier {
                let inner = chunks[&at.row()].inner(at)?;
                for wanted in wanted.chunk_by(|(a, _), (b, _)| slot(*a, level) == slot(*b, level)) {
                    below.extend(inner[slot(wanted[0].0, level)].map(|child| (child, wanted)));
                }
            }
            frontier = below;
        }
        let chunks = self.load(frontier.iter().map(|(at, _)| *at)).await?;
        for (at, wanted) in frontier {
            let leaf = chunks[&at.row()].leaf(at)?;
            wanted.iter().for_each(|(key, nth)| found[*nth] = leaf[slot(*key, 0)]);
        }
        Ok(found)
    }

    async fn difference(&self, from: StateVersion, to: StateVersion) -> Result<Vec<StateDifference>, LoadError> {
        if from == to {
            return Ok(Vec::new());
        }
        let (from_root, to_root) = (self.root(from).await?, self.root(to).await?);
        if let Some(known) = known_difference((from, &from_root), (to, &to_root)) {
            return Ok(known);
        }
        let side = |root: &Option<Root>| root.as_ref().map(|root| Side { at: root.at, height: root.header().height });
        let (from, to) = (side(&from_root), side(&to_root));
        let height = from.into_iter().chain(to).map(|side| side.height).max().unwrap_or(0);
        let mut frontier = vec![Pair { from, to, base: 0 }];
        for level in (1..=height).rev() {
            let chunks = self.load_pairs(&frontier, level).await?;
            let mut below = Vec::new();
            for pair in frontier {
                let (from, to) = (children(&chunks, pair.from, level)?, children(&chunks, pair.to, level)?);
                let differing = (0..WIDTH).filter(|slot| from[*slot] != to[*slot]);
                below.extend(differing.map(|slot| {
                    let base = pair.base | (slot as u64) << (LEVEL_BITS * u32::from(level));
                    Pair { from: from[slot], to: to[slot], base }
                }));
            }
            frontier = below;
        }
        let chunks = self.load_pairs(&frontier, 0).await?;
        let mut differences = Vec::new();
        for pair in frontier {
            let (from, to) = (leaf(&chunks, pair.from)?, leaf(&chunks, pair.to)?);
            for slot in (0..WIDTH).filter(|slot| from[*slot] != to[*slot]) {
                let state_key = u32::try_from(pair.base | slot as u64).map_err(|_| corrupt("a key is too large"))?;
                let state_key = StateKeyNumber(state_key);
                differences.push(StateDifference { state_key, before: from[slot], after: to[slot] });
            }
        }
        Ok(differences)
    }

    async fn load_pairs(&self, pairs: &[Pair], level: u8) -> Result<Chunks, LoadError> {
        let sides = pairs.iter().flat_map(|pair| [pair.from, pair.to]).flatten();
        let here = sides.filter(|side| side.height == level).map(|side| side.at);
        self.load(here.collect::<Vec<_>>()).await
    }
}

/// A part of a tree; its height is below the level that it stands on where its tree is the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    at: NodeAt,
    height: u8,
}

/// Two parts for the same state keys, beginning with `base`, that differ.
#[derive(Clone, Copy)]
struct Pair {
    from: Option<Side>,
    to: Option<Side>,
    base: u64,
}

fn children(chunks: &Chunks, side: Option<Side>, level: u8) -> Result<[Option<Side>; WIDTH], LoadError> {
    let mut children = [None; WIDTH];
    match side {
        Some(side) if side.height < level => children[0] = Some(side),
        Some(side) => {
            let inner: Inner = chunks[&side.at.row()].inner(side.at)?;
            children = inner.map(|child| child.map(|at| Side { at, height: level - 1 }));
        }
        None => {}
    }
    Ok(children)
}

fn leaf(chunks: &Chunks, side: Option<Side>) -> Result<Leaf, LoadError> {
    match side {
        Some(side) => Ok(chunks[&side.at.row()].leaf(side.at)?),
        None => Ok([None; WIDTH]),
    }
}

/// The difference between a version and its parent, where the version's row has it.
fn known_difference(
    (from, from_root): (StateVersion, &Option<Root>),
    (to, to_root): (StateVersion, &Option<Root>),
) -> Option<Vec<StateDifference>> {
    let changes = |root: &Option<Root>, parent: StateVersion| {
        let header = root.as_ref().map(Root::header).filter(|header| header.parent == parent)?;
        header.changes.clone()
    };
    if let Some(changes) = changes(to_root, from) {
        return Some(changes);
    }
    let mut changes = changes(from_root, to)?;
    changes.iter_mut().for_each(|change| std::mem::swap(&mut change.before, &mut change.after));
    Some(changes)
}

#[cfg(test)]
mod tests;
