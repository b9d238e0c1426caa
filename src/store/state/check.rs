//! Whether the stored trees of a room hold together.

use std::collections::HashMap;

use bytes::Bytes;

use super::node::{Chunk, NodeAt};
use crate::{EventNumber, StateVersion};

/// The levels of the nodes of a room's versions, in order of the versions: what a newer version may point at.
#[derive(Default)]
pub(crate) struct Levels(HashMap<(StateVersion, u16), Vec<Option<u8>>>);

impl Levels {
    /// Whether the version's rows were looked at.
    pub(crate) fn has(&self, version: StateVersion) -> bool {
        self.0.contains_key(&(version, 0))
    }

    /// Looks at a version's rows, which stand in order of their chunks, after those of all earlier versions. Returns what
    /// is wrong, in words, and hands out every event that its new leaves name.
    pub(crate) fn add(
        &mut self,
        version: StateVersion,
        rows: &[(u16, Bytes)],
        each_event: &mut dyn FnMut(EventNumber),
    ) -> Vec<String> {
        let mut chunks = HashMap::new();
        for ((chunk, row), expected) in rows.iter().zip(0..) {
            if *chunk != expected {
                return vec![format!("chunk {expected} is missing")];
            }
            match Chunk::parse(*chunk, row) {
                Ok(parsed) => drop(chunks.insert(*chunk, parsed)),
                Err(error) => return vec![error.to_string()],
            }
        }
        let header = chunks.get(&0).and_then(|chunk| chunk.header.as_ref());
        let Some(height) = header.map(|header| header.height) else { return vec!["it has no head".to_owned()] };
        for (chunk, parsed) in &chunks {
            self.0.insert((version, *chunk), vec![None; parsed.len()]);
        }
        let mut problems = Vec::new();
        let mut open = vec![(NodeAt::root(version), height)];
        while let Some((at, level)) = open.pop() {
            match self.visit(&chunks[&at.chunk], at, level, each_event) {
                Ok(children) => open.extend(children),
                Err(problem) => problems.push(problem),
            }
        }
        let unused =
            chunks.keys().flat_map(|chunk| &self.0[&(version, *chunk)]).filter(|level| level.is_none()).count();
        if unused > 0 {
            problems.push(format!("{unused} of its nodes are not reached from its root"));
        }
        problems
    }

    /// Looks at a node; returns its children of the same version and their level.
    fn visit(
        &mut self,
        chunk: &Chunk,
        at: NodeAt,
        level: u8,
        each_event: &mut dyn FnMut(EventNumber),
    ) -> Result<Vec<(NodeAt, u8)>, String> {
        if let Some(level_of) = self.0.get_mut(&at.row()).and_then(|levels| levels.get_mut(usize::from(at.index))) {
            *level_of = Some(level);
        }
        if level == 0 {
            chunk.leaf(at).map_err(|error| error.to_string())?.into_iter().flatten().for_each(each_event);
            return Ok(Vec::new());
        }
        let below = level - 1;
        let mut own = Vec::new();
        for child in chunk.inner(at).map_err(|error| error.to_string())?.into_iter().flatten() {
            let levels = self.0.get(&child.row());
            let known = levels.and_then(|levels| levels.get(usize::from(child.index)));
            match known {
                None => return Err(format!("it points at version {}, which has no such node", child.version.0)),
                Some(None) if child.version == at.version => own.push((child, below)),
                Some(Some(level)) if *level == below && child.version != at.version => {}
                Some(_) => return Err(format!("it points at a node of version {} at a wrong place", child.version.0)),
            }
        }
        Ok(own)
    }
}
