//! DeviceClass: a class of devices (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::field::{Field, same};
use crate::resource::claim_spec::{CONFIG_MAX, configuration};
use crate::resource::identifiers::each;
use crate::resource::selectors;
use crate::table::{AGE, NAME};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Scope, Served};
use serde_json::json;

pub struct DeviceClass;

const COLUMNS: &[Column<Object>] = &[NAME, AGE];

impl Kind for DeviceClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "DeviceClass",
        plural: "deviceclasses",
        singular: "deviceclass",
        scope: Scope::Cluster,
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.DeviceClass" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.DeviceClass" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.DeviceClass" },
        ],
        generation: true,
        name_rule: NameRule::Own,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": "sample"}, "spec": {}}))
    }

    fn validate(o: &Object, p: &mut Problems) {
        names_in_bytes(o, p);
        validate_spec(&Field::root(o).get("spec"), None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        validate_spec(&Field::root(new).get("spec"), Some(&Field::root(old).get("spec")), p);
    }
}

/// A DNS subdomain, whose limit upstream says in bytes for this kind.
fn names_in_bytes(o: &Object, p: &mut Problems) {
    let metadata = Field::root(o).get("metadata");
    for (name, prefix) in [("generateName", true), ("name", false)] {
        let text = metadata.str(name);
        let found = if text.is_empty() { Vec::new() } else { names::dns_subdomain(text, prefix) };
        for message in found {
            p.invalid(&metadata.at(name), text, message.replace("characters", "bytes").replace("lower case alphanumeric bytes", "lower case alphanumeric characters"));
        }
    }
}

/// Selectors and configuration that were there before are not looked at as closely.
fn validate_spec(spec: &Field, old: Option<&Field>, p: &mut Problems) {
    let stored = |name: &str| old.is_some_and(|old| same(old.get(name).value(), spec.get(name).value()));
    selectors::validate(spec, stored("selectors"), p);
    let kept = stored("config");
    each(p, spec, "config", CONFIG_MAX, |c, p| configuration(c, kept, p));
    if let Some(name) = spec.opt_str("extendedResourceName").filter(|n| !is_extended_resource(n)) {
        p.invalid(&spec.at("extendedResourceName"), name, "must be a valid extended resource name");
    }
}

/// `example.com/gpu`: of a domain that is not Kubernetes' own, and usable in a quota.
fn is_extended_resource(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}
