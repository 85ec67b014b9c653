//! Types of expressions, and declarations: types with the bounds on size that costs are estimated from.
//!
//! A [`Decl`] is made of a CustomResourceDefinition's OpenAPI schema ([`Decl::from_json_schema`]), of the schema table
//! ([`Decl::from_schema`]), or of a plain type. Property names are escaped as upstream does, since `a-b` is no identifier.
//! Source: k8s.io/apiserver/pkg/cel, "Unstructured and structured data" of the CEL reference.

use keles_api::schema::{Scalar, Shape as ApiShape, TypeRef};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Upstream's limit of a request's size, from which sizes without a bound are estimated.
const MAX_REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// Deeper schemas are `dyn` below: recursive types of the table end here.
const MAX_DECL_DEPTH: usize = 24;

/// The type of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    Dyn,
    /// The type of what has an error already.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    /// The type of a type.
    Type(Arc<Type>),
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Object(Arc<ObjectType>),
    /// A value that only functions look into: quantities, addresses, the authorizer.
    Opaque(&'static str),
    Optional(Arc<Type>),
    /// A type variable of a declaration (`A`) or of one expression being checked.
    Param(u32),
}

/// A type with named fields.
#[derive(Debug)]
pub struct ObjectType {
    pub name: String,
    pub fields: Fields,
}

#[derive(Debug)]
pub enum Fields {
    /// By the name expressions use (escaped).
    Known(BTreeMap<String, Field>),
    /// Any name, of type `dyn`.
    Any,
}

#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    pub decl: Arc<Decl>,
}

impl Type {
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }
    pub fn map(value: Type) -> Type {
        Type::Map(Arc::new(Type::String), Arc::new(value))
    }
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }
    /// The type of a schema of the table; see [`Decl::from_schema`].
    pub fn from_schema(schema: TypeRef<'_>) -> Type {
        Decl::from_schema(schema).ty.clone()
    }
    /// The authorizer variable's type.
    pub const AUTHORIZER: Type = Type::Opaque("kubernetes.authorization.Authorizer");

    /// Fields have a value of one unit.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            Type::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }
    pub(crate) fn same(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) | (Type::Type(a), Type::Type(b)) => a.same(b),
            (Type::Map(a, b), Type::Map(c, d)) => a.same(c) && b.same(d),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        self.same(other)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Object(o) => f.write_str(&o.name),
            Type::Opaque(name) => f.write_str(name),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Param(n) => write!(f, "_var{n}"),
        }
    }
}

/// How lists with `x-kubernetes-list-type` compare and add up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    Plain,
    /// Equal whatever the order; `+` adds what is not there yet.
    Set,
    /// As a set, by these keys; `+` replaces items of equal keys in place.
    Map(Vec<String>),
}

/// A type with the bounds of its size, and what it is made of.
#[derive(Debug)]
pub struct Decl {
    pub ty: Type,
    /// Most items of a list or map, most bytes of a text; `u64::MAX` where unknown.
    pub max_elements: u64,
    /// Fewest bytes of its JSON.
    pub min_bytes: u64,
    pub shape: Shape,
}

#[derive(Debug)]
pub enum Shape {
    Leaf,
    List(Arc<Decl>, ListKind),
    Map(Arc<Decl>),
    /// Fields are in the type.
    Object,
}

impl From<Type> for Decl {
    /// A declaration without bounds.
    fn from(ty: Type) -> Self {
        let shape = match &ty {
            Type::List(item) => Shape::List(Arc::new(Decl::from((**item).clone())), ListKind::Plain),
            Type::Map(_, value) => Shape::Map(Arc::new(Decl::from((**value).clone()))),
            Type::Object(_) => Shape::Object,
            _ => Shape::Leaf,
        };
        let max_elements = if ty.is_scalar() { 0 } else { u64::MAX };
        Decl { ty, max_elements, min_bytes: 1, shape }
    }
}

