//! Bounded lists in other servers' answers, and parts of an answer that share its memory.

use std::{fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// An array of at most `MAX` items; more are an error as soon as they come.
#[derive(Debug)]
pub(crate) struct List<T, const MAX: usize>(pub(crate) Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

struct Items<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
    type Value = List<T, MAX>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(A::Error::custom(format_args!("more than {MAX} items")));
            }
            list.push(item);
        }
        Ok(List(list))
    }
}

/// The part of `body` that `raw` was read from, without a copy.
///
/// # Panics
/// If it was read from something else: our mistake.
pub(crate) fn slice(body: &Bytes, raw: &RawValue) -> Bytes {
    body.slice_ref(raw.get().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_end_at_their_bound() {
        let body = Bytes::from_static(br#"[ {"a": [1]} ,2]"#);
        let list: List<&RawValue, 2> = serde_json::from_slice(&body).unwrap();
        let parts: Vec<_> = list.0.into_iter().map(|raw| slice(&body, raw)).collect();
        assert_eq!(parts, [&br#"{"a": [1]}"#[..], b"2"]);
        assert_eq!(parts[0].as_ptr(), body[2..].as_ptr());
        assert!(serde_json::from_slice::<List<&RawValue, 1>>(&body).is_err());
    }

    /// What nests deeply is passed over, not descended into.
    #[test]
    fn depth_costs_no_stack() {
        let deep = Bytes::from(format!("[{}{}]", "[".repeat(1_000_000), "]".repeat(1_000_000)));
        let list: List<&RawValue, 1> = serde_json::from_slice(&deep).unwrap();
        assert_eq!(slice(&deep, list.0[0]).len(), 2_000_000);
        let unknown = Bytes::from(format!("{{\"x\":{}{}}}", "[".repeat(1_000_000), "]".repeat(1_000_000)));
        #[derive(Deserialize)]
        struct Nothing {}
        assert!(serde_json::from_slice::<Nothing>(&unknown).is_ok());
    }
}
