//! StorageVersionMigration: a rewrite of stored objects in the current version (storagemigration.k8s.io/v1beta1).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct StorageVersionMigration;

const COLUMNS: &[Column<Object>] = &[NAME, column("Resource", "string", "The resource that is being migrated.", |o, _| text(resource(o))), AGE];

impl Kind for StorageVersionMigration {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StorageVersionMigration",
        plural: "storageversionmigrations",
        singular: "storageversionmigration",
        scope: Scope::Cluster,
        served: &[Served { group: "storagemigration.k8s.io", version: "v1beta1", schema: "io.k8s.api.storagemigration.v1beta1.StorageVersionMigration" }],
        subresources: &[status("StorageVersionMigration")],
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "storagemigration.k8s.io/v1beta1",
            "kind": "StorageVersionMigration",
            "metadata": {"name": "sample"},
            "spec": {"resource": {"group": "apps", "resource": "deployments"}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn resource(o: &Object) -> String {
    let (group, resource) = (o.str_at(&["spec", "resource", "group"]), o.str_at(&["spec", "resource", "resource"]));
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}
