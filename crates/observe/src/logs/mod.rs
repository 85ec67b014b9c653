//! Logs of the process.
//!
//! Each process writes one stream of lines to standard error, in one of upstream's two formats (`--logging-format`): klog's text or JSON.
//! `-v` says how much, as klog counts it, and can be changed while the process runs ([`set_verbosity`]); `KELES_LOG` (a filter such as
//! `info,keles_kubelet=debug`) overrides it at the start. Sources: k8s.io/klog, k8s.io/component-base/logs.

mod json;
mod modules;
mod text;

pub use modules::{BadModules, Modules};

use std::str::FromStr;
use std::sync::OnceLock;
use tracing::Level;
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unsupported log format: {0:?}; json and text are known")]
pub struct UnknownFormat(String);

impl FromStr for LogFormat {
    type Err = UnknownFormat;
    fn from_str(s: &str) -> Result<Self, UnknownFormat> {
        match s {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            other => Err(UnknownFormat(other.into())),
        }
    }
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if *self == LogFormat::Json { "json" } else { "text" })
    }
}

/// How a process logs.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub format: LogFormat,
    /// klog's `-v`.
    pub verbosity: u32,
    /// klog's `-vmodule`: adds to what the verbosity lets through.
    pub modules: Modules,
}

/// Name of the environment variable with the filter.
pub const LOG_VARIABLE: &str = "KELES_LOG";
/// Verbosities from which on more is logged: our own details, those of libraries, our own steps, everybody's.
const DETAILS: u32 = 4;
const LIBRARIES: u32 = 6;
const STEPS: u32 = 8;
const ALL: u32 = 10;

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// What is logged at a verbosity.
fn filter(verbosity: u32) -> &'static str {
    match verbosity {
        ALL.. => "trace",
        STEPS.. => "debug,keles=trace",
        LIBRARIES.. => "debug",
        DETAILS.. => "info,keles=debug",
        _ => "info",
    }
}

/// klog's number of a level: what `-v` must at least be for it.
fn verbosity_of(level: Level) -> u32 {
    match level {
        Level::DEBUG => DETAILS,
        Level::TRACE => STEPS,
        _ => 0,
    }
}

/// Starts logging; a second call changes nothing, so tests may call it freely.
pub fn init_logs(options: LogOptions) {
    let wanted = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(filter(options.verbosity)));
    let (wanted, handle) = reload::Layer::new(wanted);
    let lines = match options.format {
        LogFormat::Text => tracing_subscriber::fmt::layer().event_format(text::Klog).with_writer(std::io::stderr).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().event_format(json::Json).with_writer(std::io::stderr).boxed(),
    };
    // Without modules nothing but the verbosity is asked: what it leaves out costs a compare.
    let lines = if options.modules.is_empty() { lines.with_filter(wanted).boxed() } else { lines.with_filter(wanted.or(by_module(options.modules))).boxed() };
    // The error says that a subscriber is already set: the first call stands.
    if tracing_subscriber::registry().with(lines).try_init().is_ok() {
        let _ = FILTER.set(handle);
    }
}

/// Lets through what modules ask for.
fn by_module(modules: Modules) -> FilterFn<impl Fn(&tracing::Metadata<'_>) -> bool> {
    filter_fn(move |meta| modules.want(meta))
}

/// Changes how much is logged from now on, as upstream's `PUT /debug/flags/v`. What it answers, or why not.
pub fn set_verbosity(text: &str) -> Result<String, String> {
    let failed = |why: String| format!("failed set klog.logging.verbosity {text}: {why}");
    let verbosity: u32 = text.trim().parse().map_err(|e: std::num::ParseIntError| failed(format!("parsing {text:?}: {e}")))?;
    let handle = FILTER.get().ok_or_else(|| failed("the process does not log".into()))?;
    handle.reload(EnvFilter::new(filter(verbosity))).map_err(|e| failed(e.to_string()))?;
    Ok(format!("successfully set klog.logging.verbosity to {text}"))
}

/// The fields of an event: its message, and the rest in order.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, Value)>,
}

/// A field's value, as typed as it came.
enum Value {
    Text(String),
    /// Numbers and truth values as they are written.
    Bare(String),
}

impl Fields {
    fn of(event: &tracing::Event<'_>) -> Fields {
        let mut f = Fields::default();
        event.record(&mut f);
        f
    }
    fn put(&mut self, field: &tracing::field::Field, v: Value) {
        match (field.name(), v) {
            ("message", Value::Text(s) | Value::Bare(s)) => self.message = s,
            // Where an entry of the `log` crate comes from: not its words.
            (name, _) if name.starts_with("log.") => {}
            (name, v) => self.rest.push((name, v)),
        }
    }
}

