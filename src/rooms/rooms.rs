//! The service: what it is made of, and sending into a room.

use std::sync::Arc;

use hearth_core::{BuildError, EVENT_BYTES_MAX, RoomVersion, SigningKey};
use hearth_ports::{Clock, Entropy, Peers};
use hearth_store::{
    RoomNumber, Store,
    tables::{SenderTransaction, transaction_key},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, value::RawValue as RawJsonValue};

use crate::{
    SendError,
    append::member_in,
    driven::Driven,
    member::{MemberAction, MemberIntent, Wish},
    policy::Unsigned,
    redaction::RedactIntent,
    remote::Joins,
    request::{Intent, MessageIntent, Request, Transaction},
    serve::Serving,
    state::StateIntent,
    summary::Summaries,
    writer::Writer,
};

/// The largest request that is looked at, in bytes. Escapes and white space, which canonical JSON drops, may make
/// content longer than the event that comes of it; four times is more than any client writes.
const REQUEST_BYTES_MAX: usize = 4 * EVENT_BYTES_MAX;

/// Fewer memberships are told with a join.
pub(crate) const OMITTED_MEMBERS_MIN: usize = 100;

/// What of the configuration this service obeys.
#[derive(Clone, Debug)]
pub struct RoomsSettings {
    /// The version of new rooms whose creators ask for none.
    pub default_version: RoomVersion,
    /// Whether users may create rooms, or only administrators.
    pub users_create_rooms: bool,
    /// Whether users may create aliases, or only administrators.
    pub users_create_aliases: bool,
    /// Whether users may publish rooms in the directory, or only administrators.
    pub users_publish_rooms: bool,
    /// Memberships that are not left out of the answer to a join where there are fewer: asking for them later costs both
    /// sides more than telling them at once.
    pub omitted_members_min: usize,
}

impl Default for RoomsSettings {
    fn default() -> Self {
        Self {
            default_version: RoomVersion::DEFAULT,
            users_create_rooms: true,
            users_create_aliases: true,
            users_publish_rooms: true,
            omitted_members_min: OMITTED_MEMBERS_MIN,
        }
    }
}

/// Rooms: the only writer of their events.
pub struct Rooms {
    pub(crate) writer: Arc<Writer>,
    pub(crate) settings: RoomsSettings,
    pub(crate) summaries: Summaries,
    pub(crate) serving: Serving,
    pub(crate) joins: Joins,
    /// Those whose unfinished events are tried again.
    pub(crate) unfinished: Driven,
}

/// The transaction id of a request: per user, device and path.
#[derive(Clone, Debug)]
pub struct TransactionId {
    /// The sender's device; empty for a session without one.
    pub device: String,
    /// What the client called it.
    pub id: String,
}

/// A message-like event to be sent.
#[derive(Clone, Debug)]
pub struct Message {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// The event type.
    pub kind: String,
    /// The content: a JSON object.
    pub content: Box<RawJsonValue>,
    /// Makes a repeated request have the first one's answer.
    pub transaction: Option<TransactionId>,
    /// If it is a redaction: as in [`Redaction::only_own`].
    pub only_own: bool,
    /// The event's time in milliseconds since the Unix epoch, where the sender may choose it (appservices); else now.
    pub ts_ms: Option<u64>,
}

/// A state event to be set. Memberships go through the same checks as [`Rooms::change_member`].
#[derive(Clone, Debug)]
pub struct StateChange {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who sets it.
    pub sender: OwnedUserId,
    /// The event type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
    /// The content: a JSON object.
    pub content: Box<RawJsonValue>,
    /// The sender is a guest account.
    pub guest: bool,
    /// As in [`Message::ts_ms`].
    pub ts_ms: Option<u64>,
}

/// A membership to be changed.
#[derive(Clone, Debug)]
pub struct MemberChange {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who changes it.
    pub sender: OwnedUserId,
    /// Whose it is.
    pub target: OwnedUserId,
    /// How.
    pub action: MemberAction,
    /// The event's content without `membership`: profile, `reason`, what the client adds.
    pub content: Map<String, Value>,
    /// The target is a guest account.
    pub guest: bool,
}

