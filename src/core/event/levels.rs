//! Power levels of room versions 1 to 5 as numbers that the authorisation rules can read.

use serde_json::{Number, Value, value::RawValue as RawJsonValue};

use super::Event;
use crate::INTEGER_MAX;

/// The content with every number an integer, or `None` where the content can be read as it is.
///
/// "When the value is a float, exponential notation is applied, the value is truncated at the decimal point." What no
/// double can hold is refused: serde_json does not parse it, and neither do the rules then. Integers that canonical
/// JSON does not know are moved to the nearest one that it does.
pub(super) fn normalised(event: &Event) -> Option<Box<RawJsonValue>> {
    if event.version().is_strict_json() || event.kind() != "m.room.power_levels" {
        return None;
    }
    let mut content: Value = event.content_as().ok()?;
    normalise(&mut content);
    serde_json::value::to_raw_value(&content).ok()
}

fn normalise(value: &mut Value) {
    match value {
        Value::Number(number) => *number = Number::from(integer(number)),
        Value::Array(items) => items.iter_mut().for_each(normalise),
        Value::Object(entries) => entries.values_mut().for_each(normalise),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

fn integer(number: &Number) -> i64 {
    const MAX: i64 = INTEGER_MAX as i64;
    // `as` truncates and saturates.
    let whole = number.as_i64().or_else(|| number.as_f64().map(|float| float as i64));
    whole.unwrap_or(MAX).clamp(-MAX, MAX)
}
