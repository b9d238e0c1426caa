//! What a reader sees: which events ([`visibility`]), in which form ([`event_json`]), chosen by which filter
//! ([`filter`]), what a sync tells of a room ([`delta`]), and how places in what is read are written ([`token`]).
//!
//! Pure: this crate knows no store, no clock and no network; whoever reads loads first and asks then. There is one
//! gate for history and every read path goes through it: start at [`visibility::sight`]. Other servers have one of their
//! own: [`server_visibility::server_sight`].

pub mod delta;
pub mod event_json;
pub mod filter;
pub mod server_visibility;
pub mod token;
pub mod visibility;

pub use event_json::{EventFormat, Unsigned};
pub use filter::{BadFilter, EventFilter, Filter, RoomEventFilter, RoomFilter};
pub use server_visibility::{Party, ServerCircumstances, ServerStanding, server_sight};
pub use token::{BadToken, PageToken, PlaceToken, SyncToken};
pub use visibility::{Circumstances, Membership, Sight, Standing, Trail, Visibility, sight};
