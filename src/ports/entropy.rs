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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_as_long_as_asked_and_as_even_as_can_be() {
        let entropy: &dyn Entropy = &SeededEntropy::new(7);
        for length in [0, 1, 31, 33, 500] {
            assert_eq!(entropy.alphanumeric(length).len(), length);
        }
        let text = entropy.alphanumeric(62_000);
        for character in ('a'..='z').chain('A'..='Z').chain('0'..='9') {
            let count = text.matches(character).count();
            // Five standard deviations of a fair draw; a draw by remainder favours eight characters by a quarter.
            assert!((840..=1_160).contains(&count), "{character} came {count} times");
        }
    }

    #[test]
    fn seeds_decide() {
        let draw = |seed| (&SeededEntropy::new(seed) as &dyn Entropy).alphanumeric(20);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let system: &dyn Entropy = &SystemEntropy;
        assert_ne!(system.alphanumeric(20), system.alphanumeric(20));
    }
}
