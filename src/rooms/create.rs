//! Creating a room: all of its first events in one batch.
//! [Creation](https://spec.matrix.org/v1.19/client-server-api/#creation).

use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use hearth_core::{BuildError, Draft, Reason, References, RoomVersion, build};
use hearth_ports::Table;
use hearth_store::{
    CommitError, LoadError,
    tables::{Create, Head, PUBLIC_LIST, PublishedRow, published_key},
};
use ruma::{OwnedEventId, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::{
    AliasError, SendError,
    append::{Accepted, Group, PlaceError},
    cache::RoomCache,
    member::MemberAction,
    request::Proposal,
    rooms::{MemberChange, Rooms},
    writer::Writer,
};

mod events;

pub(crate) use events::FirstEvent;
use events::{create_content, first_events};

/// Characters of a room id that this server chooses, before version 12: 107 bits.
const ROOM_ID_CHARACTERS: usize = 18;

/// Users invited when a room is created: each is an event of the same batch.
const INVITES_MAX: usize = 500;

/// Users of other servers who are invited at once: a dead server costs a time-out.
const INVITES_AT_ONCE: usize = 16;

/// Events given when a room is created.
const INITIAL_STATE_MAX: usize = 1_000;

/// A batch of more bytes is not committed: the engine's limit is eight times as much, but others wait meanwhile.
const CREATION_BYTES_MAX: usize = 4 << 20;

/// How a room begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// By invitation; guests may come.
    Private,
    /// By invitation; whom the creator invites is as powerful as they.
    TrustedPrivate,
    /// Open to all but guests.
    Public,
}

/// A state event that the client gives along.
#[derive(Clone, Debug)]
pub struct InitialState {
    /// The event type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: Map<String, Value>,
}

/// A room to be created.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Who creates it.
    pub creator: OwnedUserId,
    /// An administrator of this server.
    pub is_admin: bool,
    /// The creator's profile: fields of their member event.
    pub profile: Map<String, Value>,
    /// `None`: this server's default.
    pub version: Option<String>,
    /// How it begins.
    pub preset: Preset,
    /// Whether it is published in the directory.
    pub is_published: bool,
    /// The name of an alias on this server, without `#` and server.
    pub alias_name: Option<String>,
    /// The room's name.
    pub name: Option<String>,
    /// The room's topic, as plain text.
    pub topic: Option<String>,
    /// Who is invited, with the fields of their member events.
    pub invite: Vec<(OwnedUserId, Map<String, Value>)>,
    /// The invitations say that it is a direct conversation.
    pub is_direct: bool,
    /// More keys of the create event.
    pub creation_content: Map<String, Value>,
    /// State to be set.
    pub initial_state: Vec<InitialState>,
    /// Keys of the power levels that replace the usual ones.
    pub power_levels: Map<String, Value>,
}

