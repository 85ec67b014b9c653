//! The schema model: structure, list types, map keys, patch keys and defaults of every type, built-in or custom.
//!
//! Entry points: [`builtin`] (the committed table, decoded once a process), [`Schema::get`] by upstream's OpenAPI name, and
//! [`TypeRef`], a small copyable handle through which decoding, defaulting, patching, apply and OpenAPI walk. A schema is an arena of
//! nodes, so recursive types (JSONSchemaProps) are plain indices. A CustomResourceDefinition builds its own [`Schema`] with [`Builder`].
//! Deliberately absent: rules about values (formats, enums, CEL); those belong to validation.

mod build;
mod descriptions;
mod table;

pub use build::{Builder, FieldSpec};
pub use descriptions::Descriptions;
pub use table::builtin;

use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;

/// A leaf type, by its wire form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scalar {
    String,
    /// base64 text
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    /// `metav1.Time`: RFC 3339, whole seconds, UTC
    Time,
    /// `metav1.MicroTime`: RFC 3339, six digits, UTC
    MicroTime,
    /// `metav1.Duration`: Go duration text
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON value: RawExtension, JSON, FieldsV1, unstructured parts of a custom resource.
    Any,
}

/// `x-kubernetes-list-type`; absent means atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListType {
    Unset,
    Atomic,
    Set,
    Map,
}

/// `x-kubernetes-map-type` of an object or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapType {
    Unset,
    Atomic,
    Granular,
}

/// When Go's encoder leaves a field out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// No `omitempty`: the zero value is written (`""`, `0`, `null` for lists and maps). Also every struct held by value: `{}`.
    Always,
    /// `omitempty` on a value: the zero value is left out.
    OmitEmpty,
    /// A pointer: left out only when absent; an explicit zero stays.
    Pointer,
    /// A pointer without `omitempty`: `null` when absent.
    Nullable,
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Object(ObjectNode),
    List {
        item: u32,
        list_type: ListType,
        map_keys: Box<[Cow<'static, str>]>,
        merge_key: Option<Cow<'static, str>>,
    },
    Map {
        value: u32,
        map_type: MapType,
    },
    Scalar(Scalar),
    /// A leaf with a name of its own in OpenAPI (Quantity, RawExtension).
    Named {
        name: Cow<'static, str>,
        scalar: Scalar,
    },
    /// An object, or on the wire something else (JSONSchemaPropsOrArray and its like).
    Either {
        name: Cow<'static, str>,
        object: u32,
        other: u32,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct ObjectNode {
    pub name: Cow<'static, str>,
    /// Group, version and kind, for types that are one; `x-kubernetes-group-version-kind`.
    pub gvks: Box<[[Cow<'static, str>; 3]]>,
    /// Sorted by name.
    pub fields: Box<[FieldNode]>,
    pub map_type: MapType,
    /// Unknown fields are kept (`x-kubernetes-preserve-unknown-fields`); built-ins prune.
    pub preserve_unknown: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct FieldNode {
    pub name: Cow<'static, str>,
    /// Of the name: [`first_bytes`].
    pub first_bytes: u64,
    pub ty: u32,
    pub required: bool,
    pub presence: Presence,
    pub map_type: MapType,
    pub strategy: Strategies,
    /// Protobuf field number, 0 where not known.
    pub number: u32,
    pub default: Option<Box<Value>>,
}

/// `x-kubernetes-patch-strategy`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strategies {
    pub merge: bool,
    pub replace: bool,
    pub retain_keys: bool,
}

/// Types by name over one arena.
#[derive(Debug, Default)]
pub struct Schema {
    pub(crate) nodes: Vec<Node>,
    /// By node: whether a field in it, or in anything below, has a static default.
    defaulted: Vec<bool>,
    pub(crate) names: HashMap<Cow<'static, str>, u32>,
}

impl Schema {
    /// A type by upstream's OpenAPI name, `io.k8s.api.core.v1.Pod`.
    pub fn get(&self, name: &str) -> Option<TypeRef<'_>> {
        Some(TypeRef { schema: self, id: *self.names.get(name)? })
    }
    /// The type of a group, version and kind. Looks through all types: keep the answer.
    pub fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef<'_>> {
        self.types().find(|t| t.object().is_some_and(|o| o.gvks().any(|g| g == (group, version, kind))))
    }
    /// All named types, in no particular order.
    pub fn types(&self) -> impl Iterator<Item = TypeRef<'_>> {
        self.names.values().map(|&id| TypeRef { schema: self, id })
    }
}

/// A type of a schema.
#[derive(Clone, Copy)]
pub struct TypeRef<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) id: u32,
}

