//! Whether a process still has power.

use tokio::sync::watch;

/// Ends the life of one process.
pub(crate) struct Switch(watch::Sender<bool>);

/// Known to everything that belongs to a process.
#[derive(Clone)]
pub(crate) struct Life(watch::Receiver<bool>);

/// A process begins.
pub(crate) fn begin() -> (Switch, Life) {
    let (sender, receiver) = watch::channel(false);
    (Switch(sender), Life(receiver))
}

impl Switch {
    /// From now on nothing of the process has any effect.
    pub(crate) fn off(&self) {
        self.0.send_replace(true);
    }
}

impl Life {
    pub(crate) fn is_over(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is.
    pub(crate) async fn over(&self) {
        let mut life = self.0.clone();
        // Who has no switch any more has no power either.
        drop(life.wait_for(|over| *over).await);
    }

    /// What a future says, unless the power fails first.
    pub(crate) async fn while_it_lasts<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.over() => None,
            value = future => Some(value),
        }
    }
}
