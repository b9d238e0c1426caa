//! Tokens as text.
//!
//! A pagination token is a place between two events of one room's timeline: `t{position}-{within}`, just behind the
//! event in that place. It needs no room's name: in another room it is as valid, and says as little.

use std::{fmt, str::FromStr};

/// A text that is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadToken;

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not a token of this server")
    }
}

impl std::error::Error for BadToken {}

/// A place in a room's timeline, just *behind* the event that has this order: reading backwards begins with that event,
/// reading forwards with the one after it. The two numbers are those of the store's `Order`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageToken {
    /// The log position of the live event here, or above the gap that it fills.
    pub position: u64,
    /// `u32::MAX` for live events.
    pub within: u32,
}

impl PageToken {
    /// Before everything.
    pub const START: Self = Self { position: 0, within: 0 };

    /// Behind the event committed at this position, and so behind all up to there.
    pub const fn behind(position: u64) -> Self {
        Self { position, within: u32::MAX }
    }

    /// Just before the event in this place, when reading it was begun behind the one below.
    #[must_use]
    pub const fn before(position: u64, within: u32) -> Self {
        match within.checked_sub(1) {
            Some(within) => Self { position, within },
            None => Self { position: position.saturating_sub(1), within: u32::MAX },
        }
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}-{}", self.position, self.within)
    }
}

impl FromStr for PageToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (position, within) = text.strip_prefix('t').and_then(|rest| rest.split_once('-')).ok_or(BadToken)?;
        Ok(Self { position: number(position)?, within: number(within)? })
    }
}

/// What `/messages` and its like accept: a place in the room, or where a sync stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceToken {
    /// `prev_batch`, `start` and `end`.
    Page(PageToken),
    /// `next_batch` of a sync.
    Sync(SyncToken),
}

impl FromStr for PlaceToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.starts_with('t') { text.parse().map(Self::Page) } else { text.parse().map(Self::Sync) }
    }
}

/// `next_batch`: where a reader stands in everything that sync tells.
///
/// `s` names this version; then come, parted by `_`, the positions in the logs, the place in what is kept in memory
/// (epoch of the process, serial), and the last to-device position handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// The store's `Positions` as it writes itself. Only its letters are checked here.
    pub positions: String,
    /// Which run of the server counted `serial`; 0 is none.
    pub epoch: u64,
    /// The place in typing and presence.
    pub serial: u64,
    /// Messages to the device up to here were handed out, and there are more; 0: all were, up to `positions`.
    pub to_device: u64,
}

/// No token of ours is longer: 64 partitions of at most 24 characters, and the rest.
const SYNC_TOKEN_BYTES_MAX: usize = 2_048;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{:x}.{}_{}", self.positions, self.epoch, self.serial, self.to_device)
    }
}

impl FromStr for SyncToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        if text.len() > SYNC_TOKEN_BYTES_MAX {
            return Err(BadToken);
        }
        let mut parts = text.strip_prefix('s').ok_or(BadToken)?.split('_');
        let mut part = || parts.next().ok_or(BadToken);
        let (positions, memory, to_device) = (part()?, part()?, part()?);
        if parts.next().is_some() || !positions.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'-')) {
            return Err(BadToken);
        }
        let (epoch, serial) = memory.split_once('.').ok_or(BadToken)?;
        // from_str_radix takes a sign, which would be a second way to write the same token.
        if epoch.starts_with('+') {
            return Err(BadToken);
        }
        Ok(Self {
            positions: positions.to_owned(),
            epoch: u64::from_str_radix(epoch, 16).map_err(|_| BadToken)?,
            serial: number(serial)?,
            to_device: number(to_device)?,
        })
    }
}

/// Decimal digits and nothing else.
fn number<N: FromStr>(text: &str) -> Result<N, BadToken> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().map_err(|_| BadToken) } else { Err(BadToken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_as_they_were_written() {
        let page = PageToken { position: 17, within: 4 };
        assert_eq!(page.to_string(), "t17-4");
        assert_eq!("t17-4".parse(), Ok(PlaceToken::Page(page)));
        let sync = SyncToken { positions: "12.3-44".into(), epoch: 0xfeed, serial: 9, to_device: 3 };
        assert_eq!(sync.to_string(), "s12.3-44_feed.9_3");
        assert_eq!(sync.to_string().parse(), Ok(PlaceToken::Sync(sync)));
    }

    #[test]
    fn other_texts_are_refused() {
        let texts = [
            "",
            "t",
            "s",
            "t1",
            "t1-",
            "t-1",
            "t1-+2",
            "t+1-2",
            "t1-4294967296",
            "t18446744073709551616-0",
            "1",
            "s1",
            "s1_0.0",
            "s1_0_0",
            "s1_0.0_0_0",
            "s1_g.0_0",
            "s1_+1.0_0",
            "s1_0.-1_0",
            "s1x_0.0_0",
            "s 1_0.0_0",
            "T1-2",
            "s72594_4483_1934",
            "t1-2 ",
            "é",
        ];
        for text in texts {
            assert_eq!(text.parse::<PlaceToken>(), Err(BadToken), "{text}");
        }
        assert_eq!(format!("s{}_0.0_0", "1".repeat(4_000)).parse::<SyncToken>(), Err(BadToken));
    }

    #[test]
    fn before_a_place_is_behind_the_one_below() {
        assert_eq!(PageToken::before(5, u32::MAX), PageToken { position: 5, within: u32::MAX - 1 });
        assert_eq!(PageToken::before(5, 0), PageToken::behind(4));
        assert!(PageToken::before(5, u32::MAX) < PageToken::behind(5));
        assert!(PageToken::before(5, u32::MAX) > PageToken::behind(4));
        assert_eq!(PageToken::before(0, 0), PageToken::behind(0));
    }
}
