//! The walk over a document with its type in hand.

use super::STRICT_ERRORS_MAX;
use super::leaf;
use crate::TypeRef;
use crate::schema::{Scalar, Shape};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// What a walk has found so far.
#[derive(Default)]
pub(super) struct Context {
    /// Path of the value being read: `spec.containers[0]`.
    path: String,
    pub(super) error: Option<String>,
    pub(super) error_at: String,
    /// Unknown and duplicate fields.
    pub(super) strict: Vec<String>,
    /// Keys of duplicates in a YAML document, which upstream reports by line.
    duplicates: Vec<String>,
    /// Go's struct that holds the field being read.
    holder: String,
    /// How many types that read themselves ([`TypeRef::is_either`]) the value stands in: upstream's are not strict about what is in them.
    lenient: usize,
    /// Error texts of upstream's converter from trees instead of its JSON decoder's; strategic merge patches go through it.
    converter: bool,
}

impl Context {
    pub(super) fn of_converter() -> Self {
        Context { converter: true, ..Context::default() }
    }
    fn push(&mut self, field: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(field);
        mark
    }
    fn push_index(&mut self, i: usize) -> usize {
        let mark = self.path.len();
        self.path.push('[');
        self.path.push_str(itoa::Buffer::new().format(i));
        self.path.push(']');
        mark
    }
    fn note(&mut self, what: &str, field: &str) {
        if self.lenient > 0 {
            return;
        }
        let mark = self.push(field);
        let text = format!("{what} field \"{}\"", self.path);
        self.path.truncate(mark);
        if self.strict.len() < STRICT_ERRORS_MAX && !self.strict.contains(&text) {
            self.strict.push(text);
            if what == "duplicate" {
                self.duplicates.push(field.to_owned());
            }
        }
    }
    fn fail(&mut self, why: String) {
        if self.error.is_none() {
            self.error = Some(why);
            self.error_at = self.path.clone();
        }
    }
    /// Last field of the path.
    fn field(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default().split('[').next().unwrap_or_default()
    }
    fn go_name(&self, ty: TypeRef) -> String {
        let plain = go_name(ty);
        if plain == "string" { super::go_types::of(&self.holder, self.field()).map_or(plain, str::to_owned) } else { plain }
    }
    fn wrong(&mut self, got: Got, ty: TypeRef) {
        if self.error.is_some() {
            return;
        }
        let want = self.go_name(ty);
        // Below `items` of a JSON schema upstream's type has a JSON decoder of its own.
        let json_below = self.holder == "JSONSchemaProps" && self.path.contains(".items");
        if self.converter && !json_below {
            return self.fail(unconvertible(got, ty, &want));
        }
        let got = got.json();
        let place = if self.path.is_empty() {
            "Go value".to_owned()
        } else {
            let path: String = self.path.split('[').map(|s| s.split_once(']').map_or(s, |(_, after)| after)).collect();
            format!("Go struct field {}.{path}", self.holder)
        };
        self.fail(format!("json: cannot unmarshal {got} into {place} of type {want}"));
    }
    /// Upstream reads YAML strictly by another library, which names lines: `yaml: unmarshal errors:\n  line 3: key "a" already set in map`.
    pub(super) fn name_yaml_lines(&mut self, text: &str) {
        if self.duplicates.is_empty() {
            return;
        }
        let lines: Vec<String> = self.duplicates.iter().map(|key| format!("  line {}: key \"{key}\" already set in map", second_line_of(text, key))).collect();
        self.strict.retain(|s| !s.starts_with("duplicate field"));
        self.strict.insert(0, format!("yaml: unmarshal errors:\n{}", lines.join("\n")));
    }
}

/// What a document holds where a value of another type should be.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Got {
    Bool,
    Integer,
    Float,
    String,
    Array,
    Object,
}

impl Got {
    fn json(self) -> &'static str {
        match self {
            Got::Bool => "bool",
            Got::Integer | Got::Float => "number",
            Got::String => "string",
            Got::Array => "array",
            Got::Object => "object",
        }
    }
    /// Go's kind of the value in an unstructured tree.
    fn kind(self) -> &'static str {
        match self {
            Got::Bool => "bool",
            Got::Integer => "int64",
            Got::Float => "float64",
            Got::String => "string",
            Got::Array => "slice",
            Got::Object => "map",
        }
    }
}

