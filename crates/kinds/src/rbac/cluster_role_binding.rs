//! ClusterRoleBinding: who holds a role in the cluster (rbac.authorization.k8s.io/v1).

use crate::field::Field;
use crate::rbac::rules;
use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Scope, Served};
use serde_json::{Value, json};

pub struct ClusterRoleBinding;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column(
        "Role",
        "string",
        "RoleRef can only reference a ClusterRole in the global namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This field is immutable.",
        |o, _| text(format!("{}/{}", o.str_at(&["roleRef", "kind"]), o.str_at(&["roleRef", "name"]))),
    ),
    AGE,
    wide("Users", "string", "Users in the roleBinding", |o, _| text(subjects(o, "User"))),
    wide("Groups", "string", "Groups in the roleBinding", |o, _| text(subjects(o, "Group"))),
    wide("ServiceAccounts", "string", "ServiceAccounts in the roleBinding", |o, _| text(subjects(o, "ServiceAccount"))),
];

impl Kind for ClusterRoleBinding {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ClusterRoleBinding",
        plural: "clusterrolebindings",
        singular: "clusterrolebinding",
        scope: Scope::Cluster,
        served: &[Served { group: "rbac.authorization.k8s.io", version: "v1", schema: "io.k8s.api.rbac.v1.ClusterRoleBinding" }],
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
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "sample"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
        }))
    }

    fn set_defaults(o: &mut Object) {
        rules::default_binding(o);
    }

    fn validate(o: &Object, p: &mut Problems) {
        rules::binding(&Field::root(o), &["ClusterRole"], false, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        rules::same_role(&Field::root(new), &Field::root(old), p);
    }
}

/// Subjects of one kind, joined by commas.
fn subjects(o: &Object, kind: &str) -> String {
    let of_kind = |s: &&Value| s["kind"].as_str() == Some(kind);
    let show = |s: &Value| match (s["namespace"].as_str(), s["name"].as_str().unwrap_or("")) {
        (Some(namespace), name) if kind == "ServiceAccount" => format!("{namespace}/{name}"),
        (_, name) => name.to_owned(),
    };
    table::list(o.at(&["subjects"])).iter().filter(of_kind).map(show).collect::<Vec<_>>().join(", ")
}
