//! YAML read as upstream reads it (sigs.k8s.io/yaml over goyaml.v2, which is YAML 1.1): plain `yes`, `on` and `y` are booleans, `0644` is
//! octal, `<<` merges, keys are text. Entry point: [`document`].
//!
//! What comes out is a tree that still has its duplicate keys and deserializes like any other document. Limits: depth, and what aliases
//! expand to, so that a short text cannot become a large tree.

use crate::depth::{DEPTH_MAX, TOO_DEEP};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// Values that a document may hold once its aliases are expanded, and kept for aliases to come, beside one for each of its bytes.
const EXPANDED_MAX: usize = 100_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the document, duplicates and all.
    Map(Vec<(String, Node)>),
}

/// The first document of a stream; `Null` when it is empty. `Err` is a text that names the line.
pub fn document(text: &str) -> Result<Node, String> {
    let mut r = Reader { events: Parser::new_from_str(text), anchors: HashMap::new(), room: text.len() + EXPANDED_MAX, deepest: 0 };
    loop {
        match r.next()?.0 {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd | Event::DocumentEnd => return Ok(Node::Null),
            event => return r.node(event, 0),
        }
    }
}

/// What an alias may refer to.
struct Anchored {
    node: Node,
    /// How many values it holds.
    values: usize,
    /// Levels of lists and maps.
    height: usize,
}

struct Reader<'t> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, Anchored>,
    /// Values that may still come.
    room: usize,
    /// The deepest level of lists and maps since somebody looked.
    deepest: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), String> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(e)) => Err(explain(&e)),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn take(&mut self, values: usize) -> Result<(), String> {
        self.room = self.room.checked_sub(values).ok_or("document contains excessive aliasing")?;
        Ok(())
    }

    /// Notes that lists and maps reach down to a level.
    fn reach(&mut self, level: usize) -> Result<(), String> {
        self.deepest = self.deepest.max(level);
        if level > DEPTH_MAX { Err(TOO_DEEP.to_owned()) } else { Ok(()) }
    }

    /// One value; `depth` lists and maps are around it.
    fn node(&mut self, event: Event<'t>, depth: usize) -> Result<Node, String> {
        let before = self.room;
        let outer = std::mem::replace(&mut self.deepest, depth);
        self.take(1)?;
        let (node, anchor) = match event {
            Event::Alias(id) => {
                let (values, height) = self.anchors.get(&id).map(|a| (a.values, a.height)).ok_or("an alias refers to a value that holds it")?;
                self.take(values)?;
                self.reach(depth + height)?;
                self.deepest = self.deepest.max(outer);
                return Ok(self.anchors[&id].node.clone());
            }
            Event::Scalar(text, style, anchor, tag) => (scalar(text, style, tag.as_deref())?, anchor),
            Event::SequenceStart(anchor, _) => {
                self.reach(depth + 1)?;
                let mut items = Vec::new();
                loop {
                    match self.next()?.0 {
                        Event::SequenceEnd => break,
                        event => items.push(self.node(event, depth + 1)?),
                    }
                }
                (Node::List(items), anchor)
            }
            Event::MappingStart(anchor, _) => {
                self.reach(depth + 1)?;
                (self.mapping(depth)?, anchor)
            }
            other => return Err(format!("unexpected {other:?}")),
        };
        if anchor > 0 {
            let (values, height) = (before - self.room, self.deepest - depth);
            // Anchors in anchors would keep everything many times.
            self.take(values)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), values, height });
        }
        self.deepest = self.deepest.max(outer);
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Node, String> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, tag) if text == "<<" && tag.is_none());
            let key = self.node(event, depth + 1)?;
            let event = self.next()?.0;
            let value = self.node(event, depth + 1)?;
            if merge {
                merge_into(&mut merged, value).ok_or_else(|| format!("line {line}: map merge requires map or sequence of maps as the value"))?;
            } else {
                entries.push((key_text(key).ok_or_else(|| format!("line {line}: unsupported map key"))?, value));
            }
        }
        // What the map says itself goes before what is merged in, and of that the first.
        if !merged.is_empty() {
            let mut said: HashSet<String> = entries.iter().map(|(k, _)| k.clone()).collect();
            for (key, value) in merged {
                if said.insert(key.clone()) {
                    self.take(1)?;
                    entries.push((key, value));
                }
            }
        }
        Ok(Node::Map(entries))
    }
}

