//! Memberships: join, leave, invite, knock, kick, ban, unban, and what a profile change writes.
//! [Room membership](https://spec.matrix.org/v1.19/client-server-api/#room-membership).

use hearth_core::{Draft, Event};
use hearth_store::tables::Membership;
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{cache::RoomCache, error::SendError, request::Proposal, state::is_same_content, writer::Writer};

/// Members that are looked at to find one who can vouch for a restricted join, where the power levels name none.
const VOUCHERS_MAX: usize = 1_000;

/// Rooms that a restricted join rule names and that are looked at: each costs some reads.
const CONDITIONS_MAX: usize = 100;

/// What somebody wants to do to a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAction {
    /// The user joins. If they are in the room already, nothing happens, unless they bring content of their own.
    Join,
    /// The user leaves, rejects an invite or takes back a knock. If they have left already, nothing happens.
    Leave,
    /// Somebody invites the user.
    Invite,
    /// The user asks to be let in.
    Knock,
    /// Somebody removes the user, or takes back an invite.
    Kick,
    /// Somebody bans the user.
    Ban,
    /// Somebody lifts the user's ban.
    Unban,
}

impl MemberAction {
    /// What the user's membership is afterwards, as events have it.
    const fn membership(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave | Self::Kick | Self::Unban => "leave",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Ban => "ban",
        }
    }
}

/// A membership to be set.
#[derive(Debug)]
pub(crate) struct MemberIntent {
    pub(crate) sender: OwnedUserId,
    pub(crate) target: OwnedUserId,
    pub(crate) wish: Wish,
    /// The target is a guest account.
    pub(crate) guest: bool,
    /// The time that the event is given, in milliseconds since the Unix epoch, where the sender may choose it.
    pub(crate) ts_ms: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum Wish {
    /// An action, with all of the content but the membership.
    Act(MemberAction, Map<String, Value>),
    /// New values for fields of a joined user's content; `null` removes a field.
    Profile(Map<String, Value>),
}

impl MemberIntent {
    /// About how much memory its content holds, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        let (Wish::Act(_, content) | Wish::Profile(content)) = &self.wish;
        let texts = content.iter().map(|(key, value)| key.len() + value.as_str().map_or(64, str::len));
        texts.sum()
    }
}

impl Writer {
    /// The draft of a member event, or the event that says the same already. `asks_target`: the caller will ask the
    /// server of an invited user before the event goes into the room.
    pub(crate) async fn propose_member(
        &self,
        cache: &mut RoomCache,
        intent: &MemberIntent,
        asks_target: bool,
    ) -> Result<Result<Proposal, OwnedEventId>, SendError> {
        let before = cache.state(&self.store, "m.room.member", intent.target.as_str()).await?;
        let membership = cache.membership(&self.store, &intent.target).await?;
        let content = match &intent.wish {
            Wish::Profile(changes) => profile_content(before.as_ref(), membership, changes)?,
            Wish::Act(action, content) => {
                if let Some(standing) = standing(*action, membership, before.as_ref(), content) {
                    return Ok(Err(standing));
                }
                if *action == MemberAction::Invite && !asks_target && intent.target.server_name() != self.server_name {
                    return Err(SendError::Unavailable(
                        "an invite was not shown to the invited user's server".to_owned(),
                    ));
                }
                self.check_action(cache, intent, *action, membership).await?;
                self.content_of(cache, intent, *action, membership, content).await?
            }
        };
        let content = serde_json::value::to_raw_value(&content).expect("a map of values is JSON");
        let same =
            before.as_ref().filter(|before| before.sender() == intent.sender && is_same_content(before, &content));
        if let Some(same) = same {
            return Ok(Err(same.event_id().to_owned()));
        }
        let draft = Draft {
            kind: "m.room.member".to_owned(),
            state_key: Some(intent.target.to_string()),
            content,
            sender: intent.sender.clone(),
            redacts: None,
            origin_server_ts_ms: intent.ts_ms.unwrap_or_else(|| self.clock.now_ms()),
        };
        Ok(Ok(Proposal { draft, guest: intent.guest, redacts: None }))
    }

