//! CSIDriver: a storage driver and what it needs (storage.k8s.io/v1).

use crate::core::pod::volumes::csi_driver;
use crate::field::{Field, IMMUTABLE, child_mut, default_pointer, immutable, one_of, same, set};
use crate::gates;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Path, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, GenerationKept, Info, Kind, MetadataChecks, NameRule, Scope, Served};
use serde_json::json;
use std::collections::BTreeSet;

pub struct CSIDriver;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("AttachRequired", "boolean", "attachRequired indicates this CSI volume driver requires an attach operation.", |o, _| {
        o.at(&["spec", "attachRequired"]).as_bool().unwrap_or(true).into()
    }),
    column("PodInfoOnMount", "boolean", "podInfoOnMount indicates this CSI volume driver requires additional pod information during mount operations.", |o, _| {
        table::bool_cell(o, &["spec", "podInfoOnMount"])
    }),
    column("StorageCapacity", "boolean", "storageCapacity indicates that the CSI volume driver wants pod scheduling to consider the storage capacity.", |o, _| {
        table::bool_cell(o, &["spec", "storageCapacity"])
    }),
    column("TokenRequests", "string", "tokenRequests indicates the CSI driver needs pods' service account tokens.", |o, _| text(token_requests(o))),
    column("RequiresRepublish", "boolean", "requiresRepublish indicates the CSI driver wants NodePublishVolume being periodically called.", |o, _| {
        table::bool_cell(o, &["spec", "requiresRepublish"])
    }),
    column("Modes", "string", "volumeLifecycleModes defines what kind of volumes this CSI volume driver supports.", |o, _| text(modes(o))),
    AGE,
];

impl Kind for CSIDriver {
    type Object = Object;
    const INFO: Info = Info {
        kind: "CSIDriver",
        plural: "csidrivers",
        singular: "csidriver",
        scope: Scope::Cluster,
        served: &[Served { group: "storage.k8s.io", version: "v1", schema: "io.k8s.api.storage.v1.CSIDriver" }],
        unconditional_update: false,
        name_rule: NameRule::PathSegment,
        metadata_checks: MetadataChecks { last: true, ..MetadataChecks::USUAL },
        generation: true,
        generation_kept: GenerationKept::OnUpdate,
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec"], gates::CSI_DRIVER)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "sample"}, "spec": {}}))
    }

    fn set_defaults(o: &mut Object) {
        let Some(spec) = child_mut(&mut o.0, "spec") else { return };
        default_pointer(spec, "attachRequired", true);
        for name in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default_pointer(spec, name, false);
        }
        default_pointer(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if table::len(&spec["volumeLifecycleModes"]) == 0 {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    /// Upstream looks at the name as one of a driver, and calls it `name`.
    fn validate(o: &Object, p: &mut Problems) {
        csi_driver(p, &Path::new("name"), o.name());
        validate_spec(&Field::root(o).get("spec"), p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        let (spec, before) = (Field::root(new).get("spec"), Field::root(old).get("spec"));
        validate_spec(&spec, p);
        if spec.get("attachRequired").value() != before.get("attachRequired").value() {
            p.invalid(&spec.at("attachedRequired"), spec.get("attachRequired").value().clone(), IMMUTABLE);
        }
        immutable(p, &spec.get("volumeLifecycleModes"), &before.get("volumeLifecycleModes"));
    }
    /// Said when the tokens change, not on every update of a driver that has them.
    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        let spec = Field::root(new).get("spec");
        let unchanged = |name: &str| old.is_some_and(|o| same(o.at(&["spec", name]), spec.get(name).value()));
        if unchanged("tokenRequests") && unchanged("serviceAccountTokenInSecrets") {
            return;
        }
        if !spec.list("tokenRequests").is_empty() && !spec.has("serviceAccountTokenInSecrets") {
            w.push("spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".into());
        }
    }
}

fn validate_spec(spec: &Field, p: &mut Problems) {
    for mode in spec.strings("volumeLifecycleModes") {
        one_of(p, &spec.at("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
    }
    if let Some(policy) = spec.opt_str("fsGroupPolicy") {
        one_of(p, &spec.at("fsGroupPolicy"), policy, &["File", "None", "ReadWriteOnceWithFSType"]);
    }
    let mut seen = BTreeSet::new();
    for token in spec.items("tokenRequests") {
        if !seen.insert(token.str("audience")) {
            p.duplicate(&token.at("audience"), token.str("audience"));
            continue;
        }
        let Some(seconds) = token.opt_int("expirationSeconds") else { continue };
        if seconds < TOKEN_MIN_SECONDS {
            p.invalid(&token.at("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > TOKEN_MAX_SECONDS {
            p.invalid(&token.at("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    if let Some(seconds) = spec.opt_int("nodeAllocatableUpdatePeriodSeconds").filter(|s| *s < UPDATE_PERIOD_MIN_SECONDS) {
        p.invalid(&spec.at("nodeAllocatableUpdatePeriodSeconds"), seconds, format!("must be greater than or equal to {UPDATE_PERIOD_MIN_SECONDS} seconds"));
    }
    if let Some(wanted) = spec.opt_bool("serviceAccountTokenInSecrets").filter(|_| spec.list("tokenRequests").is_empty()) {
        p.invalid(&spec.at("serviceAccountTokenInSecrets"), wanted, "serviceAccountTokenInSecrets is set but no tokenRequests are specified");
    }
}

fn token_requests(o: &Object) -> String {
    let all: Vec<&str> = table::list(o.at(&["spec", "tokenRequests"])).iter().map(|t| t["audience"].as_str().unwrap_or("")).collect();
    if all.is_empty() { "<unset>".into() } else { all.join(",") }
}

fn modes(o: &Object) -> String {
    let all: Vec<&str> = table::list(o.at(&["spec", "volumeLifecycleModes"])).iter().filter_map(|m| m.as_str()).collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

const UPDATE_PERIOD_MIN_SECONDS: i64 = 10;
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;
