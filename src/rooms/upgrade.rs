//! Upgrading a room: a new one takes its place.
//! [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades).
//!
//! The new room comes first, then the tombstone, then what is only convenience: aliases, directory, the old room's
//! levels. A crash between leaves two rooms and nothing wrong. Before version 12 the new room names the tombstone, so
//! the old room stands still meanwhile and the tombstone that was named is the one that is committed.

use hearth_core::{Draft, RoomVersion};
use hearth_store::{LoadError, RoomNumber, tables::Membership};
use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde_json::{Map, Value, json};

use crate::{
    AliasError, SendError,
    append::{Accepted, Group},
    cache::RoomCache,
    create::{CreateError, FirstEvent, NewRoom, Predecessor},
    request::{Intent, Proposal},
    rooms::Rooms,
    state::StateIntent,
};

/// State that goes with the room. Levels, aliases and bans go too, each in its own way.
const TRANSFERRED: [&str; 8] = [
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
];

/// Bans that are copied; a room with more has its moderation in a policy list.
const BANS_MAX: usize = 1_000;

/// Members that are looked at to find the banned ones.
const MEMBERS_LOOKED_AT_MAX: usize = 100_000;

/// A room to be upgraded.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who upgrades it.
    pub user: OwnedUserId,
    /// The user's profile: fields of their member event in the new room.
    pub profile: Map<String, Value>,
    /// The new version.
    pub version: String,
    /// Further creators of the new room, where its version knows them; else ignored.
    pub additional_creators: Vec<OwnedUserId>,
}

/// Why a room was not upgraded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpgradeError {
    /// This server does not speak the version (`M_UNSUPPORTED_ROOM_VERSION`).
    #[error("this room version is not supported")]
    UnsupportedVersion,
    /// There is no such room here (`M_NOT_FOUND`).
    #[error("no such room")]
    NotFound,
    /// The room was not closed: it refuses the tombstone.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The new room was not made.
    #[error(transparent)]
    Create(#[from] CreateError),
}

impl From<LoadError> for UpgradeError {
    fn from(error: LoadError) -> Self {
        Self::Send(error.into())
    }
}

/// What of the old room the new one is made from.
struct Old {
    create: Map<String, Value>,
    power_levels: Map<String, Value>,
    canonical_alias: Option<Map<String, Value>>,
    transferred: Vec<FirstEvent>,
    bans: Vec<FirstEvent>,
}

impl Rooms {
    /// Upgrades a room; the answer is the new room's id.
    pub async fn upgrade(&self, upgrade: Upgrade) -> Result<OwnedRoomId, UpgradeError> {
        let version = RoomVersion::parse(&upgrade.version).ok_or(UpgradeError::UnsupportedVersion)?;
        let room = self.writer.store.room_number(&upgrade.room_id).await?.ok_or(UpgradeError::NotFound)?;
        let (new_room, old) = self.replace(&upgrade, room, version).await?;
        // From here on the upgrade has happened; what fails is missing, not wrong.
        self.move_aliases(&upgrade.user, room, &new_room, old.canonical_alias).await;
        if let Err(error) = self.put_published(room, false).await {
            tracing::info!(%error, room = room.0, "an upgraded room stays in the directory");
        }
        if let Err(error) = self.restrict(room, &upgrade.user, old.power_levels).await {
            tracing::info!(%error, room = room.0, "the levels of an upgraded room stay as they were");
        }
        Ok(new_room)
    }

