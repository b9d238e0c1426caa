//! Whoever ends their account leaves their rooms. What a stop of the server cut short is finished here.

use std::{sync::Arc, time::Duration};

use hearth_client::finish_departures;
use hearth_rooms::Rooms;
use hearth_users::Users;
use tokio::time::{MissedTickBehavior, interval};

/// How often rooms that could not be left are tried again; mostly there are none, and it costs one read.
const PERIOD: Duration = Duration::from_secs(5 * 60);

/// Finishes what is left of before, and what could not be done at once. Ends with the services.
pub(crate) fn start(users: &Arc<Users>, rooms: &Arc<Rooms>) {
    let (users, rooms) = (Arc::downgrade(users), Arc::downgrade(rooms));
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (Some(users), Some(rooms)) = (users.upgrade(), rooms.upgrade()) else { return };
            finish_departures(&users, &rooms).await;
        }
    });
}
