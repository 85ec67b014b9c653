//! JSON texts and trees into protobuf messages, as gogo writes them: fields in ascending order, what Go holds by value always, maps by sorted key.
//!
//! A message is written from its end to its start, so that every length is known when it is due and nothing is measured or copied twice.

use super::document::{Document, Form, Text, Tree};
use super::plan::{self, Field, Kind, Message, Other};
use super::tape::Tape;
use super::{ProtobufError, Result};
use base64::Engine;
use serde_json::Value;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// Encodes objects of one type. Cheap to make, keeps its buffers between objects.
pub struct Encoder {
    message: &'static Message,
    tape: Tape,
    out: Back,
}

impl Encoder {
    pub(super) fn of(message: &'static Message) -> Encoder {
        Encoder { message, tape: Tape::default(), out: Back::default() }
    }
    /// The message of a JSON object, without envelope.
    pub fn message(&mut self, json: &[u8]) -> Result<Vec<u8>> {
        self.tape.read(json)?;
        self.out.start(json.len());
        write(Text::new(&self.tape, json), self.message, &mut self.out)
    }
    /// The same of a tree, which no text has to be read for. It has to be within [`crate::depth`].
    pub fn message_of(&mut self, tree: &Value) -> Result<Vec<u8>> {
        self.out.start(TREE_BYTES);
        write(Tree(tree), self.message, &mut self.out)
    }
}

/// Room to begin with for what is not known to be long.
const TREE_BYTES: usize = 8 << 10;

fn write<'a, D: Document<'a>>(doc: D, message: &'static Message, out: &mut Back) -> Result<Vec<u8>> {
    Writer { doc, out, slots: Vec::with_capacity(SLOTS) }.object(message, doc.root())?;
    Ok(out.written().to_vec())
}

/// Room for the leaves of most messages that are open at once.
const SLOTS: usize = 128;

/// The apiVersion, kind and message of a whole document.
pub(super) fn document(json: &[u8]) -> Result<(String, String, Vec<u8>)> {
    let (mut tape, mut out) = (Tape::default(), Back::default());
    tape.read(json)?;
    let doc = Text::new(&tape, json);
    let root = |field: &[u8]| {
        let found = doc.fields(doc.root()).flatten().find(|(name, _)| **name == *field);
        found.and_then(|(_, at)| doc.text(at).ok()).map(|t| String::from_utf8_lossy(&t).into_owned()).unwrap_or_default()
    };
    let (api_version, kind) = (root(b"apiVersion"), root(b"kind"));
    let message = plan::builtin().of_kind(&api_version, &kind)?;
    out.start(json.len());
    let written = write(doc, message, &mut out)?;
    Ok((api_version, kind, written))
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

struct Writer<'o, D, At> {
    doc: D,
    out: &'o mut Back,
    /// For each open message, where the value of each of its leaves is.
    slots: Vec<Option<At>>,
}

fn wrong(m: &str, field: &str) -> ProtobufError {
    ProtobufError::Value { name: format!("{m}.{field}") }
}

