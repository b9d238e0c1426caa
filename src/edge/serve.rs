//! From routes to a router, and from a request to its answer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::IpAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{FromRequestParts as _, RawPathParams},
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use hearth_ports::Entropy;
use http::{HeaderName, HeaderValue, Method, Request, Response, request::Parts};
use ruma::OwnedServerName;
use tower::Service;
use tracing::Instrument as _;

use crate::{
    Access, Authenticate, AuthenticateServer, BoxFuture, Call, Cidr, Error, Limit, LimitSettings, Limits, Reply, Route,
    ServerRequest,
    access::Demand,
    address,
    answer::{self, Answer},
    body,
    budget::{Budget, Share},
    call::Params,
    cors,
    observe::RouteMetrics,
    overload::{self, Overload, Slot},
};

/// How the kit behaves, whatever the routes.
#[derive(Clone, Debug)]
pub struct EdgeSettings {
    /// Rate limits.
    pub limits: LimitSettings,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Requests in progress at once; further ones are refused with 503 and `Retry-After`. Bodies that are still being
    /// sent and long-polls that wait do not count.
    pub requests_max: usize,
}

impl EdgeSettings {
    /// Without configuration. A request takes less than a millisecond, so a queue of this length is a second or two: who
    /// comes later had better wait at home.
    pub const REQUESTS_MAX: usize = 2_000;
}

impl Default for EdgeSettings {
    fn default() -> Self {
        Self { limits: LimitSettings::default(), trusted_proxies: Vec::new(), requests_max: Self::REQUESTS_MAX }
    }
}

/// Gathers routes with their states and becomes a router.
pub struct Edge {
    shared: Arc<Shared>,
    /// By the path's shape: `/a/{0}/b/{1}`.
    paths: BTreeMap<String, Vec<Arc<Endpoint>>>,
}

/// Paths that servers ask.
const SERVER_PATHS: [&str; 2] = ["/_matrix/federation/", "/_matrix/key/"];

/// What every request needs.
struct Shared {
    limits: Arc<Limits>,
    /// Clients have their own bounds, so that no server keeps them out, and the other way round.
    clients: Bounds,
    servers: Bounds,
    /// Requests of servers in progress, as they may wait for others: how many are one household's.
    server_requests: Arc<Budget>,
    trusted_proxies: Vec<Cidr>,
    authenticate: Arc<dyn Authenticate>,
    authenticate_server: Option<Arc<dyn AuthenticateServer>>,
    /// Tells the requests of this process from those of its last run.
    run: String,
    requests: AtomicU64,
    unrouted: RouteMetrics,
}

/// What one side may have in progress.
struct Bounds {
    overload: Arc<Overload>,
    /// Memory for what is larger than most.
    bodies: Arc<Budget>,
    answers: Arc<Budget>,
}

impl Bounds {
    fn new(requests_max: usize, bodies: &'static str, answers: &'static str) -> Self {
        Self {
            overload: Overload::new(requests_max),
            bodies: Budget::new(bodies, body::ALL_BYTES_MAX),
            answers: Budget::new(answers, answer::ALL_BYTES_MAX),
        }
    }
}

/// A request that may be answered.
struct Admitted {
    call: Call,
    slot: Option<Slot>,
    /// The memory of the body, for as long as it is worked on.
    body: Share,
    /// A server's place among its household's, for as long.
    turn: Option<Share>,
    /// Memory for the answer.
    answer: Share,
}

/// A route bound to its state.
struct Endpoint {
    method: Method,
    names: Arc<[String]>,
    demand: Demand,
    limit: Limit,
    body_bytes_max: usize,
    raw_body: bool,
    always: bool,
    /// Servers ask it, whether they sign or not.
    of_servers: bool,
    metrics: Arc<RouteMetrics>,
    handler: Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync>,
}

