//! An endpoint as a value.

use std::{future::Future, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{Method, header::CONTENT_TYPE};
use ruma::api::{IncomingRequest, OutgoingResponse, OutgoingResponseExt as _, path_builder::PathBuilder as _};

use crate::{Access, BoxFuture, Call, Error, Limit, Reply, access::Demand, body};

/// A handler with its types erased: the router, and all that happens before a handler, is compiled once.
pub(crate) type Handler<S> = Arc<dyn Fn(Arc<S>, Call) -> BoxFuture<'static, Result<Reply, Error>> + Send + Sync>;

/// One endpoint: where it is, who may call it, what it costs, and what it does.
///
/// ```
/// # use std::sync::Arc;
/// # use hearth_edge::{Access, Call, Error, Limit, Reply, Route};
/// # struct State;
/// async fn whoami(_: Arc<State>, call: Call) -> Result<Reply, Error> {
///     Ok(Reply::json(&serde_json::json!({ "user_id": call.requester().user_id })))
/// }
/// let route = Route::get(&["/_matrix/client/v3/account/whoami"], Access::UserOrGuest, Limit::None, whoami);
/// # let _: Route<State> = route;
/// ```
pub struct Route<S> {
    pub(crate) method: Method,
    pub(crate) paths: Vec<String>,
    pub(crate) demand: Demand,
    pub(crate) limit: Limit,
    pub(crate) body_bytes_max: usize,
    /// The body is not JSON, so it is not checked to be.
    pub(crate) raw_body: bool,
    /// Answered however many requests are in progress.
    pub(crate) always: bool,
    pub(crate) handler: Handler<S>,
}

impl<S: Send + Sync + 'static> Route<S> {
    /// An endpoint that `ruma` describes: method and paths are the request's, except paths with `/unstable/` in them,
    /// which [`Self::also`] adds where they are wanted.
    ///
    /// The handler is `async fn(Arc<S>, Call, Request) -> Result<Response, Error>`.
    pub fn ruma<R, H, F>(access: Access, limit: Limit, handler: H) -> Self
    where
        R: IncomingRequest + Send + 'static,
        H: Fn(Arc<S>, Call, R) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R::OutgoingResponse, Error>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased = move |state: Arc<S>, call: Call| -> BoxFuture<'static, Result<Reply, Error>> {
            let request = match parse::<R>(&call) {
                Ok(request) => request,
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            };
            let answer = handler(state, call, request);
            Box::pin(async move { serialise(answer.await?) })
        };
        let history = R::PATH_BUILDER;
        let paths = history.all_paths().filter(|path| !path.contains("/unstable/"));
        Self::new(R::METHOD, paths.map(str::to_owned).collect(), access, limit, Arc::new(erased))
    }

    /// An endpoint that `ruma` does not fit. The handler is `async fn(Arc<S>, Call) -> Result<Reply, Error>`; variables
    /// in paths are written `{room_id}`.
    pub fn raw<H, F>(method: Method, paths: &[&str], access: Access, limit: Limit, handler: H) -> Self
    where
        H: Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let erased = move |state: Arc<S>, call: Call| -> BoxFuture<'static, Result<Reply, Error>> {
            Box::pin(handler(state, call))
        };
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Self::new(method, paths, access, limit, Arc::new(erased))
    }

    /// [`Self::raw`] for GET.
    pub fn get<H, F>(paths: &[&str], access: Access, limit: Limit, handler: H) -> Self
    where
        H: Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        Self::raw(Method::GET, paths, access, limit, handler)
    }

    /// [`Self::raw`] for POST.
    pub fn post<H, F>(paths: &[&str], access: Access, limit: Limit, handler: H) -> Self
    where
        H: Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        Self::raw(Method::POST, paths, access, limit, handler)
    }

    /// [`Self::raw`] for PUT.
    pub fn put<H, F>(paths: &[&str], access: Access, limit: Limit, handler: H) -> Self
    where
        H: Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        Self::raw(Method::PUT, paths, access, limit, handler)
    }

    /// [`Self::raw`] for DELETE.
    pub fn delete<H, F>(paths: &[&str], access: Access, limit: Limit, handler: H) -> Self
    where
        H: Fn(Arc<S>, Call) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        Self::raw(Method::DELETE, paths, access, limit, handler)
    }

    fn new(method: Method, paths: Vec<String>, access: Access, limit: Limit, handler: Handler<S>) -> Self {
        let demand = Demand::new(access, &method);
        Self { method, paths, demand, limit, body_bytes_max: body::BYTES_MAX, raw_body: false, always: false, handler }
    }

    /// Another path. It may lack the last variables of the first one; they are then absent.
    #[must_use]
    pub fn also(mut self, path: &str) -> Self {
        self.paths.push(path.to_owned());
        self
    }

    /// For suspended accounts too. GET is for them without saying so.
    #[must_use]
    pub fn suspended_ok(mut self) -> Self {
        self.demand.suspended_ok = true;
        self
    }

    /// Not for suspended accounts, though it is a GET.
    #[must_use]
    pub fn not_suspended(mut self) -> Self {
        self.demand.suspended_ok = false;
        self
    }

    /// For locked accounts too; logging out is the only such act.
    #[must_use]
    pub fn locked_ok(mut self) -> Self {
        self.demand.locked_ok = true;
        self
    }

    /// The largest body, in bytes, in place of 1 MiB.
    #[must_use]
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// The body need not be JSON.
    #[must_use]
    pub fn raw_body(mut self) -> Self {
        self.raw_body = true;
        self
    }

    /// Answered under overload too, for those who watch the server. It must cost next to nothing.
    #[must_use]
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path templates; the newest version names the route in metrics.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// Who may call it.
    pub fn access(&self) -> Access {
        self.demand.access
    }
}

/// Bytes of the body that a `ruma` request is given where the client sent none.
const NO_BODY: &[u8] = b"";

fn parse<R: IncomingRequest>(call: &Call) -> Result<R, Error> {
    let mut request = http::Request::new(if call.method == Method::GET { NO_BODY } else { &call.body });
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = call.uri.clone();
    *request.headers_mut() = call.headers.clone();
    let params: Vec<&str> = call.params.values.iter().map(String::as_str).collect();
    Ok(R::try_from_http_request_inner(request, &params)?)
}

fn serialise(response: impl OutgoingResponse) -> Result<Reply, Error> {
    let response = response.try_into_http_response::<BytesMut>().map_err(|error| {
        tracing::error!(%error, "an answer does not serialise");
        Error::internal()
    })?;
    let (parts, body) = response.into_parts();
    let body: Bytes = body.freeze();
    let mut reply =
        if body.is_empty() && !parts.headers.contains_key(CONTENT_TYPE) { Reply::empty() } else { Reply::bytes(body) };
    reply.headers.extend(parts.headers);
    Ok(reply.with_status(parts.status))
}
