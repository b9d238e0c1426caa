//! One look at what a reader has not seen: which rooms, and the answer put together.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use hearth_store::{
    RoomNumber, UserLive, UserNumber,
    tables::{Membership, MembershipRow},
};
use hearth_users::{AccountData, Fault, Ignored};
use hearth_view::{EventFormat, Filter, delta::Wish};

use crate::{
    Reader, SyncError, SyncQuery, Syncs, account,
    device_lists::{self, DeviceLists, Sharing},
    gate::Eyes,
    json, keys,
    place::Place,
    presence::{self, Newcomers},
    room,
    sent::DeviceKey,
    syncs::StateForm,
    timeline::ROWS_OF_ANSWER_MAX,
    to_device,
};

/// So many rooms are written before others have their turn: about half a millisecond.
const ROOMS_IN_ONE_GO: usize = 8;

/// Who syncs and what they ask: the same for all looks of one request.
pub(crate) struct Asked<'a> {
    pub(crate) syncs: &'a Syncs,
    pub(crate) reader: &'a Reader,
    pub(crate) user: UserNumber,
    pub(crate) device: DeviceKey,
    pub(crate) live: &'a UserLive,
    pub(crate) filter: &'a Filter,
    pub(crate) query: &'a SyncQuery,
}

/// What came of a look.
pub(crate) enum Looked {
    /// The answer.
    News(Bytes),
    /// There is nothing to tell up to this place.
    Nothing(Place),
}

/// A look from one place to another, with what it needs everywhere at hand.
pub(crate) struct Look<'a> {
    pub(crate) syncs: &'a Syncs,
    pub(crate) reader: &'a Reader,
    pub(crate) user: UserNumber,
    pub(crate) device: DeviceKey,
    pub(crate) live: &'a UserLive,
    pub(crate) filter: &'a Filter,
    pub(crate) format: EventFormat,
    pub(crate) wish: Wish,
    pub(crate) state_form: StateForm,
    /// The last sync's end.
    pub(crate) since: Option<&'a Place>,
    /// This sync's end.
    pub(crate) now: Place,
    pub(crate) now_ms: u64,
    pub(crate) ignored: Ignored,
    /// Rows that searches may still go through.
    pub(crate) rows_left: AtomicUsize,
}

impl Asked<'_> {
    /// Looks at what came since. Where memory already says that it is nothing, the store is not asked.
    pub(crate) async fn look(&self, since: Option<&Place>) -> Result<Looked, SyncError> {
        let now = self.syncs.now();
        if let Some(since) = since {
            let serial = since.serial_in(now.epoch);
            let may_have_none = !self.query.full_state && serial == now.serial && since.to_device == 0;
            if may_have_none && !self.live.news_since(&since.positions) {
                return Ok(Looked::Nothing(now));
            }
        }
        let look = self.begin(since, now).await?;
        Ok(match look.answer().await? {
            Some(answer) => Looked::News(answer),
            None => Looked::Nothing(look.now),
        })
    }

    /// Whose device lists changed since a place, and with whom no room is shared any more since then.
    pub(crate) async fn device_lists(&self, since: &Place) -> Result<DeviceLists, SyncError> {
        let look = self.begin(Some(since), self.syncs.now()).await?;
        let mut met = Met::default();
        for (room, row) in look.rooms(&HashMap::new()).await? {
            let mut unread = Sections::default();
            look.write_room(&mut unread, &mut met, &Known { room, row, account_data: &[] }).await?;
        }
        device_lists::gather(&look, met.sharing).await
    }

    async fn begin<'l>(&'l self, since: Option<&'l Place>, now: Place) -> Result<Look<'l>, SyncError> {
        Ok(Look {
            syncs: self.syncs,
            reader: self.reader,
            user: self.user,
            device: self.device,
            live: self.live,
            filter: self.filter,
            format: self.filter.format(),
            wish: Wish {
                first: since.is_none(),
                full_state: self.query.full_state,
                state_after: self.query.state != StateForm::Before,
                include_leave: self.filter.room.include_leave,
                lazy_members: self.filter.room.state.lazy_load_members,
            },
            state_form: self.query.state,
            since,
            now_ms: self.syncs.clock.now_ms(),
            ignored: self.syncs.users.ignored(self.user).await?,
            rows_left: AtomicUsize::new(ROWS_OF_ANSWER_MAX),
            now,
        })
    }
}