impl Edge {
    /// No routes yet. Without `authenticate_server` there can be none with [`Access::Server`].
    pub fn new(
        settings: &EdgeSettings,
        authenticate: Arc<dyn Authenticate>,
        authenticate_server: Option<Arc<dyn AuthenticateServer>>,
        entropy: &(dyn Entropy + 'static),
    ) -> Self {
        let shared = Shared {
            limits: Arc::new(Limits::new(&settings.limits)),
            clients: Bounds::new(settings.requests_max, "bodies of clients", "answers to clients"),
            servers: Bounds::new(settings.requests_max, "bodies of servers", "answers to servers"),
            server_requests: Budget::new("requests of servers", settings.requests_max),
            trusted_proxies: settings.trusted_proxies.clone(),
            authenticate,
            authenticate_server,
            run: entropy.alphanumeric(6),
            requests: AtomicU64::new(0),
            unrouted: RouteMetrics::new("none".to_owned()),
        };
        Self { shared: Arc::new(shared), paths: BTreeMap::new() }
    }

    /// Adds routes that share a state.
    ///
    /// # Panics
    /// If two routes have the same method and path, or if one is for servers and nothing tells who they are: our mistake.
    #[must_use]
    pub fn routes<S: Send + Sync + 'static>(
        mut self,
        state: &Arc<S>,
        routes: impl IntoIterator<Item = Route<S>>,
    ) -> Self {
        for route in routes {
            self.add(state, &route);
        }
        self
    }

    fn add<S: Send + Sync + 'static>(&mut self, state: &Arc<S>, route: &Route<S>) {
        assert!(
            route.demand.access != Access::Server || self.shared.authenticate_server.is_some(),
            "{:?} is for servers, but nothing tells who they are",
            route.paths
        );
        // The newest version of the path: v3 is behind r0 and v1.
        let name = route.paths.iter().max().map_or_else(String::new, |path| format!("{} {path}", route.method));
        let metrics = Arc::new(RouteMetrics::new(name));
        for path in &route.paths {
            let (shape, names) = shape(path);
            let (state, handler) = (Arc::clone(state), Arc::clone(&route.handler));
            let endpoints = self.paths.entry(shape).or_default();
            assert!(
                endpoints.iter().all(|known| known.method != route.method),
                "{} {path} is routed twice",
                route.method
            );
            endpoints.push(Arc::new(Endpoint {
                method: route.method.clone(),
                names,
                demand: route.demand,
                limit: route.limit,
                body_bytes_max: route.body_bytes_max,
                raw_body: route.raw_body,
                always: route.always,
                of_servers: SERVER_PATHS.iter().any(|start| path.starts_with(start)),
                metrics: Arc::clone(&metrics),
                handler: Arc::new(move |call| handler(Arc::clone(&state), call)),
            }));
        }
    }

    /// The router of all routes. Paths that no route has are answered with 404 `M_UNRECOGNIZED`.
    pub fn into_router(self) -> Router {
        self.router_of(|_| true)
    }

    /// A router of the routes under some paths, which are templates here. Routers of one `Edge` share its limits.
    pub fn router_of(&self, is_served: impl Fn(&str) -> bool) -> Router {
        let place = |endpoints| Place { shared: Arc::clone(&self.shared), endpoints };
        let served = self.paths.iter().filter(|(shape, _)| is_served(shape));
        let router = served.fold(Router::new(), |router, (shape, endpoints)| {
            router.route_service(shape, place(endpoints.as_slice().into()))
        });
        router.fallback_service(place(Arc::default()))
    }
}

/// `/a/{room_id}` → `/a/{0}`, `["room_id"]`: routes that differ in the names of their variables share a path.
fn shape(path: &str) -> (String, Arc<[String]>) {
    let mut names = Vec::new();
    let segments = path.split('/').map(|segment| {
        let Some(name) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            return segment.to_owned();
        };
        let (star, name) = name.strip_prefix('*').map_or(("", name), |name| ("*", name));
        names.push(name.to_owned());
        format!("{{{star}{}}}", names.len() - 1)
    });
    let shape = segments.collect::<Vec<_>>().join("/");
    (shape, names.into())
}

/// Everything under one path: the one type of handler that axum sees.
#[derive(Clone)]
struct Place {
    shared: Arc<Shared>,
    /// One for each method; none for the place of unknown paths.
    endpoints: Arc<[Arc<Endpoint>]>,
}

