//! Requests of invites that should not be taken as they are.

use hearth_core::RoomVersion;

use super::twin::towns;
use crate::{HandshakeError, Invitation, MemberAction, Membership, Preset};

use MemberAction::{Invite, Leave};

/// The request of an invite arrives once more when the invite has ended.
#[tokio::test]
async fn an_invite_that_has_ended_is_not_told_again() {
    for is_banned in [false, true] {
        let [a, b] = towns(["a.test", "b.test"]).await;
        let bob = b.user("bob");
        let room_id = a.create_in("alice", Preset::Private, RoomVersion::V11).await;
        let invite = a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
        if is_banned {
            let ban = a.act(&room_id, "alice", MemberAction::Ban, &bob, &[]).await.unwrap();
            let ban = a.event(&room_id, &ban).await.json().clone();
            b.world.rooms.receive(&a.name, &room_id, vec![ban]).await.remove(0).result.unwrap();
        } else {
            a.net.set_down(&a, true);
            b.own(&room_id, "bob", Leave, &[]).await.unwrap();
        }
        let again = async |invite: &ruma::EventId| {
            let event = a.event(&room_id, invite).await.json().clone();
            let invitation =
                Invitation { room_version: "11".to_owned(), event, invite_room_state: Vec::new(), via: Vec::new() };
            b.world.rooms.accept_invite(&a.name, &room_id, invite, invitation).await.unwrap();
            b.membership(&room_id, &bob).await
        };
        assert_eq!(again(&invite).await, Some(Membership::Leave));
        // Another one is told.
        a.net.set_down(&a, false);
        a.world.clock.advance_ms(1_000);
        if is_banned {
            a.act(&room_id, "alice", MemberAction::Unban, &bob, &[]).await.unwrap();
        } else {
            a.act(&room_id, "alice", MemberAction::Kick, &bob, &[]).await.unwrap();
        }
        a.act(&room_id, "alice", Invite, &bob, &[]).await.unwrap();
        assert_eq!(b.membership(&room_id, &bob).await, Some(Membership::Invite));
    }
}

/// "The event sender is not a user ID on the origin server": `M_INVALID_PARAM`.
#[tokio::test]
async fn an_invite_in_the_name_of_another_servers_user_is_malformed() {
    let [a, b, c] = towns(["a.test", "b.test", "c.test"]).await;
    let room_id = a.create_in("alice", Preset::Private, RoomVersion::V11).await;
    let invite = a.act(&room_id, "alice", Invite, &b.user("bob"), &[]).await.unwrap();
    let event = a.event(&room_id, &invite).await.json().clone();
    let invitation =
        Invitation { room_version: "11".to_owned(), event, invite_room_state: Vec::new(), via: Vec::new() };
    let refused = b.world.rooms.accept_invite(&c.name, &room_id, &invite, invitation).await;
    assert!(matches!(refused, Err(HandshakeError::Malformed(_))), "{refused:?}");
}
