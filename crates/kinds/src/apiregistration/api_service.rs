//! APIService: who serves a group and version (apiregistration.k8s.io/v1).

use crate::field::clear_status;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::Object;
use keles_registry::kind::{Column, Info, Kind, NameRule, Request, Scope, Served};
use serde_json::json;

pub struct APIService;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Service", "string", "The reference to the service that hosts this API endpoint.", |o, _| text(service(o))),
    column("Available", "string", "Whether this service is available.", |o, _| text(available(o))),
    AGE,
];

impl Kind for APIService {
    type Object = Object;
    const INFO: Info = Info {
        kind: "APIService",
        plural: "apiservices",
        singular: "apiservice",
        categories: &["api-extensions"],
        scope: Scope::Cluster,
        served: &[Served { group: "apiregistration.k8s.io", version: "v1", schema: "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService" }],
        subresources: &[status("APIService")],
        unconditional_update: false,
        name_rule: NameRule::Own,
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1.y.example"},
            "spec": {"group": "y.example", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        clear_status(o);
    }
}

fn service(o: &Object) -> String {
    let service = o.at(&["spec", "service"]);
    if service.is_null() { "Local".into() } else { format!("{}/{}", service["namespace"].as_str().unwrap_or(""), service["name"].as_str().unwrap_or("")) }
}

/// `True`, or `False (ServiceNotFound)`.
fn available(o: &Object) -> String {
    let Some(condition) = table::condition(o, "Available") else {
        return "Unknown".into();
    };
    match (condition["status"].as_str().unwrap_or(""), condition["reason"].as_str().unwrap_or("")) {
        ("True", _) => "True".into(),
        (status, reason) => format!("{status} ({reason})"),
    }
}
