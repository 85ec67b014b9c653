//! APIService: who serves a group and version (apiregistration.k8s.io/v1).

use crate::admissionregistration::rules::port;
use crate::field::clear_status;
use crate::field::{Field, default_pointer, invalid_each, one_of};
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keles_api::{Object, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, NameRule, Request, Scope, Served};
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
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
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

    fn set_defaults(o: &mut Object) {
        if let Some(service) = o.at_mut(&["spec", "service"]).filter(|s| s.is_object()) {
            default_pointer(service, "port", 443);
        }
    }

    fn validate_status(new: &Object, _: &Object, p: &mut Problems) {
        for c in Field::root(new).get("status").items("conditions") {
            one_of(p, &c.at("status"), c.str("status"), &["True", "False", "Unknown"]);
        }
    }

    fn validate(o: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let spec = root.get("spec");
        let (group, version) = (spec.str("group"), spec.str("version"));
        let wanted = format!("{version}.{group}");
        if !o.name().is_empty() && o.name() != wanted {
            p.invalid(&root.get("metadata").at("name"), o.name(), format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\""));
        }
        match group {
            "" if version != "v1" => p.required(&spec.at("group"), "only v1 may have an empty group and it better be legacy kube"),
            "" => {}
            _ => invalid_each(p, &spec.at("group"), group, names::dns_subdomain(group, false)),
        }
        invalid_each(p, &spec.at("version"), version, names::dns1035_label(version, false));
        for (name, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
            let n = spec.int(name);
            if n <= 0 || n > max {
                p.invalid(&spec.at(name), n, format!("must be positive and less than {max}"));
            }
        }
        reached(&spec, p);
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

/// A local APIService needs no certificate; a remote one must be named and trusted in one way.
fn reached(spec: &Field, p: &mut Problems) {
    let service = spec.get("service");
    let has_bundle = !spec.str("caBundle").is_empty();
    if !service.is_set() {
        if has_bundle {
            p.invalid(&spec.at("caBundle"), format!("{} bytes", BASE64.decode(spec.str("caBundle")).map_or(0, |b| b.len())), "local APIServices may not have a caBundle");
        }
        if spec.bool("insecureSkipTLSVerify") {
            p.invalid(&spec.at("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for name in ["namespace", "name"].iter().filter(|n| service.str(n).is_empty()) {
        p.required(&service.at(name), "");
    }
    port(&service, p);
    if spec.bool("insecureSkipTLSVerify") && has_bundle {
        p.invalid(&spec.at("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
    }
}