    /// What an upgrade through this server does with our aliases and our directory, done for one that happened elsewhere:
    /// a user of ours has come into the new room. Only if the old room itself says that this is the one in its place.
    pub async fn follow_upgrade(&self, old: &RoomId, new: &RoomId) -> Result<(), AliasError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(old).await? else { return Ok(()) };
        let Some(new_room) = store.room_number(new).await? else { return Ok(()) };
        let tombstone = store.current_state_event(room, "m.room.tombstone", "").await?;
        let Some(tombstone) = tombstone else { return Ok(()) };
        let content: Value = tombstone.event.content_as().unwrap_or_default();
        if content["replacement_room"].as_str() != Some(new.as_str()) {
            return Ok(());
        }
        self.writer.move_aliases(room, new).await?;
        if self.is_published(old).await? {
            self.put_published(new_room, true).await?;
            self.put_published(room, false).await?;
        }
        Ok(())
    }

    /// The room that this one took the place of, for what is carried over when somebody joins.
    pub async fn predecessor(&self, room_id: &RoomId) -> Result<Option<OwnedRoomId>, LoadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(None) };
        let Some(create) = store.current_state_event(room, "m.room.create", "").await? else { return Ok(None) };
        let content: Value = create.event.content_as().unwrap_or_default();
        Ok(content["predecessor"]["room_id"].as_str().and_then(|id| OwnedRoomId::try_from(id).ok()))
    }

    /// Makes the new room and closes the old one, which stands still meanwhile.
    async fn replace(
        &self,
        upgrade: &Upgrade,
        room: RoomNumber,
        version: RoomVersion,
    ) -> Result<(OwnedRoomId, Old), UpgradeError> {
        let active = self.writer.active(room);
        let mut slot = active.cache.lock().await;
        let cache = self.writer.load(&mut slot, room).await?;
        if cache.membership(&self.writer.store, &upgrade.user).await? != Some(Membership::Join) {
            return Err(SendError::forbidden("you are not in this room").into());
        }
        let room_id = self.choose_room_id(version);
        // Where the new id is not known yet, this only asks whether a tombstone would be let in.
        let named = room_id.as_deref().unwrap_or(&upgrade.room_id);
        let tombstone = self.tombstone(cache, upgrade, named).await?;
        // A tombstone that a policy server has to sign first is made once the new room is there.
        let is_policed = self.writer.policy(cache).await?.is_some();
        let is_known = room_id.is_some() && !is_policed;
        let event_id = is_known.then(|| tombstone.event.event_id().to_owned());
        let predecessor = Predecessor { room_id: upgrade.room_id.clone(), event_id };
        let old = self.load_old(cache).await?;
        let new = self.replacement(upgrade, &old, version, room_id.clone(), &predecessor, room).await?;
        let new_room = self.writer.create(new).await?;
        let tombstone = match room_id {
            Some(_) => tombstone,
            None => self.tombstone(cache, upgrade, &new_room).await?,
        };
        let mut group = Group::new(&self.writer, cache);
        let appended = if is_policed { Ok(None) } else { group.append(cache, tombstone).await.map(Some) };
        let committed = match appended {
            Ok(None) => Err(SendError::Conflict),
            Ok(Some(_)) => self.writer.commit_group(cache, group).await.map_err(SendError::from),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = committed {
            *slot = None;
            drop(slot);
            // Another writer was faster, or the room's policy server has to be asked: close the room as it is now. In the
            // first case the new room names an event that is none.
            let SendError::Conflict = error else { return Err(error.into()) };
            let intent = StateIntent {
                sender: upgrade.user.clone(),
                kind: "m.room.tombstone".to_owned(),
                state_key: String::new(),
                content: tombstone_content(&new_room),
                ts_ms: None,
            };
            self.submit(room, Intent::State(intent), None).await?;
        }
        Ok((new_room, old))
    }

    async fn tombstone(
        &self,
        cache: &mut RoomCache,
        upgrade: &Upgrade,
        new_room: &RoomId,
    ) -> Result<Accepted, SendError> {
        let draft = Draft {
            kind: "m.room.tombstone".to_owned(),
            state_key: Some(String::new()),
            content: tombstone_content(new_room),
            sender: upgrade.user.clone(),
            redacts: None,
            origin_server_ts_ms: self.writer.clock.now_ms(),
        };
        self.writer.accept(cache, Proposal::from(draft), None).await
    }

    async fn load_old(&self, cache: &mut RoomCache) -> Result<Old, LoadError> {
        let store = &self.writer.store;
        let mut contents = Vec::new();
        for kind in TRANSFERRED.into_iter().chain(["m.room.create", "m.room.power_levels", "m.room.canonical_alias"]) {
            let event = cache.state(store, kind, "").await?;
            contents.push((kind, event.and_then(|event| event.content_as::<Map<String, Value>>().ok())));
        }
        let mut take = |wanted: &str| contents.iter_mut().find(|(kind, _)| *kind == wanted).and_then(|(_, c)| c.take());
        let create = take("m.room.create").unwrap_or_default();
        let power_levels = take("m.room.power_levels").unwrap_or_default();
        let canonical_alias = take("m.room.canonical_alias").filter(|content| !content.is_empty());
        let transferred = contents.into_iter().filter_map(|(kind, content)| {
            Some(FirstEvent { kind: kind.to_owned(), state_key: String::new(), content: content? })
        });
        let transferred = transferred.collect();
        let bans = self.load_bans(cache.number).await?;
        Ok(Old { create, power_levels, canonical_alias, transferred, bans })
    }

    async fn load_bans(&self, room: RoomNumber) -> Result<Vec<FirstEvent>, LoadError> {
        let store = &self.writer.store;
        let members = store.current_members(room, None, MEMBERS_LOOKED_AT_MAX).await?;
        let banned = members.into_iter().filter(|(_, row)| row.membership == Some(Membership::Ban));
        let banned: Vec<_> = banned.filter_map(|(user, row)| Some((user, row.event?))).take(BANS_MAX).collect();
        let numbers: Vec<_> = banned.iter().map(|(_, number)| *number).collect();
        let events = store.events(room, &numbers).await?;
        let bans = banned.into_iter().zip(events).filter_map(|((user, _), event)| {
            let content = event?.event.content_as().ok()?;
            Some(FirstEvent { kind: "m.room.member".to_owned(), state_key: user, content })
        });
        Ok(bans.collect())
    }

    async fn replacement(
        &self,
        upgrade: &Upgrade,
        old: &Old,
        version: RoomVersion,
        room_id: Option<OwnedRoomId>,
        predecessor: &Predecessor,
        room: RoomNumber,
    ) -> Result<NewRoom, LoadError> {
        let mut join = upgrade.profile.clone();
        join.insert("membership".to_owned(), "join".into());
        let levels = NewLevels::of(&old.power_levels, upgrade, version);
        let mut events = vec![
            FirstEvent { kind: "m.room.member".to_owned(), state_key: upgrade.user.to_string(), content: join },
            FirstEvent::new("m.room.power_levels", "", Value::Object(levels.first.clone())),
        ];
        events.extend(old.transferred.iter().cloned());
        events.extend(old.bans.iter().filter(|ban| ban.state_key != upgrade.user.as_str()).cloned());
        events.extend(levels.last.map(|last| FirstEvent::new("m.room.power_levels", "", Value::Object(last))));
        let key = hearth_store::tables::published_key(hearth_store::tables::PUBLIC_LIST, room);
        let is_published = self.writer.store.get_bytes(hearth_ports::Table::Rm, &key).await?.is_some();
        let create = new_create(&old.create, upgrade, version, predecessor);
        Ok(NewRoom { version, room_id, creator: upgrade.user.clone(), create, events, alias: None, is_published })
    }

    /// Moves this server's aliases, and the canonical alias where the user may.
    async fn move_aliases(
        &self,
        user: &OwnedUserId,
        room: RoomNumber,
        new_room: &RoomId,
        canonical: Option<Map<String, Value>>,
    ) {
        let moved = self.writer.move_aliases(room, new_room).await;
        if let Err(error) = moved {
            tracing::warn!(%error, room = room.0, "aliases of an upgraded room stay where they were");
            return;
        }
        let Some(canonical) = canonical else { return };
        let Ok(Some(new_number)) = self.writer.store.room_number(new_room).await else { return };
        for (room, content) in [(room, &Map::new()), (new_number, &canonical)] {
            if let Err(error) = self.set_canonical(room, user.clone(), content).await {
                tracing::info!(%error, room = room.0, "the canonical alias of an upgraded room did not move");
            }
        }
    }

    /// "Modify the power levels in the old room to prevent sending of events and inviting new users: `events_default`
    /// and `invite` to the greater of `50` and `users_default + 1`."
    async fn restrict(
        &self,
        room: RoomNumber,
        user: &OwnedUserId,
        mut levels: Map<String, Value>,
    ) -> Result<(), SendError> {
        let number = |levels: &Map<String, Value>, key: &str| levels.get(key).and_then(Value::as_i64).unwrap_or(0);
        let least = number(&levels, "users_default").saturating_add(1).max(50);
        let mut changed = false;
        for key in ["events_default", "invite"] {
            if number(&levels, key) < least {
                levels.insert(key.to_owned(), least.into());
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let intent = StateIntent {
            sender: user.clone(),
            kind: "m.room.power_levels".to_owned(),
            state_key: String::new(),
            content: serde_json::value::to_raw_value(&levels).expect("a map of values is JSON"),
            ts_ms: None,
        };
        self.submit(room, Intent::State(intent), None).await.map(drop)
    }
}

fn tombstone_content(new_room: &RoomId) -> Box<serde_json::value::RawValue> {
    let content = json!({ "body": "This room has been replaced", "replacement_room": new_room });
    serde_json::value::to_raw_value(&content).expect("a value is JSON")
}

/// "A `type` field which is copied from the predecessor room"; additional creators are not.
fn new_create(
    old: &Map<String, Value>,
    upgrade: &Upgrade,
    version: RoomVersion,
    predecessor: &Predecessor,
) -> Map<String, Value> {
    let rules = &version.rules().authorization;
    let mut content = old.clone();
    content.retain(|key, _| !matches!(key.as_str(), "creator" | "additional_creators" | "predecessor"));
    content.insert("room_version".to_owned(), version.as_str().into());
    if !rules.use_room_create_sender {
        content.insert("creator".to_owned(), upgrade.user.to_string().into());
    }
    if rules.additional_room_creators && !upgrade.additional_creators.is_empty() {
        content.insert("additional_creators".to_owned(), json!(upgrade.additional_creators));
    }
    let mut old = json!({ "room_id": predecessor.room_id });
    if let Some(event_id) = &predecessor.event_id {
        old["event_id"] = event_id.as_str().into();
    }
    content.insert("predecessor".to_owned(), old);
    content
}

/// The new room's power levels.
struct NewLevels {
    /// With which the user can set the room up.
    first: Map<String, Value>,
    /// Those of the old room, where the first ones differ.
    last: Option<Map<String, Value>>,
}

impl NewLevels {
    fn of(old: &Map<String, Value>, upgrade: &Upgrade, version: RoomVersion) -> Self {
        let mut levels = old.clone();
        if version.rules().authorization.explicitly_privilege_room_creators {
            // Creators stand outside `users`, and may do all without a level.
            if let Some(Value::Object(users)) = levels.get_mut("users") {
                users.remove(upgrade.user.as_str());
                upgrade.additional_creators.iter().for_each(|user| drop(users.remove(user.as_str())));
            }
            raise_tombstone(&mut levels);
            return Self { first: levels, last: None };
        }
        let users = levels.get("users").and_then(Value::as_object);
        let own = users.and_then(|users| users.get(upgrade.user.as_str())).and_then(Value::as_i64);
        let default = levels.get("users_default").and_then(Value::as_i64).unwrap_or(0);
        let needed = highest_needed(&levels);
        if own.unwrap_or(default) >= needed {
            return Self { first: levels, last: None };
        }
        let mut first = levels.clone();
        let users = first.entry("users").or_insert_with(|| json!({}));
        if let Value::Object(users) = users {
            users.insert(upgrade.user.to_string(), needed.into());
        }
        Self { first, last: Some(levels) }
    }
}

/// The level that is needed to set up a room with these levels, and to give them.
fn highest_needed(levels: &Map<String, Value>) -> i64 {
    let events = levels.get("events").and_then(Value::as_object).into_iter().flatten();
    let single = ["state_default", "ban"].into_iter().map(|key| levels.get(key).and_then(Value::as_i64).unwrap_or(50));
    let users = levels.get("users").and_then(Value::as_object).into_iter().flatten();
    let of_maps = events.chain(users).filter_map(|(_, level)| level.as_i64());
    of_maps.chain(single).max().unwrap_or(100)
}

/// From version 12 on: "The power level for sending m.room.tombstone events MUST explicitly be higher than
/// `state_default`."
fn raise_tombstone(levels: &mut Map<String, Value>) {
    let least = levels.get("state_default").and_then(Value::as_i64).unwrap_or(50).saturating_add(1).max(150);
    let events = levels.entry("events").or_insert_with(|| json!({}));
    let Value::Object(events) = events else { return };
    let given = events.get("m.room.tombstone").and_then(Value::as_i64).unwrap_or(0);
    if given < least {
        events.insert("m.room.tombstone".to_owned(), least.into());
    }
}
