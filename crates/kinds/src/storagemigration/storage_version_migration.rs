//! StorageVersionMigration: a rewrite of stored objects in the current version (storagemigration.k8s.io/v1beta1).

use crate::conditions::conditions;
use crate::field::{Field, IMMUTABLE, NEGATIVE, clear_status};
use crate::subresource::status;
use crate::table::{self, NAME, column, text};
use keles_api::{Object, Path, Problems};
use keles_registry::kind::{Column, Info, Kind, Request, Scope, Served};
use serde_json::json;

pub struct StorageVersionMigration;

const COLUMNS: &[Column<Object>] = &[Column { format: "", ..NAME }, column("Resource", "string", "Fully qualified resource to migrate", |o, _| text(resource(o)))];

impl Kind for StorageVersionMigration {
    type Object = Object;
    const INFO: Info = Info {
        kind: "StorageVersionMigration",
        plural: "storageversionmigrations",
        singular: "storageversionmigration",
        scope: Scope::Cluster,
        served: &[Served { group: "storagemigration.k8s.io", version: "v1beta1", schema: "io.k8s.api.storagemigration.v1beta1.StorageVersionMigration" }],
        subresources: &[status("StorageVersionMigration")],
        unconditional_update: false,
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

    fn validate(o: &Object, p: &mut Problems) {
        let resource = Field::root(o).get("spec").get("resource");
        if resource.str("resource").is_empty() {
            p.required(&resource.at("resource"), "resource is required");
        }
    }

    /// What is migrated stays; problems name it without its place, as upstream has it.
    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        Self::validate(new, p);
        let (now, before) = (Field::root(new).get("spec").get("resource"), Field::root(old).get("spec").get("resource"));
        for name in ["group", "resource"].iter().filter(|n| now.str(n) != before.str(n)) {
            p.invalid(&Path::new(name), now.str(name), IMMUTABLE);
        }
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let (status, before) = (Field::root(new).get("status"), Field::root(old).get("status"));
        version(&status, before.str("resourceVersion"), p);
        conditions(&status, usize::MAX, p);
        let holds = |o: &Object, kind: &str| table::condition_true(o, kind);
        let both = [
            (SUCCEEDED, FAILED, "Both success and failed conditions cannot be true at the same time"),
            (SUCCEEDED, RUNNING, "Running condition cannot be true when success condition is true"),
            (FAILED, RUNNING, "Running condition cannot be true when failed condition is true"),
        ];
        let lasting = [(SUCCEEDED, "Success condition cannot be set to false once it is true"), (FAILED, "Failed condition cannot be set to false once it is true")];
        let found = both.iter().filter(|(a, b, _)| holds(new, a) && holds(new, b)).map(|b| b.2);
        for why in found.chain(lasting.iter().filter(|(kind, _)| holds(old, kind) && !holds(new, kind)).map(|l| l.1)) {
            p.invalid(&status.at("conditions"), status.get("conditions").value().clone(), why);
        }
    }
}

const RUNNING: &str = "Running";
const SUCCEEDED: &str = "Succeeded";
const FAILED: &str = "Failed";

/// The revision that a migration began at, once known.
fn version(status: &Field, before: &str, p: &mut Problems) {
    let (text, at) = (status.str("resourceVersion"), status.at("resourceVersion"));
    match text.parse::<i64>() {
        _ if text.is_empty() => {}
        Err(_) => p.invalid(&at, text, format!("failed to parse resource version {text:?}: strconv.ParseInt: parsing {text:?}: invalid syntax")),
        Ok(n) if n < 0 => p.invalid(&at, n, NEGATIVE),
        Ok(_) => {}
    }
    if !before.is_empty() && before != text {
        p.invalid(&at, text, "cannot be updated");
    }
}

fn resource(o: &Object) -> String {
    let (group, resource) = (o.str_at(&["spec", "resource", "group"]), o.str_at(&["spec", "resource", "resource"]));
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rule: impl Fn(&mut Problems)) -> Vec<String> {
        let mut p = Problems::new();
        rule(&mut p);
        p.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_migrated_stays_and_so_does_success() {
        let old = StorageVersionMigration::example();
        let mut other = old.clone();
        other.0["spec"]["resource"]["resource"] = "pods".into();
        assert_eq!(said(|p| StorageVersionMigration::validate_update(&other, &old, p)), ["resource: Invalid value: \"pods\": field is immutable"]);
        let with = |kind: &str| {
            let mut o = old.clone();
            o.0["status"] = json!({"conditions": [{"type": kind, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            o
        };
        assert!(said(|p| StorageVersionMigration::validate_status(&with(SUCCEEDED), &old, p)).is_empty());
        assert!(said(|p| StorageVersionMigration::validate_status(&with(FAILED), &with(SUCCEEDED), p))[0].ends_with("Success condition cannot be set to false once it is true"));
    }
}
