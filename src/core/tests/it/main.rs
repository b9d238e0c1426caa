//! The crate from outside, in one binary so that it links once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod build;
mod catchup;
mod format;
mod json;
mod power_levels;
mod receive;
mod resolve;
mod room;
mod stories;
