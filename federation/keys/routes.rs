//! `GET /_matrix/key/v2/server`, `GET /_matrix/key/v2/query/{serverName}`, `POST /_matrix/key/v2/query`.
//! [Publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::{notary::Asked, ring::KeyRing};

/// None of these is signed: keys are what signatures need. The paths with a key id left the specification; some servers
/// still ask there.
pub(crate) fn routes() -> Vec<Route<KeyRing>> {
    vec![
        Route::get(
            &["/_matrix/key/v2/server", "/_matrix/key/v2/server/{key_id}"],
            Access::Public,
            Limit::Federation,
            server,
        ),
        Route::get(
            &["/_matrix/key/v2/query/{server_name}", "/_matrix/key/v2/query/{server_name}/{key_id}"],
            Access::Public,
            Limit::Federation,
            query_one,
        ),
        Route::post(&["/_matrix/key/v2/query"], Access::Public, Limit::Federation, query),
    ]
}

async fn server(keys: Arc<KeyRing>, _: Call) -> Result<Reply, Error> {
    Ok(Reply::bytes(keys.own().answer()))
}

async fn query_one(keys: Arc<KeyRing>, call: Call) -> Result<Reply, Error> {
    #[derive(Deserialize)]
    struct Query {
        minimum_valid_until_ts: Option<u64>,
    }
    let server: OwnedServerName = call.path("server_name")?;
    let Query { minimum_valid_until_ts } = call.query()?;
    let key_id = call.path_opt("key_id").filter(|id| !id.is_empty());
    let asked = Asked {
        keys: key_id.map(|id| (id.to_owned(), minimum_valid_until_ts)).into_iter().collect(),
        valid_until_ms: minimum_valid_until_ts,
    };
    Ok(reply(keys.notarise(BTreeMap::from([(server, asked)])).await))
}

async fn query(keys: Arc<KeyRing>, call: Call) -> Result<Reply, Error> {
    #[derive(Deserialize)]
    struct Query {
        server_keys: BTreeMap<String, BTreeMap<String, Criteria>>,
    }
    #[derive(Deserialize)]
    struct Criteria {
        minimum_valid_until_ts: Option<u64>,
    }
    let Query { server_keys } = call.json()?;
    // What is no server's name has no keys; it spoils no other.
    let asked = server_keys.into_iter().filter_map(|(server, keys)| {
        let keys = keys.into_iter().map(|(id, criteria)| (id, criteria.minimum_valid_until_ts)).collect();
        Some((ServerName::parse(server).ok()?, Asked { keys, valid_until_ms: None }))
    });
    Ok(reply(keys.notarise(asked.collect()).await))
}

fn reply(answers: Vec<Bytes>) -> Reply {
    let mut body = b"{\"server_keys\":[".to_vec();
    for (index, answer) in answers.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(answer);
    }
    body.extend_from_slice(b"]}");
    Reply::bytes(body.into())
}
