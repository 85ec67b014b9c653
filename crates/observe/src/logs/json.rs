//! Upstream's JSON lines: `{"ts":…,"caller":"file.rs:12","msg":"…","v":0,…}`. Entries about errors have `err` and no `v`.

use super::{Fields, Value, place, verbosity_of};
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub struct Json;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Json {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let micros = jiff::Timestamp::now().as_microsecond();
        let (file, line) = place(meta);
        let fields = Fields::of(event);
        write!(w, "{{\"ts\":{}.{:03},\"caller\":\"{file}:{line}\",\"msg\":{}", micros / 1000, micros % 1000, text(&fields.message))?;
        if *meta.level() != Level::ERROR {
            write!(w, ",\"v\":{}", verbosity_of(*meta.level()))?;
        }
        for (name, value) in &fields.rest {
            let name = if *name == "error" { "err" } else { name };
            match value {
                Value::Text(s) => write!(w, ",{}:{}", text(name), text(s))?,
                Value::Bare(s) => write!(w, ",{}:{s}", text(name))?,
            }
        }
        w.write_str("}\n")
    }
}

fn text(s: &str) -> String {
    serde_json::Value::from(s).to_string()
}
