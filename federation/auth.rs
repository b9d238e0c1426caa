//! Who sent a request: the hook of [`hearth_edge`] for routes with `Access::Server`.
//! [Request authentication](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use std::sync::Arc;

use bytes::Bytes;
use hearth_core::{PublicKeys, SignatureError};
use hearth_edge::{AuthenticateServer, BoxFuture, Error, ServerRequest};
use hearth_ports::Clock;
use http::{HeaderMap, Method, StatusCode, Uri};
use metrics::counter;
use ruma::OwnedServerName;
use tokio::sync::Semaphore;

use crate::{
    keys::KeyRing,
    remote::Remote,
    xmatrix::{Claim, ClaimError, Signed},
};

/// Requests that wait for their servers' keys at once; further ones are refused, to come again.
const WAITING_MAX: usize = 512;

/// Above it the signature of a body is checked on a thread of its own, in bytes: about a millisecond's work.
const INLINE_BYTES_MAX: usize = 256 << 10;

/// Bodies above it that are checked at once: parsed, they take many times their size.
const LARGE_MAX: usize = 4;

/// Finds out which server has signed a request.
pub struct ServerAuth {
    keys: Arc<KeyRing>,
    remote: Arc<Remote>,
    clock: Arc<dyn Clock>,
    waiting: Semaphore,
    large: Semaphore,
}

/// What is needed of a request after its body was handed to another thread.
struct Request {
    method: Method,
    uri: Uri,
    content: Option<Bytes>,
    destination: OwnedServerName,
}

impl Request {
    fn signed(&self) -> Signed<'_> {
        Signed {
            method: self.method.as_str(),
            // "The full path … including the `?` and any query parameters if present."
            uri: self.uri.path_and_query().map_or("/", |target| target.as_str()),
            destination: &self.destination,
            content: self.content.as_deref(),
        }
    }
}

impl ServerAuth {
    /// Keys come from `keys`; `remote` learns which servers are there.
    pub fn new(keys: Arc<KeyRing>, remote: Arc<Remote>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (waiting, large) = (Semaphore::new(WAITING_MAX), Semaphore::new(LARGE_MAX));
        Arc::new(Self { keys, remote, clock, waiting, large })
    }

    /// What the headers claim, if it is meant for us and from a server that we talk to.
    fn claim(&self, headers: &HeaderMap) -> Result<Claim, Error> {
        let claim = Claim::read(headers).map_err(no_claim)?;
        let own = self.keys.own().server();
        // "If this property is included, but the value does not match the receiving server's name, the receiving server
        // must deny the request with an HTTP status code 401 Unauthorized."
        if claim.destination.as_ref().is_some_and(|destination| destination != own) {
            return Err(unauthorized("the request is for another server"));
        }
        if !self.remote.policy().allows(&claim.origin) {
            return Err(Error::forbidden("this server does not talk to yours"));
        }
        Ok(claim)
    }

    async fn origin(&self, request: ServerRequest<'_>) -> Result<OwnedServerName, Error> {
        let claim = Arc::new(self.claim(request.headers)?);
        let own = self.keys.own().server();
        let has_body = !request.body.is_empty() && request.method != Method::GET && request.method != Method::HEAD;
        let request = Arc::new(Request {
            method: request.method.clone(),
            uri: request.uri.clone(),
            content: has_body.then(|| request.body.clone()),
            destination: own.clone(),
        });
        let key_ids: Vec<_> = claim.key_ids().map(str::to_owned).collect();
        let keys = match self.keys.known_for_request(&claim.origin, &key_ids).await {
            Some(keys) => keys,
            None => {
                // Strangers can take all turns: whose keys are known needs none.
                let _turn = self.waiting.try_acquire().map_err(|_| Error::unavailable())?;
                self.keys.for_request(&claim.origin, &key_ids).await
            }
        };
        let checked = match self.check(&claim, &request, keys.clone()).await? {
            Err(SignatureError::Wrong(_)) => {
                // A server that was set up anew may have a new key under the old id.
                let _turn = self.waiting.try_acquire().map_err(|_| Error::unavailable())?;
                let anew = self.keys.for_request_anew(&claim.origin).await;
                if anew == keys {
                    Err(unauthorized("the signature is wrong"))
                } else {
                    self.check(&claim, &request, anew).await?.map_err(refusal)
                }
            }
            checked => checked.map_err(refusal),
        };
        checked?;
        self.remote.heard_from(&claim.origin);
        Ok(claim.origin.clone())
    }

    async fn check(
        &self,
        claim: &Arc<Claim>,
        request: &Arc<Request>,
        keys: PublicKeys,
    ) -> Result<Result<(), SignatureError>, Error> {
        let now_ms = self.clock.now_ms();
        if request.content.as_ref().is_none_or(|content| content.len() <= INLINE_BYTES_MAX) {
            return Ok(claim.verify(&keys, &request.signed(), now_ms));
        }
        let _turn = self.large.acquire().await.expect("it is never closed");
        let (claim, request) = (Arc::clone(claim), Arc::clone(request));
        let checked = hearth_ports::work(move || claim.verify(&keys, &request.signed(), now_ms)).await;
        checked.map_err(|error| {
            tracing::error!(%error, "a signature was not checked");
            Error::internal()
        })
    }
}

impl AuthenticateServer for ServerAuth {
    fn pre_check(&self, headers: &HeaderMap) -> Result<(), Error> {
        self.claim(headers).map(drop).inspect_err(|error| note_refusal(headers, error))
    }

    fn authenticate<'a>(&'a self, request: ServerRequest<'a>) -> BoxFuture<'a, Result<OwnedServerName, Error>> {
        Box::pin(async move {
            let result = self.origin(request).await;
            match &result {
                Ok(_) => counter!("hearth_federation_requests_received_total", "outcome" => "authentic").increment(1),
                Err(error) => note_refusal(request.headers, error),
            }
            result
        })
    }
}

fn note_refusal(headers: &HeaderMap, error: &Error) {
    let claim = Claim::read(headers).ok();
    let origin = claim.as_ref().map_or("", |claim| claim.origin.as_str());
    tracing::info!(
        origin,
        status = error.status().as_u16(),
        reason = error.message(),
        "a server's request was refused"
    );
    counter!("hearth_federation_requests_received_total", "outcome" => "refused").increment(1);
}

fn unauthorized(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED", message)
}

fn no_claim(error: ClaimError) -> Error {
    match error {
        ClaimError::Missing => unauthorized(error.to_string()),
        ClaimError::Malformed(_) => Error::bad_request("M_UNAUTHORIZED", error.to_string()),
    }
}

fn refusal(error: SignatureError) -> Error {
    match error {
        SignatureError::Missing(_) => unauthorized("the signature's key was not found, or is not in use"),
        SignatureError::Wrong(_) => unauthorized("the signature is wrong"),
        SignatureError::Malformed(reason) => Error::bad_json(reason),
    }
}

#[cfg(test)]
mod tests;
