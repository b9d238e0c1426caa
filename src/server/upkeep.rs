//! What has to be done from time to time whether or not anybody asks for anything.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use hearth_ports::Clock;
use hearth_store::Store;
use tokio::time::{MissedTickBehavior, interval};

/// How often. Users who have gone stay in memory for so much longer than they need to.
const PERIOD: Duration = Duration::from_secs(60);

/// Lets go of users who have gone, and looks at the engine's heads, which move without an answer where a commit's outcome
/// was not known. Ends with the store.
pub(crate) fn start(store: &Arc<Store>, clock: Arc<dyn Clock>) {
    let store: Weak<Store> = Arc::downgrade(store);
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(store) = store.upgrade() else { return };
            store.live().sweep(clock.now_ms());
            if let Err(error) = store.catch_up().await {
                tracing::warn!(%error, "the newest positions could not be read");
            }
        }
    });
}
