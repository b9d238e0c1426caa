//! Accounts, sessions, tokens, devices.

use std::sync::Arc;

use futures_util::future::join_all;
use hearth_ports::mem::MemEngine;

use super::{PASSWORD, World, localpart, new_account, on_device, passed, world};
use crate::{
    AccountError, AuthError, CreateError, LogInError, LoginError, OpenError, PasswordError, RegisterError, Registrant,
    SessionWish,
};

fn refreshable(device_id: &str) -> SessionWish {
    SessionWish { refreshable: true, ..on_device(device_id) }
}

#[tokio::test]
async fn a_name_is_given_once_even_in_a_race() {
    let world = world().await;
    let new = new_account("alice");
    let made = join_all((0..8).map(|_| world.users.create(&new))).await;
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(made.iter().all(|result| matches!(result, Ok(_) | Err(CreateError::InUse))));
    let alice = new.localpart.user_id(&world.users.settings().server_name);
    world.users.deactivate(&alice, false).await.unwrap();
    assert!(matches!(world.users.create(&new).await, Err(CreateError::InUse)), "not even after its end");
    assert_eq!(world.users.count().await.unwrap(), 1);
}

#[tokio::test]
async fn nobody_learns_which_names_exist() {
    let world = world().await;
    let alice = world.account("alice").await;
    world.users.create(&new_account("nopassword")).await.unwrap();
    let names = ["@alice:hearth.test", "@nobody:hearth.test", "@nopassword:hearth.test"];
    for name in names.map(|name| <&ruma::UserId>::try_from(name).unwrap()) {
        let wrong = world.users.log_in(Some(name), "wrong", &SessionWish::default()).await;
        assert!(matches!(wrong, Err(LogInError::Login(LoginError::Forbidden))), "{name}");
    }
    let long = "x".repeat(513);
    let refused = world.users.log_in(Some(&alice), &long, &SessionWish::default()).await;
    assert!(matches!(refused, Err(LogInError::Login(LoginError::Password(PasswordError::TooLong)))));
}

#[tokio::test]
async fn a_session_ends_at_once_and_for_ever() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    let alice = world.account("alice").await;
    let one = world.log_in(&alice, &on_device("ONE")).await;
    let two = world.log_in(&alice, &on_device("TWO")).await;
    let session = world.users.authenticate(&one.access_token).await.unwrap();
    assert_eq!((session.user_id(), session.device_id().as_str(), session.guest), (&*alice, "ONE", false));
    // A device that logs in again loses its old token, but not its name.
    world.users.rename_device(&alice, "ONE", Some("my laptop")).await.unwrap();
    let again = world.log_in(&alice, &on_device("ONE")).await;
    assert_eq!(world.authenticates(&one.access_token).await, Err(false));
    assert_eq!(world.authenticates(&again.access_token).await, Ok(()));
    assert_eq!(world.users.device(&alice, "ONE").await.unwrap().display_name.as_deref(), Some("my laptop"));
    world.users.delete_devices(&alice, &["ONE".into()]).await.unwrap();
    assert_eq!(world.authenticates(&again.access_token).await, Err(false));
    assert_eq!(world.authenticates(&two.access_token).await, Ok(()));
    // The same after a restart.
    let later = World::over(engine).await;
    assert_eq!(later.authenticates(&again.access_token).await, Err(false));
    assert_eq!(later.authenticates(&two.access_token).await, Ok(()));
    later.users.log_out_all(&alice).await.unwrap();
    assert_eq!(later.authenticates(&two.access_token).await, Err(false));
    assert!(later.users.devices(&alice).await.unwrap().is_empty());
}

#[tokio::test]
async fn who_waits_is_told_that_the_session_ended() {
    let world = world().await;
    let alice = world.account("alice").await;
    let (one, two) = (world.log_in(&alice, &on_device("ONE")).await, world.log_in(&alice, &on_device("TWO")).await);
    let session = async |token: &str| world.users.authenticate(token).await.unwrap();
    let (one, two) = (session(&one.access_token).await, session(&two.access_token).await);
    let (waiting, other) = (world.users.session_end(&one), world.users.session_end(&two));
    let devices = ["ONE".into()];
    let ((), deleted) = tokio::join!(waiting.ended(), world.users.delete_devices(&alice, &devices));
    deleted.unwrap();
    // Who comes late is told at once; others are not.
    world.users.session_end(&one).ended().await;
    assert!(futures_util::FutureExt::now_or_never(other.ended()).is_none());
}

