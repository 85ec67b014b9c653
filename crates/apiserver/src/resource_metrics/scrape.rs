//! One reading of a node's `/metrics/resource`, and what of it counts here.

use crate::kubelet::{Kubelets, NodeAddress};
use http::header::{ACCEPT, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use keles_serve::body;
use std::collections::HashMap;
use std::time::Duration;

const PATH: &str = "/metrics/resource";
const TIMEOUT: Duration = Duration::from_secs(10);
/// Of a node with many thousand containers.
const BYTES_MAX: usize = 16 << 20;

/// Counters at a moment. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub at_seconds: f64,
    pub cpu_seconds: Option<f64>,
    pub memory_bytes: Option<f64>,
    /// Of containers.
    pub started_seconds: Option<f64>,
}

/// Namespace, pod, container.
pub type ContainerKey = (String, String, String);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub node: Point,
    pub containers: HashMap<ContainerKey, Point>,
}

pub async fn scrape(kubelets: &Kubelets, address: &NodeAddress) -> Result<Reading, String> {
    let request = Request::get(PATH).header(HOST, format!("{}:{}", address.host, address.port)).header(ACCEPT, "text/plain");
    let request = request.body(body::empty()).map_err(|e| e.to_string())?;
    let read = async {
        let answer = kubelets.send(address, request).await.map_err(|s| s.message)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{PATH} answered {}", answer.status().as_u16()));
        }
        let body = Limited::new(answer.into_body(), BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        Ok(parse(&String::from_utf8_lossy(&body.to_bytes()), jiff::Timestamp::now().as_millisecond() as f64 / 1000.0))
    };
    tokio::time::timeout(TIMEOUT, read).await.map_err(|_| format!("{PATH} was not answered within {TIMEOUT:?}"))?
}

/// `now`: when lines without a time were measured.
fn parse(text: &str, now_seconds: f64) -> Reading {
    let mut reading = Reading { node: Point { at_seconds: now_seconds, ..Point::default() }, ..Reading::default() };
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let Some((name, labels, value, at_ms)) = sample(line) else { continue };
        let at = at_ms.map_or(now_seconds, |ms| ms / 1000.0);
        match name {
            "node_cpu_usage_seconds_total" => (reading.node.cpu_seconds, reading.node.at_seconds) = (Some(value), at),
            "node_memory_working_set_bytes" => reading.node.memory_bytes = Some(value),
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" | "container_start_time_seconds" => {
                let get = |key: &str| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone()).unwrap_or_default();
                let point = reading.containers.entry((get("namespace"), get("pod"), get("container"))).or_default();
                match name {
                    "container_cpu_usage_seconds_total" => (point.cpu_seconds, point.at_seconds) = (Some(value), at),
                    "container_memory_working_set_bytes" => point.memory_bytes = Some(value),
                    _ => point.started_seconds = Some(value),
                }
            }
            _ => {}
        }
    }
    reading
}

type Sample<'a> = (&'a str, Vec<(&'a str, String)>, f64, Option<f64>);

/// `name{label="value",…} value [time in ms]`, labels with the escapes of the text format.
fn sample(line: &str) -> Option<Sample<'_>> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label, value));
            rest = after;
        }
    }
    let mut words = rest.split_whitespace();
    Some((name, labels, words.next()?.parse().ok()?, words.next().and_then(|w| w.parse().ok())))
}

/// What stands before the closing quote, and what after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_takes_what_counts_and_its_times() {
        let text = "# HELP x y\nnode_cpu_usage_seconds_total 12.5 1700000000500\nnode_memory_working_set_bytes 1e+06 1700000000500\n\
            container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1700000000400\n\
            container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 2048\n\
            container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.6999e+09\nother{a=\"}\\\"\"} 1\nbroken{\n";
        let r = parse(text, 7.0);
        assert_eq!(r.node, Point { at_seconds: 1_700_000_000.5, cpu_seconds: Some(12.5), memory_bytes: Some(1e6), started_seconds: None });
        let c = r.containers[&("n".to_owned(), "p".to_owned(), "c".to_owned())];
        assert_eq!(c, Point { at_seconds: 1_700_000_000.4, cpu_seconds: Some(1.5), memory_bytes: Some(2048.0), started_seconds: Some(1.6999e9) });
        assert_eq!(r.containers.len(), 1);
    }

    #[test]
    fn labels_are_unescaped() {
        let (name, labels, value, at) = sample("m{a=\"x\\\"y\\\\\\n}\", b=\"\"} 3 9").expect("a sample");
        assert_eq!((name, labels, value, at), ("m", vec![("a", "x\"y\\\n}".to_owned()), ("b", String::new())], 3.0, Some(9.0)));
    }
}
