//! The log, on standard output.

use tracing_subscriber::EnvFilter;

use crate::{
    Failure,
    config::{Config, LogFormat},
};

/// Starts it. Done once, before anything is worth logging.
pub(crate) fn start(config: &Config) -> Result<(), Failure> {
    let level = &config.logging.level;
    let filter = EnvFilter::try_new(level)
        .map_err(|error| Failure::new(format!("logging.level: `{level}` is no filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match config.logging.format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
