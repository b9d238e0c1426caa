//! Sockets: accepts connections within bounds, speaks TLS where it is configured, and drains at the end.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use hearth_edge::Peer;
use hearth_server::Apis;
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use crate::{
    Failure,
    config::{Api, Http, Listener},
    descriptors::Budget,
    tls::Tls,
};

/// A handshake is a few packets; who needs longer is not there.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests at once on an HTTP/2 connection: a client's long-polls and a burst of its pictures.
const STREAMS_MAX: u32 = 128;
/// An HTTP/2 connection that says nothing is asked, and closed if it does not answer.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long that answer may take.
const PONG_TIME_MAX: Duration = Duration::from_secs(20);
/// A peer that takes nothing of what is to be written for so long is cut off: its answer lies in memory. However slow a
/// line is, something passes in this time.
const WRITE_TIME_MAX: Duration = Duration::from_secs(60);
/// A piece of an answer that an HTTP/2 peer has not granted room for after so long, and before twice as long, is given up
/// with its connection, which would never end: the peer need only answer pings. It is long because others may share the
/// connection, those behind the same proxy.
const GRANT_TIME_MAX: Duration = Duration::from_secs(600);
/// After an error of `accept`, mostly no more descriptors, the next attempt waits so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be accepted: after a restart all clients come at once. The system may allow fewer.
const BACKLOG: u32 = 1_024;

/// From a handler's answer to the socket: the rest of a poll, and a client that reads.
const FLUSH_TIME: Duration = Duration::from_millis(300);

/// A bound socket that accepts nothing yet.
pub(crate) struct Socket {
    bind: SocketAddr,
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    apis: Apis,
}

impl Socket {
    /// Reads the certificate and binds the address.
    pub(crate) async fn bind(listener: &Listener, tls: Option<Arc<Tls>>) -> Result<Self, Failure> {
        let bind = listener.bind;
        let socket = bound(bind).map_err(|error| Failure::new(format!("listener {bind}: {error}")))?;
        let serves = |api| listener.serve.contains(&api);
        let apis = Apis { client: serves(Api::Client), federation: serves(Api::Federation) };
        Ok(Self { bind, listener: socket, tls, apis })
    }

    /// What is served here.
    pub(crate) fn apis(&self) -> Apis {
        self.apis
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that starts again must not wait until connections of its predecessor are forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How connections are treated.
#[derive(Clone)]
pub(crate) struct Rules {
    connections_max: usize,
    head_bytes_max: usize,
    head_time_max: Duration,
}

impl Rules {
    /// As configured, as far as there are descriptors.
    pub(crate) fn new(config: &Http, descriptors: Budget) -> Self {
        let connections_max = config.connections_max.min(descriptors.inbound_per_listener);
        if connections_max < config.connections_max {
            tracing::warn!(
                connections_max,
                "fewer connections than http.connections_max, as the system allows few open files: raise their limit \
                 (LimitNOFILE, ulimit -n)",
            );
        }
        let head_time_max = Duration::from_secs(config.head_timeout_s);
        Self { connections_max, head_bytes_max: config.head_bytes_max, head_time_max }
    }
}

/// Accepts connections until `stop` says otherwise, then waits for those that are open to finish their requests.
pub(crate) async fn serve(socket: Socket, router: Router, rules: Rules, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(rules.connections_max));
    let requests = Arc::new(Requests::default());
    let graceful = GracefulShutdown::new();
    let Socket { bind, listener, tls, .. } = socket;
    tracing::info!(%bind, tls = tls.is_some(), "listening");
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            // An error means that the sender is gone, which is the end too.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let handler = Handler { router: router.clone(), peer, requests: Arc::clone(&requests) };
        let connection = Connection { handler, rules: rules.clone(), watcher: graceful.watcher() };
        let tls = tls.as_ref().map(|tls| tls.current());
        tokio::spawn(async move {
            connection.run(stream, tls).await;
            drop(slot);
        });
    }
    drop(listener);
    // A connection without a request ends at once, unless it dawdles within a head: nothing is owed to that.
    tokio::select! {
        () = graceful.shutdown() => {}
        () = requests.answered() => {}
    }
}

/// The next connection, once there is a slot for it.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Answers are whole: waiting for more to send only delays them.
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}

/// A socket, or what stands in for one.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

