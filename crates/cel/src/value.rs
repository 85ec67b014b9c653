//! Values of expressions: views into JSON trees, and what expressions make.
//!
//! A list or map of an object is a reference into its tree with the declaration it is read by; nothing is copied. Invariant: a scalar is
//! never a view. Equality and order are CEL's: numbers compare across their types, other types differ without an error.

use crate::authorizer::Authz;
use crate::error::EvalError;
use crate::library::{format::Format, ip::Cidr, semver::Version, time, urls::Url};
use crate::types::{Decl, ListKind, ObjectType, Shape, Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keles_api::Quantity;
use serde_json::Value as Json;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Text that is borrowed from a tree or shared.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    Of(&'a str),
    Shared(Arc<str>),
}

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Text::Of(s) => s,
            Text::Shared(s) => s,
        }
    }
}

/// Seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
}

#[derive(Clone, Debug)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Type(Arc<str>),
    List(List<'a>),
    Map(Map<'a>),
    /// `Object{…}`, `JSONPatch{…}`
    Struct(Arc<Struct<'a>>),
    Optional(Option<Arc<Value<'a>>>),
    Quantity(Quantity),
    Url(Arc<Url>),
    Ip(IpAddr),
    Cidr(Cidr),
    Format(&'static Format),
    Semver(Arc<Version>),
    Authz(Arc<Authz<'a>>),
    /// The variables an activation evaluates when they are first read.
    Variables,
}

#[derive(Clone, Debug)]
pub enum List<'a> {
    /// A list of a tree; the declaration is the list's.
    Json(&'a [Json], Option<Arc<Decl>>),
    Made(Arc<Vec<Value<'a>>>),
}

#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// A map or object of a tree; the declaration is the map's or object's.
    Json(&'a serde_json::Map<String, Json>, Option<Arc<Decl>>),
    Made(Arc<BTreeMap<Key<'a>, Value<'a>>>),
    /// A map of maps where a missing key reads as an empty map: a device's attributes and capacity, by domain.
    Domains(Arc<BTreeMap<Key<'a>, Value<'a>>>),
}

/// An object that an expression constructed.
#[derive(Debug)]
pub struct Struct<'a> {
    pub ty: Arc<str>,
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
}

/// A key of a map that an expression made.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Text<'a>),
}

impl Key<'_> {
    fn number(&self) -> Option<i128> {
        match self {
            Key::Int(i) => Some((*i).into()),
            Key::Uint(u) => Some((*u).into()),
            _ => None,
        }
    }
    fn rank(&self) -> u8 {
        match self {
            Key::Bool(_) => 0,
            Key::Int(_) | Key::Uint(_) => 1,
            Key::String(_) => 2,
        }
    }
}
impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::String(a), Key::String(b)) => (**a).cmp(&**b),
            _ => self.rank().cmp(&other.rank()).then_with(|| self.number().cmp(&other.number())),
        }
    }
}
impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Key<'_> {}

impl<'a> Key<'a> {
    /// The key a value is, or `None` for types that cannot be keys. Whole doubles are looked up as integers.
    pub(crate) fn of(v: &Value<'a>) -> Option<Key<'a>> {
        match v {
            Value::Bool(b) => Some(Key::Bool(*b)),
            Value::Int(i) => Some(Key::Int(*i)),
            Value::Uint(u) => Some(Key::Uint(*u)),
            Value::String(s) => Some(Key::String(s.clone())),
            Value::Double(d) if d.fract() == 0.0 && *d >= -9.2e18 && *d <= 9.2e18 => Some(Key::Int(*d as i64)),
            _ => None,
        }
    }
    pub(crate) fn value(&self) -> Value<'a> {
        match self {
            Key::Bool(b) => Value::Bool(*b),
            Key::Int(i) => Value::Int(*i),
            Key::Uint(u) => Value::Uint(*u),
            Key::String(s) => Value::String(s.clone()),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(s: &'a str) -> Self {
        Value::String(Text::Of(s))
    }
}
impl From<String> for Value<'_> {
    fn from(s: String) -> Self {
        Value::String(Text::Shared(s.into()))
    }
}
impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}
impl From<i64> for Value<'_> {
    fn from(i: i64) -> Self {
        Value::Int(i)
    }
}

