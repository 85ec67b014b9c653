//! ClusterRole: what may be done in the cluster (rbac.authorization.k8s.io/v1).

use crate::table::{CREATED_AT, NAME};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Scope, Served};
use serde_json::json;

pub struct ClusterRole;

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for ClusterRole {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ClusterRole",
        plural: "clusterroles",
        singular: "clusterrole",
        scope: Scope::Cluster,
        served: &[Served { group: "rbac.authorization.k8s.io", version: "v1", schema: "io.k8s.api.rbac.v1.ClusterRole" }],
        create_on_update: true,
        name_rule: NameRule::PathSegment,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "sample"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
        }))
    }
}
