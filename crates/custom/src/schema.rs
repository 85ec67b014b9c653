//! A structural schema in the one schema model, for field sets and apply: structure, list types and map keys.
//!
//! Leaves are of any type: what a value must be is validation's business, which words its errors differently than decoding does.

use crate::structural::{Additional, ListType, Node, Type};
use keles_api::TypeRef;
use keles_api::schema::{self, Builder, FieldSpec, ListType as ListKind, MapType, Scalar, Schema, Shape};
use std::collections::HashMap;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The schema of a whole resource, under `name`.
pub fn build(root: &Node, name: &str) -> Schema {
    let mut b = Build { builder: Builder::new(), any: 0, meta: None, copied: HashMap::new() };
    b.any = b.builder.scalar(Scalar::Any);
    let id = b.builder.reserve(name.to_owned());
    let fields = b.fields(root, true);
    b.builder.define(id, MapType::Unset, root.preserve, fields);
    b.builder.finish()
}

struct Build {
    builder: Builder,
    any: u32,
    meta: Option<u32>,
    /// Named types copied from the built-in table.
    copied: HashMap<String, u32>,
}

impl Build {
    fn fields(&mut self, n: &Node, resource: bool) -> Vec<FieldSpec> {
        let mut all: Vec<FieldSpec> = Vec::with_capacity(n.properties.len() + 3);
        for (name, p) in &n.properties {
            if resource && matches!(&**name, "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let ty = self.node(p);
            all.push(FieldSpec::new(name.to_string(), ty));
        }
        if resource {
            let (any, meta) = (self.any, self.metadata());
            all.extend([FieldSpec::new("apiVersion", any), FieldSpec::new("kind", any), FieldSpec::new("metadata", meta)]);
        }
        all
    }

    fn node(&mut self, n: &Node) -> u32 {
        let map_type = if n.atomic { MapType::Atomic } else { MapType::Unset };
        match (n.ty, &n.additional) {
            (Type::Object, Additional::Schema(value)) if n.properties.is_empty() => {
                let value = self.node(value);
                self.builder.map(value, map_type)
            }
            (Type::Object, Additional::Any) if n.properties.is_empty() => {
                let any = self.any;
                self.builder.map(any, map_type)
            }
            (Type::Object, _) => {
                let fields = self.fields(n, n.embedded);
                // Reserved without a name: a schema finds it by its place only.
                let id = self.builder.reserve("");
                self.builder.define(id, map_type, n.preserve, fields);
                id
            }
            (Type::Array, _) => {
                let item = n.items.as_deref().map_or(self.any, |i| self.node(i));
                let list_type = match n.list_type {
                    ListType::Unset => ListKind::Unset,
                    ListType::Atomic => ListKind::Atomic,
                    ListType::Set => ListKind::Set,
                    ListType::Map => ListKind::Map,
                };
                let keys = n.map_keys.iter().map(|k| k.to_string().into()).collect();
                self.builder.list(item, list_type, keys, None)
            }
            _ => self.any,
        }
    }

    fn metadata(&mut self) -> u32 {
        if let Some(id) = self.meta {
            return id;
        }
        let id = schema::builtin().get(OBJECT_META).map_or(self.any, |ty| self.copy(ty));
        self.meta = Some(id);
        id
    }

    /// A type of the built-in table, in this schema.
    fn copy(&mut self, ty: TypeRef) -> u32 {
        if let Some(id) = self.copied.get(ty.name()) {
            return *id;
        }
        match ty.shape() {
            Shape::Scalar(s) => self.builder.scalar(s),
            Shape::Map(m) => {
                let value = self.copy(m.value);
                self.builder.map(value, m.map_type)
            }
            Shape::List(l) => {
                let item = self.copy(l.item);
                self.builder.list(item, l.list_type, l.map_keys.iter().map(|k| k.to_string().into()).collect(), l.merge_key.map(|k| k.to_owned().into()))
            }
            Shape::Object(o) => {
                let id = self.builder.reserve(o.name().to_owned());
                self.copied.insert(o.name().to_owned(), id);
                let mut fields = Vec::new();
                for f in o.fields() {
                    let ty = self.copy(f.ty());
                    fields.push(FieldSpec {
                        required: f.required(),
                        presence: f.presence(),
                        map_type: f.map_type(),
                        strategy: f.strategies(),
                        number: f.number().unwrap_or(0),
                        default: f.default().cloned(),
                        ..FieldSpec::new(f.name().to_owned(), ty)
                    });
                }
                self.builder.define(id, o.map_type(), o.preserve_unknown(), fields);
                id
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_patch::fieldset::FieldSet;
    use serde_json::json;

    #[test]
    fn field_sets_follow_list_types_and_map_keys() {
        let n = Node::parse(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                      "items": {"type": "object", "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}));
        let s = build(&n, "g.v1.K");
        let v = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"ports": [{"name": "x", "port": 1}], "tags": ["t"], "plain": ["p"], "free": {"deep": {"er": 1}}}});
        let set = FieldSet::of(&v, s.get("g.v1.K").unwrap()).unwrap().into_json();
        assert!(set.pointer("/f:metadata/f:labels/f:a").is_some(), "{set}");
        assert!(set.pointer("/f:spec/f:ports/k:{\"name\":\"x\"}/f:port").is_some(), "{set}");
        assert!(set.pointer("/f:spec/f:tags/v:\"t\"").is_some(), "{set}");
        assert_eq!(set.pointer("/f:spec/f:plain"), Some(&json!({})));
        assert!(set.pointer("/f:spec/f:free/f:deep/f:er").is_some(), "unknown parts are owned field by field: {set}");
    }
}
