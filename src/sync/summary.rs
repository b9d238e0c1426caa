//! The summary of a room: how many are in it, and after whom to name it.
//! [MSC688](https://github.com/matrix-org/matrix-spec-proposals/blob/main/proposals/688-room-summaries.md)

use std::sync::Arc;

use hearth_core::Event;
use hearth_store::{LoadError, StateVersion, StoredEvent, tables};
use hearth_view::{Membership, delta::heroes, event_json::push_string};
use serde::Deserialize;

use crate::{json, state::Differences, view::RoomView};

/// Members looked at in search of heroes. Where so many in a row have left, clients do with fewer heroes.
const HERO_SEARCH_MAX: usize = 500;

/// Changed members that are compared one by one; of more it is taken for granted that memberships changed.
const COMPARED_MAX: usize = 50;

/// What the client is told.
pub(crate) struct Summary {
    /// `None` where the room has a name.
    pub(crate) heroes: Option<Vec<String>>,
    joined: u32,
    invited: u32,
}

impl Summary {
    /// The summary, if it may have changed by these differences. `all_is_news`: it is told in any case.
    pub(crate) async fn load(
        view: &RoomView<'_>,
        now: StateVersion,
        differences: &Differences,
        all_is_news: bool,
    ) -> Result<Option<Self>, LoadError> {
        if !all_is_news && !is_changed(view, differences).await? {
            return Ok(None);
        }
        let Some(head) = view.look.syncs.store.head(view.room).await? else { return Ok(None) };
        let heroes = if is_named(view, now).await? { None } else { Some(load_heroes(view).await?) };
        Ok(Some(Self { heroes, joined: head.joined, invited: head.invited }))
    }

    /// Appends `"summary":{…}`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        json::name(out, "summary");
        out.push(b'{');
        if let Some(heroes) = &self.heroes {
            json::push(out, "\"m.heroes\":[");
            for hero in heroes {
                json::comma(out);
                push_string(out, hero);
            }
            json::push(out, "],");
        }
        json::push(
            out,
            &format!("\"m.invited_member_count\":{},\"m.joined_member_count\":{}}}", self.invited, self.joined),
        );
    }
}

async fn is_changed(view: &RoomView<'_>, differences: &Differences) -> Result<bool, LoadError> {
    let mut compared = 0;
    for (difference, pair) in differences {
        match pair.kind.as_str() {
            "m.room.name" | "m.room.canonical_alias" => return Ok(true),
            "m.room.member" => {}
            _ => continue,
        }
        compared += 1;
        if compared > COMPARED_MAX {
            return Ok(true);
        }
        let sides: Vec<_> = difference.before.into_iter().chain(difference.after).collect();
        let events = view.look.syncs.store.events(view.room, &sides).await?;
        let memberships: Vec<Membership> =
            events.iter().map(|event| Membership::of(event.as_ref().map(|event| &event.event))).collect();
        if memberships.len() < 2 || memberships.windows(2).any(|pair| pair[0] != pair[1]) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// "Required if the room's `m.room.name` or `m.room.canonical_alias` state events are unset or empty": clients use
/// heroes only if neither names the room.
async fn is_named(view: &RoomView<'_>, now: StateVersion) -> Result<bool, LoadError> {
    #[derive(Deserialize)]
    struct Content {
        name: Option<String>,
        alias: Option<String>,
    }
    for kind in ["m.room.name", "m.room.canonical_alias"] {
        let event: Option<Arc<StoredEvent>> = view.look.syncs.store.state_event(view.room, now, kind, "").await?;
        let content = event.and_then(|event| Event::content_as::<Content>(&event.event).ok());
        let value = content.and_then(|content| if kind == "m.room.name" { content.name } else { content.alias });
        if value.is_some_and(|value| !value.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn load_heroes(view: &RoomView<'_>) -> Result<Vec<String>, LoadError> {
    let members = view.look.syncs.store.current_members(view.room, None, HERO_SEARCH_MAX).await?;
    let by_user = members.iter().filter_map(|(user, row)| Some((user.as_str(), membership(row.membership?))));
    Ok(heroes(view.look.reader.user_id.as_str(), by_user).into_iter().map(str::to_owned).collect())
}

/// A stored membership in the words of views.
pub(crate) const fn membership(stored: tables::Membership) -> Membership {
    match stored {
        tables::Membership::Join => Membership::Join,
        tables::Membership::Invite => Membership::Invite,
        tables::Membership::Knock => Membership::Knock,
        tables::Membership::Leave => Membership::Leave,
        tables::Membership::Ban => Membership::Ban,
    }
}
