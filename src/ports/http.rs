//! Requests to other machines.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::BoxFuture;

/// A request to another machine. Redirects are not followed: whoever asks decides on each.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: Method,
    /// Where to connect.
    pub target: HttpTarget,
    /// The `Host` header: a name, with a port where the protocol wants one.
    pub host: String,
    /// Path and query, beginning with `/`, percent-encoded already.
    pub path: String,
    /// Headers beside `Host`, `Content-Length` and `User-Agent`.
    pub headers: HeaderMap,
    /// The body; empty for none.
    pub body: Bytes,
    /// What is waited for the whole answer, in milliseconds.
    pub timeout_ms: u64,
    /// An answer with a larger body is cut off and refused, in bytes.
    pub answer_bytes_max: usize,
}

/// The machine at the other end. TLS always; the certificate must be for `tls_name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpTarget {
    /// The name, or IP literal, that the certificate must be for (and SNI, if it is a name).
    pub tls_name: String,
    /// Addresses to try in order. Each is held against the address policy just before connecting to it.
    pub addresses: Vec<SocketAddr>,
}

/// What came back, whatever its status.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No address may be connected to: the operator's policy, or there is none.
    #[error("connecting is not allowed: {0}")]
    Denied(String),
    /// Nobody answers there, TLS failed, or the connection broke.
    #[error("not reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
    /// The answer is larger than the request allows.
    #[error("the answer is too large")]
    TooLarge,
}

/// An answer whose body is yet to be read.
pub struct HttpOpened {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Box<dyn HttpBody>,
}

/// A body as it comes, for what is too large to be held. Dropping it gives the rest up.
pub trait HttpBody: Send {
    /// The next piece; `None`: that was all. A body that exceeds the request's bound ends with an error.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, HttpError>>;
}

/// A body that is there already.
struct Whole(Option<Bytes>);

impl HttpBody for Whole {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, HttpError>> {
        Box::pin(std::future::ready(Ok(self.0.take())))
    }
}

/// No network at all: for tests, and for servers that talk to nobody. No name exists, nothing may be connected to.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNetwork;

impl HttpClient for NoNetwork {
    fn send(&self, _: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        Box::pin(std::future::ready(Err(HttpError::Denied("there is no network".to_owned()))))
    }
}

/// Outbound HTTP over TLS.
pub trait HttpClient: Send + Sync {
    /// Sends a request and reads the answer. Dropping the future gives it up.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>>;

    /// The same to a machine that is no homeserver, as identity servers are: for those the operator may have said that
    /// certificates do not count.
    fn send_elsewhere(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        self.send(request)
    }

    /// Sends a request; the answer's body is read piece by piece. The time-out is for the whole of it.
    fn open(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpOpened, HttpError>> {
        Box::pin(async move {
            let HttpAnswer { status, headers, body } = self.send(request).await?;
            Ok(HttpOpened { status, headers, body: Box::new(Whole(Some(body))) })
        })
    }
}
