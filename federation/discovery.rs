//! Where a server is. [Resolving server names](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).
//!
//! [`Discovery::find`] is the specification's list of steps; each says where to connect, what the `Host` header is, and
//! whom the certificate must be for. Documents of `/.well-known` are cached here, DNS answers by the resolver.

mod well_known;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hearth_ports::{Clock, HttpClient, HttpTarget, Resolver, SrvTarget};
use ruma::{OwnedServerName, ServerName};

use self::well_known::{WellKnown, WellKnowns};

/// The port of a server that names none.
const PORT: u16 = 8448;

/// Addresses that are tried. One that does not answer costs a time-out.
const ADDRESSES_MAX: usize = 8;

/// Places of an SRV record that are looked at.
const SRV_TARGETS_MAX: usize = 4;

/// Where to send a server's requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The `Host` header.
    pub host: String,
    /// Addresses, and whom the certificate must be for.
    pub target: HttpTarget,
}

/// Why a server is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// A name has no address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// The name servers did not answer.
    #[error("the address of {name} was not found out: {reason}")]
    Dns {
        /// What was asked for.
        name: String,
        /// Why there is no answer.
        reason: String,
    },
}

/// A step on the way to a server, for an operator to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The name is an address already.
    Literal,
    /// The name says the port.
    ExplicitPort,
    /// `/.well-known/matrix/server` was asked for.
    WellKnown(Result<OwnedServerName, String>),
    /// An SRV record was asked for; the places it names.
    Srv {
        /// As in `_matrix-fed._tcp.example.org`.
        name: String,
        /// What it is, or why it is not known.
        found: Result<Vec<SrvTarget>, String>,
    },
    /// Nothing says otherwise: the host itself.
    DefaultPort,
    /// The addresses of a host.
    Addresses {
        /// The host.
        host: String,
        /// What they are, or why they are not known.
        found: Result<Vec<IpAddr>, String>,
    },
}

/// Finds servers.
pub struct Discovery {
    resolver: Arc<dyn Resolver>,
    well_knowns: Arc<WellKnowns>,
}

/// The steps taken, if somebody wants to know.
type Trace<'a> = Option<&'a mut Vec<Step>>;

impl Discovery {
    /// Knows no server yet.
    pub fn new(http: Arc<dyn HttpClient>, resolver: Arc<dyn Resolver>, clock: Arc<dyn Clock>) -> Self {
        let well_knowns = Arc::new(WellKnowns::new(http, Arc::clone(&resolver), clock));
        Self { resolver, well_knowns }
    }

    /// Names of other machines.
    pub(crate) fn resolver(&self) -> &dyn Resolver {
        &*self.resolver
    }

    /// Where to send requests to this server.
    pub async fn find(&self, server: &ServerName) -> Result<Place, DiscoveryError> {
        self.walk(server, None).await
    }

    /// The same with every step, asking for `/.well-known` anew.
    pub async fn explain(&self, server: &ServerName) -> (Vec<Step>, Result<Place, DiscoveryError>) {
        let mut steps = Vec::new();
        let found = self.walk(server, Some(&mut steps)).await;
        (steps, found)
    }

    async fn walk(&self, server: &ServerName, mut trace: Trace<'_>) -> Result<Place, DiscoveryError> {
        // Steps 1 and 2.
        if let Some(place) = self.named(server, &mut trace).await {
            return place;
        }
        // Step 3.
        let well_known = match &mut trace {
            None => self.well_knowns.get(server.host()).await,
            Some(_) => self.well_knowns.get_anew(server.host()).await,
        };
        note(&mut trace, || Step::WellKnown(well_known.as_result()));
        let WellKnown::Delegated(delegate) = well_known else {
            // Steps 4 to 6: "a `Host` header of `<hostname>`", "a valid certificate for `<hostname>`".
            return self.unnamed(server.host(), &mut trace).await;
        };
        // Steps 3.1 to 3.5 are steps 1, 2, 4, 5 and 6 of the delegated name. It is not delegated further.
        match self.named(&delegate, &mut trace).await {
            Some(place) => place,
            None => self.unnamed(delegate.host(), &mut trace).await,
        }
    }

