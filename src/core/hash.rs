//! SHA-256 in the protocol's spellings.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use ruma::room_version_rules::EventIdFormatVersion;
use sha2::{Digest, Sha256};

use crate::RoomVersion;

/// "Unpadded Base64"; what we read may be padded and may have stray last bits, as old software wrote it.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_encode_padding(false)
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

pub(crate) fn sha256(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// [Unpadded Base64](https://spec.matrix.org/v1.19/appendices/#unpadded-base64).
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// An event's reference hash as the version spells it in event ids: URL-safe from version 4 on.
pub(crate) fn reference_base64(version: RoomVersion, hash: &[u8]) -> String {
    match version.rules().event_id_format {
        EventIdFormatVersion::V1 | EventIdFormatVersion::V2 => STANDARD.encode(hash),
        _ => URL_SAFE.encode(hash),
    }
}
