//! Password hashing: argon2id on blocking threads, a few at a time, with a bounded waiting line, so that a storm of logins
//! takes neither the memory nor the threads that everything else needs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{Algorithm, Argon2, Params, Version};
use hearth_ports::Entropy;
use hearth_store::tables::users::PasswordHash;
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::PasswordSettings;

/// The longest password, in bytes. All of it counts; a longer one is refused before it costs anything.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Requests that wait for their turn, for each computation that runs: some seconds of waiting at usual costs.
const WAITING_MAX_PER_TURN: usize = 32;

/// Why a password was not hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Longer than [`PASSWORD_BYTES_MAX`].
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// Empty.
    #[error("the password is empty")]
    Empty,
    /// Too many are waiting: try again in a few seconds.
    #[error("too many passwords are being checked")]
    Busy,
}

/// The turns.
pub(crate) struct Passwords {
    settings: PasswordSettings,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    entropy: Arc<dyn Entropy>,
}

impl Passwords {
    pub(crate) fn new(settings: PasswordSettings, entropy: Arc<dyn Entropy>) -> Self {
        let turns = Arc::new(Semaphore::new(settings.concurrent_max.max(1)));
        Self { settings, turns, waiting: AtomicUsize::new(0), entropy }
    }

    /// Hashes a new password.
    pub(crate) async fn hash(&self, password: &str) -> Result<PasswordHash, PasswordError> {
        check(password)?;
        let mut salt = [0; 16];
        self.entropy.fill(&mut salt);
        let (memory_kib, iterations) = (self.settings.argon2_memory_kib, self.settings.argon2_iterations);
        let hash = self.compute(password, salt, memory_kib, iterations).await?;
        Ok(PasswordHash { memory_kib, iterations, salt, hash })
    }

    /// Whether this is the password. Without a hash the answer is no, after the same time.
    pub(crate) async fn verify(&self, password: &str, known: Option<&PasswordHash>) -> Result<bool, PasswordError> {
        check(password)?;
        let Some(known) = known else {
            self.compute(password, [0; 16], self.settings.argon2_memory_kib, self.settings.argon2_iterations).await?;
            return Ok(false);
        };
        let hash = self.compute(password, known.salt, known.memory_kib, known.iterations).await?;
        Ok(hash.ct_eq(&known.hash).into())
    }

    async fn compute(
        &self,
        password: &str,
        salt: [u8; 16],
        memory_kib: u32,
        iterations: u32,
    ) -> Result<[u8; 32], PasswordError> {
        let _place = Place::take(&self.waiting, self.settings.concurrent_max.max(1) * WAITING_MAX_PER_TURN)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed");
        let password = password.to_owned();
        let work = move || {
            let params =
                Params::new(memory_kib.max(8), iterations.max(1), 1, Some(32)).expect("the parameters are in range");
            let mut hash = [0; 32];
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
            argon2
                .hash_password_into(password.as_bytes(), &salt, &mut hash)
                .expect("length of password and salt are in range");
            // Blocking work goes on even if nobody waits for it any more, so the turn ends here.
            drop(turn);
            hash
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "hashing a password failed");
            PasswordError::Busy
        })
    }
}

fn check(password: &str) -> Result<(), PasswordError> {
    match password.len() {
        0 => Err(PasswordError::Empty),
        length if length > PASSWORD_BYTES_MAX => Err(PasswordError::TooLong),
        _ => Ok(()),
    }
}

/// A place in the waiting line, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Result<Self, PasswordError> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        if before >= max { Err(PasswordError::Busy) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use hearth_ports::SeededEntropy;

    use super::*;

    fn passwords() -> Passwords {
        let settings = PasswordSettings { argon2_memory_kib: 64, argon2_iterations: 1, concurrent_max: 1 };
        Passwords::new(settings, Arc::new(SeededEntropy::new(1)))
    }

    #[tokio::test]
    async fn every_byte_counts_and_too_many_are_refused() {
        let passwords = passwords();
        let long = "x".repeat(PASSWORD_BYTES_MAX);
        let known = passwords.hash(&long).await.unwrap();
        assert!(passwords.verify(&long, Some(&known)).await.unwrap());
        let mut other = long.clone();
        other.replace_range(PASSWORD_BYTES_MAX - 1.., "y");
        assert!(!passwords.verify(&other, Some(&known)).await.unwrap());
        assert_eq!(passwords.hash(&format!("{long}x")).await, Err(PasswordError::TooLong));
        assert!(!passwords.verify("anything", None).await.unwrap());
    }

    #[tokio::test]
    async fn a_storm_is_turned_away_at_the_end_of_the_line() {
        let passwords = passwords();
        let turn = Arc::clone(&passwords.turns).acquire_owned().await.unwrap();
        let mut storm: Vec<_> = (0..200).map(|_| Box::pin(passwords.verify("x", None))).collect();
        let mut context = Context::from_waker(Waker::noop());
        let answers = storm.iter_mut().map(|request| request.as_mut().poll(&mut context));
        let busy = answers.filter(|answer| *answer == Poll::Ready(Err(PasswordError::Busy))).count();
        assert_eq!(busy, 200 - WAITING_MAX_PER_TURN);
        drop((storm, turn));
        assert_eq!(passwords.verify("x", None).await, Ok(false), "the line is free again");
    }
}
