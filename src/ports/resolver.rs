//! Names to addresses.

use std::net::IpAddr;

use crate::{BoxFuture, NoNetwork};

/// A place that an SRV record names. [RFC 2782](https://www.rfc-editor.org/rfc/rfc2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvTarget {
    /// The host name, without a final dot.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Why a lookup told nothing. That a name has no such record is no error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name server did not answer: {0}")]
pub struct ResolveFailed(pub String);

/// DNS. Answers are cached by their time to live.
pub trait Resolver: Send + Sync {
    /// The addresses of a host, in the order to be tried; CNAMEs are followed. Empty: it has none.
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>>;

    /// The SRV records of a name as in `_matrix-fed._tcp.example.org`, in the order to be tried (priority, then weighted
    /// at random). Empty: it has none, or says that the service is not there.
    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>>;
}

impl Resolver for NoNetwork {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}
