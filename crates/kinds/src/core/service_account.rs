//! ServiceAccount: who the processes of a pod are to the API (v1).

use crate::field::items_mut;
use crate::table::{self, AGE, NAME, column};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Served, Subresource};
use serde_json::{Map, Value, json};

pub struct ServiceAccount;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Secrets", "string", "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.", |o, _| {
        table::len_cell(o, &["secrets"])
    }),
    AGE,
];

impl Kind for ServiceAccount {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        served: &[Served { group: "", version: "v1", schema: "io.k8s.api.core.v1.ServiceAccount" }],
        subresources: &[Subresource { name: "token", kind: "TokenRequest", group: "authentication.k8s.io", version: "v1", verbs: &["create"] }],
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sample", "namespace": "default"}}))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        keep_only_names(o);
    }

    fn prepare_update(new: &mut Object, _old: &Object, _: &Request) {
        keep_only_names(new);
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        if new.annotation(MOUNTABLE_ONLY).is_some() && old.is_none_or(|old| old.annotation(MOUNTABLE_ONLY).is_none()) {
            w.push(format!("metadata.annotations[{MOUNTABLE_ONLY}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"));
        }
    }
}

const MOUNTABLE_ONLY: &str = "kubernetes.io/enforce-mountable-secrets";

/// References to Secrets of the account's own namespace need no more than names.
fn keep_only_names(o: &mut Object) {
    for secret in items_mut(&mut o.0, "secrets") {
        let name: Map<String, Value> = secret.as_object().into_iter().flatten().filter(|(k, _)| *k == "name").map(|(k, v)| (k.clone(), v.clone())).collect();
        *secret = Value::Object(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_an_account_are_kept_by_name_alone() {
        let mut o = Object(json!({"secrets": [{"name": "s", "namespace": "other", "kind": "Secret"}]}));
        ServiceAccount::prepare_create(&mut o, &Request::default());
        assert_eq!(o.at(&["secrets"]), &json!([{"name": "s"}]));
    }
}
