//! The auth graph: which events an event's permission rests on, all the way down.
//!
//! Auth events have smaller numbers than what cites them, so whatever is reachable is found by one sweep over the
//! numbers, downward, with a bit for each event: there is no index to build and the answer is exact. Only state events
//! have edges here; who asks of others begins with their auth events, which are in the header.

use std::{collections::BTreeMap, sync::Arc};

use hearth_ports::{KeyRange, Table};

use crate::{
    Corrupt, EventNumber, LoadError, RoomNumber, Row as _, Store, Write,
    cache::Weight,
    codec::{decode, read_u32},
    tables::{AUTH_BLOCK, AuthRun, auth_run_key},
};

/// Blocks that a sweep asks for before it goes on: enough that reads overlap, few enough to be needed.
const BLOCKS_AHEAD: usize = 32;

/// The edges of the events of one block.
#[derive(Debug)]
pub(crate) struct AuthBlock {
    /// Edges of events up to this one are all here.
    up_to: u32,
    /// Where the edges of each event end in `auths`.
    ends: Vec<u32>,
    auths: Vec<u32>,
}

impl Weight for AuthBlock {
    fn weight(&self) -> u64 {
        (4 * (self.ends.len() + self.auths.len()) + 80) as u64
    }
}

impl AuthBlock {
    pub(crate) fn auths(&self, event: u32) -> &[u32] {
        let at = (event % AUTH_BLOCK) as usize;
        let Some(end) = self.ends.get(at) else { return &[] };
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.auths[start as usize..*end as usize]
    }
}

/// The auth events of state events that the batch under construction will store: numbered above all that is stored.
pub type NewEdges = BTreeMap<EventNumber, Vec<EventNumber>>;

impl Store {
    /// Adds a state event to the auth graph. [`Write::auth_edges`] by another name.
    pub fn put_auth_edges(&self, write: &mut Write, room: RoomNumber, event: EventNumber, auths: &[EventNumber]) {
        write.auth_edges(room, event, auths);
    }

    /// The auth events of these events, theirs, and so on: rising, each once. One of the events given is only among
    /// them if another one rests on it.
    pub async fn auth_chain(&self, room: RoomNumber, events: &[EventNumber]) -> Result<Vec<EventNumber>, LoadError> {
        self.auth_chain_over(room, events, &NewEdges::new()).await
    }

    /// The same where some of the events are not stored yet.
    pub async fn auth_chain_over(
        &self,
        room: RoomNumber,
        events: &[EventNumber],
        new: &NewEdges,
    ) -> Result<Vec<EventNumber>, LoadError> {
        Ok(self.auth_closure(room, events, new).await?.iter().collect())
    }

    /// The events that are in the auth chain of one of the sets, but not in that of every one: rising.
    /// [Auth difference](https://spec.matrix.org/v1.19/rooms/v2/#definitions).
    pub async fn auth_difference(
        &self,
        room: RoomNumber,
        sets: &[Vec<EventNumber>],
        new: &NewEdges,
    ) -> Result<Vec<EventNumber>, LoadError> {
        let Some((first, others)) = sets.split_first() else { return Ok(Vec::new()) };
        let mut in_all = self.auth_closure(room, first, new).await?;
        let mut in_any = in_all.clone();
        for set in others {
            let chain = self.auth_closure(room, set, new).await?;
            in_any.unite(&chain);
            in_all.intersect(&chain);
        }
        in_any.subtract(&in_all);
        Ok(in_any.iter().collect())
    }

    /// All events on a path over auth events from one of these events to another, and these: rising.
    /// [Conflicted state subgraph](https://spec.matrix.org/v1.19/rooms/v12/#state-resolution).
    pub async fn auth_subgraph(
        &self,
        room: RoomNumber,
        events: &[EventNumber],
        new: &NewEdges,
    ) -> Result<Vec<EventNumber>, LoadError> {
        let mut below = self.auth_closure(room, events, new).await?;
        let new_below: Vec<EventNumber> = new.keys().copied().filter(|event| below.remove(event.0)).collect();
        let mut between = Bits::default();
        events.iter().for_each(|event| between.insert(event.0));
        let lowest = events.iter().map(|event| event.0 / AUTH_BLOCK).min().unwrap_or_default();
        // Upward: what rests on an event stands above it, so one sweep finds all.
        for block in lowest..below.blocks() {
            let Some(highest) = below.highest_of(block) else { continue };
            let edges = self.auth_block(room, block, highest).await?;
            for event in (block * AUTH_BLOCK..=highest).filter(|event| below.contains(*event)) {
                if edges.auths(event).iter().any(|auth| between.contains(*auth)) {
                    between.insert(event);
                }
            }
        }
        for event in new_below {
            if new[&event].iter().any(|auth| between.contains(auth.0)) {
                between.insert(event.0);
            }
        }
        Ok(between.iter().collect())
    }

