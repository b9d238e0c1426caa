//! What the index has of people, made from what is stored of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use hearth_ports::{CommitError, Key, KeyRange, Page, Table, Unavailable};
use hearth_store::{
    EventNumber, LoadError, RoomNumber, StateVersion, Store, StoredEvent, UserNumber, Write, decode,
    tables::{
        Circle, ListedRow, Membership, NO_ROOM, PersonRow, listed_key, person_key, persons_prefix, user_of_person_key,
        users::{AccountKind, AccountRow, ProfileRow, account_key, profile_key},
        word_key,
    },
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::words::{cut, words_of};

/// People in one batch: at most some 10 kB of rows each.
const PEOPLE_AT_ONCE: usize = 200;

/// The longest name or picture's address that is kept, in bytes. Profiles here have no longer ones.
const SHOWN_BYTES_MAX: usize = 1_024;

/// Rooms of which it is remembered how they were listed at which state.
const ROOMS_KNOWN_MAX: usize = 10_000;

/// So often a batch is made anew because another process at our data was faster.
const ATTEMPTS_MAX: usize = 4;

/// The rows of the index, for writing.
pub(super) struct Index {
    store: Arc<Store>,
    own: OwnedServerName,
    /// What follows from the state of a room, which most events do not change. Held for map operations only.
    known: Mutex<HashMap<RoomNumber, (StateVersion, Option<Circle>)>>,
}

/// Somebody, and the event by which they are in the room; `None`: they are not.
type Member = (UserNumber, Option<EventNumber>);

/// What the index has of somebody: the row's bytes, and what they say.
type Kept = Option<(Bytes, PersonRow)>;

/// What a member event says of somebody's looks. Anybody may have sent anything.
#[derive(Default, Deserialize)]
struct MemberLooks {
    displayname: Option<Value>,
    avatar_url: Option<Value>,
}

impl Index {
    pub(super) fn new(store: Arc<Store>, own: OwnedServerName) -> Self {
        Self { store, own, known: Mutex::default() }
    }

    /// Brings a room up to date: how it is listed, and if that has changed or `whole` is set everybody in it, else these.
    pub(super) async fn refresh_room(
        &self,
        room: RoomNumber,
        members: &BTreeSet<UserNumber>,
        whole: bool,
    ) -> Result<(), LoadError> {
        let (state, circle) = self.look_at(room).await?;
        if members.is_empty() && !whole && self.is_known(room, circle) {
            self.know(room, state, circle);
            return Ok(());
        }
        let listed: Option<ListedRow> = self.store.get(Table::Rm, &listed_key(room)).await?;
        match circle {
            None if listed.is_some() => self.unlist(room).await?,
            None => {}
            Some(circle) => {
                let wanted = ListedRow { is_public: circle == Circle::Public, is_complete: true };
                if whole || listed != Some(wanted) {
                    self.list(room, circle, wanted).await?;
                } else {
                    self.refresh_members(room, circle, members).await?;
                }
            }
        }
        self.know(room, state, circle);
        Ok(())
    }

    /// Brings an account up to date as such; not where it stands in rooms.
    pub(super) async fn refresh_account(&self, user: UserNumber) -> Result<(), LoadError> {
        self.refresh(NO_ROOM, Circle::Accounts, &[(user, None)]).await
    }

    /// The rooms that somebody is in.
    pub(super) async fn rooms_of(&self, user: UserNumber) -> Result<Vec<RoomNumber>, LoadError> {
        let rooms = self.store.user_rooms(user).await?;
        Ok(rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join).map(|(room, _)| room).collect())
    }

    /// The circle that a room's people are in (`None`: nobody of ours is there, or it is not known yet who else is), and
    /// the state from which that follows, if it did not change meanwhile.
    async fn look_at(&self, room: RoomNumber) -> Result<(Option<StateVersion>, Option<Circle>), LoadError> {
        let Some(head) = self.store.head(room).await? else { return Ok((None, None)) };
        if head.loading || head.purged || head.partial {
            return Ok((None, None));
        }
        let known = self.known.lock().get(&room).copied();
        if let Some((_, circle)) = known.filter(|(state, _)| *state == head.state) {
            return Ok((Some(head.state), circle));
        }
        let circle = match self.store.joined_from(room, &self.own).await? {
            0 => None,
            _ if self.is_open(room).await? => Some(Circle::Public),
            _ => Some(Circle::Room(room)),
        };
        let after = self.store.head(room).await?;
        let is_same = after.is_some_and(|after| after.state == head.state && !after.partial);
        Ok((is_same.then_some(head.state), circle))
    }

    /// Whether anybody may join a room or read it.
    async fn is_open(&self, room: RoomNumber) -> Result<bool, LoadError> {
        let says = async |kind: &str, key: &str, open: &str| {
            let event = self.store.current_state_event(room, kind, "").await?;
            let content: Option<Value> = event.and_then(|stored| stored.event.content_as().ok());
            Ok::<_, LoadError>(content.is_some_and(|content| content[key] == open))
        };
        Ok(says("m.room.join_rules", "join_rule", "public").await?
            || says("m.room.history_visibility", "history_visibility", "world_readable").await?)
    }

    fn is_known(&self, room: RoomNumber, circle: Option<Circle>) -> bool {
        self.known.lock().get(&room).is_some_and(|(_, known)| *known == circle)
    }

    /// Remembers how a room is listed.
    fn know(&self, room: RoomNumber, state: Option<StateVersion>, circle: Option<Circle>) {
        let mut known = self.known.lock();
        if known.len() >= ROOMS_KNOWN_MAX {
            known.clear();
        }
        match state {
            Some(state) => known.insert(room, (state, circle)),
            None => known.remove(&room),
        };
    }

    /// Puts everybody in a room into a circle, and takes out who is no longer there.
    async fn list(&self, room: RoomNumber, circle: Circle, listed: ListedRow) -> Result<(), LoadError> {
        self.put_listed(room, Some(ListedRow { is_complete: false, ..listed })).await?;
        let mut behind: Option<String> = None;
        loop {
            let rows = self.store.current_members(room, behind.as_deref(), PEOPLE_AT_ONCE).await?;
            let joined = |membership| membership == Some(Membership::Join);
            let member = |row: hearth_store::tables::CurrentStateRow| {
                Some((row.user?, row.event.filter(|_| joined(row.membership))))
            };
            let members: Vec<Member> = rows.iter().filter_map(|(_, row)| member(*row)).collect();
            self.refresh(room, circle, &members).await?;
            match rows.into_iter().next_back() {
                Some((last, _)) => behind = Some(last),
                None => break,
            }
        }
        self.put_listed(room, Some(listed)).await
    }

    /// Takes everybody in a room out of the index.
    async fn unlist(&self, room: RoomNumber) -> Result<(), LoadError> {
        loop {
            let range = KeyRange::prefix(persons_prefix(room));
            let rows = self.store.scan_bytes(Table::Rm, range, Page::first(PEOPLE_AT_ONCE)).await?;
            let gone: Vec<Member> = rows.iter().filter_map(|row| Some((user_of_person_key(&row.key)?, None))).collect();
            if gone.is_empty() {
                return self.put_listed(room, None).await;
            }
            self.refresh(room, Circle::Room(room), &gone).await?;
        }
    }

    async fn put_listed(&self, room: RoomNumber, row: Option<ListedRow>) -> Result<(), LoadError> {
        let mut write = Write::new(room.partition());
        match row {
            Some(row) => write.put(Table::Rm, listed_key(room), &row),
            None => write.delete(Table::Rm, listed_key(room)),
        }
        self.store.commit(write).await.map(drop).map_err(as_load_error)
    }

    async fn refresh_members(
        &self,
        room: RoomNumber,
        circle: Circle,
        users: &BTreeSet<UserNumber>,
    ) -> Result<(), LoadError> {
        let mut members: Vec<Member> = Vec::with_capacity(users.len());
        for user in users {
            let row = self.store.membership(*user, room).await?;
            let event = row.filter(|row| row.membership == Membership::Join).map(|row| row.event);
            members.push((*user, event));
        }
        self.refresh(room, circle, &members).await
    }

    /// Brings people of one room, or accounts, up to date.
    async fn refresh(&self, room: RoomNumber, circle: Circle, members: &[Member]) -> Result<(), LoadError> {
        for members in members.chunks(PEOPLE_AT_ONCE) {
            let mut attempts = 1;
            loop {
                match self.try_refresh(room, circle, members).await? {
                    Ok(()) => break,
                    Err(CommitError::Conflict) if attempts < ATTEMPTS_MAX => attempts += 1,
                    Err(error) => return Err(as_load_error(error)),
                }
            }
        }
        Ok(())
    }

    async fn try_refresh(
        &self,
        room: RoomNumber,
        circle: Circle,
        members: &[Member],
    ) -> Result<Result<(), CommitError>, LoadError> {
        let keys: Vec<Key> = members.iter().map(|(user, _)| person_key(room, *user)).collect();
        let kept = self.store.engine().multi_get(Table::Rm, &keys).await?;
        let numbers: Vec<EventNumber> = members.iter().filter_map(|(_, event)| *event).collect();
        let mut events = self.store.events_in_passing(room, &numbers).await?.into_iter();
        // Accounts are each of their own partition.
        let mut writes: HashMap<u8, Write> = HashMap::new();
        for ((user, event), kept) in members.iter().zip(kept) {
            let event = event.and_then(|_| events.next().flatten());
            let wanted = match circle {
                Circle::Accounts => self.account(*user).await?.filter(|(row, _)| row.kind == AccountKind::Full),
                Circle::Public | Circle::Room(_) => None,
            };
            let wanted = match (wanted, event) {
                (Some((_, person)), _) => Some(person),
                (None, Some(event)) => self.member(*user, &event, circle == Circle::Public).await?,
                (None, None) => None,
            };
            let kept: Kept = kept.map(|bytes| Ok::<_, LoadError>((bytes.clone(), decode(&bytes)?))).transpose()?;
            if kept.as_ref().map(|(_, row)| row) == wanted.as_ref() {
                continue;
            }
            let partition = if room == NO_ROOM { user.partition() } else { room.partition() };
            let write = writes.entry(partition.index()).or_insert_with(|| Write::new(partition));
            put_person(write, (room, *user), kept, wanted.as_ref());
        }
        for write in writes.into_values() {
            if let Err(error) = self.store.commit(write).await {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// What is to be had of somebody who is in a room.
    async fn member(
        &self,
        user: UserNumber,
        event: &StoredEvent,
        is_public: bool,
    ) -> Result<Option<PersonRow>, LoadError> {
        let Some(user_id) = event.event.state_key().and_then(|key| <&UserId>::try_from(key).ok()) else {
            return Ok(None);
        };
        if user_id.server_name() == self.own {
            let account = self.account(user).await?;
            return Ok(account.map(|(_, person)| PersonRow { is_public, ..person }));
        }
        let looks: MemberLooks = event.event.content_as().unwrap_or_default();
        let text = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let (display_name, avatar_url) = (text(&looks.displayname), text(&looks.avatar_url));
        Ok(Some(PersonRow { is_public, ..person(user_id, display_name, avatar_url) }))
    }

    /// What is to be had of an account that has not ended.
    async fn account(&self, user: UserNumber) -> Result<Option<(AccountRow, PersonRow)>, LoadError> {
        let account: Option<AccountRow> = self.store.get(Table::Us, &account_key(user)).await?;
        let Some(account) = account.filter(|account| !account.deactivated) else { return Ok(None) };
        let Ok(user_id) = <&UserId>::try_from(account.user_id.as_str()) else { return Ok(None) };
        let profile: Option<ProfileRow> = self.store.get(Table::Us, &profile_key(user)).await?;
        let profile = profile.unwrap_or_default();
        let text = |wanted: &str| {
            let (_, value) = profile.fields.iter().find(|(name, _)| name == wanted)?;
            serde_json::from_str::<String>(value).ok()
        };
        let person = person(user_id, text("displayname"), text("avatar_url"));
        Ok(Some((account, person)))
    }
}

/// What is to be had of somebody who looks like this.
fn person(user_id: &UserId, display_name: Option<String>, avatar_url: Option<String>) -> PersonRow {
    let display_name = display_name.filter(|name| !name.trim().is_empty());
    let display_name = display_name.map(|name| cut(&name, SHOWN_BYTES_MAX).to_owned());
    let avatar_url = avatar_url.filter(|url| !url.is_empty() && url.len() <= SHOWN_BYTES_MAX);
    let words = words_of(user_id, display_name.as_deref());
    PersonRow { is_public: false, display_name, avatar_url, words }
}

/// Replaces what the index has of somebody.
fn put_person(write: &mut Write, (room, user): (RoomNumber, UserNumber), kept: Kept, wanted: Option<&PersonRow>) {
    let words = |row: Option<&PersonRow>| -> BTreeSet<Key> {
        let Some(row) = row else { return BTreeSet::new() };
        let circle = match (room, row.is_public) {
            (NO_ROOM, _) => Circle::Accounts,
            (_, true) => Circle::Public,
            (_, false) => Circle::Room(room),
        };
        row.words.iter().map(|word| word_key(circle, word, user, room)).collect()
    };
    let (before, after) = (words(kept.as_ref().map(|(_, row)| row)), words(wanted));
    before.difference(&after).for_each(|key| write.delete(Table::Rm, key.clone()));
    after.difference(&before).for_each(|key| write.put_bytes(Table::Rm, key.clone(), Bytes::new()));
    let key = person_key(room, user);
    write.require(Table::Rm, key.clone(), kept.map(|(bytes, _)| bytes));
    match wanted {
        Some(row) => write.put(Table::Rm, key, row),
        None => write.delete(Table::Rm, key),
    }
}

/// A commit that failed, where only the store can be to blame.
pub(super) fn as_load_error(error: CommitError) -> LoadError {
    match error {
        CommitError::Unavailable(error) => error.into(),
        CommitError::Conflict | CommitError::Malformed(_) => Unavailable(error.to_string()).into(),
    }
}
