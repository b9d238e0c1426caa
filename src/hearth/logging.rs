//! The log, on standard output.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::{
    Failure,
    config::{Config, LogFormat},
};

/// State resolution tells each step of each check at `info`.
const QUIET: &str = "ruma_state_res=warn";

/// Starts it. Done once, before anything is worth logging.
pub(crate) fn start(config: &Config) -> Result<(), Failure> {
    let level = &config.logging.level;
    // Before the operator's own words, which win.
    let filter = EnvFilter::try_new(format!("{QUIET},{level}"))
        .map_err(|error| Failure::new(format!("logging.level: `{level}` is no filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stdout().is_terminal());
    match config.logging.format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