    async fn auth_closure(&self, room: RoomNumber, events: &[EventNumber], new: &NewEdges) -> Result<Bits, LoadError> {
        let mut found = Bits::default();
        let mut open = Bits::default();
        events.iter().for_each(|event| open.insert(event.0));
        for (event, auths) in new.iter().rev() {
            // Only stored events may be asked of blocks: those are taken for complete up to the highest one.
            if open.remove(event.0) {
                for auth in auths {
                    found.insert(auth.0);
                    open.insert(auth.0);
                }
            }
        }
        let mut ahead: Vec<(u32, Arc<AuthBlock>)> = Vec::new();
        for block in (0..open.blocks()).rev() {
            let Some(highest) = open.highest_of(block) else { continue };
            if !matches!(ahead.last(), Some((number, have)) if *number == block && have.up_to >= highest) {
                ahead = self.auth_blocks(room, &open, block).await?;
            }
            let Some((_, edges)) = ahead.pop() else { continue };
            let mut event = highest;
            loop {
                if open.contains(event) {
                    for auth in edges.auths(event) {
                        found.insert(*auth);
                        open.insert(*auth);
                    }
                }
                if event % AUTH_BLOCK == 0 {
                    break;
                }
                event -= 1;
            }
        }
        Ok(found)
    }

    /// The next blocks of a sweep, at and below this one, the first one last.
    async fn auth_blocks(
        &self,
        room: RoomNumber,
        open: &Bits,
        block: u32,
    ) -> Result<Vec<(u32, Arc<AuthBlock>)>, LoadError> {
        let next = (0..=block).rev().filter_map(|block| Some((block, open.highest_of(block)?))).take(BLOCKS_AHEAD);
        let load = next.map(|(block, highest)| async move {
            let edges = self.auth_block(room, block, highest).await?;
            Ok::<_, LoadError>((block, edges))
        });
        let mut blocks: Vec<_> = futures_util::future::try_join_all(load).await?;
        blocks.reverse();
        Ok(blocks)
    }

    /// A block that is complete up to an event which is known to be stored.
    pub(crate) async fn auth_block(
        &self,
        room: RoomNumber,
        block: u32,
        highest: u32,
    ) -> Result<Arc<AuthBlock>, LoadError> {
        if let Some(known) = self.caches.auth_blocks.get(&(room, block)).filter(|known| known.up_to >= highest) {
            return Ok(known);
        }
        let base = block * AUTH_BLOCK;
        let from = auth_run_key(room, EventNumber(base));
        let until = match base.checked_add(AUTH_BLOCK) {
            Some(next) => Some(auth_run_key(room, EventNumber(next))),
            None => KeyRange::prefix(from.slice(..9)).until,
        };
        let rows = self.scan_all(Table::St, KeyRange { from, until }, AUTH_BLOCK as usize, false).await?;
        let mut read = AuthBlock { up_to: highest, ends: Vec::new(), auths: Vec::new() };
        for row in rows {
            read_u32("auth run key", row.key.get(9..).unwrap_or_default())?;
            let run: AuthRun = decode(&row.value)?;
            for edges in run.edges {
                let at = usize::from(edges.event);
                if at < read.ends.len() {
                    return Err(corrupt("its events are out of order").into());
                }
                read.ends.resize(at, read.auths.len() as u32);
                let event = base + u32::from(edges.event);
                for below in edges.below {
                    let auth = event.checked_sub(below).filter(|_| below > 0);
                    read.auths.push(auth.ok_or_else(|| corrupt("an auth event does not come before its event"))?);
                }
                read.ends.push(read.auths.len() as u32);
                read.up_to = read.up_to.max(event);
            }
        }
        let read = Arc::new(read);
        self.caches.auth_blocks.insert((room, block), read.clone());
        Ok(read)
    }
}

fn corrupt(reason: &str) -> Corrupt {
    Corrupt { what: AuthRun::NAME, reason: reason.to_owned() }
}

/// A set of event numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

const WORDS_OF_BLOCK: usize = (AUTH_BLOCK / 64) as usize;

impl Bits {
    pub(crate) fn insert(&mut self, number: u32) {
        let word = (number / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.0.get((number / 64) as usize).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Whether it was a member.
    fn remove(&mut self, number: u32) -> bool {
        let is_member = self.contains(number);
        if let Some(word) = self.0.get_mut((number / 64) as usize) {
            *word &= !(1 << (number % 64));
        }
        is_member
    }

    /// Blocks from 0 that hold all members.
    fn blocks(&self) -> u32 {
        self.0.len().div_ceil(WORDS_OF_BLOCK) as u32
    }

    fn highest_of(&self, block: u32) -> Option<u32> {
        let first = block as usize * WORDS_OF_BLOCK;
        let words = self.0.get(first..(first + WORDS_OF_BLOCK).min(self.0.len()))?;
        let (at, word) = words.iter().enumerate().rfind(|(_, word)| **word != 0)?;
        Some((first + at) as u32 * 64 + 63 - word.leading_zeros())
    }

    fn iter(&self) -> impl Iterator<Item = EventNumber> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.0.iter().zip(0u32..).flat_map(move |(word, at)| bits(*word).map(move |bit| EventNumber(at * 64 + bit)))
    }

    fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn intersect(&mut self, other: &Self) {
        self.0.truncate(other.0.len());
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
    }
}

#[cfg(test)]
mod tests;
