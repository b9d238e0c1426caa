//! Names to addresses and services, by the system's name servers or the operator's.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hearth_ports::{BoxFuture, Entropy, ResolveFailed, Resolver, SrvTarget};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time};

use crate::{
    SettingsError,
    observe::Observed,
    srv::{SrvRecord, in_order},
};

/// Further addresses of a host are left out: nobody tries more.
const ADDRESSES_MAX: usize = 16;

/// SRV records that are looked at. An answer may hold thousands.
const SRV_RECORDS_MAX: usize = 64;

/// Further places of a service are left out: nobody tries more.
const SERVICES_MAX: usize = 16;

/// A name in DNS, as text. RFC 1035 2.3.4 allows 255 bytes on the wire.
const NAME_BYTES_MAX: usize = 253;

/// Answers are asked for again after it, whatever they say: a wrong record with a long time to live must not outlast its
/// correction by more.
const TTL_MAX: Duration = Duration::from_secs(86_400);

/// Likewise for "there is none".
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(600);

/// Queries under way, each with a socket of its own; further lookups wait their turn. So many names of which nobody
/// answers, all at once, are more than a server in a few thousand rooms meets.
const QUERIES_MAX: usize = 512;

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// The name servers, asked over UDP and TCP. Empty: those in `/etc/resolv.conf` (read once), or the machine itself
    /// if it names none.
    pub name_servers: Vec<SocketAddr>,
    /// `/etc/hosts` (read once) comes before the name servers.
    pub hosts_file: bool,
    /// What is waited for an answer before asking again, in milliseconds.
    pub query_timeout_ms: u64,
    /// How often a query is repeated that was not answered.
    pub retries: usize,
    /// What is waited for a whole lookup, aliases and repetitions included, in milliseconds.
    pub lookup_timeout_ms: u64,
    /// Answers that are kept for their time to live.
    pub cache_entries_max: u64,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            name_servers: Vec::new(),
            hosts_file: true,
            query_timeout_ms: 3_000,
            retries: 2,
            lookup_timeout_ms: 10_000,
            cache_entries_max: 16_384,
        }
    }
}

/// DNS. Names are taken as absolute: the search list of `/etc/resolv.conf` is for people at a prompt, and would ask for
/// a stranger's name under the operator's domain.
pub struct DnsResolver {
    resolver: TokioResolver,
    entropy: Arc<dyn Entropy>,
    turns: Semaphore,
    whole: Duration,
}

impl DnsResolver {
    /// Reads the system's configuration, on a thread that may block.
    pub async fn open(settings: DnsSettings, entropy: Arc<dyn Entropy>) -> Result<Self, SettingsError> {
        let whole = Duration::from_millis(settings.lookup_timeout_ms);
        let resolver = spawn_blocking(move || build(&settings)).await;
        let resolver = resolver.map_err(|error| SettingsError::System(error.to_string()))??;
        // A lookup of addresses is two queries.
        Ok(Self { resolver, entropy, turns: Semaphore::new(QUERIES_MAX / 2), whole })
    }

    /// In time, and counted.
    async fn look_up<T>(
        &self,
        lookup: impl Future<Output = Result<Vec<T>, ResolveFailed>>,
    ) -> Result<Vec<T>, ResolveFailed> {
        let observed = Observed::lookup();
        let found = time::timeout(self.whole, lookup).await;
        let found = found.unwrap_or_else(|_| Err(ResolveFailed("it took too long".to_owned())));
        observed.looked_up(&found);
        found
    }