/// What is known of a room before it is looked at.
pub(crate) struct Known<'a> {
    pub(crate) room: RoomNumber,
    /// The reader's membership, if it was read.
    pub(crate) row: Option<MembershipRow>,
    /// The reader's account data of the room that is to be told.
    pub(crate) account_data: &'a [AccountData],
}

/// Whom the reader met or parted from, for the sections behind the rooms.
#[derive(Default)]
pub(crate) struct Met {
    pub(crate) newcomers: Newcomers,
    pub(crate) sharing: Sharing,
}

/// The four sections of rooms while they are written: entries of an object.
#[derive(Default)]
pub(crate) struct Sections {
    pub(crate) join: Vec<u8>,
    pub(crate) invite: Vec<u8>,
    pub(crate) knock: Vec<u8>,
    pub(crate) leave: Vec<u8>,
}

impl Look<'_> {
    /// Who looks.
    pub(crate) fn eyes(&self) -> Eyes<'_> {
        Eyes {
            store: &self.syncs.store,
            users: &self.syncs.users,
            user_id: &self.reader.user_id,
            device_id: Some(&self.reader.device_id),
            ignored: Ignored::clone(&self.ignored),
            now_ms: self.now_ms,
        }
    }

    /// The answer; `None` if there is nothing to tell and the reader may wait.
    pub(crate) async fn answer(&self) -> Result<Option<Bytes>, SyncError> {
        let account_data = account::load(self).await?;
        let mut sections = Sections::new();
        let mut met = Met::default();
        for (nth, (room, row)) in self.rooms(&account_data.rooms).await?.into_iter().enumerate() {
            if nth % ROOMS_IN_ONE_GO == ROOMS_IN_ONE_GO - 1 {
                // Reads that find all in memory never wait, and others want to be served too.
                tokio::task::yield_now().await;
            }
            let account_data = account_data.rooms.get(&room).map(Vec::as_slice).unwrap_or_default();
            let known = Known { room, row, account_data };
            self.write_room(&mut sections, &mut met, &known).await?;
        }
        let mut out = std::mem::take(&mut sections.join);
        let is_joined_told = out.len() > Sections::JOIN.len();
        sections.close(&mut out, is_joined_told);
        let mut has_news = out.len() > 1;
        has_news |= account::write(&mut out, self, &account_data.global);
        has_news |= presence::write(&mut out, self, &met.newcomers).await?;
        let handed_out = to_device::write(&mut out, self).await?;
        has_news |= handed_out.is_some();
        has_news |= device_lists::write(&mut out, self, met.sharing).await?;
        if !has_news && !self.wish.first && !self.wish.full_state {
            return Ok(None);
        }
        keys::write(&mut out, &self.syncs.users, self.user, self.reader).await?;
        json::name(&mut out, "next_batch");
        let place = Place { to_device: handed_out.flatten().unwrap_or(0), ..self.now.clone() };
        json::push(&mut out, &format!("\"{}\"}}", place.token()));
        Ok(Some(out.into()))
    }

    /// The rooms in which there may be something to tell, with the reader's memberships as far as they were read.
    async fn rooms(
        &self,
        account_data: &HashMap<RoomNumber, Vec<AccountData>>,
    ) -> Result<BTreeMap<RoomNumber, Option<MembershipRow>>, SyncError> {
        let mut rooms = BTreeMap::new();
        if let Some(since) = self.since {
            let changed = self.live.rooms_since(&since.positions).into_iter();
            let changed = changed.chain(account_data.keys().copied()).chain(self.typing_rooms(since));
            rooms.extend(changed.map(|room| (room, None)));
        }
        if self.wish.first || self.wish.full_state {
            let all = self.syncs.store.user_rooms(self.user).await?;
            let wanted = all.into_iter().filter(|(_, row)| {
                let is_left = matches!(row.membership, Membership::Leave | Membership::Ban);
                !is_left || (self.wish.first && self.wish.include_leave && row.joined_position > 0 && !row.forgotten)
            });
            rooms.extend(wanted.map(|(room, row)| (room, Some(row))));
            for (room, _) in self.syncs.store.outside_rooms(self.user).await? {
                rooms.entry(room).or_insert(None);
            }
        }
        Ok(rooms)
    }

    /// Takes from the rows that the searches of this answer may go through.
    pub(crate) fn may_search(&self, rows: usize) -> bool {
        self.rows_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(rows)).is_ok()
    }

    /// Joined rooms in which somebody began or ceased to type.
    fn typing_rooms(&self, since: &Place) -> Vec<RoomNumber> {
        let serial = since.serial_in(self.now.epoch);
        if serial == self.now.serial || !self.filter.room.ephemeral.events.allows_type("m.typing") {
            return Vec::new();
        }
        let joined = self.live.rooms().into_iter().filter(|(_, membership)| *membership == Membership::Join);
        joined.map(|(room, _)| room).filter(|room| self.syncs.users.typing_since(*room, serial).is_some()).collect()
    }

    /// Writes a room; one that can't be read is left out, and does not take the others with it.
    async fn write_room(&self, sections: &mut Sections, met: &mut Met, known: &Known<'_>) -> Result<(), SyncError> {
        let lengths = sections.lengths();
        match room::write(self, sections, met, known).await {
            Err(SyncError::Fault(Fault::Broken(reason))) => {
                tracing::error!(room = known.room.0, reason, "a room can't be synced");
                sections.truncate(lengths);
                Ok(())
            }
            result => result,
        }
    }
}