/// A redaction to be sent.
#[derive(Clone, Debug)]
pub struct Redaction {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who redacts.
    pub sender: OwnedUserId,
    /// The event to redact.
    pub target: OwnedEventId,
    /// The redaction's content: mostly a `reason`.
    pub content: Box<RawJsonValue>,
    /// Makes a repeated request have the first one's answer.
    pub transaction: Option<TransactionId>,
    /// Refuse to redact others' events, whatever the sender's level: they are suspended.
    pub only_own: bool,
}

impl Rooms {
    /// The service. `signing_key` signs events in `server_name`'s name.
    pub fn new(
        store: Arc<Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        peers: Arc<dyn Peers>,
        signing_key: Arc<SigningKey>,
        server_name: OwnedServerName,
        settings: RoomsSettings,
    ) -> Arc<Self> {
        let writer = Arc::new(Writer::new(store, clock, entropy, peers, signing_key, server_name));
        let (summaries, serving, joins, unfinished) =
            (Summaries::new(), Serving::new(), Joins::new(), Driven::new("rooms_unfinished"));
        Arc::new(Self { writer, settings, summaries, serving, joins, unfinished })
    }

    /// Sends a message-like event; the answer is its id, once it is durable.
    pub async fn send(&self, message: Message) -> Result<OwnedEventId, SendError> {
        if message.kind == "m.room.redaction" {
            return self.redact(redaction_of(message)?).await;
        }
        let room = self.room_for_writing(&message.room_id).await?;
        let path = format!("send/{}", message.kind);
        let transaction = self.transaction(room, &message.sender, &path, message.transaction.as_ref()).await?;
        let Message { sender, kind, content, ts_ms, .. } = message;
        let intent = Intent::Message(MessageIntent { sender, kind, content, ts_ms });
        self.submit(room, intent, transaction).await
    }

    /// Sets a state event. If it stands already, sent by the same user, the answer is that event.
    pub async fn set_state(self: &Arc<Self>, change: StateChange) -> Result<OwnedEventId, SendError> {
        let room = self.room_for_writing(&change.room_id).await?;
        let StateChange { room_id, sender, kind, state_key, content, guest, ts_ms } = change;
        if kind == "m.room.member" {
            let target = OwnedUserId::try_from(state_key)
                .map_err(|_| SendError::InvalidParam("the state key of a membership must be a user id"))?;
            let (action, content) = self.action_of(room, &sender, &target, &content).await?;
            if action == MemberAction::Invite && target.server_name() != self.writer.server_name {
                return self.invite_remote(MemberChange { room_id, sender, target, action, content, guest }).await;
            }
            let is_own = matches!(action, MemberAction::Join | MemberAction::Knock | MemberAction::Leave);
            if is_own && sender == target && !self.is_kept_here(&room_id).await? {
                return self.change_member(MemberChange { room_id, sender, target, action, content, guest }).await;
            }
            let intent = MemberIntent { sender, target, wish: Wish::Act(action, content), guest, ts_ms };
            return self.submit(room, Intent::Member(intent), None).await;
        }
        let intent = StateIntent { sender, kind, state_key, content, ts_ms };
        self.submit(room, Intent::State(intent), None).await
    }

    /// Changes a membership in a room as it is kept here. Where nothing is to be done, the answer is the event that stands.
    pub(crate) async fn change_member_here(&self, change: MemberChange) -> Result<OwnedEventId, SendError> {
        let room = self.writer.store.room_number(&change.room_id).await?.ok_or(SendError::UnknownRoom)?;
        let MemberChange { sender, target, action, content, guest, .. } = change;
        let intent = MemberIntent { sender, target, wish: Wish::Act(action, content), guest, ts_ms: None };
        self.submit(room, Intent::Member(intent), None).await
    }

    /// Redacts an event: the answer is the redaction's id, once what it removes is gone.
    pub async fn redact(&self, redaction: Redaction) -> Result<OwnedEventId, SendError> {
        let room = self.room_for_writing(&redaction.room_id).await?;
        let path = format!("redact/{}", redaction.target);
        let transaction = self.transaction(room, &redaction.sender, &path, redaction.transaction.as_ref()).await?;
        let Redaction { sender, target, content, only_own, .. } = redaction;
        let intent = Intent::Redact(RedactIntent { sender, target, content, only_own });
        self.submit(room, intent, transaction).await
    }

