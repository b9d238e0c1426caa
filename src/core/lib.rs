//! The rules of rooms: events, room versions, authorisation, state resolution, signatures.
//!
//! Everything here is computed from values: this crate knows no store, no network, no clock and no randomness, so
//! every rule can be replayed. Input is hostile throughout and never panics.
//!
//! Start at [`event`] (what an event is), then [`draft`] (how ours are made), [`receive`] (how others' are checked),
//! [`auth`] (what may happen) and [`state`] (what is in force).

pub mod auth;
pub mod catchup;
pub mod draft;
pub mod event;
pub mod format;
mod hash;
pub mod json;
pub mod keys;
pub mod policy;
pub mod receive;
pub mod redact;
pub mod state;
pub mod versions;

pub use auth::{AuthorisedEvent, Level, PowerLevels, Reason, admit, auth_types};
pub use draft::{BuildError, Draft, References, build, cosign};
pub use event::{Event, StoredError};
pub use json::{JsonError, Limits, Numbers, check_json};
pub use keys::{PublicKey, PublicKeys, SignatureError, SigningKey};
pub use receive::{FormatError, HashedEvent, RawEvent, SignedEvent};
pub use redact::redact;
pub use state::{EventIds, ResolveError, StateMap, resolve};
pub use versions::RoomVersion;

/// The largest whole event, in bytes of canonical JSON with hashes and signatures.
/// [Client-server API, size limits](https://spec.matrix.org/v1.19/client-server-api/#size-limits).
pub const EVENT_BYTES_MAX: usize = 65_536;

/// The longest sender, room id, event id, type or state key, in bytes.
/// [Client-server API, size limits](https://spec.matrix.org/v1.19/client-server-api/#size-limits).
pub const ID_BYTES_MAX: usize = 255;

/// The largest integer that canonical JSON knows, 2^53 − 1.
pub const INTEGER_MAX: u64 = (1 << 53) - 1;
