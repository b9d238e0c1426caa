//! Who has ended their account and may still be in rooms. Leaving them is up to the caller, for this crate writes no room
//! event; a job row, written with the account's end, stands until it is done.

use hearth_ports::{KeyRange, Page};
use hearth_store::{
    Table, UserNumber, Write,
    tables::{
        Membership,
        users::{DepartureRow, departure_key, departure_of_key, departures_prefix},
    },
};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{Fault, Users};

/// Somebody whose rooms are to be left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departure {
    /// Who.
    pub user_id: OwnedUserId,
    /// Their number.
    pub user: UserNumber,
    /// When the account ended, in milliseconds since the Unix epoch.
    pub ended_ts_ms: u64,
}

impl Users {
    /// A page of those who have not left all their rooms, in a fixed order, beginning after `after`. An empty page is the
    /// last.
    pub async fn departures(&self, after: Option<UserNumber>, limit: usize) -> Result<Vec<Departure>, Fault> {
        let mut range = KeyRange::prefix(departures_prefix());
        if let Some(next) = after.and_then(|after| after.0.checked_add(1)) {
            range.from = departure_key(UserNumber(next));
        }
        let mut departures = Vec::new();
        for (key, row) in self.store.scan::<DepartureRow>(Table::Mi, range, Page::first(limit)).await? {
            let user = departure_of_key(&key).ok_or_else(|| Fault::Broken("a departure of nobody".to_owned()))?;
            let user_id = self.store.user_id(user).await?;
            let user_id = user_id.ok_or_else(|| Fault::Broken("a departure of an unknown user".to_owned()))?;
            departures.push(Departure { user_id, user, ended_ts_ms: row.ended_ts_ms });
        }
        Ok(departures)
    }

    /// The rooms that a user is in, is invited to, or asked to be let into.
    pub async fn present_rooms(&self, user_id: &UserId) -> Result<Vec<OwnedRoomId>, Fault> {
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(Vec::new()) };
        let mut rooms = Vec::new();
        for (room, row) in self.store.user_rooms(user).await? {
            if matches!(row.membership, Membership::Join | Membership::Invite | Membership::Knock) {
                rooms.extend(self.store.room_id(room).await?);
            }
        }
        for (room, row) in self.store.outside_rooms(user).await? {
            if matches!(row.membership, Membership::Invite | Membership::Knock)
                && let Some(room_id) = self.store.room_id(room).await?
                && !rooms.contains(&room_id)
            {
                rooms.push(room_id);
            }
        }
        Ok(rooms)
    }

    /// There is nothing left to do for this departure.
    pub async fn departed(&self, departure: &Departure) -> Result<(), Fault> {
        let mut write = Write::new(departure.user.partition());
        write.delete(Table::Mi, departure_key(departure.user));
        self.store.commit(write).await?;
        Ok(())
    }
}