/// What serves one connection.
struct Connection {
    handler: Handler,
    rules: Rules,
    watcher: Watcher,
}

impl Connection {
    /// Until it ends, from either side.
    async fn run(self, stream: impl Stream, tls: Option<Arc<ServerConfig>>) {
        // Below TLS: what counts is what the peer takes.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME_MAX));
        let stream = Box::pin(stream);
        match tls {
            Some(config) => self.secure(stream, TlsAcceptor::from(config)).await,
            None => self.http1(stream).await,
        }
    }

    async fn secure(self, stream: impl Stream, acceptor: TlsAcceptor) {
        match tokio::time::timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => self.http2(stream).await,
            Ok(Ok(stream)) => self.http1(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, peer = %self.handler.peer, "no handshake"),
            Err(_) => tracing::debug!(peer = %self.handler.peer, "the handshake took too long"),
        }
    }

    /// Without TLS this is the only protocol: telling HTTP/2 from it by its first bytes would have to wait for them.
    async fn http1(self, stream: impl Stream) {
        let peer = self.handler.peer;
        let connection = conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.rules.head_time_max)
            .max_buf_size(self.rules.head_bytes_max)
            .serve_connection(TokioIo::new(stream), self.handler);
        log_end(peer, self.watcher.watch(connection).await);
    }

    async fn http2(self, stream: impl Stream) {
        let peer = self.handler.peer;
        let lying = Arc::new(Lying::default());
        let handler = Marking { handler: self.handler, lying: Arc::clone(&lying) };
        let head_bytes_max = u32::try_from(self.rules.head_bytes_max).unwrap_or(u32::MAX);
        let connection = conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(head_bytes_max)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_TIME_MAX)
            .serve_connection(TokioIo::new(stream), handler);
        tokio::select! {
            result = self.watcher.watch(connection) => log_end(peer, result),
            () = lying.too_long() => tracing::debug!(%peer, "a connection did not take its answers"),
        }
    }
}

fn log_end(peer: SocketAddr, result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// The router, as hyper wants it.
struct Handler {
    router: Router,
    peer: SocketAddr,
    requests: Arc<Requests>,
}

/// Requests that are being answered.
#[derive(Default)]
struct Requests {
    running: AtomicUsize,
    ended: Notify,
}

impl Requests {
    /// Until there is none, and the last answer is likely to be on its way.
    async fn answered(&self) {
        loop {
            let ended = self.ended.notified();
            if self.running.load(Ordering::SeqCst) == 0 {
                break;
            }
            ended.await;
        }
        tokio::time::sleep(FLUSH_TIME).await;
    }
}

/// Counts a request until it is answered, or dropped because its sender is gone.
struct Running(Arc<Requests>);

impl Running {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.running.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(requests))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Handler {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(self.peer));
        let running = Running::new(&self.requests);
        // The router is ready at all times.
        let answer = self.router.clone().call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(running);
            answer
        })
    }
}

/// The pieces of answers that lie with an HTTP/2 connection, which tells nothing of them: each holds the mark of its time.
#[derive(Default)]
struct Lying {
    mark: Mutex<Arc<()>>,
}

/// A piece; its mark is let go when it was written.
struct Marked {
    bytes: Bytes,
    _mark: Arc<()>,
}

impl AsRef<[u8]> for Marked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Lying {
    fn mark(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Marked { bytes, _mark: Arc::clone(&self.mark.lock()) })
    }

    /// Until a piece has lain for a whole turn at least.
    async fn too_long(&self) {
        let mut last = Arc::new(());
        loop {
            tokio::time::sleep(GRANT_TIME_MAX).await;
            if Arc::strong_count(&last) > 1 {
                return;
            }
            last = std::mem::take(&mut *self.mark.lock());
        }
    }
}

/// A handler whose answers are marked.
struct Marking {
    handler: Handler,
    lying: Arc<Lying>,
}

impl hyper::service::Service<Request<Incoming>> for Marking {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (answer, lying) = (self.handler.call(request), Arc::clone(&self.lying));
        Box::pin(async move {
            let mark = move |frame: Frame<Bytes>| frame.map_data(|bytes| lying.mark(bytes));
            Ok(answer.await?.map(|body| Body::new(body.map_frame(mark))))
        })
    }
}

#[cfg(test)]
mod tests;
