//! Whoever has bound an address under which they were invited gets the invite, also where the inviter's server was down.

use std::{sync::Arc, time::Duration};

use hearth_rooms::Rooms;
use tokio::time::{MissedTickBehavior, interval};

/// How often servers are asked that were not reached; mostly there are none, and it costs one read.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// Goes on with what is left of before, and what could not be done at once. Ends with the service.
pub(crate) fn start(rooms: &Arc<Rooms>) {
    let rooms = Arc::downgrade(rooms);
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(rooms) = rooms.upgrade() else { return };
            if let Err(error) = rooms.retry_third_party_invites().await {
                tracing::warn!(%error, "bound invites wait for longer");
            }
        }
    });
}
