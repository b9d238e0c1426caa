//! Whether a key of an identity server still counts.
//! [`GET /pubkey/isvalid`](https://spec.matrix.org/v1.19/identity-service-api/#get_matrixidentityv2pubkeyisvalid).

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use hearth_ports::{HttpClient, HttpError, HttpRequest, HttpTarget, PeerError, Resolver};
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use url::{Host, Url};

/// The longest address that is asked, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// The answer is one short field.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// What is waited for the answer, in milliseconds: another server waits with us.
const TIMEOUT_MS: u64 = 10_000;
/// Addresses of its host that are tried.
const ADDRESSES_MAX: usize = 4;

/// Asks at an address that an event of a user of ours names. Only https, no redirects, and only where the operator's
/// policy lets us connect.
pub(crate) async fn key_is_valid(
    http: &dyn HttpClient,
    resolver: &dyn Resolver,
    url: &str,
    public_key: &str,
) -> Result<bool, PeerError> {
    #[derive(Deserialize)]
    struct Answer {
        valid: bool,
    }
    let mut url = checked_url(url)?;
    url.query_pairs_mut().append_pair("public_key", public_key);
    let request = request(resolver, &url, Method::GET).await?;
    Ok(exchange::<Answer>(http, request).await?.valid)
}

/// Sends the request; the answer must be 200, with JSON of this shape.
pub(crate) async fn exchange<T: DeserializeOwned>(http: &dyn HttpClient, request: HttpRequest) -> Result<T, PeerError> {
    let answer = http.send_elsewhere(request).await.map_err(|error| match error {
        HttpError::Denied(_) => PeerError::Denied,
        HttpError::TooLarge => PeerError::Malformed(error.to_string()),
        HttpError::Unreachable(_) | HttpError::TimedOut => PeerError::Unreachable(error.to_string()),
    })?;
    if answer.status != StatusCode::OK {
        return Err(PeerError::Unreachable(format!("HTTP {}", answer.status.as_u16())));
    }
    serde_json::from_slice(&answer.body).map_err(|error| PeerError::Malformed(error.to_string()))
}

/// An address of an identity server, if it is one.
pub(crate) fn checked_url(url: &str) -> Result<Url, PeerError> {
    let malformed = |reason: &str| PeerError::Malformed(reason.to_owned());
    if url.len() > URL_BYTES_MAX {
        return Err(malformed("its address is too long"));
    }
    let url = Url::parse(url).map_err(|_| malformed("its address is none"))?;
    if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
        return Err(malformed("its address is not https"));
    }
    Ok(url)
}

/// A request without a body; of an address that passed [`checked_url`].
pub(crate) async fn request(resolver: &dyn Resolver, url: &Url, method: Method) -> Result<HttpRequest, PeerError> {
    let malformed = |reason: &str| PeerError::Malformed(reason.to_owned());
    let port = url.port().unwrap_or(443);
    let (name, addresses) = match url.host() {
        Some(Host::Domain(name)) => {
            let found = resolver.addresses(name).await;
            (name.to_owned(), found.map_err(|error| PeerError::Unreachable(error.to_string()))?)
        }
        Some(Host::Ipv4(address)) => (address.to_string(), vec![IpAddr::V4(address)]),
        Some(Host::Ipv6(address)) => (format!("[{address}]"), vec![IpAddr::V6(address)]),
        None => return Err(malformed("its address has no host")),
    };
    if addresses.is_empty() {
        return Err(PeerError::Unreachable(format!("{name} has no address")));
    }
    let addresses = addresses.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect();
    Ok(HttpRequest {
        method,
        host: url.port().map_or_else(|| name.clone(), |port| format!("{name}:{port}")),
        target: HttpTarget { tls_name: name, addresses },
        path: url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout_ms: TIMEOUT_MS,
        answer_bytes_max: ANSWER_BYTES_MAX,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Net, answer};

    async fn ask(net: &Net, url: &str) -> Result<bool, PeerError> {
        key_is_valid(net, net, url, "a+b/c").await
    }

    #[tokio::test]
    async fn keys_are_asked_for_at_their_address_only() {
        let net = Net::new();
        net.name("id.test", &["192.0.2.7"]);
        net.json("id.test:8090", "/isvalid", &json!({ "valid": true }));
        net.json("id.test", "/revoked", &json!({ "valid": false }));
        net.respond("id.test", "/moved", |_| Ok(answer(302, &[("location", "https://inside.test/")], "")));
        net.json("id.test", "/nonsense", &json!({ "valid": "yes" }));
        assert_eq!(ask(&net, "https://id.test:8090/isvalid?version=2").await, Ok(true));
        assert_eq!(net.asked_urls(), ["id.test:8090/isvalid?version=2&public_key=a%2Bb%2Fc"]);
        assert_eq!(ask(&net, "https://id.test/revoked").await, Ok(false));
        assert!(matches!(ask(&net, "https://id.test/moved").await, Err(PeerError::Unreachable(_))));
        assert!(matches!(ask(&net, "https://id.test/nonsense").await, Err(PeerError::Malformed(_))));
        assert!(matches!(ask(&net, "https://none.test/isvalid").await, Err(PeerError::Unreachable(_))));
        net.asked();
        let long = format!("https://id.test/{}", "x".repeat(3_000));
        for url in ["http://id.test/isvalid", "https://me:secret@id.test/isvalid", "id.test", "", &long] {
            assert!(matches!(ask(&net, url).await, Err(PeerError::Malformed(_))), "{url}");
        }
        assert!(net.asked().is_empty());
    }
}
