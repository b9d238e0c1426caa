//! Counts and durations by route. Handles are made once, so that a request costs two atomic additions.

use std::{sync::OnceLock, time::Duration};

use http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

/// Statuses with a handle of their own; the others are rare and looked up by name.
const USUAL: [StatusCode; 7] = [
    StatusCode::OK,
    StatusCode::BAD_REQUEST,
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::INTERNAL_SERVER_ERROR,
];

/// The metrics of one route.
pub(crate) struct RouteMetrics {
    route: String,
    durations: Histogram,
    by_status: [OnceLock<Counter>; USUAL.len()],
}

impl RouteMetrics {
    pub(crate) fn new(route: String) -> Self {
        let durations = histogram!("hearth_http_request_duration_seconds", "route" => route.clone());
        Self { route, durations, by_status: Default::default() }
    }

    pub(crate) fn record(&self, status: StatusCode, duration: Duration) {
        self.durations.record(duration.as_secs_f64());
        let usual = USUAL.iter().position(|usual| *usual == status).and_then(|index| self.by_status.get(index));
        match usual {
            Some(counter) => counter.get_or_init(|| self.counter(status)).increment(1),
            None => self.counter(status).increment(1),
        }
    }

    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    fn counter(&self, status: StatusCode) -> Counter {
        counter!(
            "hearth_http_requests_total",
            "route" => self.route.clone(),
            "status" => status.as_str().to_owned()
        )
    }
}
