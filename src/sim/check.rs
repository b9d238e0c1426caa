//! What must be true when all is over.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use hearth_ports::Engine;
use hearth_store::{
    LogEntry, Positions, RoomNumber, Store, StoreSettings,
    fsck::fsck,
    tables::{EventFlags, Membership},
};
use ruma::{RoomId, events::room::member::MembershipState};
use serde_json::Value;

use crate::{
    follow::quote,
    node::Node,
    plan::Lies,
    trace::note,
    world::{Person, World},
};

/// Pages of a store's log, each of so many entries.
const LOG_PAGE: usize = 1_000;

/// A room's state: the event of each kind and key.
type State = BTreeMap<(String, String), String>;

/// Asks everything; what is wrong becomes a fault of the trace.
pub(crate) async fn check(world: &World) {
    if world.plan.lies != Lies::OfState {
        for text in differing(world).await {
            world.trace.fault(text);
        }
    }
    check_forbidden(world);
    for node in &world.nodes {
        let engine: Arc<dyn Engine> = node.kept.clone();
        let store = Store::open(engine, StoreSettings::default()).await.unwrap();
        let report = fsck(&store, |_| {}).await.unwrap();
        if !report.is_clean() {
            world.trace.fault(format!("the store of {}: {report}", node.index));
        }
        let log = read_log(&store).await;
        for person in world.people_of(node.index) {
            check_seen(world, person, &store, &log).await;
        }
    }
}

/// A room as one person is told it.
struct View {
    person: String,
    node: usize,
    state: State,
    /// Who is joined, and by which event.
    joins: BTreeMap<String, String>,
}

/// Rooms as honest people in them are told them, and in words what nobody could be told.
async fn read_views(world: &World) -> (HashMap<String, Vec<View>>, Vec<String>) {
    let mut views: HashMap<String, Vec<View>> = HashMap::new();
    let mut unread = Vec::new();
    for person in world.people.iter().filter(|person| world.is_honest(person.node.index)) {
        for room in joined_rooms(person).await {
            let path = format!("rooms/{}/state", quote(&room));
            match person.read(&path).await {
                Some(state) => views.entry(room).or_default().push(read_view(person, &state)),
                // Its members may yet be on their way.
                None => unread.push(format!("{} may not read {room}", person.id)),
            }
        }
    }
    (views, unread)
}

/// The people of each room of whom nobody in it doubts that they are, too.
pub(crate) async fn undoubted(world: &World) -> HashMap<String, BTreeSet<String>> {
    let (views, _) = read_views(world).await;
    let of_all = |views: Vec<View>| {
        let joined = views.into_iter().map(|view| view.joins.into_keys().collect::<BTreeSet<_>>());
        joined.reduce(|one, other| &one & &other).unwrap_or_default()
    };
    views.into_iter().map(|(room, views)| (room, of_all(views))).collect()
}

/// Rooms of which servers that have somebody in them do not agree, in words.
pub(crate) async fn differing(world: &World) -> Vec<String> {
    let rooms = world.model.lock().rooms.clone();
    let (views, mut found) = read_views(world).await;
    for (room, view) in views.iter().flat_map(|(room, views)| views.iter().map(move |view| (room, view))) {
        let is_forbidden = |event: &str| world.network.liar().is_some_and(|liar| liar.is_forbidden(event));
        for (pair, event) in view.state.iter().filter(|(_, event)| is_forbidden(event)) {
            world.trace.fault(format!("{} has a lie in the state of {room}: {pair:?} {event}", view.person));
        }
    }
    for room in rooms {
        let views = views.get(&room.id).map(Vec::as_slice).unwrap_or_default();
        let pairs =
            views.iter().enumerate().flat_map(|(nth, one)| views[nth + 1..].iter().map(move |other| (one, other)));
        for (one, other) in pairs.filter(|(one, other)| one.state != other.state) {
            if has_refused(world, &room.id, one, other).await || has_refused(world, &room.id, other, one).await {
                continue;
            }
            found.push(difference(&room.id, room.version, one, other));
            break;
        }
    }
    found
}

