//! CustomResourceDefinition: a kind made at run time (apiextensions.k8s.io/v1).

use crate::apiextensions::definition;
use crate::field::{Field, child_mut, default, default_pointer, items_mut, restore, set};
use crate::subresource::status;
use crate::table::{self, CREATED_AT, NAME};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Scope, Served};
use serde_json::{Value, json};

pub struct CustomResourceDefinition;

const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for CustomResourceDefinition {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "apiextensions.k8s.io", version: "v1", schema: "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition" }],
        subresources: &[status("CustomResourceDefinition")],
        generation: true,
        unconditional_update: false,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.x.example"},
            "spec": {
                "group": "x.example",
                "scope": "Namespaced",
                "names": {"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]
            }
        }))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        if let Some(names) = child_mut(spec, "names") {
            default(names, "singular", names["kind"].as_str().unwrap_or("").to_lowercase());
            let kind = names["kind"].as_str().unwrap_or("").to_owned();
            if !kind.is_empty() {
                default(names, "listKind", format!("{kind}List"));
            }
        }
        default_pointer(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = crate::field::below_mut(spec, &["conversion", "webhook", "clientConfig", "service"]).filter(|s| s.is_object()) {
            default_pointer(service, "port", 443);
        }
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({}));
        store_in_storage_version(o);
    }

    fn prepare_update(new: &mut Object, old: &Object, _: &Request) {
        restore(new, old, "status");
        store_in_storage_version(new);
    }

    /// Its objects go first: the API server takes the finalizer away when they have.
    fn prepare_delete(o: &mut Object, r: &Request) {
        let mut finalizers: Vec<Value> = o.meta("finalizers").as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == CLEANUP) {
            finalizers.push(CLEANUP.into());
        }
        o.set_meta("finalizers", finalizers);
        let Some(status) = child_mut(&mut o.0, "status") else { return };
        let condition = json!({
            "type": "Terminating", "status": "True", "lastTransitionTime": r.now, "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will be in progress",
        });
        match status["conditions"].as_array_mut() {
            Some(all) => {
                all.retain(|c| c["type"] != "Terminating");
                all.push(condition);
            }
            None => status["conditions"] = json!([condition]),
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let (name, spec) = (o.name(), root.get("spec"));
        if !name.is_empty() {
            let mut bad = names::dns_subdomain(name, false);
            if name != format!("{}.{}", spec.get("names").str("plural"), spec.str("group")) {
                bad.push("must be spec.names.plural+\".\"+spec.group".into());
            }
            crate::field::invalid_each(p, &root.get("metadata").at("name"), name, bad);
        }
        definition::spec(o, false, p);
        rest(o, None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let established = table::condition_true(old, "Established");
        let client = Field::root(old).get("spec").get("conversion").get("webhook").get("clientConfig");
        definition::spec(new, established && definition::bundle_readable(&client), p);
        definition::change(new, old, established, p);
        rest(new, Some(old), p);
    }

    fn validate_status(new: &Object, _old: &Object, p: &mut Problems) {
        definition::given_names(&Field::root(new).get("status").get("acceptedNames"), p);
    }
}

fn rest(new: &Object, old: Option<&Object>, p: &mut Problems) {
    definition::given_names(&Field::root(new).get("status").get("acceptedNames"), p);
    definition::stored_versions(new, p);
    definition::approved(new, old, p);
    definition::preserve_unknown(new, old, p);
}

/// Once a version is the storage version, objects may be stored in it until somebody migrated them.
fn store_in_storage_version(o: &mut Object) {
    let storage = items_mut(&mut o.0["spec"], "versions").find(|v| v["storage"] == true).and_then(|v| v["name"].as_str().map(str::to_owned));
    let Some(storage) = storage else { return };
    let Some(status) = child_mut(&mut o.0, "status").and_then(Value::as_object_mut) else { return };
    let stored = status.entry("storedVersions").or_insert(Value::Null);
    match stored.as_array_mut() {
        Some(all) if all.iter().any(|v| v.as_str() == Some(&storage)) => {}
        Some(all) => all.push(storage.into()),
        None => *stored = json!([storage]),
    }
}
