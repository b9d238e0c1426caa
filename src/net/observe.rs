//! Counts and durations by outcome. Nothing here is labelled with the other end's name: strangers choose those.

use std::time::Instant;

use hearth_ports::{HttpAnswer, HttpError};
use http::StatusCode;
use metrics::{Gauge, counter, gauge, histogram};

/// A request or lookup under way. One that is dropped before it ends counts as given up.
pub(crate) struct Observed {
    what: What,
    begun: Instant,
    outcome: &'static str,
}

#[derive(Clone, Copy)]
enum What {
    Request,
    Lookup,
}

impl Observed {
    pub(crate) fn request() -> Self {
        Self::begin(What::Request)
    }

    pub(crate) fn lookup() -> Self {
        Self::begin(What::Lookup)
    }

    fn begin(what: What) -> Self {
        Self { what, begun: Instant::now(), outcome: "given_up" }
    }

    pub(crate) fn answered(self, answer: &Result<HttpAnswer, HttpError>) {
        self.opened(answer.as_ref().map(|answer| answer.status));
    }

    /// The head of the answer has come.
    pub(crate) fn opened(mut self, answer: Result<StatusCode, &HttpError>) {
        self.outcome = match answer {
            Ok(status) if status.is_success() => "2xx",
            Ok(status) if status.is_redirection() => "3xx",
            Ok(status) if status.is_client_error() => "4xx",
            Ok(_) => "5xx",
            Err(HttpError::Denied(_)) => "denied",
            Err(HttpError::Unreachable(_)) => "unreachable",
            Err(HttpError::TimedOut) => "timed_out",
            Err(HttpError::TooLarge) => "too_large",
        };
    }

    pub(crate) fn looked_up<T, E>(mut self, found: &Result<Vec<T>, E>) {
        self.outcome = match found {
            Ok(found) if found.is_empty() => "none",
            Ok(_) => "found",
            Err(_) => "failed",
        };
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        match self.what {
            What::Request => {
                counter!("hearth_outbound_requests_total", "outcome" => self.outcome).increment(1);
                histogram!("hearth_outbound_request_seconds", "outcome" => self.outcome).record(seconds);
            }
            What::Lookup => {
                counter!("hearth_dns_lookups_total", "outcome" => self.outcome).increment(1);
                histogram!("hearth_dns_lookup_seconds", "outcome" => self.outcome).record(seconds);
            }
        }
    }
}

/// How connecting to one address ended: `opened`, `denied`, `failed`, `timed_out`.
pub(crate) fn attempt_ended(outcome: &'static str) {
    counter!("hearth_outbound_connects_total", "outcome" => outcome).increment(1);
}

/// Lives as long as a connection does.
pub(crate) struct OpenConnection(Gauge);

impl OpenConnection {
    pub(crate) fn new() -> Self {
        let open = gauge!("hearth_outbound_connections");
        open.increment(1);
        Self(open)
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
