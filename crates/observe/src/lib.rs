//! Logs of the process.
//!
//! Entry point: [`init_logs`]. Each process writes one stream of lines to standard error; `KELES_LOG` (a filter such as
//! `info,keles_kubelet=debug`) chooses which. [`metrics`] holds what parts count.

pub mod metrics;

use tracing_subscriber::EnvFilter;

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Name of the environment variable with the filter.
pub const LOG_VARIABLE: &str = "KELES_LOG";
const DEFAULT_FILTER: &str = "info";

/// Starts logging; a second call changes nothing, so tests may call it freely.
pub fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // The error says that a subscriber is already set: the first call stands.
    let _ = match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}
