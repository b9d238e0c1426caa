//! What the fuzz targets share: a server with a room in it, made once, and the events of other servers in that room, hashed
//! and signed as they should be, so that what the fuzzer makes gets beyond the first checks.
//!
//! Nothing here is part of the server, and no test looks at it: a target fails by panicking. Start at a file of `targets/`,
//! then [`room`] (who is in the room) and [`sign`].

pub mod peers;
pub mod room;
pub mod sign;

use std::future::Future;

use hearth_core::{
    Limits, Numbers,
    json::{self, RECEIVED_DEPTH_MAX},
};
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};

/// JSON as other servers may send it.
pub const RECEIVED: Limits = Limits { depth_max: RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };

/// A JSON object whose values are still text; of repeated keys the last counts.
pub type Fields = std::collections::BTreeMap<String, Box<RawValue>>;

/// A runtime of one thread, whose clock jumps to the next deadline when all else waits: nothing depends on how fast the
/// machine is. What runs in it ends with it.
///
/// # Panics
/// If the system gives us none.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime needs nothing but memory")
}

/// Runs to its end in a [`runtime`] of its own.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// The canonical form of JSON that other servers may send.
pub fn canonical(text: &[u8]) -> Option<String> {
    json::canonical(text, &RECEIVED).ok()
}

/// The object's canonical form without the keys in `skip`, by no code of the server but that for single values and strings.
pub fn object_without(fields: &Fields, skip: &[&str]) -> Option<String> {
    let mut text = String::from("{");
    for (key, value) in fields.iter().filter(|(key, _)| !skip.contains(&key.as_str())) {
        if text.len() > 1 {
            text.push(',');
        }
        json::write_string(&mut text, key);
        text.push(':');
        text.push_str(&canonical(value.get().as_bytes())?);
    }
    text.push('}');
    Some(text)
}

/// JSON of anything that has one.
///
/// # Panics
/// If it has none: our mistake.
pub fn raw(value: &impl serde::Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("this can be written as JSON")
}