    pub(crate) async fn submit(
        &self,
        room: RoomNumber,
        intent: Intent,
        transaction: Option<Transaction>,
    ) -> Result<OwnedEventId, SendError> {
        let request = Request { intent, transaction };
        if request.size_bytes() > REQUEST_BYTES_MAX {
            return Err(BuildError::TooLarge.into());
        }
        if let Intent::Member(intent) = &request.intent {
            self.wait_for_members(room, intent).await?;
        }
        let transaction = request.transaction.clone();
        let sent = self.writer.submit(room, request).await?;
        let Some(unsigned) = sent.unsigned else { return Ok(sent.event_id) };
        // The room does not wait meanwhile: what happens in it stands beside this event.
        let event = self.writer.sign_by_policy(&unsigned.policy, &unsigned.event).await?;
        let users: Vec<_> = member_in(&event).into_iter().collect();
        self.writer.store.ensure_user_numbers(&users).await?;
        let request = Request { intent: Unsigned::signed(event, unsigned.guest), transaction };
        Ok(self.writer.submit(room, request).await?.event_id)
    }

    /// The room's number. Who sends into a room that is not known here is told what every stranger is told.
    async fn room_for_writing(&self, room_id: &RoomId) -> Result<RoomNumber, SendError> {
        let number = self.writer.store.room_number(room_id).await?;
        number.ok_or_else(|| SendError::forbidden("you are not in this room"))
    }

    async fn transaction(
        &self,
        room: RoomNumber,
        sender: &UserId,
        path: &str,
        id: Option<&TransactionId>,
    ) -> Result<Option<Transaction>, SendError> {
        let Some(id) = id else { return Ok(None) };
        let user = self.writer.store.user_number(sender).await?;
        let user = user.ok_or_else(|| SendError::forbidden("you are not in this room"))?;
        let key = transaction_key(user, &id.device, room.0, path, &id.id);
        let sent_by = SenderTransaction { device: id.device.clone(), transaction: id.id.clone() };
        Ok(Some(Transaction { key, sent_by }))
    }

    /// What a client wants that sets a membership as a state event.
    async fn action_of(
        &self,
        room: RoomNumber,
        sender: &UserId,
        target: &UserId,
        content: &RawJsonValue,
    ) -> Result<(MemberAction, Map<String, Value>), SendError> {
        let content: Map<String, Value> =
            serde_json::from_str(content.get()).map_err(|_| SendError::BadContent("the content must be an object"))?;
        let membership = content.get("membership").and_then(Value::as_str);
        let action = match membership.ok_or(SendError::BadContent("the content needs a membership"))? {
            "join" => MemberAction::Join,
            "invite" => MemberAction::Invite,
            "knock" => MemberAction::Knock,
            "ban" => MemberAction::Ban,
            "leave" if sender == target => MemberAction::Leave,
            "leave" => {
                let number = self.writer.store.user_number(target).await?;
                let row = match number {
                    Some(user) => self.writer.store.membership(user, room).await?,
                    None => None,
                };
                let is_banned = row.is_some_and(|row| row.membership == hearth_store::tables::Membership::Ban);
                if is_banned { MemberAction::Unban } else { MemberAction::Kick }
            }
            _ => return Err(SendError::BadContent("there is no such membership")),
        };
        Ok((action, content))
    }
}

/// A redaction that came as a message: its target stands in its content.
fn redaction_of(message: Message) -> Result<Redaction, SendError> {
    let mut content: Map<String, Value> = serde_json::from_str(message.content.get())
        .map_err(|_| SendError::BadContent("the content must be an object"))?;
    let target = content.remove("redacts").and_then(|target| target.as_str()?.to_owned().try_into().ok());
    let target = target.ok_or(SendError::BadContent("a redaction needs the id of an event in redacts"))?;
    let Message { room_id, sender, transaction, only_own, .. } = message;
    let content = serde_json::value::to_raw_value(&content).expect("a map of values is JSON");
    Ok(Redaction { room_id, sender, target, content, transaction, only_own })
}
