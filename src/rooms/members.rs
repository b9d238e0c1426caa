//! What follows a user through rooms: which they are in, forgetting one, a changed profile, guests.

use futures_util::{StreamExt as _, stream};
use hearth_ports::Table;
use hearth_store::{
    CommitError, LoadError, LogEntry, MemberNote, RoomNumber, Write, decode,
    tables::{
        Membership, MembershipRow, member_rooms_key,
        users::{AccountKind, AccountRow, account_key},
    },
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{
    SendError,
    member::{MemberAction, MemberIntent, Wish, guests_may_join},
    request::Intent,
    rooms::{MemberChange, Rooms},
};

/// Rooms that are told of a new profile at once: enough to keep the engine's groups full, few enough to leave others
/// their turn.
const PROFILE_ROOMS_AT_ONCE: usize = 16;

/// How often forgetting a room is tried again when the membership changed meanwhile.
const FORGET_ATTEMPTS_MAX: usize = 4;

/// Members that are looked at when guests must leave.
const GUESTS_LOOKED_AT_MAX: usize = 100_000;

/// Why a room was not forgotten.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ForgetError {
    /// The user is in the room, or invited: leave first (`M_UNKNOWN`).
    #[error("leave the room before forgetting it")]
    StillIn,
    /// The user never had to do with such a room (`M_NOT_FOUND`).
    #[error("no such room")]
    NotFound,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ForgetError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Rooms {
    /// The rooms that a user is in.
    pub async fn joined_rooms(&self, user: &UserId) -> Result<Vec<OwnedRoomId>, LoadError> {
        let rooms = self.joined_numbers(user).await?;
        let mut ids = Vec::with_capacity(rooms.len());
        for room in rooms {
            ids.extend(self.writer.store.room_id(room).await?);
        }
        Ok(ids)
    }

    /// A user's membership of a room; `None`: never had one, or no such room.
    pub async fn membership(&self, user: &UserId, room_id: &RoomId) -> Result<Option<Membership>, LoadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(None) };
        let Some(number) = store.user_number(user).await? else { return Ok(None) };
        if let Some(outside) = self.outside(user, room_id).await? {
            return Ok(Some(outside.membership));
        }
        Ok(store.membership(number, room).await?.map(|row| row.membership))
    }

    /// Takes a room that the user has left out of what they are shown.
    /// [Leaving rooms](https://spec.matrix.org/v1.19/client-server-api/#leaving-rooms).
    pub async fn forget(&self, user: &UserId, room_id: &RoomId) -> Result<(), ForgetError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(ForgetError::NotFound)?;
        let outside = self.outside(user, room_id).await?;
        let user = store.user_number(user).await?.ok_or(ForgetError::NotFound)?;
        let key = member_rooms_key(user, room);
        if let Some(outside) = outside {
            if outside.membership != Membership::Leave {
                return Err(ForgetError::StillIn);
            }
            self.forget_outside(user, room).await.map_err(|error| ForgetError::Unavailable(error.to_string()))?;
            if store.membership(user, room).await?.is_none() {
                return Ok(());
            }
        }
        for _ in 0..FORGET_ATTEMPTS_MAX {
            let bytes = store.get_bytes(Table::Rm, &key).await?.ok_or(ForgetError::NotFound)?;
            let row: MembershipRow = decode(&bytes).map_err(LoadError::from)?;
            if !matches!(row.membership, Membership::Leave | Membership::Ban) {
                return Err(ForgetError::StillIn);
            }
            if row.forgotten {
                return Ok(());
            }
            let mut write = Write::new(room.partition());
            write.require(Table::Rm, key.clone(), Some(bytes));
            write.put(Table::Rm, key.clone(), &MembershipRow { forgotten: true, ..row });
            let position = write.position();
            write.log(position, LogEntry::Membership(MemberNote { room, user, membership: row.membership }));
            match store.commit(write).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict) => {}
                Err(error) => return Err(ForgetError::Unavailable(error.to_string())),
            }
        }
        Err(ForgetError::Unavailable("the membership changes all the time".to_owned()))
    }

    /// Writes a new display name or avatar into the user's membership of every room that they are in, and returns when
    /// all rooms have it. `changes`: `displayname`, `avatar_url`; `null` removes one. A room that refuses is left out.
    pub async fn update_profile(&self, user: &UserId, changes: &Map<String, Value>) -> Result<(), LoadError> {
        let rooms = self.joined_numbers(user).await?;
        stream::iter(rooms)
            .for_each_concurrent(PROFILE_ROOMS_AT_ONCE, |room| async move {
                let wish = Wish::Profile(changes.clone());
                let intent =
                    MemberIntent { sender: user.to_owned(), target: user.to_owned(), wish, guest: false, ts_ms: None };
                if let Err(error) = self.submit(room, Intent::Member(intent), None).await {
                    tracing::info!(room = room.0, %error, "a room was not told of a new profile");
                }
            })
            .await;
        Ok(())
    }

    /// Has the guests of this server leave a room that does not let guests in, any longer. Call it when a room's
    /// `m.room.guest_access` changes, whoever did that. What fails is logged: whoever sets the state again tries again.
    /// [Guest access](https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access).
    pub async fn remove_unwelcome_guests(&self, room_id: &RoomId) {
        let guests = match self.unwelcome_guests(room_id).await {
            Ok(guests) => guests,
            Err(error) => return tracing::warn!(%error, %room_id, "a room's guests could not be read"),
        };
        for guest in guests {
            match self.is_guest_account(&guest).await {
                Ok(true) => {}
                // Who joined as a guest may have a full account by now.
                Ok(false) => continue,
                Err(error) => return tracing::warn!(%error, %room_id, "a guest's account could not be read"),
            }
            let change = MemberChange {
                room_id: room_id.to_owned(),
                sender: guest.clone(),
                target: guest,
                action: MemberAction::Leave,
                content: Map::new(),
                guest: true,
            };
            if let Err(error) = self.change_member_here(change).await {
                tracing::warn!(%error, %room_id, "a guest stays in a room that no longer wants guests");
            }
        }
    }

    async fn is_guest_account(&self, user: &UserId) -> Result<bool, LoadError> {
        let store = &self.writer.store;
        let Some(number) = store.user_number(user).await? else { return Ok(false) };
        let account = store.get::<AccountRow>(Table::Us, &account_key(number)).await?;
        Ok(account.is_some_and(|account| account.kind == AccountKind::Guest))
    }

    /// The guests of this server who are in a room that does not let guests in, any longer: they must leave.
    /// [Guest access](https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access).
    pub async fn unwelcome_guests(&self, room_id: &RoomId) -> Result<Vec<OwnedUserId>, SendError> {
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(SendError::UnknownRoom)?;
        let event = store.current_state_event(room, "m.room.guest_access", "").await?;
        if guests_may_join(event.as_ref().map(|stored| &stored.event)) {
            return Ok(Vec::new());
        }
        let members = store.current_members(room, None, GUESTS_LOOKED_AT_MAX).await?;
        let mut guests = Vec::new();
        for (user_id, row) in members {
            let Some(user) = row.user.filter(|_| row.membership == Some(Membership::Join)) else { continue };
            let Ok(user_id) = OwnedUserId::try_from(user_id) else { continue };
            if user_id.server_name() != self.writer.server_name {
                continue;
            }
            if store.membership(user, room).await?.is_some_and(|row| row.guest) {
                guests.push(user_id);
            }
        }
        Ok(guests)
    }

    async fn joined_numbers(&self, user: &UserId) -> Result<Vec<RoomNumber>, LoadError> {
        let Some(user) = self.writer.store.user_number(user).await? else { return Ok(Vec::new()) };
        let rooms = self.writer.store.user_rooms(user).await?;
        Ok(rooms.into_iter().filter(|(_, row)| row.membership == Membership::Join).map(|(room, _)| room).collect())
    }
}