impl Decl {
    fn leaf(ty: Type, max_elements: u64, min_bytes: u64) -> Decl {
        Decl { ty, max_elements, min_bytes, shape: Shape::Leaf }
    }
    fn list_of(item: Decl, max: Option<u64>, kind: ListKind) -> Decl {
        let max_elements = max.unwrap_or((MAX_REQUEST_BYTES - 2) / (item.min_bytes + 1));
        Decl { ty: Type::list(item.ty.clone()), max_elements, min_bytes: 2, shape: Shape::List(Arc::new(item), kind) }
    }
    fn map_of(value: Decl, max: Option<u64>) -> Decl {
        // Two quotes, colon, comma and a key's smallest form go with each value.
        let max_elements = max.unwrap_or((MAX_REQUEST_BYTES - 2) / (value.min_bytes + 6));
        Decl { ty: Type::map(value.ty.clone()), max_elements, min_bytes: 2, shape: Shape::Map(Arc::new(value)) }
    }
    /// An object type of named fields; expressions use the names as they are.
    pub fn object<'n>(name: impl Into<String>, fields: impl IntoIterator<Item = (&'n str, Decl)>) -> Decl {
        let known = fields.into_iter().map(|(name, decl)| (name.to_owned(), Field { json: name.into(), decl: Arc::new(decl) })).collect();
        Decl::from(Type::Object(Arc::new(ObjectType { name: name.into(), fields: Fields::Known(known) })))
    }
    pub fn string() -> Decl {
        Decl::from(Type::String)
    }

    /// The declaration of a type of the schema table: no bounds, but every field. Types that hold themselves end in `dyn`.
    pub fn from_schema(schema: TypeRef<'_>) -> Arc<Decl> {
        Arc::new(from_api(schema, &mut Vec::new()))
    }

    /// The declaration of an OpenAPI v3 schema of a CustomResourceDefinition, or `None` where upstream exposes nothing: an array without
    /// items, an object of unknown fields inside of lists and maps. `root`: the schema of a whole resource, which always has
    /// `apiVersion`, `kind`, `metadata.name` and `metadata.generateName`.
    pub fn from_json_schema(schema: &Json, root: bool) -> Option<Arc<Decl>> {
        from_json(schema, root, "selfType", 0).map(Arc::new)
    }

    /// The declaration of a resource as OpenAPI publishes it: [`Decl::from_json_schema`] of a whole one, but with all of its metadata, which
    /// rules of its own schema may not read and policies may.
    pub fn from_published(schema: &Json, metadata: TypeRef<'_>) -> Option<Arc<Decl>> {
        let mut decl = from_json(schema, true, "selfType", 0)?;
        if let Type::Object(o) = &decl.ty
            && let Fields::Known(known) = &o.fields
        {
            let mut known = known.clone();
            known.insert("metadata".into(), Field { json: "metadata".into(), decl: Decl::from_schema(metadata) });
            decl.ty = Type::Object(Arc::new(ObjectType { name: o.name.clone(), fields: Fields::Known(known) }));
        }
        Some(Arc::new(decl))
    }

    /// The most times that data of this declaration can stand in one object, by the limit of a request's size: how often a rule on a
    /// schema below unbounded lists and maps may run.
    pub fn max_cardinality(&self) -> u64 {
        MAX_REQUEST_BYTES / (self.min_bytes + 1)
    }

    /// What `path` leads to: field names, `@items`, `@values` or `@keys` each.
    pub(crate) fn walk(&self, path: &[String]) -> Option<u64> {
        let Some((first, rest)) = path.split_first() else { return Some(self.max_elements) };
        match (&self.shape, first.as_str()) {
            (Shape::List(item, _), "@items") => item.walk(rest),
            (Shape::Map(value), "@values") => value.walk(rest),
            // Keys are strings without a bound of their own.
            (Shape::Map(_), "@keys") => rest.is_empty().then_some(0),
            (Shape::Object, name) => self.field(name)?.decl.walk(rest),
            _ => None,
        }
    }
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match &self.ty {
            Type::Object(o) => o.field(name),
            _ => None,
        }
    }
}

impl ObjectType {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match &self.fields {
            Fields::Known(fields) => fields.get(name),
            Fields::Any => None,
        }
    }
}

