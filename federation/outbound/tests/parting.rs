//! What goes to a server that an event puts out.

use std::sync::Arc;

use hearth_core::{RawEvent, RoomVersion};
use hearth_rooms::MemberAction;
use hearth_store::StoredEvent;
use ruma::{EventId, RoomId, server_name};
use serde_json::Value;

use super::{super::targets::in_parting, World};

impl World {
    async fn stored(&self, room_id: &RoomId, event_id: &EventId) -> Arc<StoredEvent> {
        let room = self.number(room_id).await;
        let number = self.store.event_number(room, event_id).await.unwrap().unwrap();
        self.store.event(room, number).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn whom_a_message_puts_out_does_not_read_it() {
    let world = World::new().await;
    let room_id = world.room(&["@bob:b.test"]).await;
    let said = world.say(&room_id, "@alice:hearth.test", "not for them").await;
    let told = in_parting(&*world.stored(&room_id, &said).await, server_name!("b.test"));
    let json: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(json["content"], serde_json::json!({}));
    let event = RawEvent::parse(RoomVersion::DEFAULT, &told).unwrap();
    assert_eq!(event.event_id(), said, "it is the same event");
}

#[tokio::test]
async fn who_is_kicked_reads_why() {
    let world = World::new().await;
    let room_id = world.room(&["@bob:b.test"]).await;
    let kicked = world.act(&room_id, "@alice:hearth.test", MemberAction::Kick, "@bob:b.test").await;
    let stored = world.stored(&room_id, &kicked).await;
    assert_eq!(in_parting(&stored, server_name!("b.test")), stored.event.json());
}
