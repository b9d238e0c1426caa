//! What happened, in lines: for people, and for telling whether a seed repeats itself.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The record of a run.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Inner>);

struct Inner {
    begun: Instant,
    /// Each line is shown at once: for runs that do not end.
    is_loud: bool,
    lines: Mutex<Vec<String>>,
    /// What must not happen, as it was found on the way.
    faults: Mutex<Vec<String>>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let is_loud = std::env::var_os("HEARTH_SIM_LOUD").is_some();
        let (lines, faults) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { begun: Instant::now(), is_loud, lines, faults }))
    }

    pub(crate) fn begun(&self) -> Instant {
        self.0.begun
    }

    /// Something happened.
    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.0.begun.elapsed();
        let line = format!("{:5}.{:03} {what}", at.as_secs(), at.subsec_millis());
        if self.0.is_loud {
            eprintln!("{line}");
        }
        self.0.lines.lock().push(line);
    }

    /// Details, shown where somebody looks.
    pub(crate) fn detail(&self, what: fmt::Arguments<'_>) {
        if self.0.is_loud {
            eprintln!("      {what}");
        }
    }

    /// Something happened that must not.
    pub(crate) fn fault(&self, what: String) {
        self.note(format_args!("FAULT {what}"));
        self.0.faults.lock().push(what);
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.0.faults.lock().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lines.lock().clone()
    }
}

/// One line of the trace.
macro_rules! note {
    ($trace:expr, $($what:tt)*) => { $trace.note(format_args!($($what)*)) };
}
pub(crate) use note;
