//! A structural schema: the part of OpenAPI v3 that custom resources may use, as a tree of nodes.
//!
//! Entry point: [`Node::parse`] from the JSON of `openAPIV3Schema`. One node serves pruning, defaulting, validation, list types, rules and
//! the schema model of apply, so that they cannot disagree. What stands in `allOf`, `anyOf`, `oneOf` and `not` is a node too, of which only
//! the validations count. Deliberately absent: whether the schema is a legal one (the CustomResourceDefinition's own validation).
//! Source: k8s.io/apiextensions-apiserver/pkg/apiserver/schema.

use crate::formats::Format;
use crate::rules::Rules;
use regex::Regex;
use serde_json::Value;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Type {
    #[default]
    Unset,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    fn parse(v: &Value) -> Self {
        match v.as_str().unwrap_or_default() {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => Type::Unset,
        }
    }
    pub fn name(self) -> &'static str {
        match self {
            Type::Unset => "",
            Type::Object => "object",
            Type::Array => "array",
            Type::String => "string",
            Type::Integer => "integer",
            Type::Number => "number",
            Type::Boolean => "boolean",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    #[default]
    Unset,
    Atomic,
    Set,
    Map,
}

/// `additionalProperties`
#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    Absent,
    /// `true`
    Any,
    /// `false`
    Forbidden,
    Schema(Box<Node>),
}

#[derive(Debug, Default)]
pub struct Node {
    pub ty: Type,
    pub nullable: bool,
    pub int_or_string: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    pub list_type: ListType,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    pub map_keys: Box<[Box<str>]>,
    /// Sorted by name.
    pub properties: Box<[(Box<str>, Node)]>,
    pub additional: Additional,
    pub items: Option<Box<Node>>,
    pub default: Option<Box<Value>>,
    /// Absent where nothing but the type is demanded, as most nodes have it.
    pub checks: Option<Box<Checks>>,
    /// `x-kubernetes-validations`
    pub rules: Option<Box<Rules>>,
}

/// What a value must be besides its type.
#[derive(Debug, Default)]
pub struct Checks {
    pub format: Option<Format>,
    pub enumeration: Vec<Value>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub required: Vec<Box<str>>,
    pub all_of: Vec<Node>,
    pub any_of: Vec<Node>,
    pub one_of: Vec<Node>,
    pub not: Option<Node>,
}

/// A regular expression, compiled when first asked.
#[derive(Debug)]
pub struct Pattern {
    pub text: Box<str>,
    made: OnceLock<Option<Regex>>,
}

/// Memory a compiled pattern may take, in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

impl Pattern {
    fn new(text: &str) -> Self {
        Pattern { text: text.into(), made: OnceLock::new() }
    }
    /// A pattern that cannot be compiled matches nothing.
    pub fn matches(&self, s: &str) -> bool {
        let made = self.made.get_or_init(|| regex::RegexBuilder::new(&self.text).size_limit(PATTERN_BYTES_MAX).build().ok());
        made.as_ref().is_some_and(|r| r.is_match(s))
    }
}

/// Nesting of schemas; deeper parts say nothing.
const DEPTH_MAX: usize = 128;

impl Node {
    pub fn parse(schema: &Value) -> Node {
        node(schema, 0)
    }
    pub fn property(&self, name: &str) -> Option<&Node> {
        let i = self.properties.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(&self.properties[i].1)
    }
    /// The node of a field: its property, or what all further fields are.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.property(name).or_else(|| self.additional_schema())
    }
    pub fn additional_schema(&self) -> Option<&Node> {
        match &self.additional {
            Additional::Schema(n) => Some(n),
            _ => None,
        }
    }
    /// Whether this node or one below fulfils `wanted`.
    pub fn any(&self, wanted: &impl Fn(&Node) -> bool) -> bool {
        wanted(self)
            || self.properties.iter().any(|(_, n)| n.any(wanted))
            || self.additional_schema().is_some_and(|n| n.any(wanted))
            || self.items.as_deref().is_some_and(|n| n.any(wanted))
    }
}

fn node(s: &Value, depth: usize) -> Node {
    let Some(o) = s.as_object() else { return Node::default() };
    if depth > DEPTH_MAX {
        return Node::default();
    }
    let at = |k: &str| o.get(k).unwrap_or(&Value::Null);
    let flag = |k: &str| at(k).as_bool().unwrap_or(false);
    let mut properties: Vec<(Box<str>, Node)> = at("properties").as_object().into_iter().flatten().map(|(k, v)| (k.as_str().into(), node(v, depth + 1))).collect();
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    Node {
        ty: Type::parse(at("type")),
        nullable: flag("nullable"),
        int_or_string: flag("x-kubernetes-int-or-string"),
        preserve: flag("x-kubernetes-preserve-unknown-fields"),
        embedded: flag("x-kubernetes-embedded-resource"),
        list_type: match at("x-kubernetes-list-type").as_str().unwrap_or_default() {
            "atomic" => ListType::Atomic,
            "set" => ListType::Set,
            "map" => ListType::Map,
            _ => ListType::Unset,
        },
        atomic: at("x-kubernetes-map-type") == "atomic",
        map_keys: texts(at("x-kubernetes-list-map-keys")).into(),
        properties: properties.into(),
        additional: match at("additionalProperties") {
            Value::Bool(true) => Additional::Any,
            Value::Bool(false) => Additional::Forbidden,
            v @ Value::Object(_) => Additional::Schema(Box::new(node(v, depth + 1))),
            _ => Additional::Absent,
        },
        items: at("items").is_object().then(|| Box::new(node(at("items"), depth + 1))),
        default: Some(at("default")).filter(|v| !v.is_null()).map(|v| Box::new(v.clone())),
        checks: checks(o, depth),
        rules: Rules::of(s),
    }
}

fn texts(v: &Value) -> Vec<Box<str>> {
    v.as_array().into_iter().flatten().filter_map(|t| t.as_str().map(Into::into)).collect()
}

fn checks(o: &serde_json::Map<String, Value>, depth: usize) -> Option<Box<Checks>> {
    const FACTS: [&str; 20] = [
        "format",
        "enum",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "required",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
    ];
    if !FACTS.iter().any(|f| o.contains_key(*f)) {
        return None;
    }
    let at = |k: &str| o.get(k).unwrap_or(&Value::Null);
    let nodes = |k: &str| at(k).as_array().into_iter().flatten().map(|v| node(v, depth + 1)).collect();
    Some(Box::new(Checks {
        format: at("format").as_str().and_then(|f| Format::parse(f, Type::parse(at("type")))),
        enumeration: at("enum").as_array().cloned().unwrap_or_default(),
        minimum: at("minimum").as_f64(),
        maximum: at("maximum").as_f64(),
        exclusive_minimum: at("exclusiveMinimum").as_bool().unwrap_or(false),
        exclusive_maximum: at("exclusiveMaximum").as_bool().unwrap_or(false),
        multiple_of: at("multipleOf").as_f64(),
        min_length: at("minLength").as_u64(),
        max_length: at("maxLength").as_u64(),
        pattern: at("pattern").as_str().filter(|p| !p.is_empty()).map(Pattern::new),
        min_items: at("minItems").as_u64(),
        max_items: at("maxItems").as_u64(),
        unique_items: at("uniqueItems").as_bool().unwrap_or(false),
        min_properties: at("minProperties").as_u64(),
        max_properties: at("maxProperties").as_u64(),
        required: texts(at("required")),
        all_of: nodes("allOf"),
        any_of: nodes("anyOf"),
        one_of: nodes("oneOf"),
        not: at("not").is_object().then(|| node(at("not"), depth + 1)),
    }))
}