impl<'a> Value<'a> {
    /// A tree without a schema: what admission policies see of `object`.
    pub fn json(v: &'a Json) -> Self {
        Value::read(v, None)
    }
    /// A tree read by its declaration: what validation rules see of `self`.
    pub fn typed(v: &'a Json, decl: &Arc<Decl>) -> Self {
        Value::read(v, Some(decl))
    }
    pub fn some(v: Value<'a>) -> Self {
        Value::Optional(Some(Arc::new(v)))
    }
    pub const NONE: Value<'static> = Value::Optional(None);
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(List::Made(Arc::new(items)))
    }

    pub(crate) fn read(v: &'a Json, decl: Option<&Arc<Decl>>) -> Self {
        match (v, decl.map(|d| &d.ty)) {
            (Json::Null, _) => Value::Null,
            (Json::Bool(b), _) => Value::Bool(*b),
            (Json::Number(n), Some(Type::Double)) => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            (Json::Number(n), Some(Type::Int)) => n.as_i64().or_else(|| n.as_f64().map(|d| d as i64)).map_or(Value::Null, Value::Int),
            (Json::Number(n), _) => match n.as_i64() {
                Some(i) => Value::Int(i),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            (Json::String(s), Some(Type::Timestamp)) => {
                time::parse_timestamp(s).or_else(|| time::parse_timestamp(&format!("{s}T00:00:00Z"))).map_or(Value::from(s.as_str()), Value::Timestamp)
            }
            (Json::String(s), Some(Type::Duration)) => time::parse_duration(s).map_or(Value::from(s.as_str()), Value::Duration),
            (Json::String(s), Some(Type::Bytes)) => STANDARD.decode(s).map_or(Value::from(s.as_str()), |b| Value::Bytes(b.into())),
            (Json::String(s), _) => Value::from(s.as_str()),
            (Json::Array(a), _) => Value::List(List::Json(a, decl.cloned())),
            (Json::Object(o), _) => Value::Map(Map::Json(o, decl.cloned())),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The name `type(v)` has, as messages print it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Type(_) => "type",
            Value::List(_) => "list",
            Value::Map(Map::Json(_, Some(d))) if matches!(d.shape, Shape::Object) => match &d.ty {
                Type::Object(o) => &o.name,
                _ => "map",
            },
            Value::Map(_) | Value::Variables => "map",
            Value::Struct(s) => &s.ty,
            Value::Optional(_) => "optional_type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(_) => "net.CIDR",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Authz(a) => a.type_name(),
        }
    }

    /// What `size()` says, where the type has a size.
    pub(crate) fn size(&self) -> Option<u64> {
        Some(match self {
            Value::String(s) => s.chars().count() as u64,
            Value::Bytes(b) => b.len() as u64,
            Value::List(l) => l.len() as u64,
            Value::Map(m) => m.len() as u64,
            // An address counts its bytes, a range those and one for the prefix.
            Value::Ip(ip) => address_bytes(ip),
            Value::Cidr(c) => address_bytes(&c.address) + 1,
            _ => return None,
        })
    }

    /// The value of the types' zero: what `optional.ofNonZeroValue` takes as none.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Value::Null | Value::Optional(None) => true,
            Value::Bool(b) => !b,
            Value::Int(i) => *i == 0,
            Value::Uint(u) => *u == 0,
            Value::Double(d) => *d == 0.0,
            Value::Duration(d) => *d == 0,
            Value::Struct(s) => s.fields.is_empty(),
            _ => self.size() == Some(0),
        }
    }

    /// The JSON of a result, with quantities, times and addresses as their texts. `None` for what has no JSON: types, formats, the
    /// authorizer, doubles that are no number, map keys that are no text.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(i) => (*i).into(),
            Value::Uint(u) => (*u).into(),
            Value::Double(d) => Json::Number(serde_json::Number::from_f64(*d)?),
            Value::String(s) => Json::String(s.to_string()),
            Value::Bytes(b) => Json::String(STANDARD.encode(b)),
            Value::Duration(d) => Json::String(time::format_duration(*d)),
            Value::Timestamp(t) => Json::String(time::format_timestamp(*t)),
            Value::List(List::Json(a, _)) => Json::Array(a.to_vec()),
            Value::List(l) => Json::Array(l.iter().map(|v| v.to_json()).collect::<Option<_>>()?),
            Value::Map(Map::Json(o, _)) => Json::Object((*o).clone()),
            Value::Map(Map::Made(m) | Map::Domains(m)) => {
                let entries = m.iter().map(|(k, v)| match k {
                    Key::String(s) => Some((s.to_string(), v.to_json()?)),
                    _ => None,
                });
                Json::Object(entries.collect::<Option<_>>()?)
            }
            Value::Struct(s) => Json::Object(s.fields.iter().map(|(k, v)| Some((k.to_string(), v.to_json()?))).collect::<Option<_>>()?),
            Value::Optional(Some(v)) => v.to_json()?,
            Value::Quantity(q) => Json::String(q.to_string()),
            Value::Url(u) => Json::String(u.to_string()),
            Value::Ip(ip) => Json::String(ip.to_string()),
            Value::Cidr(c) => Json::String(c.to_string()),
            Value::Semver(v) => Json::String(v.to_string()),
            Value::Type(_) | Value::Format(_) | Value::Authz(_) | Value::Variables => return None,
        })
    }

    /// For results of apply configurations: every constructed object's type must be named after the path of fields it stands at,
    /// `Object.spec.template`. The error is upstream's text.
    pub fn check_type_names(&self) -> Result<(), String> {
        fn check(v: &Value<'_>, path: &str, problems: &mut Vec<String>) {
            match v {
                Value::Struct(s) => {
                    if &*s.ty != path {
                        problems.push(format!("unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type", s.ty));
                    }
                    s.fields.iter().for_each(|(name, v)| check(v, &format!("{path}.{name}"), problems));
                }
                Value::List(List::Made(items)) => items.iter().for_each(|v| check(v, path, problems)),
                Value::Map(Map::Made(m)) => m.values().for_each(|v| check(v, path, problems)),
                _ => {}
            }
        }
        let mut problems = Vec::new();
        check(self, self.type_name(), &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
    }
}