impl Sections {
    /// What stands before the joined rooms, which are written right where they stay.
    const JOIN: &'static str = "{\"rooms\":{\"join\":{";

    fn new() -> Self {
        Self { join: Self::JOIN.as_bytes().to_vec(), ..Self::default() }
    }

    fn lengths(&self) -> [usize; 4] {
        [self.join.len(), self.invite.len(), self.knock.len(), self.leave.len()]
    }

    fn truncate(&mut self, [join, invite, knock, leave]: [usize; 4]) {
        self.join.truncate(join);
        self.invite.truncate(invite);
        self.knock.truncate(knock);
        self.leave.truncate(leave);
    }

    /// Completes the rooms in `out`, which has the joined ones so far. Without any it becomes the open answer: `{`.
    fn close(&self, out: &mut Vec<u8>, is_joined_told: bool) {
        if is_joined_told {
            out.push(b'}');
        } else {
            out.truncate("{\"rooms\":{".len());
        }
        for (section, rooms) in [("invite", &self.invite), ("knock", &self.knock), ("leave", &self.leave)] {
            if rooms.is_empty() {
                continue;
            }
            json::name(out, section);
            out.push(b'{');
            out.extend_from_slice(rooms);
            out.push(b'}');
        }
        if out.len() > "{\"rooms\":{".len() {
            out.push(b'}');
        } else {
            out.truncate(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sections_with_rooms_are_written() {
        let close = |join: &str, invite: &str, leave: &str| {
            let mut sections = Sections::new();
            sections.join.extend_from_slice(join.as_bytes());
            sections.invite.extend_from_slice(invite.as_bytes());
            sections.leave.extend_from_slice(leave.as_bytes());
            let mut out = std::mem::take(&mut sections.join);
            let is_joined_told = out.len() > Sections::JOIN.len();
            sections.close(&mut out, is_joined_told);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(close("", "", ""), "{");
        assert_eq!(close("\"!a\":{}", "", ""), r#"{"rooms":{"join":{"!a":{}}}"#);
        assert_eq!(close("", "", "\"!a\":{}"), r#"{"rooms":{"leave":{"!a":{}}}"#);
        assert_eq!(
            close("\"!a\":{}", "\"!b\":{}", "\"!c\":{}"),
            r#"{"rooms":{"join":{"!a":{}},"invite":{"!b":{}},"leave":{"!c":{}}}"#
        );
    }
}
