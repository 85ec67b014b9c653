//! Flags of what operators see: logs, profiles, traces, feature gates; and the flags as `/flagz` shows them.

use clap::{ArgAction, ArgMatches, Args, Command};
use keles_apiserver::{Config, Features};
use keles_observe::logs::{LogFormat, LogOptions, Modules};
use keles_observe::trace::{Configuration, TraceError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

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
    /// Numbers like -v for single source files: PATTERN=N,… (patterns of * and ? over the file's name); only with the text format.
    #[arg(long, global = true, default_value = "")]
    pub vmodule: Modules,
}

impl LogFlags {
    pub fn options(&self) -> Result<LogOptions, String> {
        let format = if self.log_json { LogFormat::Json } else { self.logging_format };
        if format == LogFormat::Json && !self.vmodule.is_empty() {
            return Err(format!("vmodule: Forbidden: Only supported for text log format (--vmodule={})", self.vmodule));
        }
        Ok(LogOptions { format, verbosity: self.verbosity, modules: self.vmodule.clone() })
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
        config.flags = all();
        if let Some(path) = &self.tracing_config_file {
            keles_observe::trace::start(&Configuration::read(path)?, "apiserver");
        }
        Ok(())
    }
}

/// Flags whose values are secrets.
const SECRET: &[&str] = &["token"];

static FLAGS: OnceLock<BTreeMap<String, String>> = OnceLock::new();

/// Flags of the role that was started, secrets left out.
pub fn all() -> BTreeMap<String, String> {
    FLAGS.get().cloned().unwrap_or_default()
}

/// Keeps the flags of the role that was started, for `/flagz`.
pub fn remember(command: &Command, matches: &ArgMatches) {
    let _ = FLAGS.set(shown(command, matches));
}

/// All flags of a role by name, those that were not given with their defaults.
fn shown(command: &Command, matches: &ArgMatches) -> BTreeMap<String, String> {
    let Some((role, matches)) = matches.subcommand() else { return BTreeMap::new() };
    let arguments = command.find_subcommand(role).into_iter().flat_map(Command::get_arguments).chain(command.get_arguments());
    let value = |id: &str| {
        let values = matches.try_get_raw(id).ok().flatten().into_iter().flatten();
        values.map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(",")
    };
    let named = arguments.filter_map(|a| Some((a.get_long()?, value(a.get_id().as_str())))).filter(|(name, _)| !matches!(*name, "help" | "version"));
    named.map(|(name, v)| (name.to_owned(), if SECRET.contains(&name) && !v.is_empty() { "CLASSIFIED".into() } else { v })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Cli;
    use clap::CommandFactory;

    #[test]
    fn all_flags_are_shown_with_their_values_and_secrets_are_not() {
        let command = Cli::command();
        let matches = command.clone().get_matches_from(["keles", "server", "--data-dir", "/d", "--profiling=false", "--token=x", "-v", "4", "--tls-san", "a", "--tls-san=b"]);
        let all = shown(&command, &matches);
        let of = |name: &str| all.get(name).map(String::as_str);
        assert_eq!((of("data-dir"), of("profiling"), of("token"), of("v"), of("tls-san")), (Some("/d"), Some("false"), Some("CLASSIFIED"), Some("4"), Some("a,b")));
        assert_eq!((of("https-listen-port"), of("logging-format"), of("tracing-config-file")), (Some("6443"), Some("text"), Some("")), "defaults too");
        assert_eq!(of("help"), None);
    }
}