fn address_bytes(ip: &IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(a, _) => a.len(),
            List::Made(v) => v.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn get(&self, i: usize) -> Option<Value<'a>> {
        match self {
            List::Json(a, d) => {
                let item = match d.as_ref().map(|d| &d.shape) {
                    Some(Shape::List(item, _)) => Some(item),
                    _ => None,
                };
                Some(Value::read(a.get(i)?, item))
            }
            List::Made(v) => v.get(i).cloned(),
        }
    }
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).map_while(|i| self.get(i))
    }
    pub(crate) fn kind(&self) -> &ListKind {
        match self {
            List::Json(_, Some(d)) => match &d.shape {
                Shape::List(_, kind) => kind,
                _ => &ListKind::Plain,
            },
            _ => &ListKind::Plain,
        }
    }
    pub(crate) fn contains(&self, v: &Value<'a>) -> bool {
        self.iter().any(|item| equal(&item, v))
    }
}

impl<'a> Map<'a> {
    pub fn len(&self) -> usize {
        match self {
            Map::Json(o, _) => o.len(),
            Map::Made(m) | Map::Domains(m) => m.len(),
        }
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What `in` asks: a default is not in a map.
    pub(crate) fn has_key(&self, key: &Value<'a>) -> bool {
        match self {
            Map::Domains(m) => Key::of(key).is_some_and(|k| m.contains_key(&k)),
            _ => self.get(key).is_some(),
        }
    }
    /// By the name expressions use.
    pub(crate) fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Json(o, Some(d)) => match &d.shape {
                Shape::Object => match &d.ty {
                    Type::Object(ty) => match ty.field(name) {
                        // A property that is null is as one that is not there.
                        Some(f) => o.get(&f.json).filter(|v| !v.is_null()).map(|v| Value::read(v, Some(&f.decl))),
                        None if matches!(ty.fields, crate::types::Fields::Any) => Some(Value::json(o.get(name)?)),
                        None => None,
                    },
                    _ => None,
                },
                Shape::Map(value) => Some(Value::read(o.get(name)?, Some(value))),
                _ => Some(Value::json(o.get(name)?)),
            },
            Map::Json(o, None) => Some(Value::json(o.get(name)?)),
            Map::Made(m) => m.get(&Key::String(Text::Shared(name.into()))).cloned(),
            Map::Domains(m) => Some(m.get(&Key::String(Text::Shared(name.into()))).cloned().unwrap_or_else(|| Value::Map(Map::Made(Arc::default())))),
        }
    }
    pub fn get(&self, key: &Value<'a>) -> Option<Value<'a>> {
        match (self, key) {
            (_, Value::String(s)) => self.field(s),
            (Map::Made(m), _) => m.get(&Key::of(key)?).cloned(),
            _ => None,
        }
    }
    /// The keys, as expressions name them.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Map::Made(m) | Map::Domains(m) => m.keys().map(Key::value).collect(),
            Map::Json(o, d) => match d.as_ref().filter(|d| matches!(d.shape, Shape::Object)) {
                Some(_) => o.keys().filter_map(|k| crate::types::escape(k)).map(Value::from).collect(),
                None => o.keys().map(|k| Value::from(k.as_str())).collect(),
            },
        }
    }
}

