//! Typing and presence: what goes on now.

use std::time::Duration;

use ruma::{OwnedUserId, UserId};

use super::{
    World,
    receipts::{room_id, room_of},
    world,
};
use crate::PresenceState;

async fn two(world: &World) -> (OwnedUserId, OwnedUserId) {
    (world.account("alice").await, world.account("bob").await)
}

#[tokio::test(start_paused = true)]
async fn typing_ends_by_itself() {
    let world = world().await;
    let (alice, bob) = two(&world).await;
    let room = room_of(&world, &[&alice, &bob]).await;
    let users = &world.users;
    assert_eq!(users.typing_since(room, 0), None);
    users.set_typing(room, &alice, Some(Duration::from_secs(10)));
    users.set_typing(room, &bob, Some(Duration::from_secs(30)));
    let typing = users.typing_since(room, 0).unwrap();
    assert_eq!(typing.users, [alice.clone(), bob.clone()]);
    assert_eq!(users.typing_since(room, typing.serial), None);
    users.set_typing(room, &alice, Some(Duration::from_secs(10)));
    assert_eq!(users.typing_since(room, typing.serial), None, "to go on typing is no news");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let later = users.typing_since(room, typing.serial).unwrap();
    assert_eq!(later.users, std::slice::from_ref(&bob));
    users.set_typing(room, &bob, None);
    let end = users.typing_since(room, later.serial).unwrap();
    assert!(end.users.is_empty() && end.serial == users.serial());
    assert_eq!(users.typing_since(room, 0), Some(end), "who comes now may be told that nobody does any longer");
}

#[tokio::test(start_paused = true)]
async fn presence_follows_what_a_user_does() {
    let world = world().await;
    let (alice, bob) = two(&world).await;
    room_of(&world, &[&alice]).await;
    let users = &world.users;
    let state = |user: &UserId| users.presence(user).state;
    assert_eq!(state(&alice), PresenceState::Offline);
    let before = users.serial();
    let syncing = users.syncing(&alice, PresenceState::Online).await.unwrap();
    assert_eq!(state(&alice), PresenceState::Online);
    assert!(users.presence(&alice).currently_active);
    let news = users.presence_since(before);
    assert_eq!(news.iter().map(|update| &update.user_id).collect::<Vec<_>>(), [&alice]);
    // A sync that goes on for long keeps its user from being offline, not from being idle.
    tokio::time::sleep(Duration::from_secs(299)).await;
    assert_eq!((state(&alice), users.presence(&alice).currently_active), (PresenceState::Online, false));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&alice), PresenceState::Unavailable);
    users.active(&alice).await;
    assert_eq!(state(&alice), PresenceState::Online);
    drop(syncing);
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(state(&alice), PresenceState::Online);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(state(&alice), PresenceState::Offline);
    // Who wishes not to be seen is not.
    assert!(users.syncing(&bob, PresenceState::Offline).await.unwrap().is_none());
    assert_eq!(state(&bob), PresenceState::Offline);
    users.set_presence(&bob, PresenceState::Unavailable, Some("away".to_owned())).await.unwrap();
    assert_eq!(users.presence(&bob).status_msg.as_deref(), Some("away"));
    assert!(!users.share_room(&alice, &bob).await.unwrap());
    assert_eq!(users.present_rooms(&alice).await.unwrap(), [room_id().to_owned()]);
}
