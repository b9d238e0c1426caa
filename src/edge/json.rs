//! Is this text JSON? Asked once, before any type is read from it.

use serde::de::IgnoredAny;

use crate::Error;

/// Nesting of objects and arrays. Events in the wild stay below 20; serde's own bound is 128.
pub(crate) const DEPTH_MAX: usize = 100;

/// Refuses what is not UTF-8, not JSON, or nested deeper than [`DEPTH_MAX`], with `M_NOT_JSON`.
pub(crate) fn check(body: &[u8]) -> Result<&str, Error> {
    let text = std::str::from_utf8(body).map_err(|_| Error::not_json("the body is not UTF-8"))?;
    if depth(text.as_bytes()) > DEPTH_MAX {
        return Err(Error::not_json("the body is nested too deeply"));
    }
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| Error::not_json(format!("the body is not JSON: {error}")))?;
    Ok(text)
}

/// The deepest nesting of brackets outside strings.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