/// The text of upstream's unstructured converter (k8s.io/apimachinery/pkg/runtime/converter.go).
fn unconvertible(got: Got, ty: TypeRef, want: &str) -> String {
    let kind = got.kind();
    match ty.shape() {
        Shape::Object(_) => format!("cannot restore struct from: {kind}"),
        Shape::List(_) | Shape::Scalar(Scalar::Bytes) => format!("cannot restore slice from {kind}"),
        Shape::Map(_) => format!("cannot restore map from {kind}"),
        Shape::Scalar(Scalar::Time | Scalar::MicroTime | Scalar::IntOrString | Scalar::Quantity) => format!("json: cannot unmarshal {} into Go value of type {want}", got.json()),
        Shape::Scalar(s) => {
            let numeric = matches!(s, Scalar::Int32 | Scalar::Int64 | Scalar::Double);
            let convertible = match got {
                Got::Integer => numeric || s == Scalar::String,
                Got::Float => numeric,
                _ => false,
            };
            if convertible { format!("cannot convert {kind} to {want}") } else { format!("unrecognized type: {}", leaf::go_type(s)) }
        }
    }
}

/// The line on which a key is seen for the second time, counted from 1.
fn second_line_of(text: &str, key: &str) -> usize {
    let is_key = |l: &str| l.trim_start_matches([' ', '-']).strip_prefix(key).is_some_and(|r| r.trim_start().starts_with(':'));
    text.lines().enumerate().filter(|(_, l)| is_key(l)).nth(1).map_or(1, |(i, _)| i + 1)
}

