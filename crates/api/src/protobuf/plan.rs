//! The wire forms of all built-in types, compiled once from the schema table: fields by number for reading, by name for writing.

use super::{ProtobufError, Result};
use crate::schema::{FieldRef, ObjectRef, Presence, Scalar, Shape, TypeRef};
use std::collections::HashMap;
use std::sync::OnceLock;

/// Fields whose list is a message of its own on the wire (Go type `Verbs`).
const WRAPPED_LISTS: &[(&str, &str)] = &[("io.k8s.apimachinery.pkg.apis.meta.v1.APIResource", "verbs")];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

pub(super) struct Plan {
    pub messages: Vec<Message>,
    by_name: HashMap<&'static str, usize>,
    /// By version, then kind, then group: few versions share a kind.
    by_kind: HashMap<(&'static str, &'static str, &'static str), usize>,
}

pub(super) struct Message {
    pub name: &'static str,
    /// In ascending order of number.
    pub fields: Box<[Field]>,
    /// JSON names and their slots, sorted by name.
    names: Box<[(&'static str, u32)]>,
}

pub(super) struct Field {
    pub number: u32,
    pub name: &'static str,
    /// Position among the message's leaves, those of inlined structs included.
    pub slot: u32,
    /// Held by value in Go: its zero value is written when absent.
    pub by_value: bool,
    /// Left out of JSON when zero.
    pub omit_zero: bool,
    pub kind: Kind,
}

pub(super) enum Kind {
    Text,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// `{1: raw JSON}`
    Raw,
    Message(usize),
    /// Repeated on the wire.
    List(Box<Kind>),
    /// A message whose field 1 is repeated.
    Wrapped(Box<Kind>),
    Map(Box<Kind>),
    /// JSONSchemaProps or an array of them, a bool, an array of strings.
    Either(Other, usize),
    /// The fields of a struct that Go inlines, in ascending order of number.
    Inline(Box<[Field]>),
}

/// What an [`Kind::Either`] is when it is no object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Other {
    Array,
    Bool,
    Texts,
}

impl Message {
    /// The slot of a JSON field.
    pub fn slot(&self, name: &[u8]) -> Option<u32> {
        self.names.binary_search_by(|(n, _)| n.as_bytes().cmp(name)).ok().map(|i| self.names[i].1)
    }
    pub fn slots(&self) -> usize {
        self.names.len()
    }
}

impl Plan {
    pub fn of_name(&'static self, name: &str) -> Option<&'static Message> {
        self.by_name.get(name).map(|i| &self.messages[*i])
    }
    /// The message of an apiVersion and kind.
    pub fn of_kind(&'static self, api_version: &str, kind: &str) -> Result<&'static Message> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        // Kinds that every group has are one type, those of discovery have no group.
        let everywhere = ["DeleteOptions", "Status", "APIVersions", "APIGroup", "APIGroupList", "APIResourceList"].contains(&kind);
        let found = if everywhere {
            self.of_name(&format!("{META}.{kind}"))
        } else if group == "meta.k8s.io" {
            self.of_name(kind).filter(|_| kind.starts_with("PartialObjectMetadata"))
        } else {
            self.by_kind.get(&(group, version, kind) as &(&str, &str, &str)).map(|i| &self.messages[*i])
        };
        found.ok_or_else(|| ProtobufError::UnknownKind { api_version: api_version.into(), kind: kind.into() })
    }
}

/// The plan of the built-in schema; compiling it takes about a millisecond.
pub(super) fn builtin() -> &'static Plan {
    static PLAN: OnceLock<Plan> = OnceLock::new();
    PLAN.get_or_init(compile)
}

fn compile() -> Plan {
    let schema = crate::schema::builtin();
    let mut objects: Vec<(TypeRef<'static>, ObjectRef<'static>)> = schema.types().filter_map(|t| Some((t, t.object()?))).collect();
    objects.sort_by_key(|(t, _)| t.id());
    let ids: HashMap<u32, usize> = objects.iter().enumerate().map(|(i, (t, _))| (t.id(), i)).collect();
    let mut messages: Vec<Message> = objects.iter().map(|(_, o)| message(*o, &ids)).collect();
    let mut by_kind = HashMap::new();
    for (i, (_, o)) in objects.iter().enumerate() {
        by_kind.extend(o.gvks().map(|gvk| (gvk, i)));
    }
    let mut by_name: HashMap<&'static str, usize> = messages.iter().enumerate().map(|(i, m)| (m.name, i)).collect();
    // Metadata alone, which no document lists as a type.
    let (object_meta, list_meta) = (by_name[format!("{META}.ObjectMeta").as_str()], by_name[format!("{META}.ListMeta").as_str()]);
    for (name, fields) in [
        ("PartialObjectMetadata", vec![("metadata", Kind::Message(object_meta), true)]),
        ("PartialObjectMetadataList", vec![("metadata", Kind::Message(list_meta), true), ("items", Kind::List(Box::new(Kind::Message(messages.len()))), false)]),
    ] {
        let mut names: Box<[_]> = fields.iter().enumerate().map(|(i, f)| (f.0, i as u32)).collect();
        names.sort();
        let fields =
            fields.into_iter().enumerate().map(|(i, (name, kind, by_value))| Field { number: i as u32 + 1, name, slot: i as u32, by_value, omit_zero: true, kind }).collect();
        by_name.insert(name, messages.len());
        messages.push(Message { name, fields, names });
    }
    Plan { messages, by_name, by_kind }
}

fn message(o: ObjectRef<'static>, ids: &HashMap<u32, usize>) -> Message {
    let mut names = Vec::new();
    let mut leaves: Vec<(u32, FieldRef<'static>)> = o.fields().filter_map(|f| Some((f.number()?, f))).collect();
    // Digits to the base of 256, outermost first: the order of the wire, inlined structs at their own number.
    leaves.sort_by_key(|(n, _)| digits(*n));
    let fields = group(&leaves.iter().map(|(n, f)| (digits(*n), *f)).collect::<Vec<_>>(), 0, o.name(), ids, &mut names);
    names.sort();
    Message { name: o.name(), fields, names: names.into() }
}

fn digits(mut n: u32) -> [u32; 3] {
    let mut all = Vec::new();
    while n > 0 {
        all.insert(0, n % 256);
        n /= 256;
    }
    all.resize(3, 0);
    [all[0], all[1], all[2]]
}

fn group(leaves: &[([u32; 3], FieldRef<'static>)], depth: usize, owner: &str, ids: &HashMap<u32, usize>, names: &mut Vec<(&'static str, u32)>) -> Box<[Field]> {
    let mut out = Vec::new();
    for same in leaves.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
        let (number, f) = (same[0].0[depth], same[0].1);
        if depth < 2 && same[0].0[depth + 1] != 0 {
            let kind = Kind::Inline(group(same, depth + 1, owner, ids, names));
            out.push(Field { number, name: "", slot: u32::MAX, by_value: true, omit_zero: false, kind });
            continue;
        }
        let kind = if WRAPPED_LISTS.contains(&(owner, f.name())) { Kind::Wrapped(Box::new(Kind::Text)) } else { kind(f.ty(), false, ids) };
        let by_value = !matches!(f.presence(), Presence::Pointer | Presence::Nullable);
        let slot = names.len() as u32;
        names.push((f.name(), slot));
        out.push(Field { number, name: f.name(), slot, by_value, omit_zero: f.presence() == Presence::OmitEmpty, kind });
    }
    out.into()
}

/// `inside`: an item or value, where a list needs a message around it.
fn kind(ty: TypeRef<'static>, inside: bool, ids: &HashMap<u32, usize>) -> Kind {
    let last = ty.name().rsplit('.').next().unwrap_or_default();
    let other = match last {
        "JSONSchemaPropsOrArray" => Some(Other::Array),
        "JSONSchemaPropsOrBool" => Some(Other::Bool),
        "JSONSchemaPropsOrStringArray" => Some(Other::Texts),
        _ => None,
    };
    if let Some(other) = other {
        return Kind::Either(other, ids[&ty.branch(true).id()]);
    }
    match ty.shape() {
        Shape::Object(_) => Kind::Message(ids[&ty.id()]),
        Shape::List(l) if inside => Kind::Wrapped(Box::new(kind(l.item, true, ids))),
        Shape::List(l) => Kind::List(Box::new(kind(l.item, true, ids))),
        Shape::Map(m) => Kind::Map(Box::new(kind(m.value, true, ids))),
        Shape::Scalar(s) => match s {
            // No built-in type holds a duration; as text it is at least not lost.
            Scalar::String | Scalar::Duration => Kind::Text,
            Scalar::Bytes => Kind::Bytes,
            Scalar::Bool => Kind::Bool,
            Scalar::Int32 => Kind::Int32,
            Scalar::Int64 => Kind::Int64,
            Scalar::Double => Kind::Double,
            Scalar::Time => Kind::Time,
            Scalar::MicroTime => Kind::MicroTime,
            Scalar::Quantity => Kind::Quantity,
            Scalar::IntOrString => Kind::IntOrString,
            Scalar::Any => Kind::Raw,
        },
    }
}