impl<'a, D: Document<'a>> Writer<'_, D, D::At> {
    fn object(&mut self, m: &'static Message, at: D::At) -> Result<()> {
        let doc = self.doc;
        if doc.form(at) != Form::Object {
            return Err(ProtobufError::Value { name: m.name.into() });
        }
        let base = self.slots.len();
        self.slots.resize(base + m.slots(), None);
        for field in doc.fields(at) {
            let (name, value) = field?;
            if doc.form(value) == Form::Null {
                continue;
            }
            match m.slot(&name) {
                Some(slot) => self.slots[base + slot as usize] = Some(value),
                None if matches!(&*name, b"kind" | b"apiVersion") => {}
                None => return Err(wrong(m.name, &String::from_utf8_lossy(&name))),
            }
        }
        self.group(m, &m.fields, base)?;
        self.slots.truncate(base);
        Ok(())
    }

    /// The fields of a message, or of a struct inlined in it, last first.
    fn group(&mut self, m: &'static Message, fields: &'static [Field], base: usize) -> Result<()> {
        for f in fields.iter().rev() {
            if let Kind::Inline(inner) = &f.kind {
                let end = self.out.len();
                self.group(m, inner, base)?;
                self.out.wrap(f.number, end);
                continue;
            }
            match self.slots[base + f.slot as usize] {
                None if f.by_value => self.zero(&f.kind, f.number),
                None => Ok(()),
                Some(at) => self.field(f, at).map_err(|e| match e {
                    ProtobufError::Json => wrong(m.name, f.name),
                    e => e,
                }),
            }?;
        }
        Ok(())
    }

    fn field(&mut self, f: &'static Field, at: D::At) -> Result<()> {
        match &f.kind {
            Kind::List(item) => self.list(item, f.number, at),
            Kind::Map(value) => self.map(value, f.number, at),
            kind => self.single(kind, f.number, at),
        }
    }

    fn list(&mut self, item: &'static Kind, number: u32, at: D::At) -> Result<()> {
        if self.doc.form(at) != Form::List {
            return Err(ProtobufError::Json);
        }
        self.doc.items(at).rev().try_for_each(|i| self.single(item, number, i))
    }

    fn map(&mut self, value: &'static Kind, number: u32, at: D::At) -> Result<()> {
        if self.doc.form(at) != Form::Object {
            return Err(ProtobufError::Json);
        }
        let mut pairs = self.doc.fields(at).collect::<Result<Vec<_>>>()?;
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, at) in pairs.into_iter().rev() {
            let end = self.out.len();
            if self.doc.form(at) == Form::Null { self.zero(value, 2) } else { self.single(value, 2, at) }?;
            self.out.bytes_field(1, &key);
            self.out.wrap(number, end);
        }
        Ok(())
    }

    /// One value with its tag.
    fn single(&mut self, kind: &'static Kind, number: u32, at: D::At) -> Result<()> {
        let (doc, form) = (self.doc, self.doc.form(at));
        if form == Form::Null {
            return self.zero(kind, number);
        }
        match kind {
            Kind::Text => self.out.bytes_field(number, &doc.text(at)?),
            Kind::Bytes => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(&*doc.text(at)?).map_err(|_| ProtobufError::Json)?;
                self.out.bytes_field(number, &bytes);
            }
            Kind::Bool => match form {
                Form::Bool(v) => self.out.varint_field(number, u64::from(v)),
                _ => return Err(ProtobufError::Json),
            },
            Kind::Int32 | Kind::Int64 => self.out.varint_field(number, doc.integer(at)? as u64),
            Kind::Double => {
                self.out.put(&doc.double(at)?.to_bits().to_le_bytes());
                self.out.tag(number, FIXED64);
            }
            Kind::Message(m) => {
                let end = self.out.len();
                self.object(&plan::builtin().messages[*m], at)?;
                self.out.wrap(number, end);
            }
            Kind::Wrapped(item) => {
                let end = self.out.len();
                self.list(item, 1, at)?;
                self.out.wrap(number, end);
            }
            Kind::Inline(_) | Kind::List(_) | Kind::Map(_) => return Err(ProtobufError::Json),
            Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString | Kind::Raw | Kind::Either(..) => {
                let end = self.out.len();
                self.leaf_message(kind, at)?;
                self.out.wrap(number, end);
            }
        }
        Ok(())
    }

    /// Leaves that are messages of their own on the wire.
    fn leaf_message(&mut self, kind: &'static Kind, at: D::At) -> Result<()> {
        let (doc, form) = (self.doc, self.doc.form(at));
        match kind {
            Kind::Raw => self.out.bytes_field(1, &doc.json(at)),
            Kind::Time | Kind::MicroTime => {
                let text = doc.text(at)?;
                let text = std::str::from_utf8(&text).map_err(|_| ProtobufError::Json)?;
                let t = if matches!(kind, Kind::Time) { crate::time::parse(text) } else { crate::time::parse_micro(text) }.map_err(|_| ProtobufError::Json)?;
                self.out.varint_field(2, u64::from(t.micros) * 1000);
                self.out.varint_field(1, t.seconds as u64);
            }
            Kind::Quantity => {
                let text = if form == Form::Number { doc.json(at) } else { doc.text(at)? };
                self.out.bytes_field(1, &text);
            }
            Kind::IntOrString => {
                let (text, v) = if form == Form::Number { ((&b""[..]).into(), doc.integer(at)?) } else { (doc.text(at)?, 0) };
                self.out.bytes_field(3, &text);
                self.out.varint_field(2, v as u64);
                self.out.varint_field(1, u64::from(form != Form::Number));
            }
            Kind::Either(other, props) => {
                if form == Form::Object {
                    let end = self.out.len();
                    self.object(&plan::builtin().messages[*props], at)?;
                    // The schema is field 1, except beside a bool, which it makes true.
                    self.out.wrap(if *other == Other::Bool { 2 } else { 1 }, end);
                    if *other == Other::Bool {
                        self.out.varint_field(1, 1);
                    }
                    return Ok(());
                }
                match other {
                    Other::Bool => self.out.varint_field(1, u64::from(form == Form::Bool(true))),
                    Other::Texts => self.list(&Kind::Text, 2, at)?,
                    Other::Array => {
                        for i in doc.items(at).rev() {
                            let end = self.out.len();
                            self.object(&plan::builtin().messages[*props], i)?;
                            self.out.wrap(2, end);
                        }
                    }
                }
            }
            _ => return Err(ProtobufError::Json),
        }
        Ok(())
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
                self.slots.resize(base + m.slots(), None);
                self.group(m, &m.fields, base)?;
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
