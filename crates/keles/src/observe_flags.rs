//! Flags of what operators see: logs, profiles, traces, feature gates; and the flags as `/flagz` shows them.

use clap::{ArgAction, Args};
use keles_apiserver::{Config, Features};
use keles_observe::logs::{LogFormat, LogOptions};
use keles_observe::trace::{Configuration, TraceError};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Logs of any role.
#[derive(Args)]
pub struct LogFlags {
    /// Write logs as JSON lines: short for --logging-format=json.
    #[arg(long, global = true, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_json: bool,
    /// Format of log lines: text or json.
    #[arg(long, global = true, default_value_t = LogFormat::Text)]
    pub logging_format: LogFormat,
    /// How much is logged: 4 adds our own details, 6 those of libraries, 8 our steps, 10 everything.
    #[arg(short = 'v', long = "v", global = true, default_value_t = 0)]
    pub verbosity: u32,
}

impl LogFlags {
    pub fn options(&self) -> LogOptions {
        LogOptions { format: if self.log_json { LogFormat::Json } else { self.logging_format }, verbosity: self.verbosity }
    }
}

/// What an API server shows of itself.
#[derive(Args, Clone)]
pub struct ObserveFlags {
    /// Serve CPU profiles at /debug/pprof and the verbosity at /debug/flags/v.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: bool,
    /// File with a TracingConfiguration (apiserver.config.k8s.io/v1).
    #[arg(long)]
    pub tracing_config_file: Option<PathBuf>,
    /// Features to turn on or off: Name=true,Other=false.
    #[arg(long, default_value = "")]
    pub feature_gates: Features,
}

impl ObserveFlags {
    pub fn apply(&self, config: &mut Config) -> Result<(), TraceError> {
        config.profiling = self.profiling;
        config.features = self.feature_gates.clone();
        config.flags = given(std::env::args().skip(2));
        if let Some(path) = &self.tracing_config_file {
            keles_observe::trace::start(&Configuration::read(path)?, "apiserver");
        }
        Ok(())
    }
}

/// Flags whose values are secrets.
const SECRET: &[&str] = &["token"];

/// The flags of a command line, by name.
fn given(args: impl Iterator<Item = String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|f| !f.is_empty()) else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((n, v)) => (n.to_owned(), v.to_owned()),
            None => (flag.to_owned(), args.next_if(|next| !next.starts_with('-')).unwrap_or_else(|| "true".into())),
        };
        let value = if SECRET.contains(&name.as_str()) { "CLASSIFIED".into() } else { value };
        all.entry(name).and_modify(|v: &mut String| *v = format!("{v},{value}")).or_insert(value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_shown_by_flag_and_secrets_are_not() {
        let args = ["--data-dir", "/d", "--profiling=false", "--disable-agent", "--token=x", "-v", "4", "--tls-san", "a", "--tls-san=b"];
        let shown: Vec<String> = given(args.map(str::to_owned).into_iter()).into_iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(shown, ["data-dir=/d", "disable-agent=true", "profiling=false", "tls-san=a,b", "token=CLASSIFIED", "v=4"]);
    }
}
