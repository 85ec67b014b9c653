//! The two text formats: Prometheus 0.0.4 and OpenMetrics 1.0.0.
//!
//! Sources: prometheus.io/docs/instrumenting/exposition_formats, the OpenMetrics specification. Differences: OpenMetrics names a counter's
//! family without `_total`, writes whole floats with `.0`, escapes quotes in help texts, and ends with `# EOF`.

use super::Described;
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Text,
    OpenMetrics,
}

impl Format {
    /// What a scraper's Accept header asks for: OpenMetrics when it names it, with the better quality of the two.
    pub fn accepted(header: &str) -> Format {
        let quality = |media: &str| {
            let named = header.split(',').filter_map(|clause| {
                let mut parts = clause.split(';').map(str::trim);
                (parts.next() == Some(media)).then(|| parts.find_map(|p| p.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0))
            });
            named.fold(0.0f32, f32::max)
        };
        let open = quality("application/openmetrics-text");
        if open > 0.0 && open >= quality("text/plain") { Format::OpenMetrics } else { Format::Text }
    }
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Text => "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Counter,
    Gauge,
    Histogram,
}

/// Families on their way out, by name.
pub struct Exposition {
    format: Format,
    families: BTreeMap<&'static str, String>,
}

/// One family's lines.
pub struct Lines<'a> {
    name: &'a str,
    format: Format,
    text: String,
    /// When what follows was measured; absent: now.
    at_unix_ms: Option<i64>,
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Exposition { format, families: BTreeMap::new() }
    }

    /// Writes a family whose series `fill` gives; nothing when it gives none. A name that is there already (two servers of one process)
    /// is given once.
    pub fn family(&mut self, about: &Described, shape: Shape, fill: impl FnOnce(&mut Lines<'_>)) {
        let mut lines = Lines { name: about.name, format: self.format, text: String::new(), at_unix_ms: None };
        fill(&mut lines);
        if lines.text.is_empty() || self.families.contains_key(about.name) {
            return;
        }
        let open = self.format == Format::OpenMetrics;
        let name = if open && shape == Shape::Counter { about.name.strip_suffix("_total").unwrap_or(about.name) } else { about.name };
        let mut help = about.help.replace('\\', "\\\\").replace('\n', "\\n");
        if open {
            help = help.replace('"', "\\\"");
        }
        let kind = match shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram => "histogram",
        };
        let text = format!("# HELP {name} {}{help}\n# TYPE {name} {kind}\n{}", about.stability.prefix(), lines.text);
        self.families.insert(about.name, text);
    }

    pub fn finish(self) -> String {
        let mut all = String::with_capacity(self.families.values().map(String::len).sum::<usize>() + 8);
        all.extend(self.families.into_values());
        if self.format == Format::OpenMetrics {
            all.push_str("# EOF\n");
        }
        all
    }
}

impl Lines<'_> {
    /// The lines from here on were measured then, in milliseconds since 1970.
    pub fn at(&mut self, unix_ms: i64) -> &mut Self {
        self.at_unix_ms = Some(unix_ms);
        self
    }
    pub fn counter<V: AsRef<str>>(&mut self, labels: &[&str], values: &[V], v: f64) {
        // A counter that upstream named without the suffix gets it in OpenMetrics, which demands it.
        let suffix = if self.format == Format::OpenMetrics && !self.name.ends_with("_total") { "_total" } else { "" };
        self.line(suffix, labels, values, None, self.float(v));
    }
    pub fn gauge<V: AsRef<str>>(&mut self, labels: &[&str], values: &[V], v: f64) {
        self.line("", labels, values, None, self.float(v));
    }
    pub fn histogram<V: AsRef<str>>(&mut self, labels: &[&str], values: &[V], buckets: &[(f64, u64)], sum: f64) {
        for (bound, n) in buckets {
            self.line("_bucket", labels, values, Some(self.float(*bound)), n.to_string());
        }
        self.line("_sum", labels, values, None, self.float(sum));
        self.line("_count", labels, values, None, buckets.last().map_or(0, |(_, n)| *n).to_string());
    }

    fn line<V: AsRef<str>>(&mut self, suffix: &str, labels: &[&str], values: &[V], le: Option<String>, v: String) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut before = '{';
        let all = labels.iter().zip(values).map(|(l, v)| (*l, v.as_ref())).chain(le.iter().map(|le| ("le", le.as_str())));
        for (label, value) in all {
            let _ = write!(self.text, "{before}{label}=\"{}\"", escape(value));
            before = ',';
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = match (self.at_unix_ms, self.format) {
            (None, _) => writeln!(self.text, " {v}"),
            (Some(ms), Format::Text) => writeln!(self.text, " {v} {ms}"),
            (Some(ms), Format::OpenMetrics) => writeln!(self.text, " {v} {}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000)),
        };
    }

    fn float(&self, v: f64) -> String {
        let mut text = go_float(v);
        if self.format == Format::OpenMetrics && !text.contains(['.', 'e', 'I', 'N']) {
            text.push_str(".0");
        }
        text
    }
}

fn escape(value: &str) -> std::borrow::Cow<'_, str> {
    if value.contains(['\\', '"', '\n']) { value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into() } else { value.into() }
}

/// A number as Go's `strconv` writes it in the shortest form (`'g', -1`): with an exponent below 1e-4 and from 1e+06 on.
pub fn go_float(v: f64) -> String {
    if v.is_nan() {
        return "NaN".into();
    }
    if v.is_infinite() {
        return if v > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    if v == 0.0 {
        return "0".into();
    }
    let scientific = format!("{v:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..SHORTEST_EXPONENT).contains(&exponent) {
        return format!("{v}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// From this power of ten on, Go's shortest form has an exponent.
const SHORTEST_EXPONENT: i32 = 6;
