//! The user directory of whole servers.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod network;

use std::{sync::Arc, time::Duration};

use hearth_ports::mem::MemEngine;
use hearth_search::PeopleSettings;
use hearth_server::Server;
use hearth_store::{
    KeyRange, Page, Store, StoreSettings, Table, Write,
    tables::{Circle, ListedRow, listed_key, persons_prefix, words_prefix},
};
use network::{Network, ask, log_in};
use ruma::RoomId;
use serde_json::{Value, json};

const ON: PeopleSettings = PeopleSettings { enabled: true, all_accounts: false };
const OFF: PeopleSettings = PeopleSettings { enabled: false, ..ON };

/// Somebody with an account.
struct Person<'a> {
    server: &'a Server,
    token: String,
    user_id: String,
}

impl<'a> Person<'a> {
    async fn new(server: &'a Server, name: &str, display_name: &str) -> Self {
        let token = log_in(server, name, "D").await;
        let user_id = format!("@{name}:{}", server.users().settings().server_name);
        let person = Self { server, token, user_id };
        person.rename(display_name).await;
        person
    }

    /// The same account at a later process.
    fn at<'b>(&self, server: &'b Server) -> Person<'b> {
        Person { server, token: self.token.clone(), user_id: self.user_id.clone() }
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        ask(self.server, method, path, &self.token, body).await
    }

    async fn rename(&self, display_name: &str) {
        let path = format!("profile/{}/displayname", self.user_id);
        self.ask("PUT", &path, json!({ "displayname": display_name })).await;
    }

    async fn create(&self, preset: &str, invited: &[&Person<'_>]) -> String {
        let invite: Vec<&str> = invited.iter().map(|person| person.user_id.as_str()).collect();
        let room = self.ask("POST", "createRoom", json!({ "preset": preset, "invite": invite })).await;
        let room = room["room_id"].as_str().unwrap().to_owned();
        for person in invited {
            person.join(&room, self).await;
        }
        room
    }

    async fn join(&self, room: &str, resident: &Person<'_>) {
        let via = resident.user_id.split_once(':').unwrap().1;
        self.ask("POST", &format!("join/{room}?via={via}"), json!({})).await;
    }

    async fn leave(&self, room: &str) {
        self.ask("POST", &format!("rooms/{room}/leave"), json!({})).await;
    }

    async fn set(&self, room: &str, kind: &str, content: Value) {
        self.ask("PUT", &format!("rooms/{room}/state/{kind}"), content).await;
    }

    async fn search(&self, body: Value) -> Value {
        // Time stands still: the reader of the log has done what there is to do.
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.ask("POST", "user_directory/search", body).await
    }

    /// Who is found, by user id, with the names they are shown by.
    async fn finds(&self, term: &str) -> Vec<(String, String)> {
        let answer = self.search(json!({ "search_term": term })).await;
        assert_eq!(answer["limited"], false, "{answer}");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pair = |found: &Value| (text(&found["user_id"]), text(&found["display_name"]));
        answer["results"].as_array().unwrap().iter().map(pair).collect()
    }

    async fn finds_nobody(&self, term: &str) {
        assert_eq!(self.finds(term).await, [], "{term}");
    }
}

fn named(person: &Person<'_>, name: &str) -> Vec<(String, String)> {
    vec![(person.user_id.clone(), name.to_owned())]
}

#[tokio::test(start_paused = true)]
async fn people_find_those_with_whom_they_share_a_room() {
    let network = Arc::new(Network::default());
    let server = network.start("a.example", 1, false).await;
    let alice = Person::new(&server, "alice", "Alice").await;
    let bob = Person::new(&server, "bobby.t", "Róbert  Tables").await;
    let carol = Person::new(&server, "carol", "Carol").await;
    let room = alice.create("private_chat", &[&bob]).await;

    let robert = || named(&bob, "Róbert  Tables");
    for term in ["rob", "ROBERT", "tables rób", "bobby", "t", "bobby.t", "@bob", "@bobby.t:a.exa"] {
        assert_eq!(alice.finds(term).await, robert(), "{term}");
    }
    for term in ["", "obert", "rob x", "@bobby.t:b", "robertx", "alice"] {
        alice.finds_nobody(term).await;
    }
    carol.finds_nobody("rob").await;

    // Whatever he is called in a room, he is found by his own name.
    let nick = json!({ "membership": "join", "displayname": "Secret Nick" });
    bob.set(&room, &format!("m.room.member/{}", bob.user_id), nick).await;
    alice.finds_nobody("nick").await;
    assert_eq!(alice.finds("rob").await, robert());

    bob.rename("Roberta").await;
    alice.finds_nobody("tables").await;
    assert_eq!(alice.finds("roberta").await, named(&bob, "Roberta"));

    bob.leave(&room).await;
    alice.finds_nobody("rob").await;
}

