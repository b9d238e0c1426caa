//! Whether the server can be sent requests.

use std::sync::atomic::{AtomicBool, Ordering};

/// Not ready, ready, and not ready any more.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    ready: AtomicBool,
}

impl Lifecycle {
    pub(crate) fn become_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.ready.store(false, Ordering::Release);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }
}
