//! Building a schema at run time, from the committed table or from a CustomResourceDefinition.

use super::{FieldNode, ListType, MapType, Node, ObjectNode, Presence, Scalar, Schema, Strategies, first_bytes};
use serde_json::Value;
use std::borrow::Cow;

type Text = Cow<'static, str>;

/// A field as a builder takes it.
#[derive(Clone, Debug)]
pub struct FieldSpec {
    pub name: Text,
    pub ty: u32,
    pub required: bool,
    pub presence: Presence,
    pub map_type: MapType,
    pub strategy: Strategies,
    pub number: u32,
    pub default: Option<Value>,
}

impl FieldSpec {
    /// An optional field kept whenever present: what a custom resource's field is.
    pub fn new(name: impl Into<Text>, ty: u32) -> Self {
        FieldSpec { name: name.into(), ty, required: false, presence: Presence::Pointer, map_type: MapType::Unset, strategy: Strategies::default(), number: 0, default: None }
    }
}

/// Adds nodes to an arena; ids may be reserved before they are defined, for recursive types.
#[derive(Default)]
pub struct Builder {
    schema: Schema,
}

impl Builder {
    pub fn new() -> Self {
        Builder::default()
    }
    fn push(&mut self, node: Node) -> u32 {
        self.schema.nodes.push(node);
        u32::try_from(self.schema.nodes.len() - 1).expect("a schema has far fewer than 2^32 nodes: its source is size limited")
    }
    pub fn scalar(&mut self, s: Scalar) -> u32 {
        self.push(Node::Scalar(s))
    }
    pub fn list(&mut self, item: u32, list_type: ListType, map_keys: Vec<Text>, merge_key: Option<Text>) -> u32 {
        self.push(Node::List { item, list_type, map_keys: map_keys.into(), merge_key })
    }
    pub fn map(&mut self, value: u32, map_type: MapType) -> u32 {
        self.push(Node::Map { value, map_type })
    }
    /// Reserves an object node; [`Builder::define`] fills it.
    pub fn reserve(&mut self, name: impl Into<Text>) -> u32 {
        let name = name.into();
        let id = self.push(Node::Object(ObjectNode { name: name.clone(), gvks: Box::default(), fields: Box::default(), map_type: MapType::Unset, preserve_unknown: false }));
        if !name.is_empty() {
            self.schema.names.insert(name, id);
        }
        id
    }
    pub fn define(&mut self, id: u32, map_type: MapType, preserve_unknown: bool, mut fields: Vec<FieldSpec>) {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let nodes = fields
            .into_iter()
            .map(|f| FieldNode {
                first_bytes: first_bytes(&f.name),
                name: f.name,
                ty: f.ty,
                required: f.required,
                presence: f.presence,
                map_type: f.map_type,
                strategy: f.strategy,
                number: f.number,
                default: f.default.map(Box::new),
            })
            .collect();
        if let Node::Object(o) = &mut self.schema.nodes[id as usize] {
            o.fields = nodes;
            o.map_type = map_type;
            o.preserve_unknown = preserve_unknown;
        }
    }
    pub fn gvks(&mut self, id: u32, gvks: Vec<[Text; 3]>) {
        if let Node::Object(o) = &mut self.schema.nodes[id as usize] {
            o.gvks = gvks.into();
        }
    }
    pub(super) fn id_of(&self, name: &str) -> Option<u32> {
        self.schema.names.get(name).copied()
    }
    pub(super) fn put(&mut self, id: u32, node: Node) {
        self.schema.nodes[id as usize] = node;
    }
    pub fn finish(mut self) -> Schema {
        self.schema.nodes.shrink_to_fit();
        self.schema.names.shrink_to_fit();
        self.schema.defaulted = defaulted(&self.schema.nodes);
        self.schema
    }
}

/// By node, whether there is a static default in it or below. Types refer to each other in circles: what is found is carried up until nothing
/// is new.
fn defaulted(nodes: &[Node]) -> Vec<bool> {
    let mut found = vec![false; nodes.len()];
    let mut is_new = true;
    while is_new {
        is_new = false;
        for (i, node) in nodes.iter().enumerate() {
            let has = |id: u32| found[id as usize];
            let now = match node {
                Node::Object(o) => o.fields.iter().any(|f| f.default.is_some() || has(f.ty)),
                Node::List { item: below, .. } | Node::Map { value: below, .. } => has(*below),
                Node::Either { object, other, .. } => has(*object) || has(*other),
                Node::Scalar(_) | Node::Named { .. } => false,
            };
            is_new |= now && !found[i];
            found[i] = now;
        }
    }
    found
}
