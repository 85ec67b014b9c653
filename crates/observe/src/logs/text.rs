//! klog's text: `I1121 16:13:51.000000   12345 file.rs:12] "message" key="value"`.

use super::{Fields, Value, place};
use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub struct Klog;

impl<S: Subscriber + for<'a> LookupSpan<'a>, N: for<'a> FormatFields<'a> + 'static> FormatEvent<S, N> for Klog {
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let letter = match *meta.level() {
            Level::ERROR => 'E',
            Level::WARN => 'W',
            _ => 'I',
        };
        let now = jiff::Timestamp::now().strftime("%m%d %H:%M:%S.%6f").to_string();
        let (file, line) = place(meta);
        write!(w, "{letter}{now} {:>7} {file}:{line}] ", std::process::id())?;
        let fields = Fields::of(event);
        quote(&mut w, &fields.message)?;
        for (name, value) in &fields.rest {
            write!(w, " {}=", if *name == "error" { "err" } else { name })?;
            match value {
                Value::Text(s) => quote(&mut w, s)?,
                Value::Bare(s) => w.write_str(s)?,
            }
        }
        w.write_char('\n')
    }
}

/// As Go's %q for what is printed: a line stays a line.
fn quote(w: &mut Writer<'_>, s: &str) -> fmt::Result {
    w.write_char('"')?;
    for c in s.chars() {
        match c {
            '"' | '\\' => write!(w, "\\{c}")?,
            '\n' => w.write_str("\\n")?,
            '\r' => w.write_str("\\r")?,
            '\t' => w.write_str("\\t")?,
            c if c.is_control() => write!(w, "\\u{:04x}", c as u32)?,
            c => w.write_char(c)?,
        }
    }
    w.write_char('"')
}