    /// Steps 1 and 2 (3.1 and 3.2): the name itself says where. `None`: it does not.
    async fn named(&self, name: &ServerName, trace: &mut Trace<'_>) -> Option<Result<Place, DiscoveryError>> {
        let host = name.as_str().to_owned();
        let bare = name.host().trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            // "That IP address should be used, together with the given port number, or 8448 if no port is given. The
            // target server must present a valid certificate for the IP address. The `Host` header in the request should
            // be set to the server name, including the port if the server name included one."
            note(trace, || Step::Literal);
            let addresses = vec![SocketAddr::new(address, name.port().unwrap_or(PORT))];
            return Some(Ok(Place { host, target: HttpTarget { tls_name: bare.to_owned(), addresses } }));
        }
        // "The server name includes an explicit port: requests are made to the resolved IP address and given port with a
        // `Host` header of the original server name (with port). The target server must present a valid certificate for
        // the hostname."
        let port = name.port()?;
        note(trace, || Step::ExplicitPort);
        let addresses = match self.addresses(name.host(), port, trace).await {
            Ok(addresses) => addresses,
            Err(error) => return Some(Err(error)),
        };
        Some(Ok(Place { host, target: HttpTarget { tls_name: name.host().to_owned(), addresses } }))
    }

    /// Steps 4 to 6 (3.3 to 3.5): SRV records, then the default port. Whatever they say, requests are for, and the
    /// certificate too, the name that was asked for: DNS is not to be trusted.
    async fn unnamed(&self, host: &str, trace: &mut Trace<'_>) -> Result<Place, DiscoveryError> {
        let place =
            |addresses| Place { host: host.to_owned(), target: HttpTarget { tls_name: host.to_owned(), addresses } };
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let name = format!("{service}.{host}");
            // Some name servers answer such questions with an error; that the record is not there is likelier than that
            // all of DNS is broken, and if it is, the next question tells.
            let found = self.resolver.services(&name).await;
            note(trace, || Step::Srv { name: name.clone(), found: found.clone().map_err(|error| error.to_string()) });
            match found {
                Ok(targets) if !targets.is_empty() => return self.of_targets(targets, trace).await.map(place),
                Ok(_) | Err(_) => {}
            }
        }
        note(trace, || Step::DefaultPort);
        self.addresses(host, PORT, trace).await.map(place)
    }

    /// The addresses of an SRV record's places, in its order. One that is not found leaves the others.
    async fn of_targets(
        &self,
        targets: Vec<SrvTarget>,
        trace: &mut Trace<'_>,
    ) -> Result<Vec<SocketAddr>, DiscoveryError> {
        let (mut addresses, mut error) = (Vec::new(), None);
        for target in targets.into_iter().take(SRV_TARGETS_MAX) {
            match self.addresses(&target.host, target.port, trace).await {
                Ok(found) => addresses.extend(found),
                Err(failed) => error = Some(failed),
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        match error {
            Some(error) if addresses.is_empty() => Err(error),
            Some(_) | None => Ok(addresses),
        }
    }

    async fn addresses(&self, host: &str, port: u16, trace: &mut Trace<'_>) -> Result<Vec<SocketAddr>, DiscoveryError> {
        let found = self.resolver.addresses(host).await;
        note(trace, || Step::Addresses {
            host: host.to_owned(),
            found: found.clone().map_err(|error| error.to_string()),
        });
        match found {
            Ok(found) if found.is_empty() => Err(DiscoveryError::NoAddress(host.to_owned())),
            Ok(found) => Ok(found.into_iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect()),
            Err(error) => Err(DiscoveryError::Dns { name: host.to_owned(), reason: error.to_string() }),
        }
    }
}

fn note(trace: &mut Trace<'_>, step: impl FnOnce() -> Step) {
    if let Some(trace) = trace {
        trace.push(step());
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
        match self {
            Self::Literal => write!(formatter, "the name is an IP address"),
            Self::ExplicitPort => write!(formatter, "the name says the port"),
            Self::WellKnown(Ok(delegate)) => write!(formatter, "/.well-known/matrix/server: {delegate}"),
            Self::WellKnown(Err(reason)) => write!(formatter, "/.well-known/matrix/server: {reason}"),
            Self::Srv { name, found: Ok(found) } => {
                let found = found.iter().map(|target| format!("{}:{}", target.host, target.port)).collect();
                write!(formatter, "SRV {name}: {}", list(found))
            }
            Self::Srv { name, found: Err(reason) } => write!(formatter, "SRV {name}: {reason}"),
            Self::DefaultPort => write!(formatter, "port {PORT}, as nothing says otherwise"),
            Self::Addresses { host, found: Ok(found) } => {
                write!(formatter, "addresses of {host}: {}", list(found.iter().map(IpAddr::to_string).collect()))
            }
            Self::Addresses { host, found: Err(reason) } => write!(formatter, "addresses of {host}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests;
