//! Traits for the world outside: the storage engine, the clock, randomness, other servers; with an in-memory double and a
//! conformance suite for the first three.
//!
//! This crate never knows a table's layout, a service or an adapter: it is the contract that both sides are built
//! against. Start with [`Engine`].

mod clock;
mod engine;
mod entropy;
mod http;
mod log;
pub mod mem;
mod peers;
mod resolver;
pub mod suite;
mod work;

pub use clock::{Clock, ManualClock, SystemClock};
pub use engine::{
    Batch, BatchError, CommitError, Committed, Done, Engine, Entry, Fill, FillIn, Heads, Key, KeyRange, LogItem, Page,
    Partition, Position, Put, Requirement, Table, Unavailable, commit,
};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use http::{HttpAnswer, HttpBody, HttpClient, HttpError, HttpOpened, HttpRequest, HttpTarget, NoNetwork};
pub use log::{log_key, log_rows, read_log_row};
pub use peers::{
    AliasTarget, EventBytes, Handshake, IdentityKey, IdentityServer, JoinAnswer, MissingEvents, NoPeers, PeerError,
    Peers, StateEvents, StateIds, StatePiece, StatePieces, StoredInvite, Template, WantedKeys,
};
pub use resolver::{ResolveFailed, Resolver, SrvTarget};
pub use work::work;

use std::{future::Future, pin::Pin};

/// A future behind a pointer, so that a trait that returns it can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