fn explain(e: &ScanError) -> String {
    format!("line {}: {}", e.marker().line(), e.info())
}

fn merge_into(merged: &mut Vec<(String, Node)>, value: Node) -> Option<()> {
    match value {
        Node::Map(entries) => merged.extend(entries),
        Node::List(items) => {
            for item in items {
                let Node::Map(entries) = item else { return None };
                merged.extend(entries);
            }
        }
        _ => return None,
    }
    Some(())
}

/// Keys are text in JSON.
fn key_text(key: Node) -> Option<String> {
    Some(match key {
        Node::Text(t) => t,
        Node::Bool(b) => b.to_string(),
        Node::Int(i) => i.to_string(),
        Node::Uint(u) => u.to_string(),
        Node::Float(f) => f.to_string(),
        Node::Null | Node::List(_) | Node::Map(_) => return None,
    })
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, String> {
    let tag = tag.filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str());
    match (tag, style) {
        (Some("str"), _) => Ok(Node::Text(text.into_owned())),
        (Some("binary"), _) => {
            use base64::Engine;
            let plain: String = text.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(plain).map_err(|_| "!!binary value contains invalid base64 data")?;
            String::from_utf8(bytes).map(Node::Text).map_err(|_| "!!binary value is not UTF-8".to_owned())
        }
        (Some(_), _) | (None, ScalarStyle::Plain) => resolve(text),
        _ => Ok(Node::Text(text.into_owned())),
    }
}

/// What a plain scalar means in YAML 1.1 as goyaml.v2 has it.
pub fn plain(text: &str) -> Result<Node, String> {
    resolve(text.into())
}

fn resolve(text: Cow<'_, str>) -> Result<Node, String> {
    Ok(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Node::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Err("json: unsupported value: NaN".to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Err("json: unsupported value: +Inf".to_owned()),
        "-.inf" | "-.Inf" | "-.INF" => return Err("json: unsupported value: -Inf".to_owned()),
        t if t.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => number(&t.replace('_', "")).unwrap_or_else(|| Node::Text(text.into_owned())),
        _ => Node::Text(text.into_owned()),
    })
}

fn number(t: &str) -> Option<Node> {
    let (negative, digits) = match t.as_bytes()[..] {
        [b'-', ..] => (true, &t[1..]),
        [b'+', ..] => (false, &t[1..]),
        _ => (false, t),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, rest) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    // A sign within is none of a whole number.
    if !rest.is_empty()
        && rest.bytes().all(|c| c.is_ascii_alphanumeric())
        && let Ok(v) = u64::from_str_radix(rest, radix)
    {
        return match (negative, i64::try_from(v)) {
            (false, Ok(v)) => Some(Node::Int(v)),
            (false, Err(_)) => Some(Node::Uint(v)),
            (true, Ok(v)) => Some(Node::Int(-v)),
            (true, Err(_)) if v == 1 << 63 => Some(Node::Int(i64::MIN)),
            _ => digits.parse().ok().map(|v: f64| Node::Float(-v)),
        };
    }
    // `[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?`: an exponent has a sign.
    let (mantissa, exponent) = lower.split_once('e').map_or((lower.as_str(), None), |(m, e)| (m, Some(e)));
    let good_mantissa = mantissa.ends_with(|c: char| c.is_ascii_digit()) && mantissa.bytes().all(|c| c.is_ascii_digit() || c == b'.') && mantissa.matches('.').count() <= 1;
    let good_exponent = exponent.is_none_or(|e| e.strip_prefix(['+', '-']).is_some_and(|d| !d.is_empty() && d.bytes().all(|c| c.is_ascii_digit())));
    let value: f64 = if good_mantissa && good_exponent { lower.parse().ok()? } else { return None };
    value.is_finite().then_some(Node::Float(if negative { -value } else { value }))
}

