//! Interactive authentication, the shared secret.

use futures_util::future::join_all;
use hmac::{Hmac, KeyInit as _, Mac as _};
use ruma::UserId;
use sha1::Sha1;

use super::{PASSWORD, World, world};
use crate::{
    BadName, InteractError, Interaction, Operation, Passed, Proof, ProofOf, Refusal, Remembered, SharedSecretError,
    Stage,
};

const PASSWORD_FLOW: &[&[Stage]] = &[&[Stage::Password]];

fn operation(path: &str) -> Operation {
    Operation::new("DELETE", path, "{}")
}

async fn ask(world: &World, user: &UserId, path: &str, proof: Option<Proof>) -> Result<Passed, InteractError> {
    let interaction =
        Interaction { user: Some(user), operation: operation(path), flows: PASSWORD_FLOW, proof, remember: None };
    world.users.interact(interaction).await
}

fn password(session: Option<&str>, user: &str, password: &str) -> Option<Proof> {
    let of = ProofOf::Password { user: user.to_owned(), password: password.to_owned() };
    Some(Proof { session: session.map(str::to_owned), of: Some(of) })
}

fn challenged(result: Result<Passed, InteractError>) -> (String, Option<Refusal>) {
    match result {
        Err(InteractError::Challenge(challenge)) => (challenge.session, challenge.refusal),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_session_is_bound_to_user_and_operation_and_passes_once() {
    let world = world().await;
    let (alice, eve) = (world.account("alice").await, world.account("eve").await);
    let (session, refusal) = challenged(ask(&world, &alice, "/one", None).await);
    assert_eq!(refusal, None);
    let session = Some(session.as_str());
    let right = || password(session, "alice", PASSWORD);
    assert!(matches!(ask(&world, &alice, "/two", right()).await, Err(InteractError::OperationChanged)));
    assert!(matches!(
        ask(&world, &eve, "/one", password(session, "eve", PASSWORD)).await,
        Err(InteractError::OtherUser)
    ));
    let (same, refusal) = challenged(ask(&world, &alice, "/one", password(session, "alice", "wrong")).await);
    assert_eq!((Some(same.as_str()), refusal), (session, Some(Refusal::WrongPassword)));
    let racing = join_all((0..4).map(|_| ask(&world, &alice, "/one", right()))).await;
    assert_eq!(racing.iter().filter(|result| result.is_ok()).count(), 1);
    let (fresh, refusal) = challenged(ask(&world, &alice, "/one", right()).await);
    assert_eq!(refusal, Some(Refusal::UnknownSession));
    assert_ne!(Some(fresh.as_str()), session);
}

#[tokio::test]
async fn the_password_must_be_that_of_the_user_who_asks() {
    let world = world().await;
    let (alice, _eve) = (world.account("alice").await, world.account("eve").await);
    assert!(matches!(ask(&world, &alice, "/", password(None, "eve", PASSWORD)).await, Err(InteractError::OtherUser)));
    assert!(ask(&world, &alice, "/", password(None, "@alice:hearth.test", PASSWORD)).await.is_ok());
    // A stage that is not offered finishes nothing.
    let dummy = Some(Proof { session: None, of: Some(ProofOf::Dummy) });
    assert_eq!(challenged(ask(&world, &alice, "/", dummy).await).1, Some(Refusal::NotOffered));
    // Nor does a session that nobody has completed a stage of.
    let nothing = Some(Proof { session: None, of: None });
    assert_eq!(challenged(ask(&world, &alice, "/", nothing).await).1, None);
}

#[tokio::test]
async fn sessions_end_by_time_and_are_swept() {
    let world = world().await;
    let alice = world.account("alice").await;
    let (session, _) = challenged(ask(&world, &alice, "/", None).await);
    world.clock.advance_ms(15 * 60 * 1_000);
    let (_, refusal) = challenged(ask(&world, &alice, "/", password(Some(&session), "alice", PASSWORD)).await);
    assert_eq!(refusal, Some(Refusal::UnknownSession));
    world.users.sweep_interactive().await.unwrap();
    let range = hearth_ports::KeyRange::prefix(hearth_store::tables::users::interactive_prefix());
    let left = world.store.scan_bytes(hearth_store::Table::Us, range, hearth_ports::Page::first(10)).await.unwrap();
    assert_eq!(left.len(), 1, "the old one is gone, the new one is there");
}

#[tokio::test]
async fn a_registration_is_remembered() {
    let world = world().await;
    let register = |proof| Interaction {
        user: None,
        operation: operation("register"),
        flows: &[&[Stage::Dummy]],
        proof,
        remember: Some(Remembered { username: Some("alice".to_owned()), ..Remembered::default() }),
    };
    let (session, _) = challenged(world.users.interact(register(None)).await);
    let dummy = || Some(Proof { session: Some(session.clone()), of: Some(ProofOf::Dummy) });
    let passed = world.users.interact(register(dummy())).await.unwrap();
    assert_eq!(passed.remembered.unwrap().username.as_deref(), Some("alice"));
    assert_eq!(passed.registered, None);
    let alice = world.account("alice").await;
    world.users.note_registered(&session, &alice).await.unwrap();
    let again = world.users.interact(register(dummy())).await.unwrap();
    assert_eq!(again.registered, Some(alice));
}

fn code(nonce: &str, name: &str, admin: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(b"reg_secret").unwrap();
    mac.update([nonce, name, PASSWORD, admin].join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn the_shared_secret_makes_accounts() {
    let world = world().await;
    let users = &world.users;
    let nonce = || users.shared_secret_nonce().unwrap();
    let first = nonce();
    let made =
        users.register_by_shared_secret(&first, "AdminA", PASSWORD, true, None, &code(&first, "AdminA", "admin")).await;
    let admin = made.unwrap();
    assert_eq!(admin, "@admina:hearth.test");
    assert!(users.account(&admin).await.unwrap().unwrap().admin);
    let twice =
        users.register_by_shared_secret(&first, "b", PASSWORD, false, None, &code(&first, "b", "notadmin")).await;
    assert!(matches!(twice, Err(SharedSecretError::Nonce)));
    // Nobody becomes an administrator by the code for somebody else.
    let second = nonce();
    let raised =
        users.register_by_shared_secret(&second, "b", PASSWORD, true, None, &code(&second, "b", "notadmin")).await;
    assert!(matches!(raised, Err(SharedSecretError::Code)));
    let third = nonce();
    let comma =
        users.register_by_shared_secret(&third, "a,b", PASSWORD, false, None, &code(&third, "a,b", "notadmin")).await;
    assert!(matches!(comma, Err(SharedSecretError::Name(BadName::Character))));
    let fourth = nonce();
    world.clock.advance_ms(60_000);
    let late =
        users.register_by_shared_secret(&fourth, "b", PASSWORD, false, None, &code(&fourth, "b", "notadmin")).await;
    assert!(matches!(late, Err(SharedSecretError::Nonce)));
}
