//! JSON as the protocol has it: hostile input checked in one pass, canonical form written exactly.
//!
//! [Canonical JSON](https://spec.matrix.org/v1.19/appendices/#canonical-json). Numbers are kept as their text, so
//! that events of room versions 1 to 5, which may hold floats and large integers, keep what was received.
//! Of repeated keys the last one counts, everywhere: [`canonical`] drops the others, and stored events are canonical.
//! [`check_json`] builds nothing and so lets repeated keys pass.

mod scan;
mod value;

pub use value::write_string;
pub(crate) use value::{Object, Value};

/// How deeply arrays and objects may nest in what we accept from clients and create ourselves.
/// Real content stays far below; the bound keeps recursion within any thread's stack.
pub const DEPTH_MAX: usize = 100;

/// How deeply events from other servers may nest: as deep as serde_json follows, so that nothing behind the check
/// fails on it.
pub const RECEIVED_DEPTH_MAX: usize = 127;

/// How deeply signed objects may nest that are no events: requests of other servers, with the events in them. Far above
/// what an event may have, as one that nests too deeply must not take those beside it with it; other servers' parsers
/// follow about as far.
pub const SIGNED_DEPTH_MAX: usize = 1_024;

/// Which numbers are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Canonical JSON: integers within ±(2^53 − 1), no fraction, no exponent, no minus zero.
    Strict,
    /// Integers of that range in any spelling; [`canonical`] rewrites `-0` and `1e10` as `0` and `10000000000`.
    Integers,
    /// Whatever JSON's grammar allows.
    Lenient,
}

/// What [`check_json`] enforces.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The deepest nesting of arrays and objects.
    pub depth_max: usize,
    /// Which numbers are let through.
    pub numbers: Numbers,
}

impl Limits {
    /// For the body of any request: tags and the like may hold floats.
    pub const BODY: Self = Self { depth_max: DEPTH_MAX, numbers: Numbers::Lenient };
    /// For what becomes (part of) an event that we create.
    pub const EVENT: Self = Self { depth_max: DEPTH_MAX, numbers: Numbers::Strict };
}

/// Why JSON is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all, at this byte: `M_NOT_JSON`.
    #[error("not JSON at byte {0}")]
    Malformed(usize),
    /// Nested more deeply than we follow: `M_BAD_JSON`.
    #[error("nested too deeply")]
    TooDeep,
    /// A number outside canonical JSON: `M_BAD_JSON`.
    #[error("numbers must be integers within ±(2^53 − 1)")]
    Number,
}

/// Checks UTF-8, grammar, depth and numbers in one pass, without building anything.
pub fn check_json(bytes: &[u8], limits: &Limits) -> Result<(), JsonError> {
    scan::check(bytes, limits)
}

/// The canonical form of any JSON text: keys sorted by code point, no white space, shortest escapes, the last of
/// repeated keys. Numbers stay as written, except under [`Numbers::Integers`].
pub fn canonical(bytes: &[u8], limits: &Limits) -> Result<String, JsonError> {
    let value = parse(bytes, limits)?;
    let mut out = String::with_capacity(bytes.len());
    value.write(&mut out);
    Ok(out)
}

/// A tree that borrows from the text.
pub(crate) fn parse<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Value<'a>, JsonError> {
    scan::tree(bytes, limits)
}
