//! Sync over the in-memory engine, with rooms written straight into the store.

mod devices;
mod ledger;
mod members;
mod outside;
mod partial;
mod reads;
mod sections;
mod state;
mod timeline;
mod waiting;
mod world;