#[tokio::test]
async fn authenticating_a_known_token_reads_nothing() {
    let world = world().await;
    let alice = world.account("alice").await;
    let session = world.log_in(&alice, &SessionWish::default()).await;
    world.authenticates(&session.access_token).await.unwrap();
    let reads = world.engine.reads();
    world.authenticates(&session.access_token).await.unwrap();
    assert_eq!(world.engine.reads(), reads);
}

#[tokio::test]
async fn a_refresh_may_be_repeated_until_its_answer_is_used() {
    let world = world().await;
    let alice = world.account("alice").await;
    let first = world.log_in(&alice, &refreshable("PHONE")).await;
    let refresh = first.refresh_token.unwrap();
    world.clock.advance_ms(60_000);
    assert_eq!(world.authenticates(&first.access_token).await, Err(true), "expired, the device remains");
    let lost = world.users.refresh(&refresh).await.unwrap();
    let second = world.users.refresh(&refresh).await.unwrap();
    assert_eq!(world.authenticates(&lost.access_token).await, Err(false), "the lost answer is worth nothing");
    assert_eq!(world.authenticates(&second.access_token).await, Ok(()));
    // Now the new token is in use: who comes with the old one has stolen it, or was stolen from.
    let stolen = world.users.refresh(&refresh).await;
    assert!(matches!(stolen, Err(AuthError::Unknown { soft_logout: true })));
    assert_eq!(world.authenticates(&second.access_token).await, Err(true));
    let ended = world.users.refresh(&second.refresh_token.unwrap()).await;
    assert!(matches!(ended, Err(AuthError::Unknown { .. })));
    // The device logs in again, and everything of before is forgotten.
    let again = world.log_in(&alice, &refreshable("PHONE")).await;
    assert_eq!(world.authenticates(&second.access_token).await, Err(false));
    assert_eq!(world.authenticates(&again.access_token).await, Ok(()));
    assert!(matches!(world.users.refresh(&refresh).await, Err(AuthError::Unknown { soft_logout: false })));
    assert_eq!(world.authenticates(&again.access_token).await, Ok(()));
}

#[tokio::test]
async fn using_the_new_refresh_token_ends_the_old_pair_too() {
    let world = world().await;
    let alice = world.account("alice").await;
    let first = world.log_in(&alice, &refreshable("PHONE")).await;
    assert_eq!(world.authenticates(&first.access_token).await, Ok(()));
    let second = world.users.refresh(first.refresh_token.as_ref().unwrap()).await.unwrap();
    assert_eq!(world.authenticates(&first.access_token).await, Ok(()), "valid until the new one is used");
    let third = world.users.refresh(second.refresh_token.as_ref().unwrap()).await.unwrap();
    assert_eq!(world.authenticates(&first.access_token).await, Err(false));
    assert_eq!(world.authenticates(&third.access_token).await, Ok(()));
    assert!(matches!(
        world.users.refresh(&first.refresh_token.unwrap()).await,
        Err(AuthError::Unknown { soft_logout: true })
    ));
    assert_eq!(world.authenticates(&third.access_token).await, Err(true));
}

#[tokio::test]
async fn a_password_change_ends_the_others_and_races_no_login() {
    let world = world().await;
    let alice = world.account("alice").await;
    let kept = world.log_in(&alice, &on_device("KEPT")).await;
    let other = world.log_in(&alice, &on_device("OTHER")).await;
    // Checked with the old password, opened after the change: as a login that is under way.
    let checked = world.users.check_password(Some(&alice), PASSWORD).await.unwrap();
    world.users.set_password(&alice, "battery staple", true, Some("KEPT")).await.unwrap();
    let late = world.users.open_session(&alice, Some(&checked), &SessionWish::default()).await;
    assert!(matches!(late, Err(OpenError::Forbidden)));
    assert_eq!(world.authenticates(&kept.access_token).await, Ok(()));
    assert_eq!(world.authenticates(&other.access_token).await, Err(false));
    let wish = SessionWish { refreshable: true, ..SessionWish::default() };
    let (logins, changed) = tokio::join!(
        join_all((0..4).map(|_| world.users.open_session(&alice, None, &wish))),
        world.users.set_password(&alice, "third", true, None),
    );
    changed.unwrap();
    // Whichever came before the change is gone, whichever came after is there: memory and rows agree.
    let devices = world.users.devices(&alice).await.unwrap();
    for login in logins.into_iter().flatten() {
        let there = devices.iter().any(|device| device.device_id == login.device_id);
        assert_eq!(world.authenticates(&login.access_token).await.is_ok(), there);
    }
}

