//! The model that every source of schema facts is read into, and its text form.

use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

pub type Model = BTreeMap<String, Type>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Type {
    pub description: String,
    /// `group version kind` triples.
    pub gvks: Vec<(String, String, String)>,
    pub map_type: String,
    pub fields: BTreeMap<String, Field>,
    /// A named scalar: the letter of its kind, see [`scalar_letter`].
    pub scalar: Option<char>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Field {
    pub description: String,
    pub ty: Ty,
    pub required: bool,
    pub list_type: String,
    pub map_keys: Vec<String>,
    pub merge_key: String,
    pub strategy: String,
    pub map_type: String,
    pub default: Option<Value>,
    pub presence: Presence,
    /// Protobuf number; `outer * 256 + inner` for fields that Go inlines, at most twice.
    pub number: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// Follows from `required` and the type, see [`Presence::rule`].
    #[default]
    Unknown,
    Always,
    OmitEmpty,
    Pointer,
    Nullable,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Ty {
    #[default]
    Any,
    Scalar(char),
    Ref(String),
    List(Box<Ty>),
    Map(Box<Ty>),
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Any => f.write_str("a"),
            Ty::Scalar(c) => write!(f, "{c}"),
            Ty::Ref(n) => write!(f, "@{n}"),
            Ty::List(t) => write!(f, "[{t}"),
            Ty::Map(t) => write!(f, "{{{t}"),
        }
    }
}

impl Ty {
    pub fn parse(s: &str) -> Result<Ty, String> {
        let mut c = s.chars();
        Ok(match c.next() {
            Some('a') => Ty::Any,
            Some('@') => Ty::Ref(c.as_str().to_owned()),
            Some('[') => Ty::List(Box::new(Ty::parse(c.as_str())?)),
            Some('{') => Ty::Map(Box::new(Ty::parse(c.as_str())?)),
            Some(l) if "sbildy".contains(l) => Ty::Scalar(l),
            _ => return Err(format!("type expression {s:?} is not known")),
        })
    }
    /// From a JSON schema as both sources print it.
    pub fn of_schema(v: &Value) -> Ty {
        if let Some(r) = v.get("$ref").and_then(Value::as_str) {
            return Ty::Ref(r.trim_start_matches("#/components/schemas/").to_owned());
        }
        if let Some(all) = v.get("allOf").and_then(|a| a.get(0)) {
            return Ty::of_schema(all);
        }
        let text = |k: &str| v.get(k).and_then(Value::as_str).unwrap_or("");
        match (text("type"), text("format")) {
            ("string", "byte") => Ty::Scalar('y'),
            ("string", _) => Ty::Scalar('s'),
            ("boolean", _) => Ty::Scalar('b'),
            ("integer", "int64") => Ty::Scalar('l'),
            ("integer", _) => Ty::Scalar('i'),
            ("number", _) => Ty::Scalar('d'),
            ("array", _) => Ty::List(Box::new(v.get("items").map_or(Ty::Any, Ty::of_schema))),
            ("object", _) => v.get("additionalProperties").map_or(Ty::Any, |p| Ty::Map(Box::new(Ty::of_schema(p)))),
            _ => Ty::Any,
        }
    }
}

/// Types that are not objects on the wire, by upstream's name. The letters: q Quantity, p IntOrString, t Time, m MicroTime, a any JSON,
/// A, B, S: JSONSchemaProps or an array of them, a bool, an array of strings.
pub fn scalar_letter(name: &str) -> Option<char> {
    Some(match name.rsplit_once('.')?.1 {
        "Quantity" => 'q',
        "IntOrString" => 'p',
        "Time" => 't',
        "MicroTime" => 'm',
        "Duration" => 'D',
        "RawExtension" | "FieldsV1" | "JSON" | "Patch" => 'a',
        "JSONSchemaPropsOrArray" => 'A',
        "JSONSchemaPropsOrBool" => 'B',
        "JSONSchemaPropsOrStringArray" => 'S',
        _ => return None,
    })
}

impl Field {
    /// What holds for a field about which nothing else is known: required means no `omitempty`; an optional struct is a pointer.
    pub fn rule(&self) -> Presence {
        let by_ref = matches!(self.ty, Ty::Ref(_));
        match (self.presence, self.required) {
            (Presence::Unknown, true) => Presence::Always,
            (Presence::Unknown, false) if by_ref => Presence::Pointer,
            (Presence::Unknown, false) => Presence::OmitEmpty,
            (known, _) => known,
        }
    }
}
