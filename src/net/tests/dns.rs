//! Lookups, against a name server on this machine that says what the test wants.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use hearth_net::{DnsResolver, DnsSettings};
use hearth_ports::{Resolver as _, SeededEntropy, SrvTarget};
use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SRV},
    },
};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

/// A name server; it remembers what it was asked.
struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
}

impl NameServer {
    async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self { address: socket.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        tokio::spawn(async move {
            let mut bytes = [0; 4_096];
            loop {
                let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
                let query = Message::from_vec(&bytes[..length]).unwrap();
                let question = &query.queries[0];
                asked.lock().push((question.name().to_ascii().to_lowercase(), question.query_type()));
                if let Some(answer) = answer(query) {
                    socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                }
            }
        });
        server
    }

    async fn resolver(&self, seed: u64) -> DnsResolver {
        self.resolver_within(seed, DnsSettings::default().lookup_timeout_ms).await
    }

    async fn resolver_within(&self, seed: u64, lookup_timeout_ms: u64) -> DnsResolver {
        let settings = DnsSettings {
            name_servers: vec![self.address],
            hosts_file: false,
            lookup_timeout_ms,
            ..DnsSettings::default()
        };
        DnsResolver::open(settings, Arc::new(SeededEntropy::new(seed))).await.unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.lock().len()
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn service(priority: u16, weight: u16, port: u16, host: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, name(host)))
}

/// The zone. `None`: no answer at all.
fn answer(query: Message) -> Option<Message> {
    let question = query.queries[0].clone();
    let mut answer = query.into_response();
    let host = question.name().to_ascii().to_lowercase();
    let address = |text: &str| RData::from(text.parse::<IpAddr>().unwrap());
    let records = match (host.as_str(), question.query_type()) {
        ("both.example.", RecordType::A) => vec![address("192.0.2.1"), address("192.0.2.2"), address("192.0.2.3")],
        ("both.example.", RecordType::AAAA) => vec![address("2001:db8::1")],
        ("many.example.", RecordType::A) => (0..40).map(|last| address(&format!("192.0.2.{last}"))).collect(),
        ("alias.example.", _) => vec![RData::CNAME(CNAME(name("both.example.")))],
        ("half.example.", RecordType::A) => vec![address("192.0.2.9")],
        ("half.example." | "broken.example." | "_matrix-fed._tcp.broken.example.", _) => {
            answer.metadata.response_code = ResponseCode::ServFail;
            Vec::new()
        }
        ("silent.example.", _) => return None,
        ("_matrix-fed._tcp.both.example.", RecordType::SRV) => vec![
            service(20, 0, 3, "last.example."),
            service(10, 50, 1, "a.example."),
            service(10, 50, 2, "b.example."),
            RData::SRV(SRV::new(0, 0, 9, Name::from_labels([&b"no host"[..], b"example"]).unwrap())),
        ],
        ("_matrix-fed._tcp.none.example.", RecordType::SRV) => vec![service(0, 0, 0, ".")],
        ("both.example.", _) => Vec::new(),
        _ => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
    };
    answer.add_answers(records.into_iter().map(|data| Record::from_rdata(question.name().clone(), 60, data)));
    Some(answer)
}

async fn addresses(resolver: &DnsResolver, host: &str) -> Vec<String> {
    resolver.addresses(host).await.unwrap().iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn addresses_come_by_turns() {
    let server = NameServer::start().await;
    let resolver = server.resolver(1).await;
    let found = addresses(&resolver, "both.example").await;
    assert_eq!(found, ["2001:db8::1", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    assert_eq!(addresses(&resolver, "many.example").await.len(), 16);
    assert_eq!(addresses(&resolver, "alias.example.").await, found, "aliases are followed");
}

#[tokio::test]
async fn answers_are_kept() {
    let server = NameServer::start().await;
    let resolver = server.resolver(1).await;
    addresses(&resolver, "both.example").await;
    let asked = server.asked();
    addresses(&resolver, "BOTH.example.").await;
    assert_eq!((asked, server.asked()), (2, 2));
}

#[tokio::test]
async fn no_answer_is_told_from_no_address() {
    let server = NameServer::start().await;
    let resolver = server.resolver(1).await;
    assert!(addresses(&resolver, "nobody.example").await.is_empty());
    assert_eq!(addresses(&resolver, "half.example").await, ["192.0.2.9"]);
    assert!(resolver.addresses("broken.example").await.is_err());
    assert!(server.resolver_within(1, 60).await.addresses("silent.example").await.is_err());
    assert!(resolver.services("_matrix-fed._tcp.broken.example").await.is_err());
}

#[tokio::test]
async fn services_are_ordered_and_absence_is_no_error() {
    let server = NameServer::start().await;
    let mut firsts = Vec::new();
    for seed in 0..12 {
        let found = server.resolver(seed).await.services("_matrix-fed._tcp.both.example").await.unwrap();
        let mut ports: Vec<_> = found.iter().map(|target| target.port).collect();
        firsts.push(ports[0]);
        ports[..2].sort_unstable();
        assert_eq!(ports, [1, 2, 3]);
        assert_eq!(found[2], SrvTarget { host: "last.example".to_owned(), port: 3 });
    }
    assert!(firsts.contains(&1) && firsts.contains(&2), "{firsts:?}");
    let resolver = server.resolver(1).await;
    for name in ["_matrix-fed._tcp.none.example", "_matrix-fed._tcp.nobody.example", "_matrix-fed._tcp.a b"] {
        assert_eq!(resolver.services(name).await.unwrap(), []);
    }
}

#[tokio::test]
async fn names_are_absolute_and_nothing_else_is_asked_for() {
    let server = NameServer::start().await;
    let resolver = server.resolver(1).await;
    assert_eq!(addresses(&resolver, "2001:db8::7").await, ["2001:db8::7"]);
    assert_eq!(addresses(&resolver, "192.0.2.7").await, ["192.0.2.7"]);
    let long = "a.".repeat(200);
    for host in ["", ".", "a..b", "a b", "a/b", "a\\046b", "ä.example", "x\0.example", &"a".repeat(64), &long] {
        assert!(addresses(&resolver, host).await.is_empty(), "{host}");
    }
    let mut local = addresses(&resolver, "localhost").await;
    local.sort();
    assert_eq!(local, ["127.0.0.1", "::1"]);
    assert_eq!(server.asked(), 0);
    addresses(&resolver, "single").await;
    assert_eq!(*server.asked.lock(), [("single.".to_owned(), RecordType::AAAA), ("single.".to_owned(), RecordType::A)]);
}

#[tokio::test]
async fn the_systems_configuration_can_be_read() {
    let entropy = Arc::new(SeededEntropy::new(1));
    assert!(DnsResolver::open(DnsSettings::default(), entropy).await.is_ok());
}