impl std::fmt::Debug for TypeRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TypeRef({} {})", self.id, self.name())
    }
}

/// What a type is made of.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    Object(ObjectRef<'a>),
    List(ListRef<'a>),
    Map(MapRef<'a>),
    Scalar(Scalar),
}

impl<'a> TypeRef<'a> {
    pub fn shape(self) -> Shape<'a> {
        match &self.schema.nodes[self.id as usize] {
            Node::Object(o) => Shape::Object(ObjectRef { schema: self.schema, node: o }),
            Node::List { item, list_type, map_keys, merge_key } => {
                Shape::List(ListRef { item: TypeRef { schema: self.schema, id: *item }, list_type: *list_type, map_keys, merge_key: merge_key.as_deref() })
            }
            Node::Map { value, map_type } => Shape::Map(MapRef { value: TypeRef { schema: self.schema, id: *value }, map_type: *map_type }),
            Node::Scalar(s) | Node::Named { scalar: s, .. } => Shape::Scalar(*s),
            Node::Either { .. } => Shape::Scalar(Scalar::Any),
        }
    }
    /// The type that `value` is of: itself, except for types that are an object or something else on the wire. Every walk along a value
    /// resolves the type before it looks at the shape.
    pub fn resolve(self, value: &Value) -> TypeRef<'a> {
        self.branch(value.is_object())
    }
    /// As [`TypeRef::resolve`], when only the value's form is known.
    pub fn branch(self, is_object: bool) -> TypeRef<'a> {
        match &self.schema.nodes[self.id as usize] {
            Node::Either { object, other, .. } => TypeRef { schema: self.schema, id: if is_object { *object } else { *other } },
            _ => self,
        }
    }
    /// Whether values are an object or something else on the wire: such types read themselves in upstream (see `decode`).
    pub fn is_either(self) -> bool {
        matches!(self.schema.nodes[self.id as usize], Node::Either { .. })
    }
    /// Upstream's OpenAPI name; empty for lists, maps and plain scalars.
    pub fn name(self) -> &'a str {
        match &self.schema.nodes[self.id as usize] {
            Node::Object(o) => &o.name,
            Node::Named { name, .. } | Node::Either { name, .. } => name,
            _ => "",
        }
    }
    pub fn object(self) -> Option<ObjectRef<'a>> {
        match self.shape() {
            Shape::Object(o) => Some(o),
            _ => None,
        }
    }
    pub fn list(self) -> Option<ListRef<'a>> {
        match self.shape() {
            Shape::List(l) => Some(l),
            _ => None,
        }
    }
    /// A field of an object type.
    pub fn field(self, name: &str) -> Option<FieldRef<'a>> {
        self.object()?.field(name)
    }
    /// The type at a path of field names; list items and map values are stepped into silently.
    pub fn walk(self, path: &[&str]) -> Option<TypeRef<'a>> {
        path.iter().try_fold(self, |t, name| {
            let mut t = t;
            loop {
                match t.shape() {
                    Shape::Object(o) => return Some(o.field(name)?.ty()),
                    Shape::List(l) => t = l.item,
                    Shape::Map(m) => return Some(m.value),
                    Shape::Scalar(_) => return None,
                }
            }
        })
    }
    /// Whether a value of the type may hold a field with a static default.
    pub fn has_defaults(self) -> bool {
        self.schema.defaulted[self.id as usize]
    }
    /// Identity within its schema, for caches keyed by type.
    pub fn id(self) -> u32 {
        self.id
    }
}

#[derive(Clone, Copy)]
pub struct ObjectRef<'a> {
    schema: &'a Schema,
    node: &'a ObjectNode,
}

/// The first eight bytes of a name as a number, which orders as they do: most names differ in them, and numbers compare without a call.
pub(crate) fn first_bytes(name: &str) -> u64 {
    let bytes = name.as_bytes();
    if let Some(first) = bytes.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let missing_bits = 64 - 8 * bytes.len() as u32;
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // Both halves hold the bytes in the middle, which shifting takes out of the second.
        (Some(first), Some(last)) => u64::from(u32::from_be_bytes(*first)) << 32 | u64::from(u32::from_be_bytes(*last).unbounded_shl(missing_bits)),
        _ => bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)).unbounded_shl(missing_bits),
    }
}

impl FieldNode {
    /// How it stands to a name whose first bytes are given.
    fn order(&self, name: &str, first_bytes: u64) -> Ordering {
        let is_told = self.name.len() == name.len() && name.len() <= 8;
        self.first_bytes.cmp(&first_bytes).then_with(|| if is_told { Ordering::Equal } else { self.name.as_ref().cmp(name) })
    }
}

