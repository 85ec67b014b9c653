//! JSON texts into protobuf messages, as gogo writes them: fields in ascending order, what Go holds by value always, maps by sorted key.
//!
//! A message is written from its end to its start, so that every length is known when it is due and nothing is measured or copied twice.

use super::plan::{self, Field, Kind, Message, Other};
use super::tape::{Tag, Tape};
use super::{ProtobufError, Result};
use base64::Engine;

const NONE: u32 = u32::MAX;
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Encodes objects of one type. Cheap to make, keeps its buffers between objects.
pub struct Encoder {
    message: &'static Message,
    w: Writer,
}

impl Encoder {
    pub(super) fn of(message: &'static Message) -> Encoder {
        Encoder { message, w: Writer::default() }
    }
    /// The message of a JSON object, without envelope.
    pub fn message(&mut self, json: &[u8]) -> Result<Vec<u8>> {
        let w = &mut self.w;
        w.tape.read(json)?;
        w.slots.clear();
        w.out.start(json.len());
        w.object(json, self.message, 0)?;
        Ok(w.out.written().to_vec())
    }
}

/// The apiVersion, kind and message of a whole document.
pub(super) fn document(json: &[u8]) -> Result<(String, String, Vec<u8>)> {
    let mut w = Writer::default();
    w.tape.read(json)?;
    let root = |field: &[u8]| {
        let all: Vec<usize> = w.tape.children(0).collect();
        let found = all.chunks_exact(2).find(|p| w.tape.bytes(json, p[0]) == field);
        found.and_then(|p| w.tape.text(json, p[1]).ok()).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default()
    };
    let (api_version, kind) = (root(b"apiVersion"), root(b"kind"));
    let message = plan::builtin().of_kind(&api_version, &kind)?;
    w.out.start(json.len());
    w.object(json, message, 0)?;
    Ok((api_version, kind, w.out.written().to_vec()))
}

/// A buffer that grows towards its start.
#[derive(Default)]
pub(super) struct Back {
    bytes: Vec<u8>,
    /// Start of what is written.
    at: usize,
}

impl Back {
    fn start(&mut self, expected: usize) {
        if self.bytes.len() < expected {
            self.bytes.resize(expected, 0);
        }
        self.at = self.bytes.len();
    }
    fn written(&self) -> &[u8] {
        &self.bytes[self.at..]
    }
    fn len(&self) -> usize {
        self.bytes.len() - self.at
    }
    fn put(&mut self, b: &[u8]) {
        if self.at < b.len() {
            self.grow(b.len());
        }
        let at = self.at - b.len();
        self.bytes[at..self.at].copy_from_slice(b);
        self.at = at;
    }
    fn grow(&mut self, more: usize) {
        let (old, add) = (self.bytes.len(), self.bytes.len().max(more).max(256));
        let mut bytes = vec![0; old + add];
        bytes[self.at + add..].copy_from_slice(&self.bytes[self.at..]);
        self.bytes = bytes;
        self.at += add;
    }
    fn varint(&mut self, mut v: u64) {
        let (mut b, mut n) = ([0u8; 10], 0);
        loop {
            b[n] = (v & 0x7f) as u8 | if v > 0x7f { 0x80 } else { 0 };
            n += 1;
            v >>= 7;
            if v == 0 {
                break;
            }
        }
        self.put(&b[..n]);
    }
    fn tag(&mut self, number: u32, wire: u32) {
        self.varint(u64::from(number << 3 | wire));
    }
    /// Makes everything since `end` (a [`Back::len`]) a field of bytes.
    fn wrap(&mut self, number: u32, end: usize) {
        self.varint((self.len() - end) as u64);
        self.tag(number, BYTES);
    }
    fn bytes_field(&mut self, number: u32, b: &[u8]) {
        self.put(b);
        self.varint(b.len() as u64);
        self.tag(number, BYTES);
    }
    fn varint_field(&mut self, number: u32, v: u64) {
        self.varint(v);
        self.tag(number, VARINT);
    }
}

#[derive(Default)]
struct Writer {
    tape: Tape,
    out: Back,
    /// For each open message, the entry of each of its leaves.
    slots: Vec<u32>,
}

impl Writer {
    fn wrong(m: &str, field: &str) -> ProtobufError {
        ProtobufError::Value { name: format!("{m}.{field}") }
    }

