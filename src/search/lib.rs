//! Finding people: a reader of the log that keeps an index of names, and the questions that it answers.
//!
//! This crate never writes an event or a profile, and nobody waits for it: what it has follows what happened within a
//! moment, and is made of nothing but other rows. Start with [`People`].

mod people;

pub use people::{Found, People, PeopleFound, PeopleSettings, TERM_BYTES_MAX};