impl Service<Request<Body>> for Place {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let place = self.clone();
        Box::pin(async move { Ok(place.answer(request).await) })
    }
}

impl Place {
    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let started = Instant::now();
        let request_id = self.shared.next_request_id();
        let cross_origin = cors::applies(request.uri().path());
        let endpoint = self.find(request.method());
        let metrics = endpoint.as_ref().map_or(&self.shared.unrouted, |endpoint| &endpoint.metrics);
        let result = match &endpoint {
            _ if request.method() == Method::OPTIONS => Ok(cors::preflight().into()),
            Ok(endpoint) => {
                let span = tracing::info_span!("request", id = %request_id, route = endpoint.metrics.route());
                self.shared.run(endpoint, request, &request_id).instrument(span).await
            }
            Err(error) => Err(error.clone()),
        };
        let mut answer = result.unwrap_or_else(|error| {
            log_refusal(&error, &request_id, metrics.route());
            error.into_reply(&request_id).into()
        });
        let reply = answer.reply_mut();
        if cross_origin {
            cors::add(&mut reply.headers);
        }
        metrics.record(reply.status, started.elapsed());
        finish(answer, &request_id)
    }

    fn find(&self, method: &Method) -> Result<Arc<Endpoint>, Error> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        match self.endpoints.iter().find(|endpoint| endpoint.method == method) {
            Some(endpoint) => Ok(Arc::clone(endpoint)),
            None if self.endpoints.is_empty() => Err(Error::unrecognized()),
            None => Err(Error::wrong_method()),
        }
    }
}

impl Shared {
    fn next_request_id(&self) -> Arc<str> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.run).into()
    }

    /// Counts the request, unless it is answered at all times.
    fn enter(&self, endpoint: &Endpoint) -> Result<Option<Slot>, Error> {
        if endpoint.always { Ok(None) } else { self.bounds(endpoint).overload.enter().map(Some) }
    }

    fn bounds(&self, endpoint: &Endpoint) -> &Bounds {
        if endpoint.of_servers { &self.servers } else { &self.clients }
    }

    /// Admits the request, reads it, and runs the handler.
    async fn run(&self, endpoint: &Endpoint, request: Request<Body>, request_id: &Arc<str>) -> Result<Answer, Error> {
        let Admitted { call, slot, body, turn, answer: share } = self.admit(endpoint, request, request_id).await?;
        let may_wait = overload::may_wait(&call.method, &call.uri);
        let is_read = endpoint.method == Method::GET;
        let handler = Arc::clone(&endpoint.handler);
        let answer = AssertUnwindSafe(async move { handler(call).await }).catch_unwind();
        let answer = overload::work(slot, answer, may_wait).map(move |answer| {
            drop((body, turn));
            answer
        });
        // A client that hangs up takes its reads with it; a write that has begun is finished.
        let answer = if is_read { answer.await } else { finish_detached(answer).await? };
        let reply = answer.unwrap_or_else(|_| {
            tracing::error!("a handler panicked");
            Err(Error::internal())
        })?;
        Answer::new(reply, share)
    }
}

