//! The engine from outside, on real folders. One binary, as linking RocksDB takes longer than the tests.

mod common;
mod conformance;
mod crash;
mod failed_write;
mod folder;
mod results;