/// Reads one value of a type; `None` is any value.
pub(super) struct Seed<'s, 'c> {
    pub ty: Option<TypeRef<'s>>,
    pub context: &'c mut Context,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

/// Go's name for a type in messages.
fn go_name(ty: TypeRef) -> String {
    match ty.shape() {
        Shape::Scalar(s) => leaf::go_type(s).to_owned(),
        Shape::List(l) => format!("[]{}", go_name(l.item)),
        Shape::Map(m) => format!("map[string]{}", go_name(m.value)),
        Shape::Object(o) => {
            let mut parts = o.name().rsplit('.');
            let name = parts.next().unwrap_or_default();
            format!("{}.{name}", parts.next().unwrap_or_default())
        }
    }
}

impl<'s> Seed<'s, '_> {
    /// As the branch of a type that reads itself; what stands in it is read leniently.
    fn within<T>(self, is_object: bool, read: impl FnOnce(Seed<'s, '_>) -> T) -> T {
        let lenient = usize::from(self.ty.is_some_and(TypeRef::is_either));
        self.context.lenient += lenient;
        let done = read(Seed { ty: self.ty.map(|t| t.branch(is_object)), context: &mut *self.context });
        self.context.lenient -= lenient;
        done
    }
    /// What upstream makes of a value that is neither a schema nor what may stand in its place: nothing, but where a boolean may.
    fn neither(self) -> Value {
        if self.ty.is_some_and(|t| matches!(t.branch(false).shape(), Shape::List(_))) {
            return Value::Array(Vec::new());
        }
        self.context.fail("boolean or JSON schema expected".into());
        Value::Null
    }
    fn leaf(self, got: Got, f: impl FnOnce(Scalar) -> Result<Value, Option<String>>) -> Value {
        if self.ty.is_some_and(|t| t.is_either() && (got != Got::Bool || matches!(t.branch(false).shape(), Shape::List(_)))) {
            return self.neither();
        }
        let Some(ty) = self.ty.map(|t| t.branch(false)) else {
            return f(Scalar::Any).unwrap_or(Value::Null);
        };
        let found = match ty.shape() {
            Shape::Scalar(s) => f(s),
            _ => Err(None),
        };
        match found {
            Ok(v) => return v,
            Err(Some(why)) if self.context.converter && why.starts_with("illegal base64") => self.context.fail(format!("error decoding from json: {why}")),
            Err(Some(why)) => self.context.fail(why),
            Err(None) => self.context.wrong(got, ty),
        }
        Value::Null
    }
    fn object<'de, A: MapAccess<'de>>(self, o: crate::schema::ObjectRef<'s>, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        // A hostile object has hundreds of thousands of them.
        let mut nulls: HashSet<String> = HashSet::new();
        // Once an object, not once a field: children put back what they found.
        let holder = std::mem::replace(&mut self.context.holder, o.name().rsplit('.').next().unwrap_or_default().to_owned());
        while let Some(Key(key)) = map.next_key()? {
            if out.contains_key(&key) || nulls.contains(&key) {
                self.context.note("duplicate", &key);
            }
            let field = o.field(&key);
            if field.is_none() && !o.preserve_unknown() {
                self.context.note("unknown", &key);
                map.next_value::<IgnoredAny>()?;
                nulls.insert(key);
                continue;
            }
            let mark = self.context.push(&key);
            let value = map.next_value_seed(Seed { ty: field.map(|f| f.ty()), context: self.context })?;
            self.context.path.truncate(mark);
            if value.is_null() {
                nulls.insert(key);
            } else {
                out.insert(key, value);
            }
        }
        self.context.holder = holder;
        Ok(Value::Object(out))
    }
    fn entries<'de, A: MapAccess<'de>>(self, value_ty: Option<TypeRef<'s>>, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(Key(key)) = map.next_key()? {
            if out.contains_key(&key) {
                self.context.note("duplicate", &key);
            }
            // Upstream's converter does not name the keys of maps in its paths.
            let mark = if self.context.converter { self.context.path.len() } else { self.context.push(&key) };
            let value = map.next_value_seed(Seed { ty: value_ty, context: self.context })?;
            self.context.path.truncate(mark);
            out.insert(key, zero_if_null(value, value_ty));
        }
        Ok(Value::Object(out))
    }
    fn list<'de, A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let ty = self.ty;
        let item = match ty.map(|t| (t, t.shape())) {
            None | Some((_, Shape::Scalar(Scalar::Any))) => None,
            Some((_, Shape::List(l))) => Some(l.item),
            Some((t, shape)) => {
                match shape {
                    Shape::Scalar(s) if leaf::composite(s).is_some() => self.context.fail(leaf::composite(s).unwrap_or_default()),
                    _ => self.context.wrong(Got::Array, t),
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Null);
            }
        };
        let mut out = Vec::new();
        loop {
            let mark = self.context.push_index(out.len());
            let next = seq.next_element_seed(Seed { ty: item, context: self.context })?;
            self.context.path.truncate(mark);
            match next {
                Some(v) => out.push(zero_if_null(v, item)),
                None => return Ok(Value::Array(out)),
            }
        }
    }
    fn map<'de, A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let ty = self.ty;
        match ty.map(|t| (t, t.shape())) {
            None | Some((_, Shape::Scalar(Scalar::Any))) => self.entries(None, map),
            Some((_, Shape::Object(o))) => self.object(o, map),
            Some((_, Shape::Map(m))) => self.entries(Some(m.value), map),
            Some((t, shape)) => {
                match shape {
                    Shape::Scalar(s) if leaf::composite(s).is_some() => self.context.fail(leaf::composite(s).unwrap_or_default()),
                    _ => self.context.wrong(Got::Object, t),
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Null)
            }
        }
    }
}

fn zero_if_null(value: Value, ty: Option<TypeRef>) -> Value {
    match (value.is_null(), ty.map(|t| t.shape())) {
        (true, Some(Shape::Scalar(s))) => leaf::zero(s),
        (true, Some(Shape::Object(_))) => Value::Object(Map::new()),
        _ => value,
    }
}

impl<'de, 's> Visitor<'de> for Seed<'s, '_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(self.leaf(Got::Bool, |s| leaf::boolean(v, s)))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(self.leaf(Got::Integer, |s| leaf::integer(v.into(), s)))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(self.leaf(Got::Integer, |s| leaf::integer(v.into(), s)))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(self.leaf(Got::Float, |s| leaf::float(v, s)))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(self.leaf(Got::String, |s| leaf::string(v, s)))
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if self.ty.is_some_and(|t| t.is_either() && !matches!(t.branch(false).shape(), Shape::List(_))) {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(self.neither());
        }
        self.within(false, |seed| seed.list(seq))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        self.within(true, |seed| seed.map(map))
    }
}

/// A key of a map; YAML's numbers and booleans become their text.
struct Key(String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string key")
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Key, E> {
                Ok(Key(v.to_owned()))
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Key, E> {
                Ok(Key(v))
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Key, E> {
                Ok(Key(v.to_string()))
            }
        }
        d.deserialize_any(Text)
    }
}
