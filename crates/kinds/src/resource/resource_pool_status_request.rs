//! ResourcePoolStatusRequest: a question about resource pools (resource.k8s.io/v1alpha3).

use crate::conditions::conditions;
use crate::field::{Field, clear_status, immutable};
use crate::resource::device::node_name;
use crate::resource::identifiers::{driver, pool};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct ResourcePoolStatusRequest;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("Driver", "string", "driver specifies the DRA driver name to filter pools.", |o, _| table::str_cell(o, &["spec", "driver"])), AGE];

impl Kind for ResourcePoolStatusRequest {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ResourcePoolStatusRequest",
        plural: "resourcepoolstatusrequests",
        singular: "resourcepoolstatusrequest",
        scope: Scope::Cluster,
        served: &[Served { group: "resource.k8s.io", version: "v1alpha3", schema: "io.k8s.api.resource.v1alpha3.ResourcePoolStatusRequest" }],
        subresources: &[status("ResourcePoolStatusRequest")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "resource.k8s.io/v1alpha3",
            "kind": "ResourcePoolStatusRequest",
            "metadata": {"name": "sample"},
            "spec": {"driver": "d.example"}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        let spec = Field::root(o).get("spec");
        match spec.str("driver") {
            "" => p.required(&spec.at("driver"), "driver name is required"),
            name => driver(p, &spec.at("driver"), name),
        }
        if !spec.str("poolName").is_empty() {
            pool(p, &spec.at("poolName"), spec.str("poolName"));
        }
        match spec.opt_int("limit") {
            Some(n) if n < 1 => p.invalid(&spec.at("limit"), n, "must be at least 1"),
            Some(n) if n > POOLS_MAX => p.invalid(&spec.at("limit"), n, format!("must not exceed {POOLS_MAX}")),
            _ => {}
        }
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        immutable(p, &Field::root(new).get("spec"), &Field::root(old).get("spec"));
    }

    /// An answer that was given stays.
    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let (status, before) = (Field::root(new).get("status"), Field::root(old).get("status"));
        if before.has("observationTime") {
            return immutable(p, &status, &before);
        }
        status.items("pools").iter().for_each(|pool| of_pool(pool, p));
        conditions(&status, usize::MAX, p);
        not_negative(&status, &["totalMatchingPools"], p);
    }
}

const POOLS_MAX: i64 = 1000;

fn of_pool(of: &Field, p: &mut Problems) {
    driver(p, &of.at("driver"), of.str("driver"));
    pool(p, &of.at("poolName"), of.str("poolName"));
    if !of.str("nodeName").is_empty() {
        node_name(p, &of.at("nodeName"), of.str("nodeName"));
    }
    not_negative(of, &["totalDevices", "allocatedDevices", "availableDevices", "unavailableDevices"], p);
    if of.int("sliceCount") < 1 {
        p.invalid(&of.at("sliceCount"), of.int("sliceCount"), "must be at least 1");
    }
    not_negative(of, &["generation"], p);
}

fn not_negative(of: &Field, names: &[&str], p: &mut Problems) {
    for name in names.iter().filter(|n| of.int(n) < 0) {
        p.invalid(&of.at(name), of.int(name), "must be non-negative");
    }
}
