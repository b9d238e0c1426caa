//! Whole servers in one process, on a simulated network, disk and clock: what happens follows from one number, the seed.
//!
//! [`run`] makes servers (the real [`hearth_server::Server`], other ports), clients that follow their rooms, and a while
//! of trouble: requests are slow, lost, repeated, overtaken; networks fall apart; servers lose their power; a server may
//! lie. Then the network heals, and [`check`] asks whether all is as it should be: servers agree on the state of rooms,
//! each client saw each event once, no store has a contradiction, nothing panicked.
//!
//! It knows no endpoint from the inside, and never reaches into a service: what it does, a client or another server could
//! do. It must run on a current-thread runtime whose time is paused (`start_paused`), for only then does a seed repeat
//! itself. Start with [`Plan`] (what a seed decides) and `world.rs`; `tests/seeds.rs` runs it.

#![expect(clippy::unwrap_used, reason = "a simulation fails by panicking")]

mod actions;
mod check;
mod clock;
mod disk;
mod follow;
mod liar;
mod life;
mod model;
mod network;
mod node;
mod plan;
mod run;
mod trace;
mod world;

pub use plan::{Lies, Plan};
pub use run::{Outcome, run};
