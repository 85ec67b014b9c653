//! From a tree of JSON to CBOR.

use super::SELF_DESCRIBED;
use crate::schema::{Scalar, Shape, TypeRef, builtin};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

const UNSIGNED: u8 = 0 << 5;
const NEGATIVE: u8 = 1 << 5;
const BYTES: u8 = 2 << 5;
const ARRAY: u8 = 4 << 5;
const MAP: u8 = 5 << 5;
/// Tag 22: JSON shows these bytes in base64.
const BASE64_LATER: u8 = 0xd6;

/// A document; its apiVersion and kind say which of its fields are bytes.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend(SELF_DESCRIBED);
    value(&mut out, document, type_of(document));
    out
}

/// The lines of a watch (JSON events), each a document. Lines that are no JSON are not there: they are ours.
pub fn watch_events(lines: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let Ok(Value::Object(event)) = serde_json::from_slice::<Value>(line) else { continue };
        out.extend(SELF_DESCRIBED);
        head(&mut out, MAP, event.len() as u64);
        for (k, v) in &event {
            bytes(&mut out, k.as_bytes());
            value(&mut out, v, type_of(v));
        }
    }
    out
}

/// The built-in type that a document says it is.
fn type_of(document: &Value) -> Option<TypeRef<'static>> {
    static TYPES: OnceLock<HashMap<(String, &'static str), TypeRef<'static>>> = OnceLock::new();
    let types = TYPES.get_or_init(|| {
        let all = builtin().types().filter_map(TypeRef::object).zip(std::iter::repeat(()));
        all.flat_map(|(o, ())| o.gvks().map(move |(group, version, kind)| ((crate::GroupVersion::new(group, version).to_string(), kind), o.name())))
            .filter_map(|(key, name)| Some((key, builtin().get(name)?)))
            .collect()
    });
    let text = |field: &str| document.get(field).and_then(Value::as_str);
    types.get(&(text("apiVersion")?.to_owned(), text("kind")?)).copied()
}

fn value(out: &mut Vec<u8>, v: &Value, ty: Option<TypeRef<'static>>) {
    let ty = ty.map(|t| t.resolve(v));
    match v {
        Value::Null => out.push(0xf6),
        Value::Bool(b) => out.push(if *b { 0xf5 } else { 0xf4 }),
        Value::Number(n) => number(out, n),
        Value::String(s) => match ty.map(TypeRef::shape) {
            Some(Shape::Scalar(Scalar::Bytes)) if let Ok(decoded) = STANDARD.decode(s) => {
                out.push(BASE64_LATER);
                bytes(out, &decoded);
            }
            _ => bytes(out, s.as_bytes()),
        },
        Value::Array(a) => {
            let item = ty.and_then(TypeRef::list).map(|l| l.item);
            head(out, ARRAY, a.len() as u64);
            for v in a {
                value(out, v, item);
            }
        }
        Value::Object(o) => map(out, o, ty),
    }
}

fn map(out: &mut Vec<u8>, o: &Map<String, Value>, ty: Option<TypeRef<'static>>) {
    let shape = ty.map(TypeRef::shape);
    head(out, MAP, o.len() as u64);
    for (k, v) in o {
        bytes(out, k.as_bytes());
        let of = match shape {
            Some(Shape::Object(t)) => t.field(k).map(|f| f.ty()),
            Some(Shape::Map(m)) => Some(m.value),
            _ => None,
        };
        value(out, v, of);
    }
}

fn number(out: &mut Vec<u8>, n: &Number) {
    match (n.as_u64(), n.as_i64(), n.as_f64()) {
        (Some(u), ..) => head(out, UNSIGNED, u),
        // -1 - n, which is the complement.
        (_, Some(i), _) => head(out, NEGATIVE, !(i as u64)),
        (.., f) => float(out, f.unwrap_or(0.0)),
    }
}

/// In the smallest of the three widths that holds the value.
fn float(out: &mut Vec<u8>, v: f64) {
    let single = v as f32;
    if f64::from(single) != v {
        out.push(0xfb);
        return out.extend(v.to_be_bytes());
    }
    match half(single) {
        Some(bits) => {
            out.push(0xf9);
            out.extend(bits.to_be_bytes());
        }
        None => {
            out.push(0xfa);
            out.extend(single.to_be_bytes());
        }
    }
}

/// The half-precision bits of a value that has some (RFC 8949, appendix D), subnormal ones left out.
fn half(v: f32) -> Option<u16> {
    const DROPPED_BITS: u32 = 13;
    let bits = v.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    if v == 0.0 {
        return Some(sign);
    }
    let exponent = ((bits >> 23) & 0xff) as i32 - 127;
    let mantissa = bits & 0x7f_ffff;
    if !(-14..=15).contains(&exponent) || mantissa & ((1 << DROPPED_BITS) - 1) != 0 {
        return None;
    }
    Some(sign | ((exponent + 15) as u16) << 10 | (mantissa >> DROPPED_BITS) as u16)
}

fn bytes(out: &mut Vec<u8>, b: &[u8]) {
    head(out, BYTES, b.len() as u64);
    out.extend_from_slice(b);
}

/// Major type and argument in the shortest form.
fn head(out: &mut Vec<u8>, major: u8, n: u64) {
    match n {
        0..24 => out.push(major | n as u8),
        24..0x100 => out.extend([major | 24, n as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend((n as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend((n as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(n.to_be_bytes());
        }
    }
}
