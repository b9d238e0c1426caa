//! Asking for keys: the server itself, or a notary.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hearth_core::{PublicKeys, keys::verify_json};
use hearth_ports::{PeerError, WantedKeys};
use http::Method;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::answer::{ANSWER_BYTES_MAX, AnswerError, KeyAnswer};
use crate::{
    remote::{Ask, Remote, Urgency},
    slices::List,
};

/// What is waited for a server's keys. A request, or a room, waits for them.
const TIMEOUT_MS: u64 = 8_000;

/// What is waited for a notary, which may ask many servers.
const NOTARY_TIMEOUT_MS: u64 = 30_000;

/// Servers that a notary is asked for at once.
pub(super) const NOTARY_SERVERS_MAX: usize = 250;

/// Answers of a notary that are looked at: a few for each server.
const NOTARY_ANSWERS_MAX: usize = 4 * NOTARY_SERVERS_MAX;

/// The largest answer of a notary, in bytes.
const NOTARY_BYTES_MAX: usize = 8 << 20;

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// The server did not answer.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// It did, but the answer does not count.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// `GET /_matrix/key/v2/server`.
pub(super) async fn from_itself(
    remote: &Remote,
    server: &ServerName,
    urgency: Urgency,
) -> Result<KeyAnswer, FetchError> {
    let ask = Ask {
        method: Method::GET,
        path: "/_matrix/key/v2/server".to_owned(),
        body: None,
        signed: false,
        urgency,
        timeout_ms: TIMEOUT_MS,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let body = remote.send(server, ask).await?;
    Ok(KeyAnswer::read(server, &body)?)
}

/// `POST /_matrix/key/v2/query`: the answers about these servers that are signed by themselves. Those that are not signed
/// by the notary are passed over.
pub(super) async fn from_notary(
    remote: &Remote,
    notary: &ServerName,
    notary_keys: &PublicKeys,
    wanted: &BTreeMap<OwnedServerName, WantedKeys>,
    now_ms: u64,
) -> Result<Vec<KeyAnswer>, FetchError> {
    let ask = Ask {
        method: Method::POST,
        path: "/_matrix/key/v2/query".to_owned(),
        body: Some(query(wanted, now_ms)),
        signed: false,
        urgency: Urgency::Person,
        timeout_ms: NOTARY_TIMEOUT_MS,
        answer_bytes_max: NOTARY_BYTES_MAX,
    };
    let body = remote.send(notary, ask).await?;
    Ok(read_notary(&body, notary, notary_keys, wanted, now_ms)?)
}

fn query(wanted: &BTreeMap<OwnedServerName, WantedKeys>, now_ms: u64) -> Bytes {
    let servers = wanted.iter().map(|(server, wanted)| {
        // "Servers MUST set the `minimum_valid_until_ts` property to prompt the notary server to attempt to refresh the
        // key if appropriate."
        let criteria = json!({ "minimum_valid_until_ts": wanted.at_ms.min(now_ms) });
        let keys: serde_json::Map<_, _> = wanted.ids.iter().map(|id| (id.clone(), criteria.clone())).collect();
        (server.to_string(), keys.into())
    });
    let servers: serde_json::Map<_, _> = servers.collect();
    json!({ "server_keys": servers }).to_string().into()
}

fn read_notary(
    body: &Bytes,
    notary: &ServerName,
    notary_keys: &PublicKeys,
    wanted: &BTreeMap<OwnedServerName, WantedKeys>,
    now_ms: u64,
) -> Result<Vec<KeyAnswer>, AnswerError> {
    #[derive(Deserialize)]
    struct Answers<'a> {
        #[serde(borrow)]
        server_keys: List<&'a RawValue, NOTARY_ANSWERS_MAX>,
    }
    #[derive(Deserialize)]
    struct Name {
        server_name: String,
    }
    let answers: Answers<'_> =
        serde_json::from_slice(body).map_err(|error| AnswerError::Malformed(error.to_string()))?;
    let mut refused = BTreeSet::new();
    let read = |raw: &&RawValue| {
        let name: Name = serde_json::from_str(raw.get()).ok()?;
        let (server, _) = wanted.get_key_value(name.server_name.as_str())?;
        let checked = verify_json(notary, notary_keys, raw.get().as_bytes(), now_ms)
            .map_err(AnswerError::NotSigned)
            .and_then(|()| KeyAnswer::read(server, raw.get().as_bytes()));
        checked.map_err(|error| refused.insert(error.to_string())).ok()
    };
    let read = answers.server_keys.0.iter().filter_map(read).collect();
    if !refused.is_empty() {
        tracing::debug!(%notary, ?refused, "a notary's answers do not count");
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hearth_core::SigningKey;
    use hearth_ports::SeededEntropy;
    use ruma::server_name;

    use super::*;
    use crate::{
        policy::ServerPolicy,
        testing::{Net, clock},
    };

    #[tokio::test(start_paused = true)]
    async fn a_silent_web_port_leaves_time_to_ask_for_keys() {
        let net = Net::new();
        net.name("b.example", &["192.0.2.2"]);
        net.silence("b.example", 443);
        net.json("b.example", "/_matrix/key/v2/server", &json!("no keys"));
        let (key, entropy) = (Arc::new(SigningKey::from_seed(&[1; 32], "k")), Arc::new(SeededEntropy::new(1)));
        let policy = ServerPolicy::open(server_name!("a.example").to_owned());
        let remote = Remote::new(key, policy, net.clone(), net.clone(), clock(), entropy);
        let answer = from_itself(&remote, server_name!("b.example"), Urgency::Routine).await;
        assert!(matches!(answer, Err(FetchError::Answer(_))), "it answers, if with nonsense: {answer:?}");
    }
}