    /// What the authorisation rules don't say, because they see only events.
    async fn check_action(
        &self,
        cache: &mut RoomCache,
        intent: &MemberIntent,
        action: MemberAction,
        membership: Option<Membership>,
    ) -> Result<(), SendError> {
        let is_in = matches!(membership, Some(Membership::Join | Membership::Invite | Membership::Knock));
        if intent.sender != intent.target {
            // The rules say it too; here it spares the target a number.
            let sender = cache.membership(&self.store, &intent.sender).await?;
            if sender != Some(Membership::Join) {
                return Err(SendError::forbidden("you are not in this room"));
            }
        }
        match action {
            MemberAction::Join | MemberAction::Knock if intent.guest => self.check_guest(cache, membership).await,
            MemberAction::Leave if membership.is_none() => Err(SendError::forbidden("you are not in this room")),
            MemberAction::Kick if !is_in => Err(SendError::forbidden("the user is not in this room")),
            MemberAction::Unban if membership != Some(Membership::Ban) => {
                Err(SendError::forbidden("the user is not banned"))
            }
            MemberAction::Join | MemberAction::Knock | MemberAction::Invite | MemberAction::Leave => Ok(()),
            MemberAction::Kick | MemberAction::Unban | MemberAction::Ban => Ok(()),
        }
    }

    /// "Guests may join if `guest_access` is `can_join`."
    /// [Guest access](https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access).
    async fn check_guest(&self, cache: &mut RoomCache, membership: Option<Membership>) -> Result<(), SendError> {
        if membership == Some(Membership::Join)
            || guests_may_join(cache.state(&self.store, "m.room.guest_access", "").await?.as_ref())
        {
            return Ok(());
        }
        Err(SendError::GuestsForbidden)
    }

    /// The content with its membership, and for a restricted join with who vouches for it.
    async fn content_of(
        &self,
        cache: &mut RoomCache,
        intent: &MemberIntent,
        action: MemberAction,
        membership: Option<Membership>,
        content: &Map<String, Value>,
    ) -> Result<Map<String, Value>, SendError> {
        let mut content = content.clone();
        content.insert("membership".to_owned(), action.membership().into());
        // Who vouches is the server's to say.
        content.remove("join_authorised_via_users_server");
        let is_let_in = matches!(membership, Some(Membership::Join | Membership::Invite));
        if action == MemberAction::Join
            && !is_let_in
            && let Some(voucher) = self.find_voucher(cache, &intent.target).await?
        {
            content.insert("join_authorised_via_users_server".to_owned(), voucher.to_string().into());
        }
        Ok(content)
    }

    /// A member of ours who vouches for the join of a user of ours, if the room needs one; `None` if it does not.
    async fn find_voucher(&self, cache: &mut RoomCache, user: &UserId) -> Result<Option<OwnedUserId>, SendError> {
        match self.vouching(cache, user).await? {
            Vouching::NotNeeded => Ok(None),
            Vouching::By(voucher) => Ok(Some(voucher)),
            // Of rooms that this server is not in no user of ours is a member.
            Vouching::Refused | Vouching::Unknowable => {
                Err(SendError::forbidden("you are in none of the rooms whose members may join"))
            }
            Vouching::Nobody => Err(SendError::Remote),
        }
    }

    /// Whether a join needs somebody who vouches for it, and who of ours may.
    /// [Restricted rooms](https://spec.matrix.org/v1.19/server-server-api/#restricted-rooms).
    pub(crate) async fn vouching(&self, cache: &mut RoomCache, user: &UserId) -> Result<Vouching, SendError> {
        let rules = &cache.version.rules().authorization;
        let join_rules = cache.state(&self.store, "m.room.join_rules", "").await?;
        let join_rules: JoinRules = join_rules.and_then(|event| event.content_as().ok()).unwrap_or_default();
        let is_restricted = match join_rules.join_rule.as_deref() {
            Some("restricted") => rules.restricted_join_rule,
            Some("knock_restricted") => rules.knock_restricted_join_rule,
            _ => false,
        };
        if !is_restricted {
            return Ok(Vouching::NotNeeded);
        }
        match self.is_in_any(user, &join_rules).await? {
            Some(true) => {}
            Some(false) => return Ok(Vouching::Refused),
            None => return Ok(Vouching::Unknowable),
        }
        let levels = cache.power_levels(&self.store).await?;
        let named: Vec<OwnedUserId> = levels.creators().iter().chain(levels.users().keys()).cloned().collect();
        for candidate in named {
            let is_fit = candidate.server_name() == self.server_name && levels.can_invite(&candidate);
            if is_fit && cache.membership(&self.store, &candidate).await? == Some(Membership::Join) {
                return Ok(Vouching::By(candidate));
            }
        }
        let members = self.store.current_members(cache.number, None, VOUCHERS_MAX).await?;
        let joined = members.into_iter().filter(|(_, row)| row.membership == Some(Membership::Join));
        let mut users = joined.filter_map(|(user, _)| OwnedUserId::try_from(user).ok());
        let found = users.find(|user| user.server_name() == self.server_name && levels.can_invite(user));
        Ok(found.map_or(Vouching::Nobody, Vouching::By))
    }

