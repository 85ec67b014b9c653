//! Definitions of custom resources, and objects of what they define.

use keles_api::decode::{FieldValidation, Format};
use keles_api::schema::builtin;
use keles_api::{Object, Path, Problems, openapi as documents};
use keles_custom::{Custom, Definition};
use keles_registry::kind::{AnyKind, Cells, Request, STATUS};
use keles_testkit::odd::{self, Source};
use serde_json::{Value, json};

const CRD: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
const PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// A schema with something of everything, changed.
fn schema(s: &mut Source) -> Value {
    let mut v = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "x-kubernetes-validations": [{"rule": "self.n > 0", "message": "n", "fieldPath": ".n"}], "properties": {
            "n": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10, "multipleOf": 2, "default": 2},
            "s": {"type": "string", "pattern": "^a+$", "maxLength": 5, "enum": ["a", "aa"], "nullable": true},
            "d": {"type": "string", "format": "date-time"},
            "f": {"type": "number", "exclusiveMinimum": true, "minimum": 0},
            "ios": {"x-kubernetes-int-or-string": true},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "default": "x"}}}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string"}},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "o": {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}, "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}}}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}});
    odd::mutate(s, &mut v, builtin().get(PROPS).expect("the table holds JSONSchemaProps"));
    v
}

fn definition(s: &mut Source) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.x.example"}, "spec": {
        "group": "x.example", "scope": "Namespaced", "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema(s)},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
            "selectableFields": [{"jsonPath": ".spec.s"}],
            "additionalPrinterColumns": [{"name": "N", "type": "integer", "jsonPath": ".spec.n"}, {"name": "D", "type": "date", "jsonPath": ".spec.d"}]}]}})
}

fn decoded(v: &Value) -> Option<Object> {
    let kind = keles_kinds::find("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("a kind of ours");
    let served = kind.info().served[0];
    let mut o = kind.decode(&served, v.to_string().as_bytes(), Format::Json, FieldValidation::Ignore).ok()?.object;
    kind.static_defaults(&served, &mut o);
    let mut p = Problems::new();
    kind.set_defaults(&mut o).expect("a tree");
    kind.create(&mut o, &Request::default(), &mut p, &mut Vec::new()).expect("it was decoded");
    p.aggregate();
    kind.canonicalise(&served, &mut o);
    p.is_empty().then_some(o)
}

/// Validation of any definition, sound or not.
pub fn structural_schema(data: &[u8]) {
    let mut s = Source::new(data);
    let mut v = definition(&mut s);
    odd::mutate(&mut s, &mut v, builtin().get(CRD).expect("the table holds definitions"));
    if let Some(o) = decoded(&v) {
        let bytes = o.0.to_string().into_bytes();
        let read = Definition::read(&bytes).expect("an accepted definition is read");
        assert_eq!(read.spec.names.kind, o.str_at(&["spec", "names", "kind"]));
    }
}

/// What an accepted definition publishes can be made into documents.
pub fn openapi(data: &[u8]) {
    let mut s = Source::new(data);
    let Some(o) = decoded(&definition(&mut s)) else { return };
    let bytes = o.0.to_string().into_bytes();
    let kind = Custom::new(Definition::read(&bytes).expect("an accepted definition is read"), bytes.into());
    let served = kind.info().served[0];
    let published = kind.open_api(&served).expect("a custom kind publishes its schema");
    let wrapped = json!({"openapi": "3.0.0", "info": {"title": "x", "version": "v"}, "paths": {}, "components": {"schemas": {"x": published}}});
    assert!(!documents::gnostic::encode(&documents::swagger([wrapped], "v1.36")).is_empty());
}

/// Objects of an accepted definition.
pub fn custom_objects(data: &[u8]) {
    let mut s = Source::new(data);
    let Some(o) = decoded(&definition(&mut s)) else { return };
    let bytes = o.0.to_string().into_bytes();
    let kind = Custom::new(Definition::read(&bytes).expect("an accepted definition is read"), bytes.into());
    let served = kind.info().served[0];
    let mut v = json!({"apiVersion": "x.example/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {
        "n": 4, "s": "a", "l": [{"k": "a"}, {"k": "b"}], "m": {"a": "b"}, "any": {"x": [1, null]}, "e": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, "o": {"a": "x"}}});
    let free = |s: &mut Source, v: &mut Value| match s.below(3) {
        0 => v["spec"] = odd::any(s),
        1 => {
            let name = s.pick(&["n", "s", "d", "f", "ios", "l", "set", "m", "any", "e", "o"]).to_owned();
            v["spec"][name] = odd::any(s);
        }
        _ => v["status"] = odd::any(s),
    };
    free(&mut s, &mut v);
    let read = |v: &Value| {
        let mut o = kind.decode(&served, v.to_string().as_bytes(), Format::Json, FieldValidation::Warn).ok()?.object;
        o.set_type("x.example/v1", "Foo");
        kind.static_defaults(&served, &mut o);
        Some(o)
    };
    let request = Request { group: "x.example".into(), version: "v1".into(), plural: "foos".into(), now: "2026-01-01T00:00:00Z".into(), ..Request::default() };
    let Some(mut made) = read(&v) else { return };
    let mut twice = made.clone();
    kind.static_defaults(&served, &mut twice);
    assert_eq!(twice, made, "defaults are idempotent");
    let mut p = Problems::new();
    kind.set_defaults(&mut made).expect("a tree");
    kind.create(&mut made, &request, &mut p, &mut Vec::new()).expect("it was decoded");
    kind.cells(&made, &Cells { now_unix_seconds: 0 }).expect("it was decoded");
    for f in kind.info().selectable {
        kind.field_value(&made, f);
    }
    let mut changed = made.0.clone();
    if !changed["spec"].is_object() {
        changed["spec"] = json!({});
    }
    free(&mut s, &mut changed);
    let Some(new) = read(&changed) else { return };
    kind.update(&mut new.clone(), &made, &request, &mut p, &mut Vec::new()).expect("it was decoded");
    kind.update_status(&mut new.clone(), &made, &Request { subresource: STATUS.into(), ..request }, &mut p).expect("it was decoded");
    keles_api::meta::validate_update(&new, &made, &Path::new("metadata"), &mut p);
    p.aggregate();
}