impl<'a> ObjectRef<'a> {
    pub fn name(self) -> &'a str {
        &self.node.name
    }
    pub fn field(self, name: &str) -> Option<FieldRef<'a>> {
        let first_bytes = first_bytes(name);
        let at = self.node.fields.binary_search_by(|f| f.order(name, first_bytes)).ok()?;
        Some(FieldRef { schema: self.schema, node: &self.node.fields[at] })
    }
    /// Group, version, kind triples of the type.
    pub fn gvks(self) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        self.node.gvks.iter().map(|[g, v, k]| (g.as_ref(), v.as_ref(), k.as_ref()))
    }
    /// Sorted by name.
    pub fn fields(self) -> impl Iterator<Item = FieldRef<'a>> {
        self.node.fields.iter().map(move |node| FieldRef { schema: self.schema, node })
    }
    /// Each field of the type beside its value in an object, sorted by name; what else the object holds is passed over. Both are in order, so
    /// nothing is searched: most types have far more fields than objects use.
    pub fn fields_beside<'v>(self, object: &'v mut Map<String, Value>) -> impl Iterator<Item = (FieldRef<'a>, Option<&'v mut Value>)> {
        let mut values = object.iter_mut().map(|(name, value)| (first_bytes(name), name.as_str(), value));
        let mut next = values.next();
        self.fields().map(move |f| {
            loop {
                match next.as_ref().map(|(first_bytes, name, _)| f.node.order(name, *first_bytes)) {
                    Some(Ordering::Greater) => next = values.next(),
                    Some(Ordering::Equal) => return (f, std::mem::replace(&mut next, values.next()).map(|(_, _, value)| value)),
                    Some(Ordering::Less) | None => return (f, None),
                }
            }
        })
    }
    pub fn atomic(self) -> bool {
        self.node.map_type == MapType::Atomic
    }
    pub fn map_type(self) -> MapType {
        self.node.map_type
    }
    pub fn preserve_unknown(self) -> bool {
        self.node.preserve_unknown
    }
}

#[derive(Clone, Copy)]
pub struct ListRef<'a> {
    pub item: TypeRef<'a>,
    pub list_type: ListType,
    pub map_keys: &'a [Cow<'static, str>],
    pub merge_key: Option<&'a str>,
}

#[derive(Clone, Copy)]
pub struct MapRef<'a> {
    pub value: TypeRef<'a>,
    pub map_type: MapType,
}

#[derive(Clone, Copy)]
pub struct FieldRef<'a> {
    schema: &'a Schema,
    node: &'a FieldNode,
}

impl<'a> FieldRef<'a> {
    pub fn name(self) -> &'a str {
        &self.node.name
    }
    pub fn ty(self) -> TypeRef<'a> {
        TypeRef { schema: self.schema, id: self.node.ty }
    }
    pub fn required(self) -> bool {
        self.node.required
    }
    pub fn presence(self) -> Presence {
        self.node.presence
    }
    /// The static default (`+default`), never the enforced zero values of OpenAPI.
    pub fn default(self) -> Option<&'a Value> {
        self.node.default.as_deref()
    }
    pub fn strategies(self) -> Strategies {
        self.node.strategy
    }
    pub fn map_type(self) -> MapType {
        self.node.map_type
    }
    pub fn list_type(self) -> ListType {
        self.ty().list().map_or(ListType::Unset, |l| l.list_type)
    }
    pub fn map_keys(self) -> &'a [Cow<'static, str>] {
        self.ty().list().map_or(&[], |l| l.map_keys)
    }
    pub fn merge_key(self) -> Option<&'a str> {
        self.ty().list().and_then(|l| l.merge_key)
    }
    /// Protobuf field number, where known; `outer * 256 + inner` for a field of a struct that Go inlines, at most two deep.
    pub fn number(self) -> Option<u32> {
        (self.node.number != 0).then_some(self.node.number)
    }
}

/// The descriptions of types and fields, decompressed on each call (about a millisecond, one megabyte): take it, use it, drop it.
pub fn descriptions() -> Descriptions {
    Descriptions::load()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_bytes_of_names_order_as_names_do(a in "[ab\0é]{0,10}", b in "[ab\0é]{0,10}") {
            let of_both = first_bytes(&a).cmp(&first_bytes(&b));
            prop_assert!(of_both == a.cmp(&b) || of_both == Ordering::Equal, "{a:?} {b:?}");
            prop_assert!(of_both != Ordering::Equal || a == b || a.len() != b.len() || a.len() > 8, "{a:?} {b:?}");
        }
    }
}
