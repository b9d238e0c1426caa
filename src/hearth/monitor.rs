//! Prometheus's `/metrics`, on a listener of its own.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, http::header::CONTENT_TYPE, routing};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;

use crate::Failure;

/// Upper bounds in seconds: from a request answered out of memory to a long-poll.
const BUCKETS_S: [f64; 12] = [0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 60.0];

/// Histograms keep what came in until they are told to add it up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Starts to count. Without an address nothing is counted, which costs nothing.
pub(crate) fn start(bind: Option<SocketAddr>) -> Result<Option<PrometheusHandle>, Failure> {
    if bind.is_none() {
        return Ok(None);
    }
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS_S)
        .and_then(PrometheusBuilder::install_recorder)
        .map(Some)
        .map_err(|error| Failure::new(format!("metrics cannot be kept: {error}")))
}

/// Serves until the process ends.
pub(crate) async fn serve(bind: SocketAddr, handle: PrometheusHandle) -> Result<(), Failure> {
    let listener = TcpListener::bind(bind).await;
    let listener = listener.map_err(|error| Failure::new(format!("metrics.bind {bind}: {error}")))?;
    tracing::info!(%bind, "metrics are served");
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    let page = move || {
        let text = handle.render();
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new().route("/metrics", routing::get(page));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(())
}
