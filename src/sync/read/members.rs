//! The members of a room.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidmembers).

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use hearth_store::{StateKeyNumber, StateVersion, StoredEvent};
use hearth_view::{Membership, PlaceToken, event_json::push_string};
use ruma::RoomId;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ReadError, Reader, Reads, room::RoomView};

/// Which members.
#[derive(Clone, Debug, Default)]
pub struct MembersQuery {
    /// As of this place; without it the present ones.
    pub at: Option<PlaceToken>,
    /// Only this membership, as the specification writes it.
    pub membership: Option<String>,
    /// Not this membership.
    pub not_membership: Option<String>,
}

/// State keys resolved at once: bounds what one step of a large room holds in memory.
const STEP: usize = 1_024;

impl Reads {
    /// The answer of `/members`, as JSON.
    pub async fn members(&self, reader: &Reader, room_id: &RoomId, query: &MembersQuery) -> Result<Bytes, ReadError> {
        self.whole(room_id).await?;
        let view = self.open(reader, room_id).await?;
        let version = match &query.at {
            Some(token) => self.store.state_at(view.number, view.place(token)?.min(view.until)).await?,
            None => view.state,
        };
        let is_wanted = |stored: &Arc<StoredEvent>| {
            let membership = Membership::of(Some(&stored.event)).as_str();
            query.membership.as_ref().is_none_or(|wanted| wanted == membership)
                && query.not_membership.as_ref().is_none_or(|unwanted| unwanted != membership)
        };
        let members: Vec<_> = self.member_events(&view, version).await?.into_iter().filter(is_wanted).collect();
        let mut out = Vec::with_capacity(400 * members.len() + 16);
        out.extend_from_slice(b"{\"chunk\":");
        view.write_state(&mut out, &members).await?;
        out.push(b'}');
        Ok(out.into())
    }

    /// The answer of `/joined_members`, as JSON. Only for those who are joined.
    pub async fn joined_members(&self, reader: &Reader, room_id: &RoomId) -> Result<Bytes, ReadError> {
        self.whole(room_id).await?;
        let view = self.open(reader, room_id).await?;
        if !view.is_joined() {
            return Err(ReadError::Forbidden);
        }
        let members = self.member_events(&view, view.state).await?;
        let joined = members.iter().filter(|stored| Membership::of(Some(&stored.event)) == Membership::Join);
        let mut out = Vec::with_capacity(160 * members.len() + 16);
        out.extend_from_slice(b"{\"joined\":{");
        let begin = out.len();
        for stored in joined {
            if out.len() > begin {
                out.push(b',');
            }
            push_string(&mut out, stored.event.state_key().unwrap_or_default());
            out.push(b':');
            write_profile(&mut out, stored.event.content_json());
        }
        out.extend_from_slice(b"}}");
        Ok(out.into())
    }

    /// The member events of a version of the state.
    async fn member_events(
        &self,
        view: &RoomView<'_>,
        version: StateVersion,
    ) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let entries = self.store.state_all(view.number, version).await?;
        let mut members = Vec::new();
        for step in entries.chunks(STEP) {
            let keys: Vec<StateKeyNumber> = step.iter().map(|(key, _)| *key).collect();
            let pairs = self.store.state_keys(view.number, &keys).await?;
            let is_member = |pair: &Option<_>| {
                let pair: &Option<Arc<hearth_store::tables::StateKeyRow>> = pair;
                pair.as_ref().is_some_and(|pair| pair.kind == "m.room.member")
            };
            let numbers: Vec<_> =
                step.iter().zip(&pairs).filter(|(_, pair)| is_member(pair)).map(|((_, event), _)| *event).collect();
            members.extend(self.store.events(view.number, &numbers).await?.into_iter().flatten());
        }
        Ok(members)
    }
}

/// Appends `{"avatar_url":…,"display_name":…}` from the content of a member event, `null` for what it does not have.
fn write_profile(out: &mut Vec<u8>, content: &str) {
    #[derive(Default, Deserialize)]
    struct Content<'a> {
        #[serde(borrow, default)]
        displayname: Option<&'a RawValue>,
        #[serde(borrow, default)]
        avatar_url: Option<&'a RawValue>,
    }
    // Content of another shape has no profile.
    let content: Content<'_> = serde_json::from_str(content).unwrap_or_default();
    out.extend_from_slice(b"{\"avatar_url\":");
    write_text(out, content.avatar_url);
    out.extend_from_slice(b",\"display_name\":");
    write_text(out, content.displayname);
    out.push(b'}');
}

/// Appends a JSON string, or `null` for anything else.
fn write_text(out: &mut Vec<u8>, value: Option<&RawValue>) {
    match value.and_then(|raw| serde_json::from_str::<Cow<'_, str>>(raw.get()).ok()) {
        Some(text) => push_string(out, &text),
        None => out.extend_from_slice(b"null"),
    }
}

#[cfg(test)]
mod tests {
    use super::write_profile;

    #[test]
    fn a_profile_is_what_the_member_event_has_of_it() {
        let profile = |content: &str| {
            let mut out = Vec::new();
            write_profile(&mut out, content);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            profile(r#"{"membership":"join","displayname":"A \"b\""}"#),
            r#"{"avatar_url":null,"display_name":"A \"b\""}"#
        );
        assert_eq!(
            profile(r#"{"displayname":null,"avatar_url":"mxc://a/b"}"#),
            r#"{"avatar_url":"mxc://a/b","display_name":null}"#
        );
        let none = r#"{"avatar_url":null,"display_name":null}"#;
        assert_eq!(profile(r#"{"displayname":7,"avatar_url":["x"]}"#), none);
        assert_eq!(profile("[]"), none);
    }
}