#[tokio::test(start_paused = true)]
async fn people_in_open_rooms_are_found_by_everybody() {
    let network = Arc::new(Network::default());
    let server = network.start("a.example", 1, false).await;
    let alice = Person::new(&server, "alice", "Alice").await;
    let bob = Person::new(&server, "bob", "Robert").await;
    let carol = Person::new(&server, "carol", "Carol").await;
    let room = alice.create("private_chat", &[&bob]).await;

    carol.finds_nobody("robert").await;
    let rule = async |rule: &str| alice.set(&room, "m.room.join_rules", json!({ "join_rule": rule })).await;
    let history = async |visibility: &str| {
        alice.set(&room, "m.room.history_visibility", json!({ "history_visibility": visibility })).await;
    };
    rule("public").await;
    assert_eq!(carol.finds("robert").await, named(&bob, "Robert"));
    assert_eq!(bob.finds("robert").await, named(&bob, "Robert"), "and by himself");
    history("world_readable").await;
    rule("invite").await;
    assert_eq!(carol.finds("robert").await, named(&bob, "Robert"));
    history("shared").await;
    carol.finds_nobody("robert").await;
    bob.finds_nobody("robert").await;
    assert_eq!(alice.finds("robert").await, named(&bob, "Robert"), "they still share a room");

    rule("public").await;
    let departure = server.users().deactivate(bob.user_id.as_str().try_into().unwrap(), false).await.unwrap();
    carol.finds_nobody("bob").await;
    alice.finds_nobody("bob").await;
    assert_eq!(departure.user_id, bob.user_id, "though he has not left the room yet");
}

