//! Who is asking, and who may.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use hearth_users::{AuthError, Session, Users};
use http::{HeaderMap, Method, Uri, header::AUTHORIZATION};
use ruma::OwnedServerName;

use crate::{BoxFuture, Error};

/// Who may call a route. Every route names one; there is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody; a token is not even looked at.
    Public,
    /// Anybody; a token that is sent must be valid.
    Optional,
    /// A full account; guests get `M_GUEST_ACCESS_FORBIDDEN`.
    User,
    /// Any account.
    UserOrGuest,
    /// An administrator of this server.
    Admin,
    /// Another server, by its signature over the whole request: see [`AuthenticateServer`].
    Server,
}

/// Turns access tokens into sessions. [`Users`] does; tests may do otherwise.
pub trait Authenticate: Send + Sync {
    /// Finds the session of this token.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Arc<Session>, AuthError>>;

    /// Notes that a device was here, at this address.
    fn saw(&self, session: &Session, address: IpAddr);
}

impl Authenticate for Users {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Arc<Session>, AuthError>> {
        Box::pin(Self::authenticate(self, token))
    }

    fn saw(&self, session: &Session, address: IpAddr) {
        Self::saw(self, session.user, &session.device_id, address);
    }
}

/// A request in the name of another server, read but not yet believed.
#[derive(Clone, Copy, Debug)]
pub struct ServerRequest<'a> {
    /// As it was sent: HEAD is not GET here.
    pub method: &'a Method,
    /// Path and query as they were sent.
    pub uri: &'a Uri,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The whole body: JSON, or nothing.
    pub body: &'a Bytes,
}

/// Finds out which server has signed a request.
pub trait AuthenticateServer: Send + Sync {
    /// Refuses what need not be read to be refused: the kit asks it before it reads a body. It must not wait, and what it
    /// lets pass is not believed.
    fn pre_check(&self, headers: &HeaderMap) -> Result<(), Error> {
        let _ = headers;
        Ok(())
    }

    /// The server, or what it is told. May wait for the network; must bound how many requests do.
    fn authenticate<'a>(&'a self, request: ServerRequest<'a>) -> BoxFuture<'a, Result<OwnedServerName, Error>>;
}

/// What a route demands, beside [`Access`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    pub(crate) access: Access,
    /// A suspended account may call it.
    pub(crate) suspended_ok: bool,
    /// A locked account may call it.
    pub(crate) locked_ok: bool,
}

impl Demand {
    /// Suspended accounts may read; what else they may do, a route says itself.
    pub(crate) fn new(access: Access, method: &Method) -> Self {
        Self { access, suspended_ok: method == Method::GET, locked_ok: false }
    }

    /// Finds and admits the requester, or says why not.
    pub(crate) async fn admit(
        self,
        authenticate: &dyn Authenticate,
        headers: &HeaderMap,
        address: IpAddr,
    ) -> Result<Option<Arc<Session>>, Error> {
        if matches!(self.access, Access::Public | Access::Server) {
            return Ok(None);
        }
        let Some(token) = bearer(headers)? else {
            return if self.access == Access::Optional { Ok(None) } else { Err(Error::missing_token()) };
        };
        let requester = authenticate.authenticate(token).await.map_err(|error| match error {
            AuthError::Unknown { soft_logout } => Error::unknown_token(soft_logout),
            AuthError::Fault(fault) => Error::from(fault),
        })?;
        self.check(&requester)?;
        authenticate.saw(&requester, address);
        Ok(Some(requester))
    }

    fn check(self, requester: &Session) -> Result<(), Error> {
        if requester.locked && !self.locked_ok {
            return Err(Error::user_locked());
        }
        if requester.suspended && !self.suspended_ok {
            return Err(Error::user_suspended());
        }
        match self.access {
            Access::User | Access::Admin if requester.guest => Err(Error::guest_access_forbidden()),
            Access::Admin if !requester.admin => Err(Error::forbidden("only for administrators of this server")),
            Access::Public | Access::Optional | Access::User | Access::UserOrGuest | Access::Admin => Ok(()),
            // It has no account to check.
            Access::Server => Ok(()),
        }
    }
}

/// The token of `Authorization: Bearer …`. Another scheme is no token; a broken header is an unknown one.
///
/// The query parameter `access_token` left the specification and is not read: URLs end up in logs.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| Error::unknown_token(false))?;
    let Some((scheme, token)) = value.split_once(' ') else { return Ok(None) };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim();
    Ok((!token.is_empty()).then_some(token))
}
