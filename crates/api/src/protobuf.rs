//! Kubernetes protobuf, both ways, by the field numbers of the schema table.
//!
//! Entry points: [`decode`] for bodies, [`encode`] for whole JSON documents, [`Encoder`] for many objects of one type, [`list_start`] and its
//! like for lists made of parts, [`watch_frame`]. Form: the bytes `k8s\0`, then `runtime.Unknown{1 typeMeta, 2 raw, 3 contentEncoding,
//! 4 contentType}`. What is read is the tree Go's JSON encoder would have written for the same object; what is written is what gogo's
//! generated code writes, byte for byte. A field without a known number is refused, never dropped, both ways.
//! Deliberately absent: types without a protobuf form upstream (Table, custom resources).

mod decode;
mod document;
mod encode;
mod plan;
mod tape;

pub use encode::Encoder;

use decode::Reader;
use serde_json::Value;
use std::cell::Cell;

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Media type of a stream of watch frames.
pub const WATCH_MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf;stream=watch";
const MAGIC: &[u8] = b"k8s\0";
/// Fields 3 and 4 of every envelope, both empty.
const ENVELOPE_END: &[u8] = b"\x1a\0\x22\0";
/// Objects in objects (RawExtension) that are read.
const NESTED_MAX: usize = 4;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    #[error("the protobuf body ends early or is malformed")]
    Malformed,
    #[error("a string of the protobuf body is not UTF-8")]
    Utf8,
    #[error("no kind {kind:?} of {api_version:?} is known")]
    UnknownKind { api_version: String, kind: String },
    #[error("field {number} of {name} is not known here; send the object as JSON")]
    UnknownField { name: String, number: u64 },
    #[error("the protobuf body is nested too deep")]
    TooDeep,
    #[error("the document is not JSON, or a value is not of its field's type")]
    Json,
    #[error("{name} has no protobuf form or its value does not fit it")]
    Value { name: String },
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// The object of a request body, with the apiVersion and kind it says it is.
pub fn decode(body: &[u8]) -> Result<Value> {
    decode_settled(body).map(|(tree, _)| tree)
}

/// As [`decode`], and the name of the type whose every value is as a JSON body's would be once read: none where something has another form.
pub(crate) fn decode_settled(body: &[u8]) -> Result<(Value, Option<&'static str>)> {
    let (tree, settled) = nested(body, 0)?;
    if crate::depth::fits(&tree, 0) { Ok((tree, settled)) } else { Err(ProtobufError::TooDeep) }
}

/// As [`decode_settled`], so many objects in.
fn nested(body: &[u8], objects: usize) -> Result<(Value, Option<&'static str>)> {
    if objects > NESTED_MAX {
        return Err(ProtobufError::TooDeep);
    }
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    while let Some((number, wire)) = envelope.next()? {
        match number {
            1 => {
                let mut meta = Reader(wire.bytes()?);
                while let Some((number, wire)) = meta.next()? {
                    match number {
                        1 => api_version = wire.text()?,
                        2 => kind = wire.text()?,
                        _ => {}
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    let (message, unsettled) = (plan::builtin().of_kind(&api_version, &kind)?, Cell::new(false));
    let mut tree = decode::message(raw, message, decode::At { fields: 0, objects, unsettled: &unsettled })?;
    if let Some(root) = tree.as_object_mut() {
        root.insert("apiVersion".into(), api_version.into());
        root.insert("kind".into(), kind.into());
    }
    Ok((tree, (!unsettled.get()).then_some(message.name)))
}

/// A whole JSON document in its envelope; its apiVersion and kind say what it is.
pub fn encode(json: &[u8]) -> Result<Vec<u8>> {
    let (api_version, kind, message) = encode::document(json)?;
    Ok(envelope(&api_version, &kind, &message))
}

/// The encoder of an apiVersion and kind; `None` for kinds without a protobuf form.
pub fn encoder(api_version: &str, kind: &str) -> Option<Encoder> {
    plan::builtin().of_kind(api_version, kind).ok().map(Encoder::of)
}

/// A message in its envelope.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = envelope_start(api_version, kind, message.len());
    out.extend_from_slice(message);
    out.extend_from_slice(ENVELOPE_END);
    out
}

fn envelope_start(api_version: &str, kind: &str, message_bytes: usize) -> Vec<u8> {
    let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    bytes_field(&mut meta, 1, api_version.as_bytes());
    bytes_field(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(message_bytes + meta.len() + 24);
    out.extend_from_slice(MAGIC);
    bytes_field(&mut out, 1, &meta);
    field_start(&mut out, 2, message_bytes);
    out
}

/// A list up to its first item. `meta` is the ListMeta as JSON, `items_bytes` what all items take with [`item_start`].
/// The items follow, then [`list_end`].
pub fn list_start(api_version: &str, kind: &str, meta: &[u8], items_bytes: usize) -> Result<Vec<u8>> {
    let list_meta = plan::builtin().of_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").expect("the table holds ListMeta, which a test reads");
    let meta = Encoder::of(list_meta).message(meta)?;
    let mut out = envelope_start(api_version, kind, items_bytes + 1 + varint_len(meta.len()) + meta.len());
    bytes_field(&mut out, 1, &meta);
    Ok(out)
}

/// What stands before the message of a list's item.
pub fn item_start(out: &mut Vec<u8>, message_bytes: usize) {
    field_start(out, 2, message_bytes);
}

/// Bytes of an item in a list, its start included.
pub fn item_len(message_bytes: usize) -> usize {
    1 + varint_len(message_bytes) + message_bytes
}

pub fn list_end() -> &'static [u8] {
    ENVELOPE_END
}

/// One event of a watch: four bytes of length, then `WatchEvent{1 type, 2 RawExtension{1 object}}`. `object` is in its envelope.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let raw_len = item_len(object.len());
    let len = 1 + varint_len(event.len()) + event.len() + 1 + varint_len(raw_len) + raw_len;
    let mut out = Vec::with_capacity(len + 4);
    out.extend_from_slice(&(len as u32).to_be_bytes());
    bytes_field(&mut out, 1, event.as_bytes());
    field_start(&mut out, 2, raw_len);
    bytes_field(&mut out, 1, object);
    out
}

fn varint_len(n: usize) -> usize {
    (usize::BITS - (n | 1).leading_zeros()).div_ceil(7) as usize
}

fn varint(out: &mut Vec<u8>, mut n: usize) {
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field_start(out: &mut Vec<u8>, number: u8, len: usize) {
    out.push(number << 3 | 2);
    varint(out, len);
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    field_start(out, number, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests;
