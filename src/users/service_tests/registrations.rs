//! Registrations with tokens, and what crashes leave of them.

use std::sync::Arc;

use futures_util::future::join_all;
use hearth_ports::mem::{Failure, MemEngine};
use ruma::OwnedUserId;

use super::{World, new_account, passed, world};
use crate::{Fault, RegisterError, Registrant, RegistrationToken, Users, registering::registration_id};

/// Longer than a claim lives.
const LATER_MS: u64 = 15 * 60 * 1_000;

fn new(name: &str) -> Registrant {
    Registrant::New(new_account(name))
}

async fn token(users: &Users, uses: Option<u32>) {
    let token = RegistrationToken { token: "token".to_owned(), uses, expires_ts_ms: None };
    users.put_registration_token(&token).await.unwrap();
}

async fn register(world: &World, session: &str, name: &str) -> Result<OwnedUserId, RegisterError> {
    world.users.register(&passed(session, Some("token")), &new(name)).await
}

async fn is_valid(world: &World) -> bool {
    world.users.registration_token_is_valid("token").await.unwrap()
}

/// As far as a registration comes whose process ends between the claim and the account.
async fn crash_after_claim(world: &World, session: &str, name: &str) {
    let user_id = new_account(name).localpart.user_id(&world.users.settings().server_name);
    let user = world.store.ensure_user_number(&user_id).await.unwrap();
    world.users.claim_use("token", user, registration_id(session, &user_id)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_token_admits_as_many_as_it_says() {
    let world = world().await;
    token(&world.users, Some(2)).await;
    let names = ["a", "b", "c", "d", "e"];
    let (made, steps) = world.in_steps(join_all(names.map(|name| register(&world, name, name)))).await;
    assert!(steps[1] == names.len(), "all claim at once: {steps:?}");
    assert_eq!(made.iter().filter(|result| result.is_ok()).count(), 2);
    assert!(made.iter().all(|result| matches!(result, Ok(_) | Err(RegisterError::Token))));
    assert_eq!(world.users.count().await.unwrap(), 2);
    // Time brings back no use that made an account.
    world.clock.advance_ms(LATER_MS);
    assert!(!is_valid(&world).await);
    world.users.settle_claims(None).await.unwrap();
    assert!(!is_valid(&world).await);
}

#[tokio::test]
async fn a_token_is_good_for_its_time_and_to_the_letter() {
    let world = world().await;
    let soon = RegistrationToken { token: "soon".to_owned(), uses: None, expires_ts_ms: Some(1_000_500) };
    world.users.put_registration_token(&soon).await.unwrap();
    let ask = async |token: &str, name: &str| world.users.register(&passed("s", Some(token)), &new(name)).await;
    assert!(world.users.registration_token_is_valid("soon").await.unwrap());
    ask("soon", "a").await.unwrap();
    ask("soon", "b").await.unwrap();
    world.clock.advance_ms(500);
    assert!(matches!(ask("soon", "c").await, Err(RegisterError::Token)));
    for bad in ["", "no such", "unknown", &"x".repeat(65)] {
        assert!(!world.users.registration_token_is_valid(bad).await.unwrap(), "{bad}");
        assert!(matches!(ask(bad, "c").await, Err(RegisterError::Token)), "{bad}");
    }
}

#[tokio::test]
async fn a_name_that_is_taken_costs_no_use() {
    let world = world().await;
    world.account("alice").await;
    token(&world.users, Some(1)).await;
    assert!(matches!(register(&world, "s", "alice").await, Err(RegisterError::InUse)));
    assert!(is_valid(&world).await);
    register(&world, "s", "bob").await.unwrap();
    assert!(!is_valid(&world).await);
}

#[tokio::test(start_paused = true)]
async fn the_same_session_makes_one_account_with_one_use() {
    let world = world().await;
    token(&world.users, Some(2)).await;
    let (made, steps) = world.in_steps(join_all((0..6).map(|_| register(&world, "s", "alice")))).await;
    assert!(steps.iter().filter(|waiting| **waiting > 1).count() > 2, "they meet at every commit: {steps:?}");
    assert!(made.iter().all(|result| matches!(result, Ok(user_id) if user_id == "@alice:hearth.test")), "{made:?}");
    // Another session is another person.
    assert!(matches!(register(&world, "other", "alice").await, Err(RegisterError::InUse)));
    register(&world, "other", "bob").await.unwrap();
    assert!(!is_valid(&world).await);
}

#[tokio::test]
async fn a_crash_before_the_account_gives_the_use_back() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    token(&world.users, Some(1)).await;
    crash_after_claim(&world, "s", "alice").await;
    // The next process. For a while the use is held for who was about to register, and for nobody else.
    let world = World::over(engine).await;
    assert!(!is_valid(&world).await);
    assert!(matches!(register(&world, "other", "bob").await, Err(RegisterError::Token)));
    world.clock.advance_ms(LATER_MS);
    assert!(is_valid(&world).await);
    register(&world, "other", "bob").await.unwrap();
    assert!(!is_valid(&world).await);
}

#[tokio::test]
async fn who_comes_again_after_a_crash_goes_on() {
    let engine = MemEngine::new();
    let world = World::over(Arc::clone(&engine)).await;
    token(&world.users, Some(1)).await;
    crash_after_claim(&world, "s", "alice").await;
    let world = World::over(Arc::clone(&engine)).await;
    register(&world, "s", "alice").await.unwrap();
    // A crash behind the account, before anybody was told.
    let world = World::over(engine).await;
    register(&world, "s", "alice").await.unwrap();
    world.clock.advance_ms(LATER_MS);
    world.users.settle_claims(None).await.unwrap();
    assert!(!is_valid(&world).await);
    assert_eq!(world.users.count().await.unwrap(), 1);
}

#[tokio::test]
async fn who_dawdles_loses_the_use_and_makes_no_account_with_it() {
    let world = world().await;
    token(&world.users, Some(1)).await;
    let Registrant::New(account) = new("alice") else { unreachable!("made above") };
    let alice = account.localpart.user_id(&world.users.settings().server_name);
    let user = world.store.ensure_user_number(&alice).await.unwrap();
    let registration = registration_id("s", &alice);
    let before = world.users.before(user).await.unwrap();
    world.users.claim_use("token", user, registration).await.unwrap();
    world.clock.advance_ms(LATER_MS);
    register(&world, "other", "bob").await.unwrap();
    // Only now the first one goes on, as a process does that stood still.
    assert!(!world.users.make(user, &alice, registration, &before, &new("alice")).await.unwrap());
    assert!(matches!(register(&world, "s", "alice").await, Err(RegisterError::Token)));
    assert_eq!(world.users.count().await.unwrap(), 1);
    // The name is not lost to the next who comes.
    token(&world.users, Some(1)).await;
    register(&world, "third", "alice").await.unwrap();
}

#[tokio::test]
async fn a_commit_in_doubt_neither_loses_nor_doubles_a_use() {
    // The claim and the account are the second and third commit of a registration; the first is the user's number.
    for (commit, failure) in [(1, Failure::Before), (1, Failure::After), (2, Failure::Before), (2, Failure::After)] {
        let world = world().await;
        token(&world.users, Some(1)).await;
        let alice = new_account("alice").localpart.user_id(&world.users.settings().server_name);
        world.store.ensure_user_number(&alice).await.unwrap();
        if commit == 2 {
            crash_after_claim(&world, "s", "alice").await;
            // The repeated request renews the claim: that commit goes through.
            world.engine.pause();
            let (made, ()) = tokio::join!(register(&world, "s", "alice"), async {
                while world.engine.waiting() == 0 {
                    tokio::task::yield_now().await;
                }
                world.engine.resume();
                world.engine.fail_next(failure);
            });
            assert!(matches!(made, Err(RegisterError::Fault(Fault::Unavailable(_)))), "{made:?}");
        } else {
            world.engine.fail_next(failure);
            let made = register(&world, "s", "alice").await;
            assert!(matches!(made, Err(RegisterError::Fault(Fault::Unavailable(_)))), "{made:?}");
        }
        let made = register(&world, "s", "alice").await;
        assert!(made.is_ok(), "{commit} {failure:?}: {made:?}");
        world.clock.advance_ms(LATER_MS);
        assert!(!is_valid(&world).await, "{commit} {failure:?}");
        assert_eq!(world.users.count().await.unwrap(), 1);
    }
}