    fn object(&mut self, json: &[u8], m: &'static Message, at: usize) -> Result<()> {
        if self.tape.entries[at].tag != Tag::Object {
            return Err(ProtobufError::Value { name: m.name.into() });
        }
        let base = self.slots.len();
        self.slots.resize(base + m.slots(), NONE);
        let (mut key, end) = (at + 1, self.tape.entries[at].next as usize);
        while key < end {
            let value = key + 1;
            if self.tape.entries[value].tag != Tag::Null {
                let name = self.tape.text(json, key)?;
                match m.slot(&name) {
                    Some(slot) => self.slots[base + slot as usize] = value as u32,
                    None if matches!(&*name, b"kind" | b"apiVersion") => {}
                    None => return Err(Self::wrong(m.name, &String::from_utf8_lossy(&name))),
                }
            }
            key = self.tape.entries[value].next as usize;
        }
        self.group(json, m, &m.fields, base)?;
        self.slots.truncate(base);
        Ok(())
    }

    /// The fields of a message, or of a struct inlined in it, last first.
    fn group(&mut self, json: &[u8], m: &'static Message, fields: &'static [Field], base: usize) -> Result<()> {
        for f in fields.iter().rev() {
            if let Kind::Inline(inner) = &f.kind {
                let end = self.out.len();
                self.group(json, m, inner, base)?;
                self.out.wrap(f.number, end);
                continue;
            }
            match self.slots[base + f.slot as usize] {
                NONE if f.by_value => self.zero(&f.kind, f.number),
                NONE => Ok(()),
                at => self.field(json, f, at as usize).map_err(|e| match e {
                    ProtobufError::Json => Self::wrong(m.name, f.name),
                    e => e,
                }),
            }?;
        }
        Ok(())
    }

    fn field(&mut self, json: &[u8], f: &'static Field, at: usize) -> Result<()> {
        match &f.kind {
            Kind::List(item) => self.list(json, item, f.number, at),
            Kind::Map(value) => self.map(json, value, f.number, at),
            kind => self.single(json, kind, f.number, at),
        }
    }

    fn list(&mut self, json: &[u8], item: &'static Kind, number: u32, at: usize) -> Result<()> {
        if self.tape.entries[at].tag != Tag::Array {
            return Err(ProtobufError::Json);
        }
        let items: Vec<usize> = self.tape.children(at).collect();
        items.into_iter().rev().try_for_each(|i| self.single(json, item, number, i))
    }