fn from_api(schema: TypeRef<'_>, above: &mut Vec<u32>) -> Decl {
    if above.len() > MAX_DECL_DEPTH {
        return Decl::from(Type::Dyn);
    }
    match schema.shape() {
        ApiShape::Scalar(s) => match s {
            Scalar::String | Scalar::Quantity => Decl::leaf(Type::String, MAX_REQUEST_BYTES - 2, 2),
            Scalar::Bytes => Decl::leaf(Type::Bytes, MAX_REQUEST_BYTES - 2, 2),
            Scalar::Bool => Decl::leaf(Type::Bool, 0, 4),
            Scalar::Int32 | Scalar::Int64 => Decl::leaf(Type::Int, 0, 1),
            Scalar::Double => Decl::leaf(Type::Double, 0, 1),
            Scalar::Time | Scalar::MicroTime => Decl::leaf(Type::Timestamp, MAX_DATETIME, MIN_DATETIME),
            Scalar::Duration => Decl::leaf(Type::String, MAX_REQUEST_BYTES - 2, 2),
            Scalar::IntOrString | Scalar::Any => Decl::leaf(Type::Dyn, MAX_REQUEST_BYTES - 2, 1),
        },
        ApiShape::List(l) => {
            above.push(u32::MAX);
            let item = from_api(l.item, above);
            above.pop();
            let kind = match l.list_type {
                keles_api::schema::ListType::Set => ListKind::Set,
                keles_api::schema::ListType::Map => ListKind::Map(l.map_keys.iter().map(|k| k.to_string()).collect()),
                _ => ListKind::Plain,
            };
            Decl::list_of(item, None, kind)
        }
        ApiShape::Map(m) => {
            above.push(u32::MAX);
            let value = from_api(m.value, above);
            above.pop();
            Decl::map_of(value, None)
        }
        ApiShape::Object(_) if above.contains(&schema.id()) => Decl::from(Type::Dyn),
        ApiShape::Object(o) => {
            above.push(schema.id());
            let mut min_bytes = 2;
            let mut fields = BTreeMap::new();
            for f in o.fields() {
                let decl = from_api(f.ty(), above);
                if f.required() && f.default().is_none() {
                    min_bytes += f.name().len() as u64 + decl.min_bytes + 4;
                }
                if let Some(name) = escape(f.name()) {
                    fields.insert(name, Field { json: f.name().into(), decl: Arc::new(decl) });
                }
            }
            above.pop();
            let any = fields.is_empty() && o.preserve_unknown();
            let fields = if any { Fields::Any } else { Fields::Known(fields) };
            let name = if schema.name().is_empty() { "object".into() } else { schema.name().to_owned() };
            Decl { ty: Type::Object(Arc::new(ObjectType { name, fields })), max_elements: u64::MAX, min_bytes, shape: Shape::Object }
        }
    }
}

const MAX_DURATION: u64 = 32;
const MIN_DURATION: u64 = 4;
const MAX_DATETIME: u64 = 29;
const MIN_DATETIME: u64 = 22;
const DATE: u64 = 12;

fn from_json(s: &Json, root: bool, name: &str, depth: usize) -> Option<Decl> {
    if depth > MAX_DECL_DEPTH * 2 {
        return Some(Decl::from(Type::Dyn));
    }
    let count = |key: &str| s.get(key).and_then(Json::as_i64).map(|n| n.max(0) as u64);
    let is = |key: &str| s.get(key).and_then(Json::as_bool).unwrap_or(false);
    let embedded = |s: &Json| s.get("x-kubernetes-embedded-resource").and_then(Json::as_bool).unwrap_or(false);
    if is("x-kubernetes-int-or-string") {
        return Some(Decl::leaf(Type::Dyn, count("maxLength").map_or(MAX_REQUEST_BYTES - 2, |n| n.saturating_mul(4)), 1));
    }
    let kind = s.get("type").and_then(Json::as_str).unwrap_or(if root { "object" } else { "" });
    match kind {
        "array" => {
            let items = s.get("items")?;
            let item = from_json(items, embedded(items), &format!("{name}.@idx"), depth + 1)?;
            let kind = match s.get("x-kubernetes-list-type").and_then(Json::as_str) {
                Some("set") => ListKind::Set,
                Some("map") => ListKind::Map(s.get("x-kubernetes-list-map-keys")?.as_array()?.iter().filter_map(Json::as_str).map(str::to_owned).collect()),
                _ => ListKind::Plain,
            };
            Some(Decl::list_of(item, count("maxItems"), kind))
        }
        "object" => match s.get("additionalProperties").filter(|a| a.is_object()) {
            Some(values) => Some(Decl::map_of(from_json(values, embedded(values), &format!("{name}.@elem"), depth + 1)?, count("maxProperties"))),
            None => Some(object_from_json(s, root, name, depth)),
        },
        "string" => Some(string_from_json(s, count("maxLength"))),
        "boolean" => Some(Decl::leaf(Type::Bool, 0, 4)),
        "number" => Some(Decl::leaf(Type::Double, 0, 1)),
        "integer" => Some(Decl::leaf(Type::Int, 0, 1)),
        _ => None,
    }
}