/// CEL's `==`.
pub fn equal(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => number_order(a, b) == Some(Ordering::Equal),
        (Value::String(a), Value::String(b)) => **a == **b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists_equal(a, b),
        (Value::Map(a), Value::Map(b)) => a.len() == b.len() && a.keys().iter().all(|k| matches!((a.get(k), b.get(k)), (Some(x), Some(y)) if equal(&x, &y))),
        (Value::Struct(a), Value::Struct(b)) => a.ty == b.ty && a.fields.len() == b.fields.len() && a.fields.iter().all(|(k, x)| b.fields.get(k).is_some_and(|y| equal(x, y))),
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(a, b),
        (Value::Quantity(a), Value::Quantity(b)) => a == b,
        (Value::Url(a), Value::Url(b)) => a == b,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a), Value::Cidr(b)) => a == b,
        (Value::Format(a), Value::Format(b)) => std::ptr::eq(*a, *b),
        (Value::Semver(a), Value::Semver(b)) => a.order(b).is_eq(),
        (Value::Authz(a), Value::Authz(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

fn lists_equal(a: &List<'_>, b: &List<'_>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let in_order = || a.iter().zip(b.iter()).all(|(x, y)| equal(&x, &y));
    match (a.kind(), b.kind()) {
        (ListKind::Plain, ListKind::Plain) => in_order(),
        (ListKind::Map(keys), _) | (_, ListKind::Map(keys)) => in_order() || a.iter().all(|x| b.iter().find(|y| same_keys(keys, &x, y)).is_some_and(|y| equal(&x, &y))),
        _ => in_order() || a.iter().all(|x| b.iter().any(|y| equal(&x, &y))),
    }
}

fn same_keys(keys: &[String], a: &Value<'_>, b: &Value<'_>) -> bool {
    let key = |v: &Value<'_>, k: &str| match v {
        Value::Map(Map::Json(o, _)) => o.get(k).cloned(),
        Value::Map(m) => m.field(k).and_then(|v| v.to_json()),
        _ => None,
    };
    keys.iter().all(|k| key(a, k) == key(b, k))
}

/// CEL's `+` of lists; lists declared as sets and maps merge.
pub(crate) fn concat<'a>(a: List<'a>, b: &List<'a>) -> List<'a> {
    let kind = a.kind().clone();
    let mut items = match a {
        List::Made(items) => Arc::try_unwrap(items).unwrap_or_else(|shared| (*shared).clone()),
        other => other.iter().collect(),
    };
    match kind {
        ListKind::Plain => items.extend(b.iter()),
        ListKind::Set => {
            for v in b.iter() {
                if !items.iter().any(|x| equal(x, &v)) {
                    items.push(v);
                }
            }
        }
        ListKind::Map(keys) => {
            for v in b.iter() {
                match items.iter_mut().find(|x| same_keys(&keys, x, &v)) {
                    Some(old) => *old = v,
                    None => items.push(v),
                }
            }
        }
    }
    List::Made(Arc::new(items))
}

/// The order of numbers of whatever type; `None` with NaN.
pub(crate) fn number_order(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    let whole = |v: &Value<'_>| match v {
        Value::Int(i) => Some(i128::from(*i)),
        Value::Uint(u) => Some(i128::from(*u)),
        _ => None,
    };
    let against = |d: f64, i: i128| {
        if d.is_nan() {
            return None;
        }
        if d >= 2f64.powi(64) {
            return Some(Ordering::Greater);
        }
        if d < -(2f64.powi(63)) {
            return Some(Ordering::Less);
        }
        // In this range the whole part is exact.
        let truncated = d.trunc() as i128;
        Some(truncated.cmp(&i).then_with(|| d.fract().partial_cmp(&0.0).unwrap_or(Ordering::Equal)))
    };
    match (a, b) {
        (Value::Double(x), Value::Double(y)) => x.partial_cmp(y),
        (Value::Double(x), _) => against(*x, whole(b)?),
        (_, Value::Double(y)) => against(*y, whole(a)?).map(Ordering::reverse),
        _ => Some(whole(a)?.cmp(&whole(b)?)),
    }
}

/// CEL's `<` and its like; `Ok(None)` where NaN takes part.
pub(crate) fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
    Ok(match (a, b) {
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => number_order(a, b),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some((**a).cmp(&**b)),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        _ => return Err(EvalError::no_overload()),
    })
}

/// The object type a constructed value is of.
pub(crate) fn struct_type(name: &str) -> Option<Arc<ObjectType>> {
    use crate::types::{Field, Fields};
    let known =
        |fields: &[(&str, Type)]| Fields::Known(fields.iter().map(|(n, t)| (n.to_string(), Field { json: n.to_string(), decl: Arc::new(Decl::from(t.clone())) })).collect());
    let fields = match name {
        "JSONPatch" => known(&[("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)]),
        _ if name == "Object" || name.starts_with("Object.") => Fields::Any,
        _ => return None,
    };
    Some(Arc::new(ObjectType { name: name.into(), fields }))
}
