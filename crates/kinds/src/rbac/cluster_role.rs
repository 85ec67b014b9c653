//! ClusterRole: what may be done in the cluster (rbac.authorization.k8s.io/v1).

use crate::field::Field;
use crate::labels;
use crate::rbac::rules;
use crate::table::{CREATED_AT, NAME};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Scope, Served};
use serde_json::{Value, json};

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
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
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

    fn validate(o: &Object, p: &mut Problems) {
        rules::policy_rules(&Field::root(o), false, p);
        let aggregation = Field::root(o).get("aggregationRule");
        if aggregation.is_set() && aggregation.list("clusterRoleSelectors").is_empty() {
            p.required(&aggregation.at("clusterRoleSelectors"), "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for selector in aggregation.items("clusterRoleSelectors") {
            let before = p.len();
            labels::selector(p, &selector);
            if p.len() > before {
                p.invalid(selector.path(), Value::Null, "invalid label selector.");
            }
        }
    }
}