    fn map(&mut self, json: &[u8], value: &'static Kind, number: u32, at: usize) -> Result<()> {
        if self.tape.entries[at].tag != Tag::Object {
            return Err(ProtobufError::Json);
        }
        let all: Vec<usize> = self.tape.children(at).collect();
        let mut pairs = all.chunks_exact(2).map(|p| Ok((self.tape.text(json, p[0])?, p[1]))).collect::<Result<Vec<_>>>()?;
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, at) in pairs.into_iter().rev() {
            let end = self.out.len();
            if self.tape.entries[at].tag == Tag::Null { self.zero(value, 2) } else { self.single(json, value, 2, at) }?;
            self.out.bytes_field(1, &key);
            self.out.wrap(number, end);
        }
        Ok(())
    }

    /// One value with its tag.
    fn single(&mut self, json: &[u8], kind: &'static Kind, number: u32, at: usize) -> Result<()> {
        let tag = self.tape.entries[at].tag;
        if tag == Tag::Null {
            return self.zero(kind, number);
        }
        match kind {
            Kind::Text => {
                let text = self.tape.text(json, at)?;
                self.out.bytes_field(number, &text);
            }
            Kind::Bytes => {
                let text = self.tape.text(json, at)?;
                let bytes = base64::engine::general_purpose::STANDARD.decode(&*text).map_err(|_| ProtobufError::Json)?;
                self.out.bytes_field(number, &bytes);
            }
            Kind::Bool => match tag {
                Tag::True | Tag::False => self.out.varint_field(number, u64::from(tag == Tag::True)),
                _ => return Err(ProtobufError::Json),
            },
            Kind::Int32 | Kind::Int64 => {
                let v = self.integer(json, at)?;
                self.out.varint_field(number, v as u64);
            }
            Kind::Double => {
                let v: f64 = self.number(json, at)?;
                self.out.put(&v.to_bits().to_le_bytes());
                self.out.tag(number, FIXED64);
            }
            Kind::Message(m) => {
                let end = self.out.len();
                self.object(json, &plan::builtin().messages[*m], at)?;
                self.out.wrap(number, end);
            }
            Kind::Wrapped(item) => {
                let end = self.out.len();
                self.list(json, item, 1, at)?;
                self.out.wrap(number, end);
            }
            Kind::Inline(_) | Kind::List(_) | Kind::Map(_) => return Err(ProtobufError::Json),
            Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString | Kind::Raw | Kind::Either(..) => {
                let end = self.out.len();
                self.leaf_message(json, kind, at)?;
                self.out.wrap(number, end);
            }
        }
        Ok(())
    }

    /// Leaves that are messages of their own on the wire.
    fn leaf_message(&mut self, json: &[u8], kind: &'static Kind, at: usize) -> Result<()> {
        let tag = self.tape.entries[at].tag;
        match kind {
            Kind::Raw => {
                let start = self.tape.entries[at];
                let quote = usize::from(matches!(tag, Tag::Text | Tag::Escaped));
                self.out.bytes_field(1, &json[start.start as usize - quote..start.end as usize + quote]);
            }
            Kind::Time | Kind::MicroTime => {
                let text = self.tape.text(json, at)?;
                let text = std::str::from_utf8(&text).map_err(|_| ProtobufError::Json)?;
                let t = if matches!(kind, Kind::Time) { crate::time::parse(text) } else { crate::time::parse_micro(text) }.map_err(|_| ProtobufError::Json)?;
                self.out.varint_field(2, u64::from(t.micros) * 1000);
                self.out.varint_field(1, t.seconds as u64);
            }
            Kind::Quantity => {
                let text = if tag == Tag::Number { self.tape.bytes(json, at).into() } else { self.tape.text(json, at)? };
                self.out.bytes_field(1, &text);
            }
            Kind::IntOrString => {
                let text = if tag == Tag::Number { (&b""[..]).into() } else { self.tape.text(json, at)? };
                let v = if tag == Tag::Number { self.integer(json, at)? } else { 0 };
                self.out.bytes_field(3, &text);
                self.out.varint_field(2, v as u64);
                self.out.varint_field(1, u64::from(tag != Tag::Number));
            }
            Kind::Either(other, props) => {
                if tag == Tag::Object {
                    let end = self.out.len();
                    self.object(json, &plan::builtin().messages[*props], at)?;
                    // The schema is field 1, except beside a bool, which it makes true.
                    self.out.wrap(if *other == Other::Bool { 2 } else { 1 }, end);
                    if *other == Other::Bool {
                        self.out.varint_field(1, 1);
                    }
                    return Ok(());
                }
                match other {
                    Other::Bool => self.out.varint_field(1, u64::from(tag == Tag::True)),
                    Other::Texts => self.list(json, &Kind::Text, 2, at)?,
                    Other::Array => {
                        let items: Vec<usize> = self.tape.children(at).collect();
                        for i in items.into_iter().rev() {
                            let end = self.out.len();
                            self.object(json, &plan::builtin().messages[*props], i)?;
                            self.out.wrap(2, end);
                        }
                    }
                }
            }
            _ => return Err(ProtobufError::Json),
        }
        Ok(())
    }

    fn number<T: std::str::FromStr>(&self, json: &[u8], at: usize) -> Result<T> {
        if self.tape.entries[at].tag != Tag::Number {
            return Err(ProtobufError::Json);
        }
        std::str::from_utf8(self.tape.bytes(json, at)).ok().and_then(|t| t.parse().ok()).ok_or(ProtobufError::Json)
    }
    fn integer(&self, json: &[u8], at: usize) -> Result<i64> {
        self.number::<i64>(json, at).or_else(|_| {
            let v: f64 = self.number(json, at)?;
            if v.fract() == 0.0 && v.abs() < 9e18 { Ok(v as i64) } else { Err(ProtobufError::Json) }
        })
    }

    /// What gogo writes for a field held by value that is not there.
    fn zero(&mut self, kind: &'static Kind, number: u32) -> Result<()> {
        match kind {
            Kind::Text | Kind::Time | Kind::MicroTime | Kind::Raw => self.out.bytes_field(number, b""),
            Kind::Bool | Kind::Int32 | Kind::Int64 => self.out.varint_field(number, 0),
            Kind::Double => {
                self.out.put(&[0; 8]);
                self.out.tag(number, FIXED64);
            }
            Kind::Quantity => self.out.bytes_field(number, b"\x0a\x010"),
            Kind::IntOrString => self.out.bytes_field(number, b"\x08\x00\x10\x00\x1a\x00"),
            Kind::Message(m) => {
                let m = &plan::builtin().messages[*m];
                let (end, base) = (self.out.len(), self.slots.len());
                self.slots.resize(base + m.slots(), NONE);
                self.group(b"", m, &m.fields, base)?;
                self.slots.truncate(base);
                self.out.wrap(number, end);
            }
            Kind::Wrapped(_) => self.out.bytes_field(number, b""),
            Kind::Either(Other::Bool, _) => self.out.bytes_field(number, b"\x08\x00"),
            Kind::Either(..) => self.out.bytes_field(number, b""),
            Kind::Bytes | Kind::List(_) | Kind::Map(_) | Kind::Inline(_) => {}
        }
        Ok(())
    }
}
