//! A copy of one room: what `/initialSync` of a room answers.
//! [Client-server API](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3roomsroomidinitialsync).

use bytes::Bytes;
use hearth_store::{Order, RoomNumber};
use hearth_users::AccountData;
use hearth_view::{RoomEventFilter, event_json::push_string};
use ruma::RoomId;

use super::{
    ReadError, Reader, Reads,
    messages::{Direction, MessagesQuery, page_token},
};

impl Reads {
    /// The room's state, its last `limit` events, what the reader keeps about it; `visibility` is the directory's.
    pub async fn initial_sync(
        &self,
        reader: &Reader,
        room_id: &RoomId,
        limit: usize,
        visibility: &str,
    ) -> Result<Bytes, ReadError> {
        self.whole(room_id).await?;
        let mut view = self.open(reader, room_id).await?;
        let until = Order::live(self.store.live().positions().at(view.number.partition())).min(view.until);
        let query = MessagesQuery {
            from: None,
            to: None,
            direction: Direction::Backward,
            limit,
            filter: RoomEventFilter::default(),
        };
        let page = self.page(&mut view, until, None, &query).await?;
        let state = self.state_events(&view, view.state).await?;

        let mut out = Vec::with_capacity(4_096);
        out.extend_from_slice(b"{\"room_id\":");
        push_string(&mut out, room_id.as_str());
        if let Some(row) = view.membership {
            out.extend_from_slice(b",\"membership\":");
            push_string(&mut out, membership_str(row.membership));
        }
        out.extend_from_slice(b",\"messages\":{\"chunk\":");
        view.write_events(&mut out, page.events.iter().rev()).await?;
        out.extend_from_slice(b",\"start\":");
        push_string(&mut out, &page.next.unwrap_or(page_token(Order::START)).to_string());
        out.extend_from_slice(b",\"end\":");
        push_string(&mut out, &page_token(until).to_string());
        out.extend_from_slice(b"},\"state\":");
        view.write_state(&mut out, &state).await?;
        out.extend_from_slice(b",\"account_data\":[");
        for (nth, data) in self.kept(reader, view.number).await?.iter().enumerate() {
            out.extend_from_slice(if nth > 0 { &b",{\"content\":"[..] } else { b"{\"content\":" });
            out.extend_from_slice(data.content.as_bytes());
            out.extend_from_slice(b",\"type\":");
            push_string(&mut out, &data.kind);
            out.push(b'}');
        }
        out.extend_from_slice(b"],\"visibility\":");
        push_string(&mut out, visibility);
        out.push(b'}');
        Ok(out.into())
    }

    /// The reader's account data of a room.
    async fn kept(&self, reader: &Reader, room: RoomNumber) -> Result<Vec<AccountData>, ReadError> {
        match self.store.user_number(&reader.user_id).await? {
            Some(user) => Ok(self.users.account_data_of_room(user, room).await?),
            None => Ok(Vec::new()),
        }
    }
}

const fn membership_str(membership: hearth_store::tables::Membership) -> &'static str {
    use hearth_store::tables::Membership;
    match membership {
        Membership::Join => "join",
        Membership::Invite => "invite",
        Membership::Knock => "knock",
        Membership::Leave => "leave",
        Membership::Ban => "ban",
    }
}
