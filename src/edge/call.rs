//! A request as a handler sees it.

use std::{fmt::Display, hash::Hash, net::IpAddr, str::FromStr, sync::Arc};

use bytes::Bytes;
use hearth_users::Session;
use http::{HeaderMap, Method, Uri};
use ruma::{OwnedServerName, ServerName, exports::serde_html_form};
use serde::de::DeserializeOwned;

use crate::{Error, Limit, Limits};

/// A request that was routed, authenticated, admitted and read. It has no `Debug`: its headers hold the access token.
pub struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) params: Params,
    pub(crate) requester: Option<Arc<Session>>,
    pub(crate) origin: Option<OwnedServerName>,
    pub(crate) ip: IpAddr,
    pub(crate) request_id: Arc<str>,
    pub(crate) limits: Arc<Limits>,
}

/// The path's variables: names from the template, values percent-decoded, in the path's order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Params {
    pub(crate) names: Arc<[String]>,
    pub(crate) values: Vec<String>,
}

impl Params {
    fn get(&self, name: &str) -> Option<&str> {
        let index = self.names.iter().position(|known| known == name)?;
        self.values.get(index).map(String::as_str)
    }
}

impl Call {
    /// A path variable, parsed; `M_INVALID_PARAM` if it does not parse.
    ///
    /// # Panics
    /// If the route's path has no variable of this name: our mistake.
    pub fn path<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T, Error> {
        let text = self.path_str(name);
        text.parse().map_err(|error| Error::invalid_param(format!("{name}: {error}")))
    }

    /// A path variable as it is, percent-decoded; empty where a shorter path of the route was taken.
    ///
    /// # Panics
    /// If the route's path has no variable of this name: our mistake.
    pub fn path_str(&self, name: &str) -> &str {
        self.params.get(name).expect("the route's path has this variable")
    }

    /// A path variable that not all of the route's paths have.
    pub fn path_opt(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    /// The query, as HTML forms encode it; `M_MISSING_PARAM` or `M_INVALID_PARAM` if it does not fit.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let query = self.uri.query().unwrap_or_default();
        serde_html_form::from_str(query).map_err(|error| Error::parameter(error.to_string()))
    }

    /// The JSON body; `M_NOT_JSON` if it is absent, `M_BAD_JSON` if it has the wrong shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if self.body.is_empty() {
            return Err(Error::not_json("the request needs a JSON body"));
        }
        serde_json::from_slice(&self.body).map_err(|error| Error::bad_json(error.to_string()))
    }

    /// The JSON body, where an absent one counts as `{}`.
    pub fn json_or_empty<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let body = if self.body.is_empty() { &b"{}"[..] } else { &self.body };
        serde_json::from_slice(body).map_err(|error| Error::bad_json(error.to_string()))
    }

    /// The body's bytes: JSON that was checked for syntax and depth, or nothing, unless the route takes raw bodies.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// GET for HEAD too.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The request's target as it came.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The client's address, behind trusted proxies too.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Who asks.
    ///
    /// # Panics
    /// On routes with [`crate::Access::Public`] or [`crate::Access::Optional`]: our mistake.
    pub fn requester(&self) -> &Arc<Session> {
        self.requester.as_ref().expect("the route demands an account")
    }

    /// Which server asks.
    ///
    /// # Panics
    /// On routes without [`crate::Access::Server`]: our mistake.
    pub fn origin(&self) -> &ServerName {
        self.origin.as_deref().expect("the route demands a server's signature")
    }

    /// Who asks, where the route leaves it open.
    pub fn optional_requester(&self) -> Option<&Arc<Session>> {
        self.requester.as_ref()
    }

    /// The name of this request in logs and error answers.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Takes one from another bucket than the route's own, for example of the account that a login names.
    pub fn limit(&self, limit: Limit, key: impl Hash) -> Result<(), Error> {
        self.limits.check(limit, key)
    }

    /// Like [`Self::limit`], for the client's address.
    pub fn limit_address(&self, limit: Limit) -> Result<(), Error> {
        self.limits.check_address(limit, self.ip)
    }
}
