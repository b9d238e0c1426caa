//! An authority that signs certificates, and servers on this machine that show them.

use std::{
    convert::Infallible,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::stream;
use hearth_net::{AddressPolicy, HttpsClient, HttpsSettings};
use hearth_ports::{HttpAnswer, HttpClient as _, HttpError, HttpRequest, HttpTarget};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tempfile::NamedTempFile;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The name that certificates are for, where a test does not say otherwise.
pub(crate) const NAME: &str = "matrix.example.org";

/// What a chunked answer is made of, in bytes.
pub(crate) const CHUNK_BYTES: usize = 1_000;

/// Whoever signs certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub(crate) file: NamedTempFile,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        let text = STANDARD.encode(issuer.der());
        writeln!(file, "-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----").unwrap();
        Self { issuer, file }
    }

    fn acceptor(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Trusts this authority alone, and may connect to this machine.
    pub(crate) fn settings(&self) -> HttpsSettings {
        HttpsSettings {
            policy: AddressPolicy::new(Vec::new(), Vec::new()),
            system_authorities: false,
            extra_ca_files: vec![self.file.path().to_owned()],
            ..HttpsSettings::default()
        }
    }

    pub(crate) async fn client(&self) -> HttpsClient {
        HttpsClient::open(self.settings()).await.unwrap()
    }
}

/// A server on this machine.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections that were accepted.
    pub(crate) accepted: Arc<AtomicUsize>,
    /// Connections that have ended.
    pub(crate) ended: watch::Receiver<usize>,
}

impl Server {
    /// Speaks HTTP as [`answer`] has it. Protocols as in ALPN.
    pub(crate) async fn http(authority: &Authority, name: &str, protocols: &[&str]) -> Self {
        Self::start(authority.acceptor(name, protocols), |_, stream| async {
            let service = hyper::service::service_fn(answer);
            let server = auto::Builder::new(TokioExecutor::new());
            // That the other end leaves in the middle is what some tests are about.
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    /// Does with each connection, counted from 0, as the script says.
    pub(crate) async fn scripted<F>(
        authority: &Authority,
        script: impl Fn(usize, TlsStream<TcpStream>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(authority.acceptor(NAME, &[]), script).await
    }

    async fn start<F>(acceptor: TlsAcceptor, script: impl Fn(usize, TlsStream<TcpStream>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, (end, ended)) = (Arc::new(AtomicUsize::new(0)), watch::channel(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = count.fetch_add(1, Ordering::SeqCst);
                // A client that does not like the certificate leaves.
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (talk, end) = (script(number, stream), end.clone());
                tokio::spawn(async move {
                    talk.await;
                    end.send_modify(|ended| *ended += 1);
                });
            }
        });
        Self { address, accepted, ended }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// A GET of this path from the server under its usual name.
    pub(crate) fn get(&self, path: &str) -> HttpRequest {
        get(NAME, vec![self.address], path)
    }
}

pub(crate) fn get(tls_name: &str, addresses: Vec<SocketAddr>, path: &str) -> HttpRequest {
    HttpRequest {
        method: Method::GET,
        target: HttpTarget { tls_name: tls_name.to_owned(), addresses },
        host: NAME.to_owned(),
        path: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        timeout_ms: 20_000,
        answer_bytes_max: 10 * CHUNK_BYTES,
    }
}

pub(crate) async fn text(client: &HttpsClient, request: HttpRequest) -> String {
    text_of(client.send(request).await.unwrap())
}

pub(crate) fn text_of(answer: HttpAnswer) -> String {
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// Asserts that the other end was not reached, for this reason.
pub(crate) fn assert_unreachable(answer: Result<HttpAnswer, HttpError>, reason: &str) {
    match answer {
        Err(HttpError::Unreachable(why)) => assert!(why.contains(reason), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Reads a request without a body.
pub(crate) async fn read_head(stream: &mut TlsStream<TcpStream>) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let chunks = |count: usize| {
        let frames = stream::iter((0..count).map(|_| Ok(Frame::data(Bytes::from(vec![b'x'; CHUNK_BYTES])))));
        Response::new(StreamBody::new(frames).boxed())
    };
    let body = body.collect().await.unwrap().to_bytes();
    Ok(match parts.uri.path() {
        // Like any GET of it, without the body.
        "/fixed" if parts.method == Method::HEAD => {
            let answer = Response::builder().header("content-length", 10 * CHUNK_BYTES);
            answer.body(Full::default().boxed()).unwrap()
        }
        "/fixed" => Response::new(Full::from(vec![b'x'; 10 * CHUNK_BYTES]).boxed()),
        "/chunks/10" => chunks(10),
        "/chunks/11" => chunks(11),
        "/endless" => chunks(usize::MAX),
        "/never" => std::future::pending().await,
        "/stops" => {
            let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"x")))]);
            let frames = futures_util::StreamExt::chain(first, stream::pending());
            Response::new(StreamBody::new(frames).boxed())
        }
        "/elsewhere" => {
            let answer = Response::builder().status(302).header("location", format!("https://{NAME}/echo"));
            answer.body(Full::default().boxed()).unwrap()
        }
        _ => Response::new(Full::from(echo(&parts, &body)).boxed()),
    })
}

/// Everything about the request that a test may want to know.
fn echo(parts: &http::request::Parts, body: &[u8]) -> String {
    let mut lines = vec![format!("{:?} {} {}", parts.version, parts.method, parts.uri)];
    for (name, value) in &parts.headers {
        lines.push(format!("{name}: {}", value.to_str().unwrap()));
    }
    format!("{}\n{}", lines.join("\n"), String::from_utf8_lossy(body))
}
