//! Values on disk: one version byte, then a varint-packed struct.
//!
//! Positions that the engine fills at commit stand in front of the struct: from byte 1 onwards, 8 bytes each, big-endian
//! (see [`Row::POSITIONS`]).

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use smallvec::SmallVec;

/// A stored row does not read as what its table holds. The database is damaged, or was written by a newer version.
#[derive(Clone, Debug, thiserror::Error)]
#[error("a stored {what} does not read: {reason}")]
pub struct Corrupt {
    /// Which kind of row.
    pub what: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// A value type with a version. Reading an older version turns it into the present one.
pub trait Row: Sized {
    /// The name in messages.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u8;
    /// The packed part as it is on disk in version [`Self::VERSION`].
    type Packed: Serialize + DeserializeOwned;
    /// How many positions stand, as 8 big-endian bytes each, between the version byte and the packed part.
    const POSITIONS: usize = 0;

    /// The parts to be written. Positions that the engine fills may be 0 here.
    fn pack(&self) -> (Vec<u64>, Self::Packed);
    /// The reverse of [`Self::pack`].
    fn unpack(positions: &[u64], packed: Self::Packed) -> Self;
    /// Reads a predecessor; the default knows none.
    fn upgrade(version: u8, _bytes: &[u8]) -> Result<Self, Corrupt> {
        Err(Corrupt { what: Self::NAME, reason: format!("version {version} is not known here") })
    }
}

/// A row's bytes.
pub fn encode<R: Row>(row: &R) -> Bytes {
    let (positions, packed) = row.pack();
    debug_assert_eq!(positions.len(), R::POSITIONS, "a row packs the positions it declares");
    let mut bytes = Vec::with_capacity(1 + 8 * positions.len() + 64);
    bytes.push(R::VERSION);
    for position in positions {
        bytes.extend_from_slice(&position.to_be_bytes());
    }
    postcard::to_extend(&packed, bytes).expect("our own types serialise into memory").into()
}

/// Reads a row's bytes.
pub fn decode<R: Row>(bytes: &[u8]) -> Result<R, Corrupt> {
    Ok(decode_with_rest(bytes)?.0)
}

/// Reads the row that these bytes begin with, and how many bytes follow it.
pub(crate) fn decode_with_rest<R: Row>(bytes: &[u8]) -> Result<(R, usize), Corrupt> {
    let corrupt = |reason: &str| Corrupt { what: R::NAME, reason: reason.to_owned() };
    let (version, rest) = bytes.split_first().ok_or_else(|| corrupt("it is empty"))?;
    if *version != R::VERSION {
        return Ok((R::upgrade(*version, rest)?, 0));
    }
    let (fixed, packed) = rest.split_at_checked(8 * R::POSITIONS).ok_or_else(|| corrupt("it is too short"))?;
    let position = |chunk: &[u8]| chunk.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    let positions: SmallVec<[u64; 4]> = fixed.chunks_exact(8).map(position).collect();
    let (packed, rest) = postcard::take_from_bytes(packed).map_err(|error| corrupt(&error.to_string()))?;
    Ok((R::unpack(&positions, packed), rest.len()))
}

/// Eight bytes, big-endian, as a whole value.
pub(crate) fn read_u64(what: &'static str, bytes: &[u8]) -> Result<u64, Corrupt> {
    let bytes = bytes.try_into().map_err(|_| Corrupt { what, reason: "it is not 8 bytes long".to_owned() })?;
    Ok(u64::from_be_bytes(bytes))
}

/// Four bytes, big-endian, as a whole value.
pub(crate) fn read_u32(what: &'static str, bytes: &[u8]) -> Result<u32, Corrupt> {
    let bytes = bytes.try_into().map_err(|_| Corrupt { what, reason: "it is not 4 bytes long".to_owned() })?;
    Ok(u32::from_be_bytes(bytes))
}

/// Implements [`Row`] for a serde type: `row!(Type, "name", version 1)`, or `row!(Type, "name", version 1, fields a, b)`
/// where `a` and `b` are `u64` fields, marked `#[serde(skip)]`, that hold positions filled at commit.
#[macro_export]
macro_rules! row {
    ($type:ty, $name:literal, version $version:literal $(, positions $($field:ident),+)?) => {
        impl $crate::Row for $type {
            const NAME: &'static str = $name;
            const VERSION: u8 = $version;
            type Packed = Self;
            const POSITIONS: usize = 0 $($( + { let _ = stringify!($field); 1 } )+)?;

            fn pack(&self) -> (Vec<u64>, Self) {
                (vec![$($(self.$field),+)?], self.clone())
            }

            #[allow(unused_mut, unused_variables, unused_assignments, clippy::allow_attributes, clippy::allow_attributes_without_reason)]
            fn unpack(positions: &[u64], packed: Self) -> Self {
                let mut row = packed;
                let mut at = 0;
                $($(
                    row.$field = positions.get(at).copied().unwrap_or_default();
                    at += 1;
                )+)?
                row
            }
        }
    };
}
