//! Nodes of the state tree and the rows that hold them.
//!
//! A row (chunk) holds a head, the number of its nodes, the length of each, then their bytes. A node begins with 32
//! bits that say which of its slots are taken. A leaf goes on with its smallest event number and, for each taken slot,
//! how much larger that slot's is; an inner node with, for each taken slot, how many versions older the child's is and
//! the child's ordinal there. Numbers are varints.

use bytes::Bytes;

use crate::{
    Corrupt, EventNumber, Row, StateVersion,
    cache::Weight,
    codec::decode_with_rest,
    tables::{StateChunk, StateHeader},
};

/// How many bits of a state key's number one level decides.
pub(super) const LEVEL_BITS: u32 = 5;
/// So many slots a node has.
pub(super) const WIDTH: usize = 1 << LEVEL_BITS;
/// Levels above the leaves, at most: 7 levels decide 32 bits.
pub(super) const HEIGHT_MAX: u8 = 6;

/// Where a node is: in which version's rows, in which chunk, and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NodeAt {
    pub(super) version: StateVersion,
    pub(super) chunk: u16,
    pub(super) index: u16,
}

impl NodeAt {
    /// Where a version's root is.
    pub(super) const fn root(version: StateVersion) -> Self {
        Self { version, chunk: 0, index: 0 }
    }

    /// The row that it is in.
    pub(super) const fn row(self) -> (StateVersion, u16) {
        (self.version, self.chunk)
    }

    const fn ordinal(self) -> u32 {
        (self.chunk as u32) << 16 | self.index as u32
    }
}

/// The events of 32 neighbouring pairs.
pub(super) type Leaf = [Option<EventNumber>; WIDTH];
/// The children of an inner node.
pub(super) type Inner = [Option<NodeAt>; WIDTH];

/// Which slot a pair falls into, in a node of this level; leaves are of level 0.
pub(super) const fn slot(state_key: u32, level: u8) -> usize {
    (state_key as u64 >> (LEVEL_BITS * level as u32)) as usize % WIDTH
}

/// Whether a tree of this height has a place for the pair.
pub(super) const fn holds(height: u8, state_key: u32) -> bool {
    state_key as u64 >> (LEVEL_BITS * (height as u32 + 1)) == 0
}

/// A row of nodes, found but not decoded.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// In chunk 0.
    pub(super) header: Option<StateHeader>,
    nodes: Bytes,
    /// Where each node ends in `nodes`.
    ends: Box<[u32]>,
}

impl Weight for Chunk {
    fn weight(&self) -> u64 {
        let changes = self.header.as_ref().and_then(|header| header.changes.as_ref()).map_or(0, Vec::len);
        (self.nodes.len() + 4 * self.ends.len() + 20 * changes + 120) as u64
    }
}

impl Chunk {
    /// Reads a row.
    pub(super) fn parse(chunk: u16, row: &Bytes) -> Result<Self, Corrupt> {
        let (header, rest) = if chunk == 0 {
            let (header, rest): (StateHeader, usize) = decode_with_rest(row)?;
            if header.height > HEIGHT_MAX {
                return Err(corrupt("its height is impossible"));
            }
            (Some(header), rest)
        } else {
            (None, decode_with_rest::<StateChunk>(row)?.1)
        };
        let mut input = Input(&row[row.len() - rest..]);
        let count = input.varint()?;
        // Each node has its length, so there can't be more than bytes.
        let mut ends = Vec::with_capacity((count as usize).min(rest));
        let mut end: u32 = 0;
        for _ in 0..count {
            end = end.checked_add(input.varint()?).ok_or_else(|| corrupt("its nodes are too long"))?;
            ends.push(end);
        }
        if end as usize != input.0.len() {
            return Err(corrupt("its nodes are not as long as it says"));
        }
        // A copy of its own: the row's buffer may belong to a far larger block of the engine.
        Ok(Self { header, nodes: Bytes::copy_from_slice(input.0), ends: ends.into() })
    }

