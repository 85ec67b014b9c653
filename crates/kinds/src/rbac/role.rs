//! Role: what may be done in a namespace (rbac.authorization.k8s.io/v1).

use crate::field::Field;
use crate::rbac::rules;
use crate::table::{CREATED_AT, NAME};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Served};
use serde_json::json;

pub struct Role;

const COLUMNS: &[Column<Object>] = &[NAME, CREATED_AT];

impl Kind for Role {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Role",
        plural: "roles",
        singular: "role",
        served: &[Served { group: "rbac.authorization.k8s.io", version: "v1", schema: "io.k8s.api.rbac.v1.Role" }],
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
            "kind": "Role",
            "metadata": {"name": "sample", "namespace": "default"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]
        }))
    }

    fn validate(o: &Object, p: &mut Problems) {
        rules::policy_rules(&Field::root(o), true, p);
    }
}
