//! The crate from outside, in one binary so that it links once.

mod build;
mod format;
mod json;
mod power_levels;
mod receive;
mod resolve;
mod room;
mod stories;
