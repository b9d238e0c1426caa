//! People who are known by a third-party identifier only: asking an identity server who they are, and leaving an invite
//! there.
//! [Association lookup](https://spec.matrix.org/v1.19/identity-service-api/#association-lookup),
//! [invitation storage](https://spec.matrix.org/v1.19/identity-service-api/#invitation-storage).

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use hearth_ports::{HttpClient, HttpRequest, IdentityKey, IdentityServer, PeerError, Resolver, StoredInvite};
use http::{
    HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::identity::{checked_url, exchange, request};

/// The longest pepper, in bytes.
const PEPPER_BYTES_MAX: usize = 1_024;

/// The user who has bound an identifier, if anybody has.
pub(crate) async fn lookup(
    http: &dyn HttpClient,
    resolver: &dyn Resolver,
    server: &IdentityServer<'_>,
    medium: &str,
    address: &str,
) -> Result<Option<OwnedUserId>, PeerError> {
    #[derive(Deserialize)]
    struct Details {
        lookup_pepper: String,
        algorithms: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Found {
        mappings: HashMap<String, Option<Value>>,
    }
    let details = ask(resolver, server, Method::GET, "hash_details", Bytes::new()).await?;
    let details: Details = exchange(http, details).await?;
    if details.lookup_pepper.len() > PEPPER_BYTES_MAX || !details.algorithms.iter().any(|name| name == "sha256") {
        return Err(PeerError::Malformed("it hashes in no way that is known here".to_owned()));
    }
    let hash = Sha256::digest(format!("{address} {medium} {}", details.lookup_pepper));
    let hash = URL_SAFE_NO_PAD.encode(hash);
    let body = json!({ "algorithm": "sha256", "pepper": details.lookup_pepper, "addresses": [hash] });
    let found = ask(resolver, server, Method::POST, "lookup", body.to_string().into()).await?;
    let Found { mut mappings } = exchange(http, found).await?;
    let user = mappings.remove(&hash).flatten();
    user.map(|user| serde_json::from_value(user).map_err(|error| PeerError::Malformed(error.to_string()))).transpose()
}

/// Leaves an invite for whoever binds the identifier. `body`: what the identity server is told of it, a JSON object.
pub(crate) async fn store_invite(
    http: &dyn HttpClient,
    resolver: &dyn Resolver,
    server: &IdentityServer<'_>,
    body: Bytes,
) -> Result<StoredInvite, PeerError> {
    #[derive(Deserialize)]
    struct Stored {
        token: String,
        public_keys: Vec<Key>,
        display_name: String,
    }
    #[derive(Deserialize)]
    struct Key {
        public_key: String,
        key_validity_url: String,
    }
    let stored: Stored = exchange(http, ask(resolver, server, Method::POST, "store-invite", body).await?).await?;
    let Stored { token, public_keys, display_name } = stored;
    let key = |Key { public_key, key_validity_url }| IdentityKey { public_key, key_validity_url };
    Ok(StoredInvite { token, public_keys: public_keys.into_iter().map(key).collect(), display_name })
}

async fn ask(
    resolver: &dyn Resolver,
    server: &IdentityServer<'_>,
    method: Method,
    what: &str,
    body: Bytes,
) -> Result<HttpRequest, PeerError> {
    let malformed = |reason: &str| PeerError::Malformed(reason.to_owned());
    let url = checked_url(&format!("https://{}/_matrix/identity/v2/{what}", server.name))?;
    // A name with a path or a query in it would lead elsewhere.
    if url.path() != format!("/_matrix/identity/v2/{what}") || url.query().is_some() || url.fragment().is_some() {
        return Err(malformed("its name is none"));
    }
    let mut request = request(resolver, &url, method).await?;
    let token = HeaderValue::from_str(&format!("Bearer {}", server.access_token));
    request.headers.insert(AUTHORIZATION, token.map_err(|_| malformed("no such access token"))?);
    if !body.is_empty() {
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request.body = body;
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;
    use crate::testing::{Net, answer};

    const SERVER: IdentityServer<'_> = IdentityServer { name: "id.test:8090", access_token: "swordfish" };

    #[tokio::test]
    async fn identifiers_are_looked_up_by_their_hash() {
        let net = Net::new();
        net.name("id.test", &["192.0.2.7"]);
        net.json(
            "id.test:8090",
            "/_matrix/identity/v2/hash_details",
            &json!({ "lookup_pepper": "matrixrocks", "algorithms": ["none", "sha256"] }),
        );
        // The example of the specification.
        let hash = "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc";
        net.json("id.test:8090", "/_matrix/identity/v2/lookup", &json!({ "mappings": { hash: "@alice:x.test" } }));
        let found = lookup(&*net, &*net, &SERVER, "email", "alice@example.com").await;
        assert_eq!(found, Ok(Some(user_id!("@alice:x.test").to_owned())));
        assert_eq!(lookup(&*net, &*net, &SERVER, "email", "bob@example.com").await, Ok(None));
    }

    #[tokio::test]
    async fn names_that_lead_elsewhere_and_answers_that_are_none() {
        let net = Net::new();
        net.name("id.test", &["192.0.2.7"]);
        net.respond("id.test", "/_matrix/identity/v2/store-invite", |_| Ok(answer(403, &[], "{}")));
        for name in ["id.test/elsewhere?", "id.test#", "me@id.test", "", "id.test\\x"] {
            let server = IdentityServer { name, access_token: "swordfish" };
            let stored = store_invite(&*net, &*net, &server, Bytes::from_static(b"{}")).await;
            assert!(matches!(stored, Err(PeerError::Malformed(_))), "{name}: {stored:?}");
        }
        let server = IdentityServer { name: "id.test", access_token: "swordfish" };
        let stored = store_invite(&*net, &*net, &server, Bytes::from_static(b"{}")).await;
        assert!(matches!(stored, Err(PeerError::Unreachable(_))), "{stored:?}");
    }
}