    async fn host(&self, host: &str) -> Result<Vec<IpAddr>, ResolveFailed> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let Some(name) = absolute(host) else { return Ok(Vec::new()) };
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let (six, four) = tokio::join!(
            self.query(name.clone(), RecordType::AAAA, |data| if let RData::AAAA(address) = data {
                Some(address.0.into())
            } else {
                None
            }),
            self.query(name, RecordType::A, |data| if let RData::A(address) = data {
                Some(address.0.into())
            } else {
                None
            }),
        );
        match (six, four) {
            // Half of an answer does, if there is something in it.
            (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
            (Ok(six), Ok(four)) => Ok(alternating(six, four)),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    async fn service(&self, name: &str) -> Result<Vec<SrvTarget>, ResolveFailed> {
        let Some(name) = absolute(name) else { return Ok(Vec::new()) };
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let found = self.query(name, RecordType::SRV, |data| {
            let RData::SRV(srv) = data else { return None };
            let host = srv.target.to_ascii().trim_end_matches('.').to_owned();
            // "A Target of "." means that the service is decidedly not available at this domain."
            absolute(&host)?;
            Some(SrvRecord { priority: srv.priority, weight: srv.weight, port: srv.port, host })
        });
        let ordered = in_order(found.await?, &*self.entropy).into_iter().take(SERVICES_MAX);
        Ok(ordered.map(|record| SrvTarget { host: record.host, port: record.port }).collect())
    }

    /// The records of one kind. That there are none is no error.
    async fn query<T>(
        &self,
        name: Name,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Vec<T>, ResolveFailed> {
        match self.resolver.lookup(name, kind).await {
            Ok(found) => {
                let records = found.answers().iter().take(SRV_RECORDS_MAX);
                Ok(records.filter_map(|record| read(&record.data)).collect())
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NoError | ResponseCode::NXDomain,
                ..
            }))) => Ok(Vec::new()),
            Err(error) => Err(ResolveFailed(error.to_string())),
        }
    }
}

impl Resolver for DnsResolver {
    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        Box::pin(self.look_up(self.host(host)))
    }

    fn services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        Box::pin(self.look_up(self.service(name)))
    }
}

fn build(settings: &DnsSettings) -> Result<TokioResolver, SettingsError> {
    let (name_servers, mut options) = if settings.name_servers.is_empty() {
        system()
    } else {
        (settings.name_servers.iter().map(|address| name_server(*address)).collect(), ResolverOpts::default())
    };
    options.timeout = Duration::from_millis(settings.query_timeout_ms);
    options.attempts = settings.retries;
    options.cache_size = settings.cache_entries_max;
    options.use_hosts_file = if settings.hosts_file { ResolveHosts::Always } else { ResolveHosts::Never };
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    options.max_active_requests = QUERIES_MAX;
    let config = ResolverConfig::from_name_servers(name_servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build().map_err(|error| SettingsError::System(error.to_string()))
}

/// Name servers and options of `/etc/resolv.conf`; without the file, as resolv.conf(5) has it, the machine itself.
fn system() -> (Vec<NameServerConfig>, ResolverOpts) {
    match read_system_conf() {
        Ok((config, options)) => (config.name_servers, options),
        Err(error) => {
            tracing::warn!(%error, "/etc/resolv.conf names no name server: asking this machine itself");
            let itself = IpAddr::from(std::net::Ipv4Addr::LOCALHOST);
            (vec![NameServerConfig::udp_and_tcp(itself)], ResolverOpts::default())
        }
    }
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut config.connections {
        connection.port = address.port();
    }
    config
}

/// A name of letters, digits, `-` and `_`. Anything else in a host's name is an attempt at something.
fn absolute(host: &str) -> Option<Name> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() || host.len() > NAME_BYTES_MAX || !host.bytes().all(plain) {
        return None;
    }
    let mut name = Name::from_ascii(host).ok()?; // a label that is empty or too long is no name
    name.set_fqdn(true);
    Some(name)
}

/// By turns, IPv6 first, so that neither kind waits behind all of a broken other
/// ([RFC 8305 4](https://www.rfc-editor.org/rfc/rfc8305#section-4)).
fn alternating(six: Vec<IpAddr>, four: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut six, mut four) = (six.into_iter().fuse(), four.into_iter().fuse());
    let pairs = std::iter::from_fn(|| {
        let pair = [six.next(), four.next()];
        pair.iter().any(Option::is_some).then_some(pair)
    });
    pairs.flatten().flatten().take(ADDRESSES_MAX).collect()
}
