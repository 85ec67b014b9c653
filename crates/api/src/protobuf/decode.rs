//! Protobuf messages into JSON trees: what Go's JSON encoder would have written for the same object.

use super::plan::{self, Field, Kind, Message, Other};
use super::{ProtobufError, Result};
use crate::quantity::Quantity;
use base64::Engine;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::cell::Cell;

/// As deep as JSON bodies may be.
const DEPTH_MAX: usize = 128;

/// One field on the wire.
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Malformed)?;
            self.0 = rest;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed)
    }
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(ProtobufError::Malformed)?;
        self.0 = rest;
        Ok(head)
    }
    pub fn next(&mut self) -> Result<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| ProtobufError::Malformed)?)),
            2 => {
                let n = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed)?;
                Wire::Bytes(self.take(n)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| ProtobufError::Malformed)?)),
            _ => return Err(ProtobufError::Malformed),
        };
        Ok(Some((key >> 3, wire)))
    }
}

impl<'a> Wire<'a> {
    pub fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Wire::Bytes(b) => Ok(b),
            _ => Err(ProtobufError::Malformed),
        }
    }
    pub fn text(self) -> Result<String> {
        std::str::from_utf8(self.bytes()?).map(str::to_owned).map_err(|_| ProtobufError::Utf8)
    }
    fn number(self) -> Result<i64> {
        match self {
            Wire::Varint(v) => Ok(v as i64),
            _ => Err(ProtobufError::Malformed),
        }
    }
}

/// Where a value stands: how deep in the fields of one object, and in objects within objects.
#[derive(Clone, Copy)]
pub(super) struct At<'c> {
    pub fields: usize,
    pub objects: usize,
    /// Set by what a JSON body might hold in another form than its type has: then the tree is to be read as a body's is.
    pub unsettled: &'c Cell<bool>,
}

impl At<'_> {
    fn inner(self) -> Self {
        At { fields: self.fields + 1, ..self }
    }
    /// Items and values of maps are never null.
    fn noticing(self, value: &Value) {
        if value.is_null() {
            self.unsettled.set(true);
        }
    }
}

/// A message as the JSON object it is.
pub(super) fn message(bytes: &[u8], m: &'static Message, at: At<'_>) -> Result<Value> {
    if at.fields > DEPTH_MAX {
        return Err(ProtobufError::TooDeep);
    }
    let mut out = Map::new();
    group(bytes, m, &m.fields, &mut out, at)?;
    Ok(Value::Object(out))
}

/// Reads fields into `out`; those of an inlined struct join the message's own.
fn group(bytes: &[u8], m: &'static Message, fields: &'static [Field], out: &mut Map<String, Value>, at: At<'_>) -> Result<()> {
    let mut r = Reader(bytes);
    while let Some((number, wire)) = r.next()? {
        let found = fields.binary_search_by(|f| u64::from(f.number).cmp(&number));
        let f = found.map(|i| &fields[i]).map_err(|_| ProtobufError::UnknownField { name: m.name.into(), number })?;
        match &f.kind {
            Kind::Inline(inner) => group(wire.bytes()?, m, inner, out, at)?,
            _ => field(f, wire, out, at)?,
        }
    }
    Ok(())
}

fn field(f: &'static Field, wire: Wire<'_>, out: &mut Map<String, Value>, at: At<'_>) -> Result<()> {
    match &f.kind {
        Kind::List(item) => {
            let list = out.entry(f.name).or_insert_with(|| Value::Array(Vec::new())).as_array_mut().ok_or(ProtobufError::Malformed)?;
            append(list, wire, item, at)
        }
        Kind::Map(kind) => {
            let (mut key, mut value) = (String::new(), None);
            let mut r = Reader(wire.bytes()?);
            while let Some((number, wire)) = r.next()? {
                match number {
                    1 => key = wire.text()?,
                    2 => value = Some(single(wire, kind, at.inner())?),
                    _ => {}
                }
            }
            let value = value.unwrap_or_else(|| zero(kind));
            at.noticing(&value);
            out.entry(f.name).or_insert_with(|| Value::Object(Map::new())).as_object_mut().ok_or(ProtobufError::Malformed)?.insert(key, value);
            Ok(())
        }
        kind => {
            let v = single(wire, kind, at.inner())?;
            // Go's encoder writes zero values of plain fields; its JSON leaves them out.
            if !(v.is_null() || f.omit_zero && is_zero(&v)) {
                out.insert(f.name.into(), v);
            }
            Ok(())
        }
    }
}

fn append(list: &mut Vec<Value>, wire: Wire<'_>, item: &'static Kind, at: At<'_>) -> Result<()> {
    match wire {
        // Packed numbers, which other encoders may send.
        Wire::Bytes(b) if matches!(item, Kind::Int32 | Kind::Int64 | Kind::Bool) => {
            let mut r = Reader(b);
            while !r.0.is_empty() {
                let v = r.varint()?;
                list.push(single(Wire::Varint(v), item, at)?);
            }
        }
        wire => {
            let value = single(wire, item, at.inner())?;
            at.noticing(&value);
            list.push(value);
        }
    }
    Ok(())
}