    /// How many nodes it holds.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn leaf(&self, at: NodeAt) -> Result<Leaf, Corrupt> {
        let mut input = Input(self.node(at)?);
        let (taken, base) = (input.taken()?, input.varint()?);
        let mut leaf = [None; WIDTH];
        for (slot, event) in leaf.iter_mut().enumerate() {
            if taken >> slot & 1 == 1 {
                let number = base.checked_add(input.varint()?).ok_or_else(|| corrupt("an event is too large"))?;
                *event = Some(EventNumber(number));
            }
        }
        Ok(leaf)
    }

    pub(super) fn inner(&self, at: NodeAt) -> Result<Inner, Corrupt> {
        let mut input = Input(self.node(at)?);
        let taken = input.taken()?;
        let mut inner = [None; WIDTH];
        for (slot, child) in inner.iter_mut().enumerate() {
            if taken >> slot & 1 == 1 {
                let version = at.version.0.checked_sub(input.varint()?);
                let version = version.ok_or_else(|| corrupt("a child is of no version"))?;
                let ordinal = input.varint()?;
                let (chunk, index) = ((ordinal >> 16) as u16, ordinal as u16);
                *child = Some(NodeAt { version: StateVersion(version), chunk, index });
            }
        }
        Ok(inner)
    }

    fn node(&self, at: NodeAt) -> Result<&[u8], Corrupt> {
        let index = usize::from(at.index);
        let end = *self.ends.get(index).ok_or_else(|| corrupt("a node is missing"))?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(&self.nodes[start as usize..end as usize])
    }
}

pub(super) fn corrupt(reason: &str) -> Corrupt {
    Corrupt { what: StateHeader::NAME, reason: reason.to_owned() }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Corrupt> {
        let (byte, rest) = self.0.split_first().ok_or_else(|| corrupt("it is cut off"))?;
        self.0 = rest;
        Ok(*byte)
    }

    fn varint(&mut self) -> Result<u32, Corrupt> {
        let mut number: u64 = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return u32::try_from(number).map_err(|_| corrupt("a number is too large"));
            }
        }
        Err(corrupt("a number does not end"))
    }

    fn taken(&mut self) -> Result<u32, Corrupt> {
        let mut taken = 0;
        for shift in (0..32).step_by(8) {
            taken |= u32::from(self.byte()?) << shift;
        }
        Ok(taken)
    }
}

/// The bytes of a leaf.
pub(super) fn encode_leaf(leaf: &Leaf) -> Vec<u8> {
    let mut out = taken(leaf).to_le_bytes().to_vec();
    let base = leaf.iter().flatten().map(|event| event.0).min().unwrap_or_default();
    varint(&mut out, base);
    for event in leaf.iter().flatten() {
        varint(&mut out, event.0 - base);
    }
    out
}

/// The bytes of an inner node of this version.
pub(super) fn encode_inner(version: StateVersion, inner: &Inner) -> Vec<u8> {
    let mut out = taken(inner).to_le_bytes().to_vec();
    for child in inner.iter().flatten() {
        varint(&mut out, version.0 - child.version.0);
        varint(&mut out, child.ordinal());
    }
    out
}

/// No inner node has more bytes than this for each child, and these for itself.
pub(super) const INNER_BYTES_MAX: (usize, usize) = (10, 4);

/// The bytes of a row: `head`, then the nodes.
pub(super) fn encode_chunk(head: Bytes, nodes: &[Vec<u8>]) -> Bytes {
    let mut out = Vec::from(head);
    let length = |bytes: usize| u32::try_from(bytes).expect("a row is shorter than 4 GiB");
    varint(&mut out, length(nodes.len()));
    for node in nodes {
        varint(&mut out, length(node.len()));
    }
    for node in nodes {
        out.extend_from_slice(node);
    }
    out.into()
}

fn taken<T>(slots: &[Option<T>; WIDTH]) -> u32 {
    slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).fold(0, |bits, (slot, _)| bits | 1 << slot)
}

fn varint(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
