//! IPAddress: one taken cluster address (networking.k8s.io/v1, networking.k8s.io/v1beta1).

use crate::field::{Field, immutable, invalid_each};
use crate::ip;
use crate::table::{NAME, column, text};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Scope, Served};
use serde_json::json;

pub struct IPAddress;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("ParentRef", "string", "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.", |o, _| text(parent(o))),
];

impl Kind for IPAddress {
    type Object = Object;
    const INFO: Info = Info {
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        scope: Scope::Cluster,
        served: &[
            Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.IPAddress" },
            Served { group: "networking.k8s.io", version: "v1beta1", schema: "io.k8s.api.networking.v1beta1.IPAddress" },
        ],
        name_rule: NameRule::Own,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {"name": "192.0.2.9"},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "x"}}
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let name = o.name();
        if !name.is_empty() {
            ip::canonical(p, &root.get("metadata").at("name"), name);
        }
        let parent = root.get("spec").get("parentRef");
        if !parent.is_set() {
            p.required(parent.path(), "");
            return;
        }
        let group = parent.str("group");
        if !group.is_empty() {
            invalid_each(p, &parent.at("group"), group, names::dns_subdomain(group, false));
        }
        for field in ["resource", "name"] {
            match parent.str(field) {
                "" => p.required(&parent.at(field), ""),
                value => invalid_each(p, &parent.at(field), value, names::path_segment(value, false)),
            }
        }
        let namespace = parent.str("namespace");
        if !namespace.is_empty() {
            invalid_each(p, &parent.at("namespace"), namespace, names::path_segment(namespace, false));
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (now, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        immutable(p, &now.get("parentRef"), &before.get("parentRef"));
    }
}

/// `services/default/x`
fn parent(o: &Object) -> String {
    let part = |f: &str| o.str_at(&["spec", "parentRef", f]);
    let all = [part("group"), part("resource"), part("namespace"), part("name")];
    all.iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>().join("/")
}
