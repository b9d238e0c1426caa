//! [`GET /v1/user/devices`](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1userdevicesuserid),
//! [`POST /v1/user/keys/query`](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysquery) and
//! [`POST /v1/user/keys/claim`](https://spec.matrix.org/v1.19/server-server-api/#post_matrixfederationv1userkeysclaim).

use std::{collections::BTreeMap, sync::Arc};

use hearth_edge::{Call, Error, Reply, Route};
use hearth_users::keys::{
    CLAIMS_MAX, DeviceListKeys, KeyQuery, QUERIED_DEVICES_MAX, QUERIED_USERS_MAX, WantedDevices, WantedOneTimeKeys,
};
use http::Method;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Inbound, answers::Object, requests::body, route};

pub(super) fn routes() -> Vec<Route<Inbound>> {
    vec![
        route(Method::GET, "v1/user/devices/{user_id}", devices),
        route(Method::POST, "v1/user/keys/query", query),
        route(Method::POST, "v1/user/keys/claim", claim),
    ]
}

/// All devices of a user of ours that have keys. What their user calls them is nobody's business elsewhere.
async fn devices(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let user_id: OwnedUserId = call.path("user_id")?;
    if !state.users.is_local(&user_id) {
        return Err(Error::invalid_param("the user is not of this server"));
    }
    let list = state.users.device_list(&user_id).await?.ok_or_else(|| Error::not_found("there is no such user"))?;
    let DeviceListKeys { stream_id, devices, master_key, self_signing_key } = list;
    let device = |(device_id, keys): (String, Box<RawValue>)| json!({ "device_id": device_id, "keys": keys });
    let devices: Vec<_> = devices.into_iter().map(device).collect();
    let mut answer = Object::new().field("user_id", &user_id).field("stream_id", &stream_id).field("devices", &devices);
    for (name, key) in [("master_key", master_key), ("self_signing_key", self_signing_key)] {
        if let Some(key) = key {
            answer = answer.field(name, &key);
        }
    }
    Ok(answer.reply())
}

#[derive(Deserialize)]
struct Query {
    device_keys: WantedDevices,
}

/// Identity keys of users of ours; others are not in the answer.
async fn query(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Query { device_keys } = body(&call)?;
    if device_keys.len() > QUERIED_USERS_MAX || device_keys.values().any(|ids| ids.len() > QUERIED_DEVICES_MAX) {
        return Err(Error::too_large("too many users or devices at once"));
    }
    let KeyQuery { device_keys, master_keys, self_signing_keys, .. } =
        state.users.query_local_keys(None, device_keys).await?;
    let answer = Object::new().field("device_keys", &device_keys).field("master_keys", &master_keys);
    Ok(answer.field("self_signing_keys", &self_signing_keys).reply())
}

#[derive(Deserialize)]
struct Claim {
    one_time_keys: WantedOneTimeKeys,
}

/// Gives out one-time keys of users of ours.
async fn claim(state: Arc<Inbound>, call: Call) -> Result<Reply, Error> {
    let Claim { one_time_keys } = body(&call)?;
    if one_time_keys.values().map(BTreeMap::len).sum::<usize>() > CLAIMS_MAX {
        return Err(Error::too_large("too many keys at once"));
    }
    let claimed = state.users.claim_local_keys(one_time_keys).await;
    Ok(Object::new().field("one_time_keys", &claimed).reply())
}
