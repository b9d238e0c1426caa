//! The network between servers: slow, lossy, and in parts now and then.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use hearth_ports::{BoxFuture, HttpAnswer, HttpClient, HttpError, HttpRequest, ResolveFailed, Resolver, SrvTarget};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use crate::{
    liar::Liar,
    life::Life,
    plan::Plan,
    trace::{Trace, note},
};

/// A request that arrives twice arrives the second time up to so much later, in milliseconds.
const ECHO_MS_MAX: u64 = 20_000;

/// The longest that a request is on its way when all is well, in milliseconds.
const CALM_MS: u64 = 5;

/// Everything between the servers.
pub(crate) struct Network {
    trace: Trace,
    hosts: Mutex<BTreeMap<String, Host>>,
    weather: Mutex<Weather>,
    /// What the lying server's words become on their way.
    liar: Option<Liar>,
}

/// Who answers under a name.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) node: usize,
    pub(crate) router: Router,
    pub(crate) life: Life,
}

struct Weather {
    random: StdRng,
    delay_ms_max: u64,
    lost_percent: u32,
    twice_percent: u32,
    /// Pairs of which the first does not reach the second.
    cuts: BTreeSet<(usize, usize)>,
    /// Requests so far.
    requests: u64,
    /// When the last one began or ended.
    last: Instant,
}

/// What becomes of one request.
struct Fate {
    number: u64,
    there_ms: u64,
    back_ms: u64,
    lost_there: bool,
    lost_back: bool,
    /// Who loses something is told so at once, or waits for an answer in vain.
    at_once: bool,
    echo_ms: Option<u64>,
}

impl Fate {
    /// What a sender learns whose words, or answer, were lost.
    async fn broken(&self) -> Result<HttpAnswer, HttpError> {
        if self.at_once { Err(HttpError::Unreachable("the connection broke".to_owned())) } else { pending().await }
    }
}

impl Network {
    pub(crate) fn new(plan: &Plan, trace: Trace, liar: Option<Liar>) -> Arc<Self> {
        let weather = Weather {
            random: StdRng::seed_from_u64(plan.seed ^ 0x006e_6574),
            delay_ms_max: CALM_MS,
            lost_percent: 0,
            twice_percent: 0,
            cuts: BTreeSet::new(),
            requests: 0,
            last: Instant::now(),
        };
        Arc::new(Self { trace, hosts: Mutex::default(), weather: Mutex::new(weather), liar })
    }

    pub(crate) fn liar(&self) -> Option<&Liar> {
        self.liar.as_ref()
    }

    /// From now on this host answers under this name.
    pub(crate) fn attach(&self, name: &str, host: Host) {
        let mut hosts = self.hosts.lock();
        hosts.insert(format!("{name}:443"), host.clone());
        hosts.insert(name.to_owned(), host);
    }

    /// One server no longer reaches another, or does again.
    pub(crate) fn cut(&self, from: usize, to: usize, is_cut: bool) {
        let cuts = &mut self.weather.lock().cuts;
        if is_cut {
            cuts.insert((from, to));
        } else {
            cuts.remove(&(from, to));
        }
    }

    /// From now on the network is as the plan wants it.
    pub(crate) fn begin(&self, plan: &Plan) {
        let mut weather = self.weather.lock();
        weather.delay_ms_max = plan.delay_ms_max;
        (weather.lost_percent, weather.twice_percent) = (plan.lost_percent, plan.twice_percent);
    }

    /// From now on every request arrives, once and soon.
    pub(crate) fn heal(&self) {
        let mut weather = self.weather.lock();
        (weather.delay_ms_max, weather.lost_percent, weather.twice_percent) = (CALM_MS, 0, 0);
        weather.cuts.clear();
    }

    /// Since when there has been nothing on its way.
    pub(crate) fn quiet_for(&self) -> Duration {
        self.weather.lock().last.elapsed()
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.weather.lock().cuts.contains(&(from, to))
    }

    fn host(&self, name: &str) -> Option<Host> {
        self.hosts.lock().get(name).cloned()
    }

