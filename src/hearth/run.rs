//! `hearth serve`: starts the parts in order, waits for a signal, and drains.

use std::{
    path::Path,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use hearth_core::SigningKey;
use hearth_net::{DnsResolver, HttpsClient};
use hearth_ports::{Clock as _, HttpClient, NoNetwork, Resolver, SystemClock, SystemEntropy};
use hearth_server::{Ports, Server, ServerSettings};
use hearth_store_rocksdb::{Options, RocksEngine};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::{
    Failure,
    admin::{self, Operator},
    config::{Config, Listener},
    data_dir::DataDir,
    descriptors,
    listen::{self, Socket},
    logging, memory, monitor, settings,
    tls::Tls,
};

/// From the signal to the end there are 10 s. Requests that are running at the signal have so long.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(8);

/// From the signal until rows in memory are written to files, or are left to the log.
const STOP_TIME_MAX: Duration = Duration::from_secs(9);

/// Work that nobody waits for any more must not hold up the end.
const LEFTOVERS_TIME_MAX: Duration = Duration::from_millis(500);

/// The exit code of a shell's command that a signal ended.
const EXIT_BY_SIGNAL: i32 = 130;

/// Runs the server until it is told to stop.
pub(crate) fn serve(config: Config, file: Option<&Path>) -> Result<(), Failure> {
    logging::start(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    let result = runtime.block_on(run(&config, file));
    runtime.shutdown_timeout(LEFTOVERS_TIME_MAX);
    result
}

async fn run(config: &Config, file: Option<&Path>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    // Bound before the store is opened: who comes early waits in the queue of the socket and is not turned away.
    let (sockets, certificates) = bind(config).await?;
    let metrics = monitor::start(config.metrics.bind)?;
    let (server, engine) = start(config, file).await?;
    if let (Some(bind), Some(handle)) = (config.metrics.bind, metrics) {
        monitor::serve(bind, handle).await?;
    }
    let (stop, stopped) = watch::channel(false);
    let mut serving = JoinSet::new();
    let rules = listen::Rules::new(&config.http, descriptors::budget(sockets.len()));
    for socket in sockets {
        let (router, rules, stopped) = (server.router_of(socket.apis()), rules.clone(), stopped.clone());
        serving.spawn(async move { listen::serve(socket, router, rules, stopped).await });
    }
    signals.wait(|| certificates.iter().for_each(|tls| tls.reload())).await;

    tracing::info!("stopping: waiting requests are answered; a second signal stops at once");
    let until = Instant::now() + STOP_TIME_MAX;
    server.stop();
    stop.send_replace(true);
    let way_out = async {
        drain(serving).await;
        server.save().await;
        write_out(engine, until).await;
    };
    tokio::select! {
        () = way_out => tracing::info!("stopped"),
        () = signals.wait(|| {}) => process::exit(EXIT_BY_SIGNAL),
    }
    Ok(())
}

/// The configured listeners, or the default one, and the certificates of those that speak TLS.
async fn bind(config: &Config) -> Result<(Vec<Socket>, Vec<Arc<Tls>>), Failure> {
    let default = [Listener::default()];
    let listeners = if config.listeners.is_empty() { &default } else { config.listeners.as_slice() };
    let (mut sockets, mut certificates) = (Vec::new(), Vec::new());
    for listener in listeners {
        let tls = Tls::load(listener)?.map(Arc::new);
        certificates.extend(tls.clone());
        sockets.push(Socket::bind(listener, tls).await?);
    }
    Ok((sockets, certificates))
}

/// Until the requests that are running are answered.
async fn drain(mut serving: JoinSet<()>) {
    let drained = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIME_MAX, drained).await.is_err() {
        tracing::warn!("stopped with requests still running");
    }
}

/// Saves the next start the replay of the log. What is not written in time is in the log all the same.
async fn write_out(engine: Arc<RocksEngine>, until: Instant) {
    let written = tokio::task::spawn_blocking(move || engine.flush(until));
    match tokio::time::timeout_at(until.into(), written).await {
        Ok(Ok(Ok(true))) => {}
        Ok(Ok(Ok(false))) | Err(_) => tracing::warn!("no time to write out the store: the next start replays its log"),
        Ok(Ok(Err(error))) => tracing::warn!(%error, "the next start replays the store's log"),
        Ok(Err(error)) => tracing::error!(%error, "writing out the store"),
    }
}

/// Opens what is stored and assembles the server.
async fn start(config: &Config, file: Option<&Path>) -> Result<(Server, Arc<RocksEngine>), Failure> {
    let mut settings = settings::server(config)?;
    let data = DataDir::new(&config.data_dir);
    data.create()?;
    data.check_name(&config.server_name)?;
    let signing_key = data.load_signing_key(&SystemEntropy)?;
    let options = Options::new(memory::budget(config).engine, |reason| {
        // What the disk holds is known again only after opening it anew.
        tracing::error!(reason, "the storage failed, the server ends");
        process::exit(1);
    });
    let engine = RocksEngine::open(data.database(), options).map_err(Failure::new)?;
    add_old_keys(&mut settings, &data, &signing_key)?;
    let (http, resolver) = network(config).await?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let ports = Ports { engine: engine.clone(), clock, entropy, http, resolver };
    let server_name = settings.server_name.clone();
    let server = Server::start(settings, ports, signing_key).await.map_err(Failure::new)?;
    let users = Arc::clone(server.users());
    if users.is_empty().await.map_err(Failure::new)? {
        let option = file.map_or_else(String::new, |file| format!(" --config {}", file.display()));
        let command = format!("hearth user create{option} --admin NAME");
        tracing::warn!("there are no accounts yet; make the first one, an administrator, with: {command}");
    }
    if config.admin.socket {
        let federation = server.federation().cloned();
        let (socket, engine) = (data.socket(), Arc::clone(&engine));
        let operator = Operator { users, engine, data, server_name, federation, is_running: true };
        admin::listen(&socket, Arc::new(operator));
    }
    Ok((server, engine))
}

/// Adds the keys that rotations left to those of the configuration. The database must be open: no other server runs.
pub(crate) fn add_old_keys(settings: &mut ServerSettings, data: &DataDir, present: &SigningKey) -> Result<(), Failure> {
    let old = data.load_old_keys(present, SystemClock.now_ms())?;
    if let Some(federation) = &mut settings.federation {
        let new = old.into_iter().filter(|old| !federation.old_keys.iter().any(|known| known.id == old.id));
        let new: Vec<_> = new.collect();
        federation.old_keys.extend(new);
    }
    Ok(())
}

/// The way to other machines, if there is any.
pub(crate) async fn network(config: &Config) -> Result<(Arc<dyn HttpClient>, Arc<dyn Resolver>), Failure> {
    if !config.federation.enabled {
        return Ok((Arc::new(NoNetwork), Arc::new(NoNetwork)));
    }
    let http = HttpsClient::open(settings::https(config)?).await;
    let http = http.map_err(|error| Failure::new(format!("requests to other machines: {error}")))?;
    let resolver = DnsResolver::open(settings::dns(config), Arc::new(SystemEntropy)).await;
    let resolver = resolver.map_err(|error| Failure::new(format!("name servers: {error}")))?;
    Ok((Arc::new(http), Arc::new(resolver)))
}

/// SIGTERM and SIGINT stop the server, SIGHUP reads certificates again.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::new(format!("signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Until the server is told to stop.
    async fn wait(&mut self, mut reload: impl FnMut()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => reload(),
            }
        }
    }
}