fn single(wire: Wire<'_>, kind: &'static Kind, at: At<'_>) -> Result<Value> {
    Ok(match kind {
        Kind::Text => wire.text()?.into(),
        Kind::Bytes => base64::engine::general_purpose::STANDARD.encode(wire.bytes()?).into(),
        Kind::Bool => (wire.number()? != 0).into(),
        Kind::Int32 => (wire.number()? as i32).into(),
        Kind::Int64 => wire.number()?.into(),
        Kind::Double => match wire {
            Wire::Fixed64(v) => double(f64::from_bits(v)),
            Wire::Fixed32(v) => double(f64::from(f32::from_bits(v))),
            _ => return Err(ProtobufError::Malformed),
        },
        Kind::Message(m) => message(wire.bytes()?, &plan::builtin().messages[*m], at)?,
        Kind::Wrapped(item) => {
            let mut items = Vec::new();
            let mut r = Reader(wire.bytes()?);
            while let Some((number, wire)) = r.next()? {
                if number == 1 {
                    append(&mut items, wire, item, at)?;
                }
            }
            Value::Array(items)
        }
        Kind::Either(other, props) => either(wire.bytes()?, *other, &plan::builtin().messages[*props], at)?,
        Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString | Kind::Raw => leaf_message(wire.bytes()?, kind, at)?,
        Kind::List(_) | Kind::Map(_) | Kind::Inline(_) => return Err(ProtobufError::Malformed),
    })
}

fn either(bytes: &[u8], other: Other, props: &'static Message, at: At<'_>) -> Result<Value> {
    at.unsettled.set(true);
    let (mut schema, mut allows, mut list) = (None, false, None::<Vec<Value>>);
    let mut r = Reader(bytes);
    while let Some((number, wire)) = r.next()? {
        match (other, number) {
            (Other::Bool, 1) => allows = wire.number()? != 0,
            (Other::Bool, 2) | (_, 1) => schema = Some(message(wire.bytes()?, props, at.inner())?),
            (Other::Array, 2) => list.get_or_insert_default().push(message(wire.bytes()?, props, at.inner())?),
            (Other::Texts, 2) => list.get_or_insert_default().push(wire.text()?.into()),
            _ => return Err(ProtobufError::UnknownField { name: props.name.into(), number }),
        }
    }
    Ok(match (other, schema, list) {
        (_, Some(s), _) => s,
        (Other::Bool, None, _) => allows.into(),
        (_, None, list) => list.map_or(Value::Null, Value::Array),
    })
}

/// Leaves that are messages of their own on the wire.
fn leaf_message(bytes: &[u8], kind: &'static Kind, at: At<'_>) -> Result<Value> {
    let (mut first, mut second, mut text) = (0i64, 0i64, None);
    let mut r = Reader(bytes);
    while let Some((number, wire)) = r.next()? {
        match (number, wire) {
            (1, Wire::Varint(v)) => first = v as i64,
            (2, Wire::Varint(v)) => second = v as i64,
            (1 | 3, Wire::Bytes(b)) => text = Some(b),
            _ => return Err(ProtobufError::Malformed),
        }
    }
    let utf8 = |b: Option<&[u8]>| std::str::from_utf8(b.unwrap_or_default()).map(str::to_owned).map_err(|_| ProtobufError::Utf8);
    Ok(match kind {
        Kind::Time | Kind::MicroTime if first == 0 && second == 0 => Value::Null,
        Kind::Time | Kind::MicroTime if !TIMES.contains(&first) || !(0..1_000_000_000).contains(&second) => return Err(ProtobufError::Malformed),
        Kind::Time => crate::time::format(crate::time::Moment { seconds: first, micros: 0 }).into(),
        Kind::MicroTime => crate::time::format_micro(crate::time::Moment { seconds: first, micros: (second / 1000) as u32 }).into(),
        Kind::Quantity => {
            let text = utf8(text)?;
            let canonical = Quantity::canonical(&text).map(Cow::into_owned);
            canonical.unwrap_or_else(|_| {
                at.unsettled.set(true);
                text
            })
        }
        .into(),
        Kind::IntOrString if first == 1 => utf8(text)?.into(),
        Kind::IntOrString => (second as i32).into(),
        _ => {
            let value = match text {
                None => Value::Null,
                // A RawExtension may hold an object in protobuf again.
                Some(raw) if raw.starts_with(super::MAGIC) => super::nested(raw, at.objects + 1)?.0,
                Some(raw) => serde_json::from_slice(raw).map_err(|_| ProtobufError::Malformed)?,
            };
            // FieldsV1, which most writes bring.
            if !is_of_objects(&value) {
                at.unsettled.set(true);
            }
            value
        }
    })
}

/// Whether there is nothing but objects in an object: then there is one form of it.
fn is_of_objects(v: &Value) -> bool {
    v.as_object().is_some_and(|all| all.values().all(is_of_objects))
}

/// Seconds of the years 0 to 9999, which JSON can say.
const TIMES: std::ops::Range<i64> = -62_167_219_200..253_402_300_800;

fn is_zero(v: &Value) -> bool {
    match v {
        Value::String(s) => s.is_empty(),
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn zero(kind: &Kind) -> Value {
    match kind {
        Kind::Text | Kind::Bytes => json!(""),
        Kind::Quantity => json!("0"),
        Kind::Wrapped(_) => json!([]),
        Kind::Message(_) => json!({}),
        _ => Value::Null,
    }
}

/// Whole numbers are written without a fraction, as Go writes them and as JSON bodies are read.
fn double(n: f64) -> Value {
    const WHOLE_MAX: f64 = 9.2e18;
    if n.fract() == 0.0 && n.abs() < WHOLE_MAX { (n as i64).into() } else { n.into() }
}
