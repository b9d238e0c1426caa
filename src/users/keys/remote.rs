//! Keys of other servers' users. What those servers say is passed on as far as it is about whom they were asked for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hearth_ports::{BoxFuture, PeerError, Peers};
use parking_lot::Mutex;
use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};

use super::{Failures, KeyClaim, KeyQuery, KeysByUser, WantedDevices, WantedOneTimeKeys};

/// Servers that are asked at once for one request.
const SERVERS_AT_ONCE: usize = 64;

/// Asks the users' servers for their identity keys.
pub(super) async fn query(peers: &dyn Peers, wanted: WantedDevices, timeout_ms: u64) -> KeyQuery {
    let servers = by_server(wanted);
    let answers = ask_all(peers, &servers, "device_keys", timeout_ms, |peers, server, body| {
        peers.device_keys(server, body, timeout_ms)
    });
    let (answers, failures) = answers.await;
    let mut query = KeyQuery { failures, ..KeyQuery::default() };
    for (server, wanted, body) in answers {
        if let Err(error) = read_query(&mut query, &wanted, &body) {
            query.failures.insert(server, error.to_string());
        }
    }
    query
}

/// Claims one-time keys at the users' servers.
pub(super) async fn claim(peers: &dyn Peers, wanted: WantedOneTimeKeys, timeout_ms: u64) -> KeyClaim {
    let servers = by_server(wanted);
    let answers = ask_all(peers, &servers, "one_time_keys", timeout_ms, |peers, server, body| {
        peers.claim_keys(server, body, timeout_ms)
    });
    let (answers, failures) = answers.await;
    let mut claim = KeyClaim { failures, ..KeyClaim::default() };
    for (server, wanted, body) in answers {
        if let Err(error) = read_claim(&mut claim, &wanted, &body) {
            claim.failures.insert(server, error.to_string());
        }
    }
    claim
}

type ByServer<T> = BTreeMap<OwnedServerName, BTreeMap<OwnedUserId, T>>;

fn by_server<T>(wanted: BTreeMap<OwnedUserId, T>) -> ByServer<T> {
    let mut servers = ByServer::new();
    for (user_id, wanted) in wanted {
        servers.entry(user_id.server_name().to_owned()).or_default().insert(user_id, wanted);
    }
    servers
}

/// What one server answered to what it was asked.
type Answer<T> = (OwnedServerName, BTreeMap<OwnedUserId, T>, Bytes);

/// Asks all servers at once, as far as that goes; who has not answered when the time is over has failed.
async fn ask_all<T: Serialize + Clone + Send + Sync>(
    peers: &dyn Peers,
    servers: &ByServer<T>,
    field: &str,
    timeout_ms: u64,
    ask: impl for<'a> Fn(&'a dyn Peers, &'a ServerName, Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>> + Sync,
) -> (Vec<Answer<T>>, Failures) {
    let done: Arc<Mutex<BTreeMap<OwnedServerName, Result<Bytes, PeerError>>>> = Arc::default();
    let ask = &ask;
    let mut asked: Vec<BoxFuture<'_, ()>> = Vec::with_capacity(servers.len());
    for (server, wanted) in servers {
        let (done, body) = (Arc::clone(&done), json!({ field: wanted }).to_string());
        asked.push(Box::pin(async move {
            let answer = ask(peers, server, body.into()).await;
            done.lock().insert(server.clone(), answer);
        }));
    }
    let all = stream::iter(asked).buffer_unordered(SERVERS_AT_ONCE).for_each(|()| std::future::ready(()));
    // What was answered in time counts.
    let _ = tokio::time::timeout(Duration::from_millis(timeout_ms), all).await;
    let mut done = std::mem::take(&mut *done.lock());
    let (mut answers, mut failures) = (Vec::new(), Failures::new());
    for (server, wanted) in servers {
        match done.remove(server) {
            Some(Ok(body)) => answers.push((server.clone(), wanted.clone(), body)),
            Some(Err(error)) => drop(failures.insert(server.clone(), error.to_string())),
            None => drop(failures.insert(server.clone(), "the server did not answer in time".to_owned())),
        }
    }
    (answers, failures)
}

fn read_query<T>(
    query: &mut KeyQuery,
    wanted: &BTreeMap<OwnedUserId, T>,
    body: &[u8],
) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow, default)]
        device_keys: BTreeMap<String, BTreeMap<String, &'a RawValue>>,
        #[serde(borrow, default)]
        master_keys: BTreeMap<String, &'a RawValue>,
        #[serde(borrow, default)]
        self_signing_keys: BTreeMap<String, &'a RawValue>,
    }
    let mut answer: Answer<'_> = serde_json::from_slice(body)?;
    let put = |to: &mut KeysByUser, user_id: &OwnedUserId, key: Option<&RawValue>| {
        let key = key.filter(|key| is_about(key, user_id, None));
        to.extend(key.map(|key| (user_id.clone(), key.to_owned())));
    };
    for user_id in wanted.keys() {
        put(&mut query.master_keys, user_id, answer.master_keys.remove(user_id.as_str()));
        put(&mut query.self_signing_keys, user_id, answer.self_signing_keys.remove(user_id.as_str()));
        let Some(devices) = answer.device_keys.remove(user_id.as_str()) else { continue };
        // "Information on the queried devices": each says itself whose it is, and clients believe that.
        let own = devices.into_iter().filter(|(device_id, keys)| is_about(keys, user_id, Some(device_id)));
        let own = own.map(|(device_id, keys)| (device_id, keys.to_owned()));
        query.device_keys.insert(user_id.clone(), own.collect());
    }
    Ok(())
}

/// Whether keys that another server tells are of this user, and device. What does not say whose it is does no harm: nobody
/// takes it for anybody's.
pub(super) fn is_about(keys: &RawValue, user_id: &UserId, device_id: Option<&str>) -> bool {
    #[derive(Deserialize)]
    struct Owner {
        user_id: Option<String>,
        device_id: Option<String>,
    }
    let Ok(owner) = serde_json::from_str::<Owner>(keys.get()) else { return false };
    let is_users = owner.user_id.is_none_or(|owner| owner == user_id.as_str());
    is_users && device_id.is_none_or(|device_id| owner.device_id.is_none_or(|owner| owner == device_id))
}

fn read_claim(claim: &mut KeyClaim, wanted: &WantedOneTimeKeys, body: &[u8]) -> Result<(), serde_json::Error> {
    type Keys<'a> = BTreeMap<String, &'a RawValue>;
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        one_time_keys: BTreeMap<String, BTreeMap<String, Keys<'a>>>,
    }
    let mut answer: Answer<'_> = serde_json::from_slice(body)?;
    for (user_id, devices) in wanted {
        let Some(mut given) = answer.one_time_keys.remove(user_id.as_str()) else { continue };
        let mut claimed = BTreeMap::new();
        for (device_id, algorithm) in devices {
            let keys = given.remove(device_id.as_str()).unwrap_or_default();
            let is_asked = |name: &str| name.strip_prefix(algorithm.as_str()).is_some_and(|id| id.starts_with(':'));
            let Some((name, key)) = keys.into_iter().find(|(name, _)| is_asked(name)) else { continue };
            let key = serde_json::value::to_raw_value(&BTreeMap::from([(name, key)]))?;
            claimed.insert(device_id.to_string(), key);
        }
        if !claimed.is_empty() {
            claim.one_time_keys.insert(user_id.clone(), claimed);
        }
    }
    Ok(())
}
