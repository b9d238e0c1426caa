//! Public keys for end-to-end encryption.
//! [Key management API](https://spec.matrix.org/v1.19/client-server-api/#key-management-api).

mod changes;
mod claim;
mod cross_signing;
mod query;
mod signatures;
mod upload;

use std::collections::BTreeMap;

use hearth_edge::Route;
use hearth_users::keys::Failures;
use serde_json::{Value, json};

use super::{interactive, paths};
use crate::ClientState;

/// How long other servers have to answer if the client does not say, in milliseconds: "10 seconds is the recommended
/// default".
const TIMEOUT_MS: u64 = 10_000;

/// The longest that a client may let them take, in milliseconds.
const TIMEOUT_MAX_MS: u64 = 60_000;

pub(super) fn routes() -> Vec<Route<ClientState>> {
    vec![changes::route(), claim::route(), cross_signing::route(), query::route(), signatures::route(), upload::route()]
}

fn timeout_ms(asked: Option<u64>) -> u64 {
    asked.unwrap_or(TIMEOUT_MS).min(TIMEOUT_MAX_MS)
}

fn failures_json(failures: Failures) -> Value {
    let failure = |(server, text)| (server, json!({ "errcode": "M_UNKNOWN", "error": text }));
    json!(failures.into_iter().map(failure).collect::<BTreeMap<_, _>>())
}
