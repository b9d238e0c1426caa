//! Keys: ours for others, others' for us. [Retrieving server keys](https://spec.matrix.org/v1.19/server-server-api/#retrieving-server-keys).
//!
//! `answer` reads what a server says of its keys, `known` remembers it, [`KeyRing`] finds keys and decides when to ask for
//! them, [`OwnKeys`] are those that we say of ourselves, `routes` serves both.

mod answer;
mod fetch;
mod known;
mod notary;
mod own;
mod ring;
mod routes;
mod shares;
#[cfg(test)]
mod tests;

pub(crate) use self::routes::routes;
pub use self::{
    own::{OldKey, OwnKeys},
    ring::{KeyRing, KeyRingSettings, KeyStatus},
};
