//! What requests have in common: lists of events with a bound, as slices of the body.

use std::fmt;

use bytes::Bytes;
use hearth_edge::{Call, Error};
use hearth_ports::EventBytes;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// A list of at most `MAX` things; a longer one is refused while it is read, before it takes memory.
pub(super) struct List<'a, const MAX: usize>(pub(super) Vec<&'a RawValue>);

impl<const MAX: usize> Default for List<'_, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de: 'a, 'a, const MAX: usize> Deserialize<'de> for List<'a, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor::<MAX>)
    }
}

struct ListVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for ListVisitor<MAX> {
    type Value = List<'de, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == MAX {
                return Err(serde::de::Error::invalid_length(MAX + 1, &self));
            }
            items.push(item);
        }
        Ok(List(items))
    }
}

impl<const MAX: usize> List<'_, MAX> {
    /// The items as slices of the body that they were read from.
    pub(super) fn slices(&self, body: &Bytes) -> Vec<EventBytes> {
        self.0.iter().map(|item| slice(body, item)).collect()
    }
}

/// An item as a slice of the body that it was read from.
pub(super) fn slice(body: &Bytes, item: &RawValue) -> EventBytes {
    body.slice_ref(item.get().as_bytes())
}

/// The body, borrowed from where it lies; `M_NOT_JSON` if it is absent, `M_BAD_JSON` if it has the wrong shape.
pub(super) fn body<'a, T: Deserialize<'a>>(call: &'a Call) -> Result<T, Error> {
    if call.body().is_empty() {
        return Err(Error::not_json("the request needs a JSON body"));
    }
    serde_json::from_slice(call.body()).map_err(|error| Error::bad_json(error.to_string()))
}
