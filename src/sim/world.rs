//! The world of one run: servers, their people, the network.

use std::{sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use crate::{follow::Seen, liar::Liar, model::Model, network::Network, node::Node, plan::Plan, trace::Trace};

/// How often a person tries again whose request was not answered.
const ATTEMPTS_MAX: usize = 6;

/// Everything there is.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) trace: Trace,
    pub(crate) network: Arc<Network>,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) people: Vec<Person>,
    pub(crate) model: Mutex<Model>,
    /// Whether people stop following their rooms.
    pub(crate) is_over: watch::Sender<bool>,
}

/// Somebody with one device.
pub(crate) struct Person {
    pub(crate) index: usize,
    pub(crate) node: Arc<Node>,
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) seen: Mutex<Seen>,
}

impl World {
    /// Servers start, people register.
    pub(crate) async fn new(plan: Plan, trace: Trace) -> Arc<Self> {
        let liar = Liar::of(&plan, trace.clone());
        let network = Network::new(&plan, trace.clone(), liar);
        let mut nodes = Vec::new();
        for index in 0..plan.servers {
            let node = Arc::new(Node::new(index, &plan, trace.clone(), Arc::clone(&network)));
            node.start().await;
            nodes.push(node);
        }
        // Servers know each other's keys from before. One that is met while its server is out of reach is not believed,
        // and what it said then is missing in the state for good: that is so in this protocol.
        for node in &nodes {
            for other in nodes.iter().filter(|other| other.index != node.index) {
                node.meet(&other.name).await;
            }
        }
        network.begin(&plan);
        let mut people = Vec::new();
        for user in 0..plan.users {
            for node in &nodes {
                people.push(Person::register(people.len(), node, &format!("u{user}")).await);
            }
        }
        let (is_over, _) = watch::channel(false);
        Arc::new(Self { plan, trace, network, nodes, people, model: Mutex::default(), is_over })
    }

    /// Whether a server never lies.
    pub(crate) fn is_honest(&self, node: usize) -> bool {
        self.network.liar().is_none_or(|liar| !liar.is(node))
    }

    /// People of a server.
    pub(crate) fn people_of(&self, node: usize) -> impl Iterator<Item = &Person> {
        self.people.iter().filter(move |person| person.node.index == node)
    }
}

impl Person {
    async fn register(index: usize, node: &Arc<Node>, name: &str) -> Self {
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        let (status, answer) = node.ask(Method::POST, "register", "", &body).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let token = answer["access_token"].as_str().unwrap().to_owned();
        let id = format!("@{name}:{}", node.name);
        Self { index, node: Arc::clone(node), id, token, seen: Mutex::default() }
    }

    /// Asks once; `None`: no answer came.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        self.node.ask(method, path, &self.token, body).await
    }

    /// Asks until an answer comes, as clients do: what is asked has a transaction id, or may be asked twice.
    pub(crate) async fn insist(&self, method: Method, path: &str, body: &Value) -> Option<(u16, Value)> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(answer) = self.ask(method.clone(), path, body).await {
                return Some(answer);
            }
            sleep(Duration::from_secs(5)).await;
        }
        None
    }

    /// What a read says that must succeed, if the server has power.
    pub(crate) async fn read(&self, path: &str) -> Option<Value> {
        let (status, answer) = self.ask(Method::GET, path, &Value::Null).await?;
        (status == 200).then_some(answer)
    }
}