/// Whether another server is out of the room in the eyes of this one, which has refused, when it heard of them, all the
/// joins by which the other takes itself to be in; or, where a join was undone after it had been taken, all that the other
/// has said last.
///
/// Then the two need not agree, and nothing in the protocol would make them: what soft-fails is cited by nobody, so that
/// the branches do not meet, and who is in nobody's state is told nothing but what put it out. It may have spoken at that
/// very moment: then it stands on its own branch, too, and in room version 12 that one's join outlives the other's rules.
/// [Soft failure](https://spec.matrix.org/v1.19/server-server-api/#soft-failure).
async fn has_refused(world: &World, room: &str, one: &View, other: &View) -> bool {
    let engine: Arc<dyn Engine> = world.nodes[one.node].kept.clone();
    let store = Store::open(engine, StoreSettings::default()).await.unwrap();
    let number = store.room_number(&RoomId::parse(room).unwrap()).await.unwrap().unwrap();
    let name = format!(":{}", world.nodes[other.node].name);
    let joins_in = |view: &View| -> Vec<String> {
        let of_other = view.joins.iter().filter(|(user, _)| user.ends_with(&name));
        of_other.map(|(_, event)| event.clone()).collect()
    };
    // Whom this one's state has in the room, be it by another event, it tells what happens.
    let joins = joins_in(other);
    if joins.is_empty() || !joins_in(one).is_empty() {
        return false;
    }
    let mut all_refused = true;
    for join in &joins {
        all_refused &= is_refused(&store, number, join).await;
    }
    if !all_refused && !is_unheard(&store, number, &world.nodes[other.node]).await {
        return false;
    }
    note!(world.trace, "{} is out of {room} in the eyes of {}, and cannot know", other.node, one.node);
    true
}

async fn is_refused(store: &Store, room: RoomNumber, event_id: &str) -> bool {
    let stored = store.event_by_id(room, &ruma::EventId::parse(event_id).unwrap()).await.unwrap();
    let refused = EventFlags::SOFT_FAILED.with(EventFlags::REJECTED).0;
    stored.is_some_and(|stored| stored.header.flags.0 & refused != 0)
}

/// Whether all ends of a server's graph that are its own users' are refused in this store, and there are any.
async fn is_unheard(store: &Store, room: RoomNumber, node: &Node) -> bool {
    let engine: Arc<dyn Engine> = node.kept.clone();
    let there = Store::open(engine, StoreSettings::default()).await.unwrap();
    let mut own = 0;
    for extremity in there.head(room).await.unwrap().into_iter().flat_map(|head| head.extremities) {
        let stored = there.event(room, extremity.event).await.unwrap().unwrap();
        if stored.event.sender().server_name().as_str() != node.name {
            continue;
        }
        own += 1;
        if !is_refused(store, room, &extremity.event_id).await {
            return false;
        }
    }
    own > 0
}

