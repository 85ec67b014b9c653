//! ResourceSlice: devices that a driver offers (resource.k8s.io/v1, resource.k8s.io/v1beta2, resource.k8s.io/v1beta1).

use crate::core::pod::affinity::node_selector;
use crate::field::{Field, immutable, items_mut};
use crate::gates;
use crate::resource::device::{self, node_name, true_or_unset};
use crate::resource::identifiers::{driver, pool, set};
use crate::resource::v1beta1;
use crate::selectable;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems};
use keles_registry::gates::GatedAt;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Selectable, Served, UnknownSelector};
use serde_json::json;

pub struct ResourceSlice;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Node", "string", "nodeName identifies the node which provides the resources in this pool.", |o, _| table::str_cell(o, &["spec", "nodeName"])),
    column("Driver", "string", "driver identifies the DRA driver providing the capacity information.", |o, _| table::str_cell(o, &["spec", "driver"])),
    column("Pool", "string", "pool describes the pool that this ResourceSlice belongs to.", |o, _| table::str_cell(o, &["spec", "pool", "name"])),
    AGE,
];

impl Kind for ResourceSlice {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourceSlice",
        plural: "resourceslices",
        singular: "resourceslice",
        scope: Scope::Cluster,
        served: &[
            Served { group: "resource.k8s.io", version: "v1", schema: "io.k8s.api.resource.v1.ResourceSlice" },
            Served { group: "resource.k8s.io", version: "v1beta2", schema: "io.k8s.api.resource.v1beta2.ResourceSlice" },
            Served { group: "resource.k8s.io", version: "v1beta1", schema: "io.k8s.api.resource.v1beta1.ResourceSlice" },
        ],
        selectable: &[
            Selectable { path: "spec.nodeName", value: |o| selectable::text(o, &["spec", "nodeName"]) },
            Selectable { path: "spec.driver", value: |o| selectable::text(o, &["spec", "driver"]) },
        ],
        generation: true,
        unknown_selector: UnknownSelector::Text("field label not supported for {version}, Kind=ResourceSlice: {}"),
        ..Info::BASE
    };

    const GATED: &'static [GatedAt] = &[(&["spec"], gates::RESOURCE_SLICE)];

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": "sample"},
            "spec": {"driver": "d.example", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}
        }))
    }

    fn prepare_create(o: &mut Object, r: &Request) {
        prepare(o, r);
    }

    fn prepare_update(new: &mut Object, _: &Object, r: &Request) {
        prepare(new, r);
    }

    fn validate(o: &Object, p: &mut Problems) {
        validate_spec(&Field::root(o).get("spec"), None, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        validate_spec(&Field::root(new).get("spec"), Some(&Field::root(old).get("spec")), p);
    }

    fn convert(o: &mut Object, from: &str, to: &str) {
        v1beta1::convert_devices(o.0.get_mut("spec"), from, to);
    }
}

const DEVICES_MAX: usize = 128;
/// Devices with taints or counters take more room.
const LARGE_DEVICES_MAX: usize = 64;
const COUNTER_SETS_MAX: usize = 8;
/// A new taint says since when it is there.
fn prepare(o: &mut Object, r: &Request) {
    let Some(spec) = o.0.get_mut("spec") else { return };
    for device in items_mut(spec, "devices") {
        items_mut(device, "taints").for_each(|t| crate::field::default(t, "timeAdded", r.now.as_str()));
    }
}

fn validate_spec(spec: &Field, old: Option<&Field>, p: &mut Problems) {
    driver(p, &spec.at("driver"), spec.str("driver"));
    let of_pool = spec.get("pool");
    pool(p, &of_pool.at("name"), of_pool.str("name"));
    if of_pool.int("resourceSliceCount") <= 0 {
        p.invalid(&of_pool.at("resourceSliceCount"), of_pool.int("resourceSliceCount"), crate::field::NOT_POSITIVE);
    }
    if of_pool.int("generation") < 0 {
        p.invalid(&of_pool.at("generation"), of_pool.int("generation"), "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        unchanged(p, &of_pool, &old.get("pool"), "name");
        unchanged(p, spec, old, "driver");
        immutable(p, &spec.get("nodeName"), &old.get("nodeName"));
    }
    nodes(spec, p);
    if spec.has("sharedCounters") && spec.has("devices") {
        p.invalid(spec.path(), "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let per_device = spec.bool("perDeviceNodeSelection");
    let before = old.map(|o| o.items("devices")).unwrap_or_default();
    let large = spec.items("devices").iter().any(|d| !d.list("taints").is_empty() || !d.list("consumesCounters").is_empty());
    set(
        p,
        spec,
        "devices",
        if large { LARGE_DEVICES_MAX } else { DEVICES_MAX },
        |d| d.str("name").to_owned(),
        |d, p| {
            device::validate(d, before.iter().find(|b| b.str("name") == d.str("name")), per_device, p);
        },
    );
    set(p, spec, "sharedCounters", COUNTER_SETS_MAX, |c| c.str("name").to_owned(), device::counter_set);
}

/// A text that may not change; a missing one is an empty one.
fn unchanged(p: &mut Problems, new: &Field, old: &Field, name: &str) {
    if new.str(name) != old.str(name) {
        p.invalid(&new.at(name), new.str(name), crate::field::IMMUTABLE);
    }
}

/// The nodes that reach the devices: said in one way.
fn nodes(spec: &Field, p: &mut Problems) {
    let mut found = Vec::new();
    match spec.opt_str("nodeName") {
        Some("") => p.invalid(&spec.at("nodeName"), "", "must be either unset or set to a non-empty string"),
        Some(name) => {
            found.push("`nodeName`");
            node_name(p, &spec.at("nodeName"), name);
        }
        None => {}
    }
    let selector = spec.get("nodeSelector");
    if selector.is_set() {
        found.push("`nodeSelector`");
        node_selector(&selector, p);
        if selector.list("nodeSelectorTerms").len() != 1 {
            p.invalid(&selector.at("nodeSelectorTerms"), selector.get("nodeSelectorTerms").value().clone(), "must have exactly one node selector term");
        }
    }
    true_or_unset(spec, "allNodes", "`allNodes`", &mut found, p);
    true_or_unset(spec, "perDeviceNodeSelection", "`perDeviceNodeSelection`", &mut found, p);
    const CHOOSE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match found.len() {
        0 => p.required(spec.path(), CHOOSE),
        1 => {}
        _ => p.invalid(spec.path(), format!("{{{}}}", found.join(", ")), format!("{CHOOSE}, but multiple fields are set")),
    }
}