/// Why a room was not created. Nothing of it remains.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    /// The user may not create rooms, or not like this; tell them why (`M_FORBIDDEN`).
    #[error("{0}")]
    Forbidden(&'static str),
    /// This server does not speak the version (`M_UNSUPPORTED_ROOM_VERSION`).
    #[error("this room version is not supported")]
    UnsupportedVersion,
    /// The alias is taken (`M_ROOM_IN_USE`).
    #[error("the alias is taken")]
    AliasTaken,
    /// The alias is malformed (`M_INVALID_PARAM`).
    #[error("{0}")]
    BadAlias(&'static str),
    /// What was asked makes no valid room (`M_INVALID_ROOM_STATE`).
    #[error("{kind}: {reason}")]
    InvalidState {
        /// The type of the first event that is refused.
        kind: String,
        /// Why.
        reason: Reason,
    },
    /// Content that is no event's (`M_BAD_JSON`, `M_TOO_LARGE`).
    #[error("{kind}: {error}")]
    Content {
        /// The type of the event.
        kind: String,
        /// What is wrong with it.
        error: BuildError,
    },
    /// More than is done in one go (`M_TOO_LARGE`).
    #[error("{0}")]
    TooMuch(&'static str),
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<PlaceError> for CreateError {
    fn from(error: PlaceError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<LoadError> for CreateError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What the room that is being created takes the place of.
#[derive(Clone, Debug)]
pub(crate) struct Predecessor {
    pub(crate) room_id: OwnedRoomId,
    /// The tombstone, where it is known before the new room is.
    pub(crate) event_id: Option<OwnedEventId>,
}

/// A room to be created, as [`Rooms::create`] and [`Rooms::upgrade`] want it.
pub(crate) struct NewRoom {
    pub(crate) version: RoomVersion,
    /// The id, for versions in which we choose it.
    pub(crate) room_id: Option<OwnedRoomId>,
    pub(crate) creator: OwnedUserId,
    /// The create event's content, complete.
    pub(crate) create: Map<String, Value>,
    /// All that follows the create event.
    pub(crate) events: Vec<FirstEvent>,
    pub(crate) alias: Option<OwnedRoomAliasId>,
    pub(crate) is_published: bool,
}

impl Rooms {
    /// Creates a room.
    pub async fn create(&self, creation: Creation) -> Result<OwnedRoomId, CreateError> {
        if !self.settings.users_create_rooms && !creation.is_admin {
            return Err(CreateError::Forbidden("only administrators create rooms on this server"));
        }
        if creation.is_published && !self.settings.users_publish_rooms && !creation.is_admin {
            return Err(CreateError::Forbidden("only administrators publish rooms on this server"));
        }
        let version = match &creation.version {
            Some(name) => RoomVersion::parse(name).ok_or(CreateError::UnsupportedVersion)?,
            None => self.settings.default_version,
        };
        if creation.invite.len() > INVITES_MAX || creation.initial_state.len() > INITIAL_STATE_MAX {
            return Err(CreateError::TooMuch("too many invites or state events for one request"));
        }
        if creation.initial_state.iter().any(|given| given.kind == "m.room.member") {
            // Members are invited: the rest of what an invitation needs would be left out.
            let reason = Reason::new("members are not set by initial_state, but invited");
            return Err(CreateError::InvalidState { kind: "m.room.member".to_owned(), reason });
        }
        let alias = creation.alias_name.as_deref().map(|name| self.alias_named(name, creation.is_admin)).transpose()?;
        let create = create_content(&creation, version);
        let own_server = &self.writer.server_name;
        let events = first_events(&creation, version, alias.as_deref(), own_server);
        let elsewhere = creation.invite.into_iter().filter(|(user, _)| user.server_name() != own_server);
        let elsewhere: Vec<_> = elsewhere.collect();
        let creator = creation.creator.clone();
        let new = NewRoom {
            version,
            room_id: self.choose_room_id(version),
            creator: creation.creator,
            create,
            events,
            alias,
            is_published: creation.is_published,
        };
        let room_id = self.writer.create(new).await?;
        self.invite_from_elsewhere(&room_id, &creator, creation.is_direct, elsewhere).await;
        Ok(room_id)
    }

    /// Invites users of other servers into a room that has just been created. Who cannot be invited is left out: the room
    /// is there, and a client that were told otherwise would make another one.
    async fn invite_from_elsewhere(
        &self,
        room_id: &RoomId,
        creator: &UserId,
        is_direct: bool,
        invited: Vec<(OwnedUserId, Map<String, Value>)>,
    ) {
        let invites = stream::iter(invited).for_each_concurrent(INVITES_AT_ONCE, |(target, mut content)| async move {
            if is_direct {
                content.insert("is_direct".to_owned(), true.into());
            }
            let change = MemberChange {
                room_id: room_id.to_owned(),
                sender: creator.to_owned(),
                target: target.clone(),
                action: MemberAction::Invite,
                content,
                guest: false,
            };
            if let Err(error) = self.invite_remote(change).await {
                tracing::info!(%room_id, %target, %error, "not invited into a new room");
            }
        });
        invites.await;
    }

    fn alias_named(&self, name: &str, is_admin: bool) -> Result<OwnedRoomAliasId, CreateError> {
        if !self.settings.users_create_aliases && !is_admin {
            return Err(CreateError::Forbidden("only administrators make aliases on this server"));
        }
        // What stands behind a colon would be another server.
        let is_plain = !name.is_empty() && !name.chars().any(|c| c == ':' || c.is_whitespace() || c.is_control());
        let alias = is_plain.then(|| OwnedRoomAliasId::try_from(format!("#{name}:{}", self.writer.server_name)).ok());
        alias.flatten().ok_or(CreateError::BadAlias("room_alias_name is no name of an alias"))
    }

    /// A new room's id; `None` where the create event will give it.
    pub(crate) fn choose_room_id(&self, version: RoomVersion) -> Option<OwnedRoomId> {
        let opaque = (!version.has_hashed_room_id()).then(|| self.writer.entropy.alphanumeric(ROOM_ID_CHARACTERS))?;
        let room_id = OwnedRoomId::try_from(format!("!{opaque}:{}", self.writer.server_name));
        Some(room_id.expect("letters, digits and a server's name make a room id"))
    }
}

impl Writer {
    /// Commits a new room: first the claim of its alias, then all of its events at once.
    pub(crate) async fn create(&self, new: NewRoom) -> Result<OwnedRoomId, CreateError> {
        let unavailable = |error: SendError| CreateError::Unavailable(error.to_string());
        let creator = self.store.ensure_user_number(&new.creator).await?;
        let (mut cache, first) = self.begin(&new).await?;
        let mut group = Group::new(self, &cache);
        group.append(&mut cache, first).await?;
        for event in &new.events {
            self.append_first(&mut cache, &mut group, &new.creator, event).await?;
            if group.write.size_bytes() > CREATION_BYTES_MAX {
                return Err(CreateError::TooMuch("the room's first events are too large together"));
            }
        }
        group.write.name_room(cache.number, &cache.id);
        if new.is_published {
            let row = PublishedRow { since_ts_ms: self.clock.now_ms() };
            group.write.put(Table::Rm, published_key(PUBLIC_LIST, cache.number), &row);
        }
        if let Some(alias) = &new.alias {
            self.claim_alias(alias, cache.number, &cache.id, creator).await.map_err(|error| match error {
                AliasError::Taken => CreateError::AliasTaken,
                AliasError::Invalid(reason) | AliasError::Forbidden(reason) => CreateError::BadAlias(reason),
                AliasError::NotFound | AliasError::Peer(_) => CreateError::AliasTaken,
                AliasError::Unavailable(text) => CreateError::Unavailable(text),
            })?;
        }
        let own = cache.id.clone();
        if let Err(error) = self.commit_group(&mut cache, group).await {
            let in_doubt = matches!(error, CommitError::Unavailable(_));
            let happened = in_doubt && matches!(self.store.room_number(&own).await, Ok(Some(_)));
            if !happened {
                self.unclaim(new.alias.as_deref()).await;
                return Err(unavailable(error.into()));
            }
            return Ok(own);
        }
        let active = self.active(cache.number);
        *active.cache.lock().await = Some(cache);
        Ok(own)
    }

    /// The claim would lapse by itself; this lets others have the name at once.
    async fn unclaim(&self, alias: Option<&RoomAliasId>) {
        let Some(alias) = alias else { return };
        let key = hearth_store::tables::alias_key(alias.as_str());
        let Ok(Some(row)) = self.store.get_bytes(Table::Ix, &key).await else { return };
        if let Err(error) = self.drop_alias(alias, row).await {
            tracing::info!(%error, "the alias of a room that was not created lapses later");
        }
    }

    /// The create event, which gives the room its number, and from version 12 on its id.
    async fn begin(&self, new: &NewRoom) -> Result<(RoomCache, Accepted), CreateError> {
        let kind = "m.room.create";
        let content = |error| CreateError::Content { kind: kind.to_owned(), error };
        let draft = Draft::state(kind, "", new.creator.clone(), &new.create, self.creation_ts_ms())
            .expect("a map of values is JSON");
        let references = References { depth: 1, ..References::default() };
        let opaque_id = self.entropy.alphanumeric(ROOM_ID_CHARACTERS);
        let (key, server) = (&self.signing_key, &self.server_name);
        let event = build(&draft, &references, new.room_id.as_deref(), new.version, key, server, Some(&opaque_id))
            .map_err(content)?;
        let event = hearth_core::admit(&event, |_, _| None)
            .map_err(|reason| CreateError::InvalidState { kind: kind.to_owned(), reason })?
            .into_event();
        let number = self.store.assign_room_number(event.room_id()).await?;
        let cache = RoomCache::new(number, event.room_id().to_owned(), new.version, empty_head(new));
        Ok((cache, Accepted::own(event, Vec::new())))
    }

    /// A time of its own for each create event: from version 12 on, two that are alike would be one room.
    fn creation_ts_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let later = |last: u64| Some(now_ms.max(last + 1));
        let last = self.last_creation_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
        now_ms.max(last.unwrap_or_default() + 1)
    }

    async fn append_first(
        &self,
        cache: &mut RoomCache,
        group: &mut Group<'_>,
        creator: &OwnedUserId,
        first: &FirstEvent,
    ) -> Result<(), CreateError> {
        let draft = Draft::state(&first.kind, &first.state_key, creator.clone(), &first.content, self.clock.now_ms())
            .expect("a map of values is JSON");
        let proposal = Proposal::from(draft);
        let kind = || first.kind.clone();
        let accepted = self.accept(cache, proposal, None).await.map_err(|error| match error {
            SendError::Forbidden(reason) => CreateError::InvalidState { kind: kind(), reason },
            SendError::Content(error) => CreateError::Content { kind: kind(), error },
            other => CreateError::Unavailable(other.to_string()),
        })?;
        group.append(cache, accepted).await?;
        Ok(())
    }
}

/// The head before the first event.
fn empty_head(new: &NewRoom) -> Head {
    Head::new(Create {
        version: new.version.to_string(),
        federate: new.create.get("m.federate").and_then(Value::as_bool).unwrap_or(true),
        room_type: new.create.get("type").and_then(Value::as_str).map(str::to_owned),
    })
}