    /// Whether the user is in one of the rooms that are named; `None`: in none that this server is in, but it is not in
    /// all of them.
    async fn is_in_any(&self, user: &UserId, join_rules: &JoinRules) -> Result<Option<bool>, SendError> {
        let number = self.store.user_number(user).await?;
        let mut are_all_known = true;
        let conditions = join_rules.allow.iter().flatten().filter(|allow| allow.kind == "m.room_membership");
        for allow in conditions.take(CONDITIONS_MAX) {
            let Ok(room_id) = <&RoomId>::try_from(allow.room_id.as_deref().unwrap_or_default()) else { continue };
            let room = match self.store.room_number(room_id).await? {
                Some(room)
                    if self.store.joined_from(room, &self.server_name).await? > 0
                        && self.store.head(room).await?.is_some_and(|head| !head.partial) =>
                {
                    room
                }
                _ => {
                    are_all_known = false;
                    continue;
                }
            };
            let Some(number) = number else { continue };
            let membership = self.store.membership(number, room).await?;
            if membership.is_some_and(|row| row.membership == Membership::Join) {
                return Ok(Some(true));
            }
        }
        Ok(are_all_known.then_some(false))
    }
}

/// Who of ours vouches for a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vouching {
    /// The room's join rule is not a restricted one.
    NotNeeded,
    /// The user is in one of the rooms that the rule names, and this member of ours may invite.
    By(OwnedUserId),
    /// The user is in none of the rooms.
    Refused,
    /// The user is in none of the rooms that this server is in; another server may know more.
    Unknowable,
    /// The user is in one of the rooms, but nobody of ours may invite: another server may help.
    Nobody,
}

#[derive(Default, Deserialize)]
struct JoinRules {
    join_rule: Option<String>,
    allow: Option<Vec<Allow>>,
}

#[derive(Deserialize)]
struct Allow {
    #[serde(rename = "type", default)]
    kind: String,
    room_id: Option<String>,
}

/// Whether this `m.room.guest_access` event lets guests in; without one they stay out.
pub(crate) fn guests_may_join(guest_access: Option<&Event>) -> bool {
    #[derive(Deserialize)]
    struct Content {
        guest_access: String,
    }
    guest_access
        .and_then(|event| event.content_as::<Content>().ok())
        .is_some_and(|content| content.guest_access == "can_join")
}

/// The event that makes the action unnecessary.
fn standing(
    action: MemberAction,
    membership: Option<Membership>,
    before: Option<&Event>,
    content: &Map<String, Value>,
) -> Option<OwnedEventId> {
    let before = before?;
    let is_plain = content.keys().all(|key| key == "displayname" || key == "avatar_url");
    let stands = match (action, membership?) {
        (MemberAction::Join, Membership::Join) => is_plain,
        (MemberAction::Leave, Membership::Leave) => true,
        _ => false,
    };
    stands.then(|| before.event_id().to_owned())
}

/// The content of a joined user's membership with these fields changed.
fn profile_content(
    before: Option<&Event>,
    membership: Option<Membership>,
    changes: &Map<String, Value>,
) -> Result<Map<String, Value>, SendError> {
    let before = before.filter(|_| membership == Some(Membership::Join));
    let before = before.ok_or_else(|| SendError::forbidden("you are not in this room"))?;
    let mut content: Map<String, Value> = before.content_as().unwrap_or_default();
    // Both belong to the event by which the user came in.
    content.remove("join_authorised_via_users_server");
    content.remove("reason");
    for (key, value) in changes {
        if value.is_null() {
            content.remove(key);
        } else {
            content.insert(key.clone(), value.clone());
        }
    }
    Ok(content)
}
