//! StorageClass: how storage is made (storage.k8s.io/v1).

use crate::core::pod::warnings::deprecated_label;
use crate::field::{Field, default_pointer, immutable, invalid_each, one_of};
use crate::labels;
use crate::table::{self, AGE, CLASS_NAME, column};
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct StorageClass;

const COLUMNS: &[Column<Object>] = &[
    CLASS_NAME,
    column("Provisioner", "string", "provisioner indicates the type of the provisioner.", |o, _| table::str_cell(o, &["provisioner"])),
    column(
        "ReclaimPolicy",
        "string",
        "reclaimPolicy controls the reclaimPolicy for dynamically provisioned PersistentVolumes of this storage class. Defaults to Delete.",
        |o, _| table::str_or(o, &["reclaimPolicy"], "Delete"),
    ),
    column(
        "VolumeBindingMode",
        "string",
        "volumeBindingMode indicates how PersistentVolumeClaims should be provisioned and bound.  When unset, VolumeBindingImmediate is used. This field is only honored by servers that enable the VolumeScheduling feature.",
        |o, _| table::str_or(o, &["volumeBindingMode"], "Immediate"),
    ),
    column("AllowVolumeExpansion", "string", "allowVolumeExpansion shows whether the storage class allow volume expand.", |o, _| table::bool_cell(o, &["allowVolumeExpansion"])),
    AGE,
];

impl Kind for StorageClass {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StorageClass",
        plural: "storageclasses",
        singular: "storageclass",
        short_names: &["sc"],
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.StorageClass" }],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "sample"}, "provisioner": "p.example/x"}))
    }

    fn set_defaults(o: &mut Object) {
        default_pointer(&mut o.0, "reclaimPolicy", "Delete");
        default_pointer(&mut o.0, "volumeBindingMode", "Immediate");
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let provisioner = root.str("provisioner");
        match provisioner {
            "" => p.required(&root.at("provisioner"), ""),
            name => {
                let lower = name.to_lowercase();
                invalid_each(p, &root.at("provisioner"), &lower, names::qualified_name(&lower));
            }
        }
        parameters(&root, p);
        let policy = root.str("reclaimPolicy");
        if !policy.is_empty() {
            one_of(p, &root.at("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        match root.opt_str("volumeBindingMode") {
            None => p.required(&root.at("volumeBindingMode"), ""),
            Some(mode) => one_of(p, &root.at("volumeBindingMode"), mode, &["Immediate", "WaitForFirstConsumer"]),
        }
        topologies(&root, p);
    }

    fn warnings(new: &Object, _: Option<&Object>, w: &mut Vec<String>) {
        for e in Field::root(new).items("allowedTopologies").iter().flat_map(|t| t.items("matchLabelExpressions")) {
            w.extend(deprecated_label(e.str("key")).map(|text| format!("{}: {text}", e.at("key"))));
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (now, before) = (Field::root(new), Field::root(old));
        for name in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(p, &now.get(name), &before.get(name));
        }
    }
}

const PARAMETERS_MAX_COUNT: usize = 512;
const PARAMETERS_MAX_BYTES: usize = 256 * 1024;

/// Parameters of a class: not too many, each with a name.
pub fn parameters(root: &Field, p: &mut Problems) {
    let at = root.at("parameters");
    if root.map_len("parameters") > PARAMETERS_MAX_COUNT {
        p.too_long(&at, PARAMETERS_MAX_COUNT);
        return;
    }
    let mut bytes = 0;
    for (key, value) in root.map("parameters") {
        if key.is_empty() {
            p.invalid(&at, key, "field can not be empty.");
        }
        bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if bytes > PARAMETERS_MAX_BYTES {
        p.too_long(&at, PARAMETERS_MAX_BYTES);
    }
}

fn topologies(root: &Field, p: &mut Problems) {
    // A term without expressions counts as a repetition of nothing, as upstream has it.
    let terms = root.items("allowedTopologies");
    let mut seen_terms: Vec<Vec<(String, BTreeSet<String>)>> = vec![Vec::new(); terms.len()];
    for term in terms {
        let (mut seen, mut keys) = (Vec::new(), BTreeSet::new());
        for e in term.items("matchLabelExpressions") {
            let values = e.items("values");
            if values.is_empty() {
                p.required(&e.at("values"), "");
            }
            let mut all = BTreeSet::new();
            for v in &values {
                if !all.insert(v.text().to_owned()) {
                    p.duplicate(v.path(), v.text());
                }
            }
            labels::key(p, &e.at("key"), e.str("key"));
            if !keys.insert(e.str("key")) {
                p.duplicate(&e.at("key"), e.str("key"));
            }
            seen.push((e.str("key").to_owned(), all));
        }
        seen.sort();
        for _ in seen_terms.iter().filter(|t| **t == seen) {
            p.duplicate(&term.at("matchLabelExpressions"), "");
        }
        seen_terms.push(seen);
    }
}
