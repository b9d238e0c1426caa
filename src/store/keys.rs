//! Keys: a letter that names the row's kind, then its parts. Integers are big-endian, so that bytes sort like numbers;
//! text that is not the last part ends with a byte 0xFF, which UTF-8 never has.

use bytes::Bytes;

use crate::{EventNumber, Order, RoomNumber, StateKeyNumber, StateVersion, UserNumber};

/// Builds a key part by part.
#[derive(Clone, Debug)]
pub struct KeyBuilder(Vec<u8>);

/// Begins a key of this kind.
pub fn key(kind: u8) -> KeyBuilder {
    let mut bytes = Vec::with_capacity(40);
    bytes.push(kind);
    KeyBuilder(bytes)
}

impl KeyBuilder {
    /// A room.
    #[must_use]
    pub fn room(self, room: RoomNumber) -> Self {
        self.u64(room.0)
    }

    /// A user.
    #[must_use]
    pub fn user(self, user: UserNumber) -> Self {
        self.u64(user.0)
    }

    /// An event's number.
    #[must_use]
    pub fn event(self, event: EventNumber) -> Self {
        self.u32(event.0)
    }

    /// A state key's number.
    #[must_use]
    pub fn state_key(self, state_key: StateKeyNumber) -> Self {
        self.u32(state_key.0)
    }

    /// A state version.
    #[must_use]
    pub fn state_version(self, version: StateVersion) -> Self {
        self.u32(version.0)
    }

    /// A place in a timeline.
    #[must_use]
    pub fn order(self, order: Order) -> Self {
        self.raw(&order.to_bytes())
    }

    /// Eight bytes.
    #[must_use]
    pub fn u64(self, number: u64) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// Four bytes.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// One byte.
    #[must_use]
    pub fn u8(self, number: u8) -> Self {
        self.raw(&[number])
    }

    /// Text that further parts follow.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.raw(text.as_bytes()).raw(&[0xff])
    }

    /// Bytes as they are; the caller knows their length when reading, or they are the last part.
    #[must_use]
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// How long the key is so far: the offset of the next part, for positions filled at commit.
    pub fn offset(&self) -> u16 {
        u16::try_from(self.0.len()).expect("keys are at most 1,000 bytes")
    }

    /// The key.
    pub fn build(self) -> Bytes {
        self.0.into()
    }
}

/// The first 16 bytes of the BLAKE3 of a long identifier, where only equality matters.
pub fn id16(identifier: &str) -> [u8; 16] {
    let hash = blake3::hash(identifier.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hash.as_bytes()[..16]);
    short
}