fn object_from_json(s: &Json, root: bool, name: &str, depth: usize) -> Decl {
    let required: Vec<&str> = s.get("required").and_then(Json::as_array).map(|r| r.iter().filter_map(Json::as_str).collect()).unwrap_or_default();
    let mut min_bytes = 2;
    let mut fields = BTreeMap::new();
    for (json, property) in s.get("properties").and_then(Json::as_object).into_iter().flatten() {
        if root && matches!(json.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let embedded = property.get("x-kubernetes-embedded-resource").and_then(Json::as_bool).unwrap_or(false);
        let Some(decl) = from_json(property, embedded, &format!("{name}.{json}"), depth + 1) else { continue };
        if required.contains(&json.as_str()) && property.get("default").is_none() {
            min_bytes += json.len() as u64 + decl.min_bytes + 4;
        }
        if let Some(escaped) = escape(json) {
            fields.insert(escaped, Field { json: json.clone(), decl: Arc::new(decl) });
        }
    }
    if root {
        let text = || Decl::leaf(Type::String, MAX_REQUEST_BYTES - 2, 2);
        let metadata = Decl::object(format!("{name}.metadata"), [("name", text()), ("generateName", text())]);
        for (json, decl) in [("apiVersion", text()), ("kind", text()), ("metadata", metadata)] {
            fields.insert(json.into(), Field { json: json.into(), decl: Arc::new(decl) });
        }
    }
    let ty = Type::Object(Arc::new(ObjectType { name: name.into(), fields: Fields::Known(fields) }));
    Decl { ty, max_elements: u64::MAX, min_bytes, shape: Shape::Object }
}

fn string_from_json(s: &Json, max_length: Option<u64>) -> Decl {
    match s.get("format").and_then(Json::as_str) {
        Some("byte") => Decl::leaf(Type::Bytes, max_length.unwrap_or(MAX_REQUEST_BYTES - 2), 2),
        Some("duration") => Decl::leaf(Type::Duration, MAX_DURATION, MIN_DURATION),
        Some("date") => Decl::leaf(Type::Timestamp, DATE, DATE),
        Some("date-time") => Decl::leaf(Type::Timestamp, MAX_DATETIME, MIN_DATETIME),
        _ => {
            let longest = |values: &Vec<Json>| values.iter().filter_map(Json::as_str).map(str::len).max().unwrap_or(0) as u64;
            // maxLength counts code points, of up to four bytes each.
            let max = max_length.map(|n| n.saturating_mul(4)).or_else(|| s.get("enum").and_then(Json::as_array).filter(|e| !e.is_empty()).map(longest));
            Decl::leaf(Type::String, max.unwrap_or(MAX_REQUEST_BYTES - 2), 2)
        }
    }
}

/// CEL's reserved words, which as property names are written `__word__`.
const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a name can stand as an identifier: CEL's words cannot.
pub fn is_identifier(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|b| letter(b) || b.is_ascii_digit()) && !RESERVED.contains(&name)
}

/// The name an expression uses for a property, or `None` where it cannot name it.
pub fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '$' | '.' | '-' | '/'));
    if !starts_well || name.starts_with('$') || !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-/".contains(&c)) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        let (text, used) = match c {
            '_' if rest.starts_with("__") => ("__underscores__", 2),
            '.' => ("__dot__", 1),
            '-' => ("__dash__", 1),
            '/' => ("__slash__", 1),
            _ => (&rest[..1], 1),
        };
        out.push_str(text);
        rest = &rest[used..];
    }
    Some(out)
}