    /// Brings a request to its host and the answer back.
    async fn exchange(self: &Arc<Self>, from: usize, mut request: HttpRequest) -> Result<HttpAnswer, HttpError> {
        let fate = self.weather.lock().draw();
        if let Some(liar) = self.liar.as_ref().filter(|liar| liar.is(from)) {
            liar.bend_request(&mut request);
        }
        let to = self.host(&request.host);
        let Some(to) = to else { return Err(HttpError::Unreachable("nobody is there".to_owned())) };
        let (number, short) = (fate.number, shorten(&request.path));
        note!(self.trace, "#{number} {from}>{} {} {short} {}", to.node, request.method, request.body.len());
        self.trace.detail(format_args!("#{number} asks {}", String::from_utf8_lossy(&request.body)));
        sleep(Duration::from_millis(fate.there_ms)).await;
        if fate.lost_there || self.is_cut(from, to.node) {
            note!(self.trace, "#{number} lost");
            return fate.broken().await;
        }
        if let Some(echo_ms) = fate.echo_ms {
            let (network, request) = (Arc::clone(self), request.clone());
            tokio::spawn(async move {
                sleep(Duration::from_millis(echo_ms)).await;
                let answer = network.deliver(&request).await;
                note!(network.trace, "#{number} again: {}", answer.map_or(0, |answer| answer.status.as_u16()));
            });
        }
        // Handling goes on when whoever asked has given up.
        let network = Arc::clone(self);
        let answer = tokio::spawn(async move { network.deliver(&request).await }).await.unwrap();
        sleep(Duration::from_millis(fate.back_ms)).await;
        let Some(answer) = answer else {
            note!(self.trace, "#{number} no power");
            return Err(HttpError::Unreachable("connection refused".to_owned()));
        };
        if fate.lost_back || self.is_cut(to.node, from) {
            note!(self.trace, "#{number} answer {} lost", answer.status.as_u16());
            return fate.broken().await;
        }
        note!(self.trace, "#{number} {} {}", answer.status.as_u16(), tell(&answer));
        self.trace.detail(format_args!("#{number} says {}", String::from_utf8_lossy(&answer.body)));
        Ok(answer)
    }

    /// Asks the host, wherever it is now; `None`: it has no power, or loses it before it has answered.
    async fn deliver(&self, request: &HttpRequest) -> Option<HttpAnswer> {
        let host = self.host(&request.host)?;
        if let Some(liar) = self.liar.as_ref().filter(|liar| liar.is(host.node)) {
            liar.hear(request);
        }
        let mut ask = Request::builder().method(request.method.clone()).uri(&request.path);
        *ask.headers_mut().unwrap() = request.headers.clone();
        let ask = ask.body(Body::from(request.body.clone())).unwrap();
        let handling = async {
            let answer = host.router.clone().oneshot(ask).await.unwrap();
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            HttpAnswer { status: parts.status, headers: parts.headers, body }
        };
        if host.life.is_over() {
            return None;
        }
        let mut answer = host.life.while_it_lasts(handling).await?;
        if answer.status == StatusCode::INTERNAL_SERVER_ERROR {
            self.trace.fault(format!("{} {}: 500 {}", request.method, request.path, tell(&answer)));
        }
        if let Some(liar) = self.liar.as_ref().filter(|liar| liar.is(host.node)) {
            liar.bend_answer(&request.path, &mut answer);
        }
        Some(answer)
    }
}

impl Weather {
    fn draw(&mut self) -> Fate {
        self.requests += 1;
        self.last = Instant::now();
        let Self { random, delay_ms_max, lost_percent, twice_percent, .. } = self;
        let mut delay_ms = || {
            let most = if random.random_bool(0.8) { *delay_ms_max / 10 } else { *delay_ms_max };
            random.random_range(1..=most.max(1))
        };
        let (there_ms, back_ms) = (delay_ms(), delay_ms());
        let mut by_chance = |percent: u32| random.random_range(0..100) < percent;
        let (lost_there, lost_back) = (by_chance(*lost_percent), by_chance(*lost_percent));
        let (at_once, is_twice) = (by_chance(50), by_chance(*twice_percent));
        let echo_ms = is_twice.then(|| random.random_range(0..ECHO_MS_MAX));
        Fate { number: self.requests, there_ms, back_ms, lost_there, lost_back, at_once, echo_ms }
    }
}

/// A path as the trace shows it.
fn shorten(path: &str) -> String {
    let path = path.strip_prefix("/_matrix/").unwrap_or(path);
    path.chars().take(150).collect()
}

/// What an answer says, if it says no or names what was refused.
fn tell(answer: &HttpAnswer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let is_telling = !answer.status.is_success() || text.contains("\"error\"");
    if is_telling { text.chars().take(400).collect() } else { format!("({} bytes)", text.len()) }
}

/// One process's way out.
pub(crate) struct Link {
    pub(crate) from: usize,
    pub(crate) network: Arc<Network>,
    pub(crate) life: Life,
}

impl HttpClient for Link {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpAnswer, HttpError>> {
        Box::pin(async move {
            if self.life.is_over() {
                return pending().await;
            }
            let (patience, bytes_max) = (Duration::from_millis(request.timeout_ms), request.answer_bytes_max);
            let answer = timeout(patience, self.network.exchange(self.from, request)).await;
            self.network.weather.lock().last = Instant::now();
            match answer {
                _ if self.life.is_over() => pending().await,
                Err(_) => Err(HttpError::TimedOut),
                Ok(Ok(answer)) if answer.body.len() > bytes_max => Err(HttpError::TooLarge),
                Ok(answer) => answer,
            }
        })
    }
}

impl Resolver for Link {
    fn addresses<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(vec!["192.0.2.1".parse().unwrap()])))
    }

    fn services<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<SrvTarget>, ResolveFailed>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }
}