impl<'de> IntoDeserializer<'de, serde_json::Error> for Node {
    type Deserializer = Node;
    fn into_deserializer(self) -> Node {
        self
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = serde_json::Error;
    fn deserialize_any<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Self::Error> {
        match self {
            Node::Null => v.visit_unit(),
            Node::Bool(b) => v.visit_bool(b),
            // As a JSON text would say it: without a sign.
            Node::Int(i) if i >= 0 => v.visit_u64(i.unsigned_abs()),
            Node::Int(i) => v.visit_i64(i),
            Node::Uint(u) => v.visit_u64(u),
            Node::Float(f) if f.fract() == 0.0 && f.abs() < 9e15 => v.visit_i64(f as i64),
            Node::Float(f) => v.visit_f64(f),
            Node::Text(t) => v.visit_string(t),
            Node::List(items) => v.visit_seq(SeqDeserializer::new(items.into_iter())),
            Node::Map(entries) => v.visit_map(MapDeserializer::new(entries.into_iter())),
        }
    }
    fn deserialize_option<V: Visitor<'de>>(self, v: V) -> Result<V::Value, Self::Error> {
        if self == Node::Null { v.visit_none() } else { v.visit_some(self) }
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, v: V) -> Result<V::Value, Self::Error> {
        v.visit_newtype_struct(self)
    }
    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], _: V) -> Result<V::Value, Self::Error> {
        Err(Error::custom("a document has no enums"))
    }
    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::{Value, json};

    fn read(text: &str) -> Value {
        Value::deserialize(document(text).unwrap()).unwrap()
    }

    #[test]
    fn plain_scalars_mean_what_yaml_1_1_says() {
        let text =
            "a: yes\nb: \"yes\"\nc: off\nd: 0644\ne: 0x1F\nf: 1_000\ng: 1e3\nh: 1.5e+3\ni: 2001-01-01\nj: ~\nk: 'no'\nl: -7\nm: 08\nn: 1.20\no: 18446744073709551615\np: !!str 1\n";
        assert_eq!(
            read(text),
            json!({"a": true, "b": "yes", "c": false, "d": 420, "e": 31, "f": 1000, "g": "1e3", "h": 1500, "i": "2001-01-01", "j": null, "k": "no", "l": -7, "m": 8, "false": 1.2,
                "o": 18446744073709551615u64, "p": "1"}),
            "and a key n is false"
        );
    }

    #[test]
    fn merge_keys_fill_in_what_a_map_does_not_say() {
        let text = "base: &b {a: 1, b: 2}\nmore: &m {b: 3, c: 4}\none:\n  <<: *b\n  a: 9\ntwo:\n  c: 8\n  <<: [*b, *m]\n";
        let got = read(text);
        assert_eq!((&got["one"], &got["two"]), (&json!({"a": 9, "b": 2}), &json!({"a": 1, "b": 2, "c": 8})));
        assert_eq!(document("a:\n  <<: 1\n").unwrap_err(), "line 2: map merge requires map or sequence of maps as the value");
    }

    #[test]
    fn only_the_first_document_counts_and_an_empty_one_is_null() {
        assert_eq!(read("a: 1\n---\nb: 2\n"), json!({"a": 1}));
        assert_eq!((read(""), read("# nothing\n")), (Value::Null, Value::Null));
    }

    #[test]
    fn bombs_and_depths_are_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..10 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","));
        }
        assert_eq!(document(&bomb).unwrap_err(), "document contains excessive aliasing");
        assert!(document(&"[".repeat(5000)).is_err());
        assert!(document(&format!("{}{}", "[".repeat(200), "]".repeat(200))).is_err());
        assert!(document("a: &a [*a]\n").is_err(), "a value cannot hold itself");
        let mut ladder = format!("a0: &a0 {}1{}\n", "[".repeat(120), "]".repeat(120));
        for i in 1..40 {
            ladder += &format!("a{i}: &a{i} {}*a{}{}\n", "[".repeat(120), i - 1, "]".repeat(120));
        }
        assert_eq!(document(&ladder).unwrap_err(), TOO_DEEP, "aliases do not nest deeper than what they stand for");
        let kept = format!("{}{}", "&a [".repeat(100), "1,".repeat(100_000));
        assert_eq!(document(&format!("{kept}1{}", "]".repeat(100))).unwrap_err(), "document contains excessive aliasing", "anchors in anchors");
        let merges = format!(
            "b: &b {{{}}}\nm:\n  <<: *b\n  {}",
            (0..30_000).map(|i| format!("k{i}: 1")).collect::<Vec<_>>().join(","),
            (0..30_000).map(|i| format!("l{i}: 1")).collect::<Vec<_>>().join("\n  ")
        );
        assert!(document(&merges).is_ok(), "a merge takes no longer than what it merges");
        assert!(document("a: .inf\n").is_err() && document("a: [1\n").unwrap_err().starts_with("line "));
    }
}