impl Shared {
    /// Finds out who asks, then reads what. Nothing is read of a body before its sender may be heard; servers sign it, so
    /// that only [what they claim](AuthenticateServer::pre_check) is looked at before.
    async fn admit(
        &self,
        endpoint: &Endpoint,
        request: Request<Body>,
        request_id: &Arc<str>,
    ) -> Result<Admitted, Error> {
        // Before anything is done for it.
        let slot = self.enter(endpoint)?;
        let (mut parts, body) = request.into_parts();
        let ip = address::client(&self.trusted_proxies, &parts.headers, &parts.extensions);
        let values = path_values(&mut parts).await?;
        let requester = endpoint.demand.admit(&*self.authenticate, &parts.headers, ip).await?;
        let is_server = endpoint.demand.access == Access::Server;
        match &requester {
            _ if is_server => self.limits.check_address(Limit::FederationAddress, ip)?,
            Some(requester) => self.limits.check(endpoint.limit, &requester.user_id)?,
            None => self.limits.check_address(endpoint.limit, ip)?,
        }
        let bounds = self.bounds(endpoint);
        let mut share = match &requester {
            Some(requester) => bounds.bodies.share(&requester.user_id),
            // Who signed it will be known when the body was read.
            None => bounds.bodies.share(address::household(ip)),
        };
        let (slot, body) = if body.is_end_stream() {
            (slot, Bytes::new())
        } else {
            if is_server {
                self.authenticate_server().pre_check(&parts.headers)?;
            }
            // A body takes its sender's time: those who dawdle must not keep others out.
            drop(slot);
            let body = body::read(&parts.headers, body, endpoint.body_bytes_max, &mut share).await?;
            (self.enter(endpoint)?, body)
        };
        if !endpoint.raw_body && !body.is_empty() && endpoint.method != Method::GET {
            body::check_json(&body, if is_server { &body::SERVERS } else { &body::CLIENTS })?;
        }
        let (slot, origin) = if is_server {
            // A key may have to be fetched from somebody who is slow.
            drop(slot);
            let origin = self.server(&parts, &body).await?;
            self.limits.check(endpoint.limit, &origin)?;
            (self.enter(endpoint)?, Some(origin))
        } else {
            (slot, None)
        };
        let answer = match (&origin, &requester) {
            (Some(origin), _) => bounds.answers.share(origin),
            (None, Some(requester)) => bounds.answers.share(&requester.user_id),
            (None, None) => bounds.answers.share(address::household(ip)),
        };
        let turn = if endpoint.of_servers && !endpoint.always { Some(self.server_turn(ip)?) } else { None };
        let call = Call {
            method: endpoint.method.clone(),
            uri: parts.uri,
            headers: parts.headers,
            body,
            params: Params { names: Arc::clone(&endpoint.names), values },
            requester,
            origin,
            ip,
            request_id: Arc::clone(request_id),
            limits: Arc::clone(&self.limits),
        };
        Ok(Admitted { call, slot, body: share, turn, answer })
    }

    /// A place for a request of a server: many names cost nothing, addresses do.
    fn server_turn(&self, ip: IpAddr) -> Result<Share, Error> {
        let mut turn = self.server_requests.share(address::household(ip));
        turn.hold(1)?;
        Ok(turn)
    }

    /// Who signed this request.
    async fn server(&self, parts: &Parts, body: &Bytes) -> Result<OwnedServerName, Error> {
        let request = ServerRequest { method: &parts.method, uri: &parts.uri, headers: &parts.headers, body };
        self.authenticate_server().authenticate(request).await
    }

    fn authenticate_server(&self) -> &dyn AuthenticateServer {
        &**self.authenticate_server.as_ref().expect("routes for servers are added with one only")
    }
}

/// Lets whoever reports an error answer be found by its request id. The answer's text may quote the request, so it is
/// not logged.
fn log_refusal(error: &Error, id: &str, route: &str) {
    let (status, errcode) = (error.status().as_u16(), error.errcode());
    match status {
        // What each refusal would say is said once, where the bound is.
        500.. if error.is_bound() => tracing::debug!(id, route, status, "request refused"),
        500.. => tracing::warn!(id, route, status, errcode, "request failed"),
        _ if errcode.is_empty() => tracing::debug!(id, route, status, "interactive authentication"),
        _ => tracing::info!(id, route, status, errcode, "request refused"),
    }
}

/// Runs a future to its end, even if nobody waits for it any more.
async fn finish_detached<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Result<T, Error> {
    tokio::spawn(future.in_current_span()).await.map_err(|error| {
        tracing::error!(%error, "a handler was stopped");
        Error::unavailable()
    })
}

/// The path's variables, percent-decoded; `M_INVALID_PARAM` if they are not UTF-8 then.
async fn path_values(parts: &mut Parts) -> Result<Vec<String>, Error> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| Error::invalid_param("the path is not UTF-8"))?;
    Ok(params.iter().map(|(_, value)| value.to_owned()).collect())
}

fn finish(answer: Answer, request_id: &str) -> Response<Body> {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    let mut response = answer.into_response();
    if let Ok(request_id) = HeaderValue::from_str(request_id) {
        response.headers_mut().insert(REQUEST_ID, request_id);
    }
    response
}
