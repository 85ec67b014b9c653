//! Leaves: a scalar from the wire to its canonical form, or Go's words for why not.

use crate::quantity::{Quantity, QuantityError};
use crate::schema::Scalar;
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// `Err` is the whole text for Go types with a decoder of their own, or `None` for a plain wrong type.
pub(super) fn string(s: &str, scalar: Scalar) -> Result<Value, Option<String>> {
    match scalar {
        Scalar::String | Scalar::IntOrString | Scalar::Any | Scalar::Duration => Ok(s.into()),
        Scalar::Quantity => Quantity::canonical(s).map(Value::from).map_err(|e| Some(e.to_string())),
        Scalar::Time => time::parse(s).map(|t| time::format(t).into()).map_err(Some),
        Scalar::MicroTime => time::parse_micro(s).map(|t| time::format_micro(t).into()).map_err(Some),
        Scalar::Bytes => decode_base64(s).map(|b| STANDARD.encode(b).into()).map_err(|at| Some(format!("illegal base64 data at input byte {at}"))),
        Scalar::Bool | Scalar::Int32 | Scalar::Int64 | Scalar::Double => Err(None),
    }
}

pub(super) fn integer(n: i128, scalar: Scalar) -> Result<Value, Option<String>> {
    let as_i64 = i64::try_from(n);
    match scalar {
        Scalar::Int32 | Scalar::IntOrString => i32::try_from(n).map(Value::from).map_err(|_| None),
        Scalar::Int64 => as_i64.map(Value::from).map_err(|_| None),
        // Go reads what is no int64 as floating point.
        Scalar::Double | Scalar::Any => Ok(as_i64.map_or_else(|_| Value::from(n as f64), Value::from)),
        Scalar::Quantity => Quantity::canonical(&n.to_string()).map(Value::from).map_err(|e| Some(e.to_string())),
        _ => Err(None),
    }
}

/// Whole numbers below are the same as floating point.
const WHOLE_MAX: f64 = 9e15;

pub(super) fn float(n: f64, scalar: Scalar) -> Result<Value, Option<String>> {
    match scalar {
        // Go writes a whole number without a fraction, whatever it read.
        Scalar::Double | Scalar::Any if n.fract() == 0.0 && n.abs() < WHOLE_MAX => Ok((n as i64).into()),
        Scalar::Double | Scalar::Any => Ok(n.into()),
        Scalar::Quantity => Quantity::canonical(&n.to_string()).map(Value::from).map_err(|e| Some(e.to_string())),
        _ => Err(None),
    }
}

pub(super) fn boolean(b: bool, scalar: Scalar) -> Result<Value, Option<String>> {
    match scalar {
        Scalar::Bool | Scalar::Any => Ok(b.into()),
        Scalar::Quantity => Err(Some(QuantityError::Format.to_string())),
        _ => Err(None),
    }
}

/// A list or object where a leaf should be.
pub(super) fn composite(scalar: Scalar) -> Option<String> {
    (scalar == Scalar::Quantity).then(|| QuantityError::Format.to_string())
}

/// What `null` becomes as an item or a map value: Go's zero value.
pub(super) fn zero(scalar: Scalar) -> Value {
    match scalar {
        Scalar::String | Scalar::Bytes | Scalar::Duration => "".into(),
        Scalar::Bool => false.into(),
        Scalar::Int32 | Scalar::Int64 | Scalar::Double | Scalar::IntOrString => 0.into(),
        Scalar::Quantity => "0".into(),
        Scalar::Time | Scalar::MicroTime | Scalar::Any => Value::Null,
    }
}

/// Go's name of a leaf's type, for messages.
pub(super) fn go_type(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::String | Scalar::Duration | Scalar::Time | Scalar::MicroTime | Scalar::Quantity => "string",
        Scalar::Bytes => "[]uint8",
        Scalar::Bool => "bool",
        Scalar::Int32 | Scalar::IntOrString => "int32",
        Scalar::Int64 => "int64",
        Scalar::Double => "float64",
        Scalar::Any => "interface {}",
    }
}

/// Go's `base64.StdEncoding`: newlines are skipped; `Err` is the offset it reports.
fn decode_base64(text: &str) -> Result<Vec<u8>, usize> {
    if let Ok(b) = STANDARD.decode(text) {
        return Ok(b);
    }
    let clean: Vec<u8> = text.bytes().filter(|c| *c != b'\n' && *c != b'\r').collect();
    if let Ok(b) = STANDARD.decode(&clean) {
        return Ok(b);
    }
    Err(corrupt_at(text.as_bytes()))
}

/// Where Go's decoder stops, quantum by quantum.
fn corrupt_at(src: &[u8]) -> usize {
    let newline = |c: u8| c == b'\n' || c == b'\r';
    let skip = |mut i: usize| {
        while i < src.len() && newline(src[i]) {
            i += 1;
        }
        i
    };
    let mut i = 0;
    loop {
        let mut j = 0;
        while j < 4 {
            if i == src.len() {
                return if j == 0 { i } else { i - j };
            }
            let c = src[i];
            i += 1;
            if c.is_ascii_alphanumeric() || c == b'+' || c == b'/' {
                j += 1;
            } else if newline(c) {
                continue;
            } else if c != b'=' || j < 2 {
                return i - 1;
            } else {
                if j == 2 {
                    i = skip(i);
                    if i == src.len() {
                        return i;
                    }
                    if src[i] != b'=' {
                        return i - 1;
                    }
                    i += 1;
                }
                return skip(i);
            }
        }
    }
}
