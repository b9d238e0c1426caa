//! Where a reader stands in all that sync tells: `next_batch` and `since`.

use hearth_store::{Positions, UserNumber};
use hearth_view::{BadToken, SyncToken};

/// A place in the logs and in what memory keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In the logs.
    pub(crate) positions: Positions,
    /// Which run of the server counted `serial`.
    pub(crate) epoch: u64,
    /// In typing and presence.
    pub(crate) serial: u64,
    /// The last to-device message handed out if more were left; 0: none were, up to `positions`.
    pub(crate) to_device: u64,
}

impl Place {
    /// Reads a token.
    pub(crate) fn parse(text: &str) -> Result<Self, BadToken> {
        let token: SyncToken = text.parse()?;
        let positions = token.positions.parse().map_err(|_| BadToken)?;
        Ok(Self { positions, epoch: token.epoch, serial: token.serial, to_device: token.to_device })
    }

    /// The token's text.
    pub(crate) fn token(&self) -> String {
        let Self { positions, epoch, serial, to_device } = self;
        SyncToken { positions: positions.to_string(), epoch: *epoch, serial: *serial, to_device: *to_device }
            .to_string()
    }

    /// All messages to a user's device up to here were handed out.
    pub(crate) fn to_device_until(&self, user: UserNumber) -> u64 {
        match self.to_device {
            0 => self.positions.at(user.partition()).0,
            last => last,
        }
    }

    /// The place in what this run of the server keeps in memory: after a restart all of it is news.
    pub(crate) const fn serial_in(&self, epoch: u64) -> u64 {
        if self.epoch == epoch { self.serial } else { 0 }
    }
}
