//! Signatures of policy servers: a room's policy server signs what it recommends, by a key that the room's state names.
//! [Validating Policy Server signatures](https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures).

use ruma::ServerName;

use crate::{
    BuildError, Event,
    draft::with_signature,
    json::{self, Limits, Numbers},
    keys, redact,
};

/// "The Key ID for the `ed25519` key in `m.room.policy` is *always* `ed25519:policy_server`."
pub const POLICY_KEY_ID: &str = "ed25519:policy_server";

/// Whether the policy server of this name, with this public key in base64, has signed the event.
pub fn is_signed_by_policy_server(event: &Event, server: &ServerName, public_key: &str) -> bool {
    let limits = Limits { depth_max: json::RECEIVED_DEPTH_MAX, numbers: Numbers::Lenient };
    let Ok(tree) = json::parse(event.json(), &limits) else { return false };
    let Some(object) = tree.as_object() else { return false };
    let Some(signature) = keys::signature_of(object, server.as_str(), POLICY_KEY_ID) else { return false };
    let text = redact::signed_text(object, event.kind(), event.version().rules());
    keys::is_signature(&text, signature, public_key)
}

/// The event with a signature of a policy server; the other signatures stay.
pub fn add_policy_signature(event: &Event, server: &ServerName, signature: &str) -> Result<Event, BuildError> {
    with_signature(event, |object| keys::add_signature(object, server, POLICY_KEY_ID, signature.to_owned()))
}
