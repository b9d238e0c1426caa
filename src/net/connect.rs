//! Connecting: the addresses of a target in order, each held against the policy, then TLS.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use hearth_ports::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    AddressPolicy,
    observe::{OpenConnection, attempt_ended},
};

/// Further addresses of a target are not tried. A host has a few, and whoever wrote the DNS records may have written
/// thousands.
const ADDRESSES_MAX: usize = 16;

/// An address that has not answered for so long gets company from the next one, so that a dead address costs a second
/// instead of a whole time-out. The idea is RFC 8305's, with time for a TLS handshake around the world.
const HEAD_START: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No address may be connected to, or there is none.
    #[error("{0}")]
    Denied(String),
    /// None of the addresses that may be connected to could be.
    #[error("{0}")]
    Failed(String),
}

/// What all connections have in common.
pub(crate) struct Dialer {
    pub(crate) policy: AddressPolicy,
    pub(crate) tls: TlsConnector,
    /// TCP and TLS together, for each address.
    pub(crate) timeout: Duration,
}

/// Makes the connections to one target. hyper asks it whenever the pool has none.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) tls_name: ServerName<'static>,
    /// In the order in which they were last asked for. The lock guards that order only.
    pub(crate) addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Connector {
    async fn connect(self) -> Result<TlsConnection, ConnectError> {
        let mut waiting = self.addresses.lock().clone();
        waiting.truncate(ADDRESSES_MAX);
        let mut waiting = waiting.into_iter().peekable();
        let mut failures = Failures::default();
        let mut attempts = FuturesUnordered::new();
        loop {
            match waiting.next() {
                Some(address) => attempts.push(self.attempt(address)),
                None if attempts.is_empty() => return Err(failures.into()),
                None => {}
            }
            let more = waiting.peek().is_some();
            tokio::select! {
                Some(ended) = attempts.next() => match ended {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failures.add(error),
                },
                () = time::sleep(HEAD_START), if more => {}
            }
        }
    }

    async fn attempt(&self, address: SocketAddr) -> Result<TlsConnection, ConnectError> {
        if !self.dialer.policy.permits(address.ip()) {
            attempt_ended("denied");
            return Err(ConnectError::Denied(format!("{} is in a denied range", address.ip())));
        }
        let (outcome, connection) = match time::timeout(self.dialer.timeout, self.handshake(address)).await {
            Ok(Ok(connection)) => ("opened", Ok(connection)),
            Ok(Err(error)) => ("failed", Err(error.to_string())),
            Err(_) => ("timed_out", Err("connecting took too long".to_owned())),
        };
        attempt_ended(outcome);
        connection.map_err(|error| ConnectError::Failed(format!("{address}: {error}")))
    }

    async fn handshake(&self, address: SocketAddr) -> io::Result<TlsConnection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = self.dialer.tls.connect(self.tls_name.clone(), stream).await?;
        Ok(TlsConnection { stream: TokioIo::new(stream), used: Used::default(), _open: OpenConnection::new() })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TlsConnection;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TlsConnection, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    /// The URI says nothing about where to connect: its authority is the `Host` header.
    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// What became of the addresses that were tried.
#[derive(Default)]
struct Failures {
    denied: Vec<String>,
    failed: Vec<String>,
}

impl Failures {
    fn add(&mut self, error: ConnectError) {
        match error {
            ConnectError::Denied(why) => self.denied.push(why),
            ConnectError::Failed(why) => self.failed.push(why),
        }
    }
}

impl From<Failures> for ConnectError {
    fn from(failures: Failures) -> Self {
        match (failures.denied.is_empty(), failures.failed.is_empty()) {
            (true, true) => Self::Denied("there is no address".to_owned()),
            (false, true) => Self::Denied(failures.denied.join("; ")),
            (_, false) => Self::Failed(failures.failed.join("; ")),
        }
    }
}

/// Has the connection answered a request? It travels with each answer and each error of the connection.
#[derive(Clone, Default)]
pub(crate) struct Used(Arc<AtomicBool>);

impl Used {
    pub(crate) fn mark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection as hyper wants it.
pub(crate) struct TlsConnection {
    stream: TokioIo<TlsStream<TcpStream>>,
    used: Used,
    _open: OpenConnection,
}

impl TlsConnection {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TokioIo<TlsStream<TcpStream>>> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl Connection for TlsConnection {
    fn connected(&self) -> Connected {
        let (_, session) = self.stream.inner().get_ref();
        let connected = Connected::new().extra(self.used.clone());
        if session.alpn_protocol() == Some(b"h2") { connected.negotiated_h2() } else { connected }
    }
}

impl Read for TlsConnection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl Write for TlsConnection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bytes)
    }
}
