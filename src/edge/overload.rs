//! The bound on requests in progress: what comes above it is refused at once, rather than made to wait.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http::{Method, Uri};
use tokio::time::{Instant, sleep};

use crate::Error;

/// Whoever is refused may try again after so long: about what the requests in progress need if nothing is broken.
pub(crate) const RETRY_AFTER_MS: u64 = 2_000;

/// A long-poll in which nothing has moved for so long waits for news, not for the disk.
const STILL_TIME: Duration = Duration::from_millis(100);

/// Counts the requests that are being worked on.
pub(crate) struct Overload {
    running: AtomicUsize,
    running_max: usize,
    /// Requests are being refused; it is told once, not for each of them.
    is_full: AtomicBool,
}

/// A request that counts, until this is dropped.
pub(crate) struct Slot(Arc<Overload>);

impl Overload {
    pub(crate) fn new(running_max: usize) -> Arc<Self> {
        Arc::new(Self { running: AtomicUsize::new(0), running_max, is_full: AtomicBool::new(false) })
    }

    /// Counts a request; 503 if there are too many.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Slot, Error> {
        // With this one.
        let running = self.running.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let slot = Slot(Arc::clone(self));
        if running > self.running_max {
            if !self.is_full.swap(true, Ordering::Relaxed) {
                tracing::warn!(running_max = self.running_max, "too many requests in progress: others are refused");
            }
            return Err(Error::overloaded(RETRY_AFTER_MS));
        }
        // Half-way down, so that it is not told again and again around the bound.
        let is_calm = running <= self.running_max.div_ceil(2);
        if is_calm && self.is_full.load(Ordering::Relaxed) && self.is_full.swap(false, Ordering::Relaxed) {
            tracing::info!(running, "requests are no longer refused");
        }
        Ok(slot)
    }

    /// Counts a request that was admitted before, above the bound too.
    fn enter_anyway(self: &Arc<Self>) -> Slot {
        self.running.fetch_add(1, Ordering::Relaxed);
        Slot(Arc::clone(self))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a request asks to be kept waiting, as the specification's long-polls do: a read with a `timeout`.
pub(crate) fn may_wait(method: &Method, uri: &Uri) -> bool {
    let timeout = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("timeout="));
    method == Method::GET && timeout.is_some_and(|timeout| timeout != "0")
}

/// Runs a request, which counts until it is answered. One that [may wait](may_wait) counts only while something moves.
pub(crate) async fn work<F: Future>(slot: Option<Slot>, request: F, may_wait: bool) -> F::Output {
    match slot {
        Some(slot) if may_wait => work_or_wait(slot, request).await,
        slot => {
            let answer = request.await;
            drop(slot);
            answer
        }
    }
}

/// Gives the slot back when nothing has moved for a while, and takes it again on being woken, above the bound too: the
/// request was admitted before.
async fn work_or_wait<F: Future>(slot: Slot, request: F) -> F::Output {
    let overload = Arc::clone(&slot.0);
    let (mut slot, mut request, mut still) = (Some(slot), pin!(request), pin!(sleep(STILL_TIME)));
    poll_fn(move |context| {
        let is_still = slot.is_some() && still.is_elapsed();
        slot.get_or_insert_with(|| overload.enter_anyway());
        let answer = request.as_mut().poll(context);
        if answer.is_pending() {
            if is_still {
                slot = None;
            } else {
                still.as_mut().reset(Instant::now() + STILL_TIME);
                // It lies ahead: this is for the wake-up.
                let _: Poll<()> = still.as_mut().poll(context);
            }
        }
        answer
    })
    .await
}
