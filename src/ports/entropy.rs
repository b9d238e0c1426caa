//! Randomness as a port: tokens, ids and keys come from the operating system, in tests from a seed.

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// A source of random bytes, fit for secrets.
pub trait Entropy: Send + Sync {
    /// Fills the whole slice.
    fn fill(&self, bytes: &mut [u8]);
}

impl dyn Entropy {
    /// `length` characters out of `a-z A-Z 0-9`, about 5.95 bits each.
    pub fn alphanumeric(&self, length: usize) -> String {
        const CHARACTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut text = String::with_capacity(length);
        let mut pool = [0_u8; 32];
        while text.len() < length {
            self.fill(&mut pool);
            // 248 is the largest multiple of 62 in a byte; bytes above it would favour some characters.
            let drawn = pool.iter().filter(|byte| **byte < 248).map(|byte| CHARACTERS[usize::from(byte % 62)] as char);
            text.extend(drawn.take(length - text.len()));
        }
        text
    }
}

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        use rand::TryRng as _;
        rand::rngs::SysRng.try_fill_bytes(bytes).expect("the operating system has randomness");
    }
}

/// The same bytes for the same seed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// Begins the sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}