impl tracing::field::Visit for Fields {
    fn record_debug(&mut self, field: &tracing::field::Field, v: &dyn std::fmt::Debug) {
        self.put(field, Value::Text(format!("{v:?}")));
    }
    fn record_str(&mut self, field: &tracing::field::Field, v: &str) {
        self.put(field, Value::Text(v.to_owned()));
    }
    fn record_u64(&mut self, field: &tracing::field::Field, v: u64) {
        self.put(field, Value::Bare(v.to_string()));
    }
    fn record_i64(&mut self, field: &tracing::field::Field, v: i64) {
        self.put(field, Value::Bare(v.to_string()));
    }
    fn record_bool(&mut self, field: &tracing::field::Field, v: bool) {
        self.put(field, Value::Bare(v.to_string()));
    }
    fn record_error(&mut self, field: &tracing::field::Field, v: &(dyn std::error::Error + 'static)) {
        self.put(field, Value::Text(v.to_string()));
    }
}

/// The file's name without its folders, and the line.
fn place(meta: &tracing::Metadata<'_>) -> (&'static str, u32) {
    // The file is a constant of the build.
    let file = meta.file().map_or("unknown", |f| f.rsplit('/').next().unwrap_or(f)).to_owned();
    (intern(file), meta.line().unwrap_or(0))
}

/// Names of files are few: each is kept once.
fn intern(name: String) -> &'static str {
    static NAMES: crate::metrics::Interned<String, 1> = crate::metrics::Interned::new();
    NAMES.get([name.as_str()], |[n]| n.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Kept {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat) -> String {
        let kept = Kept::default();
        let to = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || to.clone());
        let layer = match format {
            LogFormat::Text => layer.event_format(text::Klog).boxed(),
            LogFormat::Json => layer.event_format(json::Json).boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(EnvFilter::new("info")).with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(pod = "a/b", tries = 3, "Pod \"started\"");
            tracing::error!(error = %"out of\nroom", "cannot write");
            tracing::debug!("not shown");
        });
        String::from_utf8(kept.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_is_klogs() {
        let text = logged(LogFormat::Text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with('I') && lines[0].ends_with("] \"Pod \\\"started\\\"\" pod=\"a/b\" tries=3"), "{text}");
        assert!(lines[1].starts_with('E') && lines[1].ends_with("] \"cannot write\" err=\"out of\\nroom\""), "{text}");
        // Lmmdd hh:mm:ss.uuuuuu pid file:line]
        let head: Vec<&str> = lines[0].split(']').next().unwrap().split_whitespace().collect();
        assert_eq!((head.len(), head[0].len(), head[1].len()), (4, 5, 15), "{text}");
        assert_eq!(head[2], std::process::id().to_string());
        assert!(head[3].starts_with("mod.rs:"));
    }

    #[test]
    fn json_is_a_line_an_entry_with_time_caller_message_and_verbosity() {
        let text = logged(LogFormat::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["msg"], &lines[0]["v"], &lines[0]["pod"], &lines[0]["tries"]), (&"Pod \"started\"".into(), &0.into(), &"a/b".into(), &3.into()));
        assert!(lines[0]["ts"].as_f64().unwrap() > 1.7e12 && lines[0]["caller"].as_str().unwrap().contains("mod.rs:"));
        assert_eq!((&lines[1]["err"], lines[1].get("v")), (&"out of\nroom".into(), None), "errors have no verbosity");
    }

    #[test]
    fn a_module_says_more_than_the_verbosity_lets_through() {
        let kept = Kept::default();
        let said = |modules: &str| {
            let to = kept.clone();
            let layer = tracing_subscriber::fmt::layer().with_writer(move || to.clone()).event_format(text::Klog);
            let filter = EnvFilter::new(filter(0)).or(by_module(modules.parse().unwrap()));
            let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
            tracing::subscriber::with_default(subscriber, || {
                tracing::debug!("a detail of ours");
                tracing::trace!("a step of ours");
            });
            String::from_utf8(std::mem::take(&mut *kept.0.lock().unwrap())).unwrap()
        };
        assert_eq!(said("elsewhere=9"), "");
        assert!(said("logs=4").contains("a detail of ours") && !said("log?=4").contains("a step of ours"));
        assert!(said("l*=8").contains("a step of ours"));
    }

    #[test]
    fn verbosity_is_a_number() {
        assert!(set_verbosity("loud").unwrap_err().starts_with("failed set klog.logging.verbosity loud: parsing \"loud\""));
        assert_eq!((filter(0), filter(4), filter(9), filter(10)), ("info", "info,keles=debug", "debug,keles=trace", "trace"));
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