async fn joined_rooms(person: &Person) -> BTreeSet<String> {
    let answer = person.read("joined_rooms").await.unwrap();
    let rooms = answer["joined_rooms"].as_array().into_iter().flatten();
    rooms.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Nobody honest was shown what may not be.
fn check_forbidden(world: &World) {
    let Some(liar) = world.network.liar() else { return };
    for person in world.people.iter().filter(|person| world.is_honest(person.node.index)) {
        let seen = person.seen.lock();
        for (room, events) in &seen.rooms {
            for event in events.iter().filter(|event| liar.is_forbidden(event)) {
                world.trace.fault(format!("{} was shown a lie in {room}: {event}", person.id));
            }
        }
    }
}

fn read_view(person: &Person, state: &Value) -> View {
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    let events = state.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_join = |event: &&Value| event["type"] == "m.room.member" && event["content"]["membership"] == "join";
    View {
        person: person.id.clone(),
        node: person.node.index,
        state: events
            .iter()
            .map(|event| ((text(event, "type"), text(event, "state_key")), text(event, "event_id")))
            .collect(),
        joins: events.iter().filter(is_join).map(|event| (text(event, "state_key"), text(event, "event_id"))).collect(),
    }
}

fn difference(room: &str, version: u8, one: &View, other: &View) -> String {
    let mut text = format!("{} and {} do not agree on {room} (version {version}):", one.person, other.person);
    let keys: BTreeSet<_> = one.state.keys().chain(other.state.keys()).collect();
    for key in keys {
        let (here, there) = (one.state.get(key), other.state.get(key));
        if here != there {
            write!(text, "\n  {key:?}: {here:?}, {there:?}").unwrap();
        }
    }
    text
}

/// An event as the log of a store tells it.
struct Told {
    event: Option<String>,
    /// What it is, and by whom.
    what: String,
    /// A member's new membership: user number.
    member: Option<(u64, Membership)>,
    /// It replaces a membership by which its user was in the room.
    continues: bool,
}

impl Told {
    /// Whether it is a user's event about themselves, or another of theirs about a member.
    fn is_own_member(&self, user: &str) -> bool {
        self.what.starts_with(&format!("m.room.member of {user},"))
    }

    /// A line for somebody who looks for what went wrong.
    fn describe(&self, user: u64, seen: &[String]) -> String {
        let member = self
            .member
            .map(|(member, membership)| format!(" {}{membership:?}", if member == user { "own: " } else { "" }));
        let times = seen.iter().filter(|seen| Some(*seen) == self.event.as_ref()).count();
        format!("  {times} x {:?} {}{}", self.event, self.what, member.unwrap_or_default())
    }
}

/// The events of each room in the log's order.
async fn read_log(store: &Store) -> BTreeMap<RoomNumber, Vec<Told>> {
    let mut rooms: BTreeMap<RoomNumber, Vec<Told>> = BTreeMap::new();
    let mut after = Positions::START;
    loop {
        let page = store.read_log(&after, LOG_PAGE).await.unwrap();
        for (_, _, entry) in page.entries {
            let LogEntry::Event(note) = entry else { continue };
            let stored = match note.event {
                Some(number) => store.event(note.room, number).await.unwrap(),
                None => None,
            };
            let event = stored.as_ref().map(|stored| stored.event.event_id().to_string());
            let replaced = match stored.as_ref().and_then(|stored| stored.header.replaces) {
                Some(number) => store.event(note.room, number).await.unwrap(),
                None => None,
            };
            let continues = replaced.is_some_and(|replaced| replaced.event.membership() == Some(MembershipState::Join));
            let what = stored.map_or("state changes".to_owned(), |stored| {
                format!("{} of {}, depth {}", stored.event.kind(), stored.event.sender(), stored.event.depth())
            });
            let member = note.member.map(|member| (member.user.0, member.membership));
            rooms.entry(note.room).or_default().push(Told { event, what, member, continues });
        }
        if page.next == after {
            return rooms;
        }
        after = page.next;
    }
}

/// Whether somebody saw each event that there was to be seen, once, and in the log's order.
async fn check_seen(world: &World, person: &Person, store: &Store, log: &BTreeMap<RoomNumber, Vec<Told>>) {
    let user = ruma::UserId::parse(&person.id).unwrap();
    let user = store.user_number(&user).await.unwrap().unwrap().0;
    let joined = joined_rooms(person).await;
    if joined != person.seen.lock().joined {
        let believed = person.seen.lock().joined.clone();
        world.trace.fault(format!("{} is in {joined:?}, but was told {believed:?}", person.id));
    }
    let (seen, anew) = {
        let seen = person.seen.lock();
        (seen.rooms.clone(), seen.anew.clone())
    };
    let rooms = world.model.lock().rooms.clone();
    for room in &rooms {
        let id = RoomId::parse(&room.id).unwrap();
        let Some(number) = store.room_number(&id).await.unwrap() else { continue };
        let told = log.get(&number).map(Vec::as_slice).unwrap_or_default();
        let seen = seen.get(&room.id).map(Vec::as_slice).unwrap_or_default();
        let anew = anew.get(&room.id).cloned().unwrap_or_default();
        if let Err(problem) = compare((user, &person.id), told, (seen, &anew), joined.contains(&room.id)) {
            let list = told.iter().map(|told| told.describe(user, seen)).collect::<Vec<_>>().join("\n");
            world
                .trace
                .fault(format!("{} in {}: {problem}; the log of {}:\n{list}", person.id, room.id, person.node.index));
        }
    }
}

/// `seen`: what somebody was shown, and at which places of that they came in anew.
fn compare(
    (user, id): (u64, &str),
    told: &[Told],
    (seen, anew): (&[String], &BTreeSet<usize>),
    is_joined_now: bool,
) -> Result<(), String> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, told) in told.iter().enumerate() {
        if let Some(event) = &told.event
            && places.insert(event, place).is_some()
        {
            return Err(format!("{event} is in the log twice"));
        }
    }
    let own = |told: &Told| told.member.filter(|(member, _)| *member == user).map(|(_, membership)| membership);
    let mut once = BTreeSet::new();
    let mut last = None;
    for (nth, event) in seen.iter().enumerate() {
        if anew.contains(&nth) {
            last = None;
        }
        let place = places.get(event.as_str()).copied();
        if !once.insert(event.as_str()) {
            // Where branches meet a membership may lose and win again: then it is told again. So is an invite's end that
            // another server took, when it comes as an event of the room.
            match place.filter(|place| own(&told[*place]).is_some() || told[*place].is_own_member(id)) {
                Some(_) => continue,
                None => return Err(format!("{event} was seen twice")),
            }
        }
        if place.is_some() && place < last {
            return Err(format!("{event} was seen after a later one"));
        }
        last = place.or(last);
    }
    let mut is_joined = false;
    let (mut gap, mut fault) = (None, None);
    for told in told {
        let membership = own(told);
        let is_join = membership == Some(Membership::Join);
        let is_anew = matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Knock));
        if is_anew && !(told.continues && is_joined) {
            // What lies before was after a membership that lost where branches met: there is no event of that. Of what
            // came then some may be shown, as it stands just before they came in again. In a room of version 1 what put
            // them out may lose in its turn, before their server comes back: then what brings them in continues a stay that
            // was over for them.
            (gap, fault) = (None, None);
        }
        if (is_joined || is_join)
            && let Some(event) = &told.event
        {
            if once.contains(event.as_str()) {
                fault = fault.or(gap);
            } else {
                gap = gap.or(Some(event));
            }
        }
        if membership.is_some() {
            is_joined = is_join;
        }
    }
    match fault.or(gap.filter(|_| is_joined_now)) {
        Some(gap) => Err(format!("{gap} was not seen")),
        None => Ok(()),
    }
}