#[tokio::test]
async fn deactivation_takes_everything_but_the_name() {
    let world = world().await;
    let alice = world.account("alice").await;
    let session = world.log_in(&alice, &SessionWish::default()).await;
    world.authenticates(&session.access_token).await.unwrap();
    assert!(!world.users.is_erased(&alice).await.unwrap());
    world.users.set_profile_field(&alice, "displayname", Some(&"Alice".into())).await.unwrap();
    world.users.deactivate(&alice, true).await.unwrap();
    assert_eq!(world.authenticates(&session.access_token).await, Err(false));
    assert!(world.users.is_erased(&alice).await.unwrap());
    assert!(world.users.profile(&alice).await.is_err());
    assert!(world.users.set_profile_field(&alice, "displayname", Some(&"Alice".into())).await.is_err());
    let login = world.users.log_in(Some(&alice), PASSWORD, &SessionWish::default()).await;
    assert!(matches!(login, Err(LogInError::Login(LoginError::Forbidden))));
    assert!(matches!(world.users.reset_password(&alice, "new").await, Err(AccountError::NotFound)));
}

#[tokio::test]
async fn whose_rooms_are_to_be_left_is_known_to_the_next_process() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    let mut gone = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let user_id = world.account(name).await;
        gone.push(world.users.deactivate(&user_id, false).await.unwrap());
    }
    world.account("dave").await;
    gone.sort_by_key(|departure| departure.user);
    let later = World::over(engine).await;
    // Page by page.
    let first = later.users.departures(None, 2).await.unwrap();
    assert_eq!(first, gone[..2]);
    assert_eq!(later.users.departures(Some(first[1].user), 2).await.unwrap(), gone[2..]);
    later.users.departed(&gone[1]).await.unwrap();
    later.users.departed(&gone[1]).await.unwrap();
    assert_eq!(later.users.departures(None, 10).await.unwrap(), [gone[0].clone(), gone[2].clone()]);
    assert_eq!(later.users.departures(Some(gone[2].user), 10).await.unwrap(), []);
    // An end that did not come about leaves nothing.
    assert!(matches!(later.users.deactivate(&gone[0].user_id, false).await, Err(AccountError::NotFound)));
}

#[tokio::test]
async fn rights_change_for_sessions_that_are_open() {
    let world = world().await;
    let alice = world.account("alice").await;
    let token = world.log_in(&alice, &SessionWish::default()).await.access_token;
    assert!(!world.users.authenticate(&token).await.unwrap().admin);
    world.users.set_admin(&alice, true).await.unwrap();
    world.users.set_suspended(&alice, true).await.unwrap();
    world.users.set_locked(&alice, true).await.unwrap();
    let session = world.users.authenticate(&token).await.unwrap();
    assert!(session.admin && session.suspended && session.locked);
    let login = world.users.log_in(Some(&alice), PASSWORD, &SessionWish::default()).await;
    assert!(matches!(login, Err(LogInError::Open(OpenError::Locked))));
}

#[tokio::test]
async fn a_guest_becomes_a_full_account() {
    let world = world().await;
    let guest = world.users.create_guest().await.unwrap();
    assert!(guest.localpart().bytes().all(|byte| byte.is_ascii_digit()));
    let token = world.users.open_session(&guest, None, &SessionWish::default()).await.unwrap().access_token;
    assert!(world.users.authenticate(&token).await.unwrap().guest);
    let password = world.users.hash_password(PASSWORD).await.unwrap();
    let upgrade = Registrant::Guest { user_id: guest.clone(), password };
    assert_eq!(world.users.register(&passed("one", None), &upgrade).await.unwrap(), guest);
    assert_eq!(world.users.register(&passed("one", None), &upgrade).await.unwrap(), guest, "the same once more");
    assert!(matches!(world.users.register(&passed("two", None), &upgrade).await, Err(RegisterError::InUse)));
    assert!(!world.users.authenticate(&token).await.unwrap().guest);
    world.log_in(&guest, &SessionWish::default()).await;
}

#[tokio::test]
async fn accounts_are_listed_page_by_page() {
    let world = world().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.users.create(&new_account(name)).await.unwrap();
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = world.users.list(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.user);
        names.extend(page.iter().map(|account| account.user_id.localpart().to_owned()));
    }
    names.sort();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    assert!(world.users.is_taken(&localpart("c")).await.unwrap());
}
