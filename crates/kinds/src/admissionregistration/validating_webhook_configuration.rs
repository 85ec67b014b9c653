//! ValidatingWebhookConfiguration: servers that are asked whether a change may be made (admissionregistration.k8s.io/v1).

use crate::admissionregistration::rules;
use crate::field::Field;
use crate::table::{self, AGE, NAME, column};
use keles_api::{Object, Problems};
use keles_registry::kind::{Column, Info, Kind, Scope, Served};
use serde_json::json;

pub struct ValidatingWebhookConfiguration;

const COLUMNS: &[Column<Object>] =
    &[NAME, column("Webhooks", "integer", "Webhooks indicates the number of webhooks registered in this configuration", |o, _| table::len_cell(o, &["webhooks"])), AGE];

impl Kind for ValidatingWebhookConfiguration {
    type Object = Object;
    const INFO: Info = Info {
        kind: "ValidatingWebhookConfiguration",
        plural: "validatingwebhookconfigurations",
        singular: "validatingwebhookconfiguration",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "admissionregistration.k8s.io", version: "v1", schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration" }],
        generation: true,
        unconditional_update: false,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "sample"},
            "webhooks": [{"name": "a.b.example", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"url": "https://hook.example/x"}}]
        }))
    }

    fn set_defaults(o: &mut Object) {
        rules::default_webhooks(&mut o.0, false);
    }

    fn validate(o: &Object, p: &mut Problems) {
        rules::webhooks(&Field::root(o), None, false, p);
    }

    fn validate_update(new: &Object, old: &Object, p: &mut Problems) {
        rules::webhooks(&Field::root(new), Some(&Field::root(old)), false, p);
    }
}
