//! The service from outside, over the in-memory engine, with time that is set.

mod data;
mod interactive;
mod keys;
mod present;
mod receipts;
mod registrations;
mod sessions;
mod to_device;

use std::{sync::Arc, time::Duration};

use hearth_ports::{ManualClock, SeededEntropy, mem::MemEngine};
use hearth_store::{Store, StoreSettings};
use ruma::{OwnedUserId, UserId, server_name};

use crate::{
    AccountKind, Localpart, NewAccount, OpenedSession, Passed, PasswordSettings, Registration, Secret, SessionWish,
    UserSettings, Users,
};

/// A service, and what it stands on.
struct World {
    users: Arc<Users>,
    store: Arc<Store>,
    clock: Arc<ManualClock>,
    engine: Arc<MemEngine>,
}

const PASSWORD: &str = "correct horse";

async fn world() -> World {
    World::over(MemEngine::new()).await
}

impl World {
    async fn over(engine: Arc<MemEngine>) -> Self {
        let store = Store::open(Arc::clone(&engine) as _, StoreSettings::default()).await.unwrap();
        let clock = Arc::new(ManualClock::at_ms(1_000_000));
        let settings = UserSettings {
            registration: Registration::Open,
            guests: true,
            shared_secret: Some(Secret("reg_secret".to_owned())),
            passwords: PasswordSettings { argon2_memory_kib: 8, argon2_iterations: 1, concurrent_max: 2 },
            access_token_lifetime_ms: 60_000,
            ..UserSettings::new(server_name!("hearth.test").to_owned())
        };
        let entropy = Arc::new(SeededEntropy::new(engine.reads()));
        let users = Users::new(Arc::clone(&store), Arc::clone(&clock) as _, entropy, settings);
        Self { users, store, clock, engine }
    }

    /// Lets what is committed wait until nobody does anything else, again and again: of those who want the same, all have
    /// read before one writes. Gives how many batches waited each time. Time must be paused.
    async fn in_steps<T>(&self, work: impl Future<Output = T>) -> (T, Vec<usize>) {
        let mut work = std::pin::pin!(work);
        let mut steps = Vec::new();
        loop {
            self.engine.pause();
            let done = tokio::time::timeout(Duration::from_millis(1), &mut work).await;
            steps.extend(Some(self.engine.waiting()).filter(|waiting| *waiting > 0));
            self.engine.resume();
            if let Ok(done) = done {
                return (done, steps);
            }
        }
    }

    /// An account with the usual password.
    async fn account(&self, name: &str) -> OwnedUserId {
        self.users.create_account(localpart(name), PASSWORD, false).await.unwrap()
    }

    async fn log_in(&self, user_id: &UserId, wish: &SessionWish) -> OpenedSession {
        self.users.log_in(Some(user_id), PASSWORD, wish).await.unwrap()
    }

    /// Whether a token authenticates, or whether it leaves the device.
    async fn authenticates(&self, token: &str) -> Result<(), bool> {
        match self.users.authenticate(token).await {
            Ok(_) => Ok(()),
            Err(crate::AuthError::Unknown { soft_logout }) => Err(soft_logout),
            Err(crate::AuthError::Fault(fault)) => panic!("{fault}"),
        }
    }
}

fn localpart(name: &str) -> Localpart {
    Localpart::parse(name, server_name!("hearth.test")).unwrap()
}

fn on_device(device_id: &str) -> SessionWish {
    SessionWish { device_id: Some(device_id.into()), ..SessionWish::default() }
}

fn new_account(name: &str) -> NewAccount {
    NewAccount { localpart: localpart(name), password: None, kind: AccountKind::Full, admin: false }
}

/// What a session of interactive authentication gives that passed for a registration.
fn passed(session: &str, token: Option<&str>) -> Passed {
    Passed {
        session: Some(session.to_owned()),
        remembered: None,
        registration_token: token.map(str::to_owned),
        registered: None,
    }
}