#[tokio::test(start_paused = true)]
async fn a_search_costs_what_it_finds_however_many_are_in_the_room() {
    let network = Arc::new(Network::default());
    let engine = MemEngine::new();
    let server = network.start_over(engine.clone(), "a.example", (1, false), ON).await;
    let alice = Person::new(&server, "alice", "Alice").await;
    let zoe = Person::new(&server, "zoe", "Zoe Last").await;
    let rooms = [alice.create("private_chat", &[&zoe]).await, alice.create("public_chat", &[]).await];
    let reads = async || {
        assert_eq!(alice.finds("last zo").await, named(&zoe, "Zoe Last"));
        let before = engine.reads();
        alice.ask("POST", "user_directory/search", json!({ "search_term": "last zo" })).await;
        engine.reads() - before
    };
    let few = reads().await;
    for n in 0..30 {
        let person = Person::new(&server, &format!("m{n}"), &format!("Member {n}")).await;
        alice.ask("POST", &format!("rooms/{}/invite", rooms[0]), json!({ "user_id": person.user_id })).await;
        for room in &rooms {
            person.join(room, &alice).await;
        }
    }
    assert_eq!(reads().await, few, "reads of the engine");
    assert_eq!(alice.finds("member 29").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_let_everybody_find_everybody() {
    let network = Arc::new(Network::default());
    let settings = PeopleSettings { all_accounts: true, ..ON };
    let server = network.start_over(MemEngine::new(), "a.example", (1, false), settings).await;
    let alice = Person::new(&server, "alice", "Alice").await;
    for n in 0..12 {
        Person::new(&server, &format!("bob{n:02}"), &format!("Bob Number {n:02}")).await;
    }
    let page = alice.search(json!({ "search_term": "bob" })).await;
    assert_eq!((page["results"].as_array().unwrap().len(), &page["limited"]), (10, &json!(true)));
    let all = alice.search(json!({ "search_term": "number bob", "limit": 1_000 })).await;
    assert_eq!((all["results"].as_array().unwrap().len(), &all["limited"]), (12, &json!(false)));
    let one = alice.search(json!({ "search_term": "bob07", "limit": 0 })).await;
    let found = json!([{ "user_id": "@bob07:a.example", "display_name": "Bob Number 07" }]);
    assert_eq!(one, json!({ "results": found, "limited": false }));
}

#[tokio::test(start_paused = true)]
async fn people_of_other_servers_are_found_by_the_names_of_shared_rooms() {
    let network = Arc::new(Network::default());
    let (a, b) = (network.start("a.example", 1, true).await, network.start("b.example", 2, true).await);
    let alice = Person::new(&a, "alice", "Alice").await;
    let bob = Person::new(&a, "bob", "Bob").await;
    let dave = Person::new(&b, "dave", "Dave").await;
    let shared = alice.create("private_chat", &[&dave]).await;
    let other = bob.create("private_chat", &[&dave]).await;
    let nick = json!({ "membership": "join", "displayname": "Zaphod" });
    dave.set(&other, &format!("m.room.member/{}", dave.user_id), nick).await;

    assert_eq!(alice.finds("dav").await, named(&dave, "Dave"));
    assert_eq!(dave.finds("ali").await, named(&alice, "Alice"));
    alice.finds_nobody("zaphod").await;
    assert_eq!(bob.finds("zaph").await, named(&dave, "Zaphod"));
    bob.finds_nobody("@dave:a").await;
    assert_eq!(bob.finds("@dave:b.ex").await, named(&dave, "Zaphod"));

    dave.leave(&shared).await;
    alice.finds_nobody("dave").await;
    assert_eq!(bob.finds("dave").await, named(&dave, "Zaphod"), "from the other room nothing is lost");
    // Nobody of this server is left who could know better.
    let open = alice.create("public_chat", &[&dave]).await;
    assert_eq!(dave.finds("alice").await, named(&alice, "Alice"));
    dave.leave(&open).await;
    dave.finds_nobody("alice").await;
}

#[tokio::test(start_paused = true)]
async fn a_redacted_name_finds_nobody() {
    let network = Arc::new(Network::default());
    let (a, b) = (network.start("a.example", 1, true).await, network.start("b.example", 2, true).await);
    let alice = Person::new(&a, "alice", "Alice").await;
    let dave = Person::new(&b, "dave", "Abusive Name").await;
    let room = alice.create("private_chat", &[&dave]).await;
    assert_eq!(alice.finds("abusive").await, named(&dave, "Abusive Name"));
    let member = format!("rooms/{room}/state/m.room.member/{}?format=event", dave.user_id);
    let event = alice.ask("GET", &member, Value::Null).await["event_id"].as_str().unwrap().to_owned();
    alice.ask("PUT", &format!("rooms/{room}/redact/{event}/1"), json!({})).await;
    alice.finds_nobody("abusive").await;
    assert_eq!(alice.finds("dave").await, named(&dave, ""));
}

#[tokio::test(start_paused = true)]
async fn the_index_is_made_where_there_is_none_and_follows_what_happened_without_it() {
    let network = Arc::new(Network::default());
    let engine = MemEngine::new();
    let start = async |people| network.start_over(engine.clone(), "a.example", (1, false), people).await;
    let first = start(OFF).await;
    let alice = Person::new(&first, "alice", "Alice").await;
    let bob = Person::new(&first, "bob", "Robert").await;
    let room = alice.create("private_chat", &[&bob]).await;
    alice.finds_nobody("bob").await;

    let second = start(ON).await;
    assert_eq!(alice.at(&second).finds("bob").await, named(&bob, "Robert"));
    drop(second);

    let third = start(OFF).await;
    let dora = Person::new(&third, "dora", "Dora").await;
    alice.at(&third).create("private_chat", &[&dora]).await;
    bob.at(&third).leave(&room).await;
    let fourth = start(ON).await;
    alice.at(&fourth).finds_nobody("bob").await;
    assert_eq!(alice.at(&fourth).finds("dora").await, named(&dora, "Dora"));
}

#[tokio::test(start_paused = true)]
async fn a_room_that_was_being_listed_when_the_server_died_is_listed_again() {
    let network = Arc::new(Network::default());
    let engine = MemEngine::new();
    let start = async |people| network.start_over(engine.clone(), "a.example", (1, false), people).await;
    let first = start(ON).await;
    let alice = Person::new(&first, "alice", "Alice").await;
    let bob = Person::new(&first, "bob", "Robert").await;
    let room_id = alice.create("public_chat", &[&bob]).await;
    assert_eq!(alice.finds("robert").await, named(&bob, "Robert"));

    // As it is between two batches: some are listed, and the cursor is where it was before.
    let store = Store::open(engine.clone(), StoreSettings::default()).await.unwrap();
    let room = store.room_number(<&RoomId>::try_from(room_id.as_str()).unwrap()).await.unwrap().unwrap();
    let mut write = Write::new(room.partition());
    let range = KeyRange::prefix(persons_prefix(room));
    for row in store.scan_bytes(Table::Rm, range, Page::first(10)).await.unwrap() {
        write.delete(Table::Rm, row.key);
    }
    let range = KeyRange::prefix(words_prefix(Circle::Public, ""));
    for row in store.scan_bytes(Table::Rm, range, Page::first(100)).await.unwrap() {
        write.delete(Table::Rm, row.key);
    }
    write.put(Table::Rm, listed_key(room), &ListedRow { is_public: true, is_complete: false });
    store.commit(write).await.unwrap();
    drop(store);

    let second = start(ON).await;
    alice.at(&second).finds_nobody("robert").await;
    alice.at(&second).ask("PUT", &format!("rooms/{room_id}/send/m.room.message/1"), json!({ "body": "x" })).await;
    assert_eq!(alice.at(&second).finds("robert").await, named(&bob, "Robert"));
}
