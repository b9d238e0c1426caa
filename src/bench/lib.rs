//! Benchmarks: what the rules, the tables, the engines and the services cost, and how that grows.
//!
//! They are never tests: nothing here fails because a machine is slow, and CI only compiles them. This crate decides
//! nothing and nothing depends on it. Start with a file in `benches/`, one for each subject, then [`Subject`].
//!
//! ```sh
//! cargo bench -p hearth-bench                                # everything; about five minutes on two idle cores
//! cargo bench -p hearth-bench --bench engine                 # one subject
//! cargo bench -p hearth-bench --bench engine -- --quick      # a first impression, within seconds
//! cargo bench -p hearth-bench --bench engine -- rocksdb/get  # what has this in its name
//! cargo bench -p hearth-bench --bench engine -- --test       # does it run: once each, nothing measured
//! ```
//!
//! criterion prints wall-clock times and compares them with the last run. After them each subject prints a table of
//! its own, per operation: wall-clock time, CPU time of the whole process (which is steady on a machine that others
//! use, too, and is what the targets are given in) and the ratios that say whether a design holds: what should be flat
//! is near 1, whatever the machine.
//!
//! RocksDB's files lie in `target/tmp`, because `/tmp` is memory on many machines, which knows no fsync.

mod incoming;
mod rocks;
mod server;
mod subject;
mod world;

pub use incoming::{Branch, Incoming};
pub use rocks::RocksFolder;
pub use server::{Server, reader};
pub use subject::{Subject, Taken};
pub use world::{World, key, user};
