//! Ingress: HTTP from outside to Services (networking.k8s.io/v1).

use crate::field::{Field, invalid_each, set};
use crate::formats;
use crate::ip;
use crate::subresource::status;
use crate::table::{self, AGE, NAME, column, text};
use keles_api::{Object, Path, Problems, names};
use keles_registry::kind::{Column, Info, Kind, MetadataChecks, Request, Served};
use serde_json::json;

pub struct Ingress;

const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Class", "string", "The name of the IngressClass resource that should be used for additional configuration", |o, _| {
        table::str_or(o, &["spec", "ingressClassName"], "<none>")
    }),
    column("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule", |o, _| text(hosts(o))),
    column("Address", "string", "Address is a list containing ingress points for the load-balancer", |o, _| text(table::load_balancer(o.at(&["status", "loadBalancer"])))),
    column("Ports", "string", "Ports of TLS configurations that open", |o, _| text(if table::len(o.at(&["spec", "tls"])) > 0 { "80, 443" } else { "80" })),
    AGE,
];

impl Kind for Ingress {
    type Object = Object;
    const INFO: Info = Info {
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        served: &[Served { group: "networking.k8s.io", version: "v1", schema: "io.k8s.api.networking.v1.Ingress" }],
        subresources: &[status("Ingress")],
        generation: true,
        metadata_checks: MetadataChecks { update: 4, ..MetadataChecks::USUAL },
        ..Info::BASE
    };

    fn columns() -> &'static [Column<Object>] {
        COLUMNS
    }

    fn example() -> Object {
        Object(json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": {"name": "sample", "namespace": "default"},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}
        }))
    }

    fn prepare_create(o: &mut Object, _: &Request) {
        set(&mut o.0, "status", json!({"loadBalancer": {}}));
    }

    /// On create the annotation of old and the field must not contradict each other.
    fn validate(o: &Object, p: &mut Problems) {
        Self::validate_update(o, o, p);
        let class = o.str_at(&["spec", "ingressClassName"]);
        if let Some(old) = o.annotation(CLASS_ANNOTATION).filter(|old| !o.at(&["spec", "ingressClassName"]).is_null() && *old != class) {
            p.invalid(&Path::new("annotations").child(CLASS_ANNOTATION), old, "must match `ingressClassName` when both are specified");
        }
    }

    fn warnings(new: &Object, old: Option<&Object>, w: &mut Vec<String>) {
        if old.is_none() && new.annotation(CLASS_ANNOTATION).is_some() && new.at(&["spec", "ingressClassName"]).is_null() {
            w.push(format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead"));
        }
    }

    fn validate_status(new: &Object, old: &Object, p: &mut Problems) {
        let (balancer, before) = (Field::root(new).get("status").get("loadBalancer"), Field::root(old).get("status").get("loadBalancer"));
        let kept: Vec<&str> = before.list("ingress").iter().filter_map(|i| i["ip"].as_str()).collect();
        for one in balancer.items("ingress") {
            if !one.str("ip").is_empty() {
                ip::legacy(p, &one.at("ip"), one.str("ip"), &kept);
            }
            let name = one.str("hostname");
            if !name.is_empty() {
                invalid_each(p, &one.at("hostname"), name, names::dns_subdomain(name, false));
                not_an_address(p, &one.at("hostname"), name);
            }
        }
    }

    fn validate_update(o: &Object, _: &Object, p: &mut Problems) {
        let root = Field::root(o);
        let spec = root.get("spec");
        if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
            p.invalid(spec.path(), spec.get("rules").value().clone(), "either `defaultBackend` or `rules` must be specified");
        }
        if spec.has("defaultBackend") {
            backend(&spec.get("defaultBackend"), p);
        }
        for rule in spec.items("rules") {
            host(&rule.at("host"), rule.str("host"), p);
            if rule.has("http") {
                paths(&rule.get("http"), p);
            }
        }
        for tls in spec.items("tls") {
            for h in tls.items("hosts") {
                match h.text() {
                    name if name.contains('*') => wildcard(h.path(), name, p),
                    name => invalid_each(p, h.path(), name, names::dns_subdomain(name, false)),
                }
            }
            let secret = tls.str("secretName");
            if !secret.is_empty() {
                invalid_each(p, &tls.at("secretName"), secret, names::dns_subdomain(secret, false));
            }
        }
        if let Some(class) = spec.opt_str("ingressClassName") {
            invalid_each(p, &spec.at("ingressClassName"), class, names::dns_subdomain(class, false));
        }
    }
}

fn hosts(o: &Object) -> String {
    let rules = table::list(o.at(&["spec", "rules"]));
    let all: Vec<String> = rules.iter().filter_map(|r| r["host"].as_str().filter(|h| !h.is_empty())).map(str::to_owned).collect();
    if all.is_empty() { "*".into() } else { table::shorten(&all) }
}

fn wildcard(at: &Path, name: &str, p: &mut Problems) {
    let rest = name.strip_prefix("*.").unwrap_or("");
    if rest.is_empty() || !names::dns_subdomain(rest, false).is_empty() {
        p.invalid(at, name, "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')");
    }
}

fn host(at: &Path, name: &str, p: &mut Problems) {
    if name.is_empty() {
        return;
    }
    not_an_address(p, at, name);
    match name.contains('*') {
        true => wildcard(at, name, p),
        false => invalid_each(p, at, name, names::dns_subdomain(name, false)),
    }
}

fn not_an_address(p: &mut Problems, at: &Path, name: &str) {
    if ip::parse_sloppy(name).is_some() {
        p.invalid(at, name, "must be a DNS name, not an IP address");
    }
}

/// How an Ingress named its class before there was a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const NOT_IN_PATHS: &[&str] = &["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_END: &[&str] = &["/..", "/."];

fn paths(http: &Field, p: &mut Problems) {
    let all = http.items("paths");
    if all.is_empty() {
        p.required(&http.at("paths"), "");
    }
    for one in all {
        let (path, at) = (one.str("path"), one.at("path"));
        match one.opt_str("pathType") {
            None => {
                p.required(&one.at("pathType"), "pathType must be specified");
                continue;
            }
            Some("Exact" | "Prefix") => {
                if !path.starts_with('/') {
                    p.invalid(&at, path, "must be an absolute path");
                }
                if !path.is_empty() {
                    for bad in NOT_IN_PATHS.iter().filter(|s| path.contains(**s)) {
                        p.invalid(&at, path, format!("must not contain '{bad}'"));
                    }
                    for bad in NOT_AT_END.iter().filter(|s| path.ends_with(**s)) {
                        p.invalid(&at, path, format!("cannot end with '{bad}'"));
                    }
                }
            }
            Some("ImplementationSpecific") if !path.is_empty() && !path.starts_with('/') => p.invalid(&at, path, "must be an absolute path"),
            Some("ImplementationSpecific") => {}
            Some(other) => p.not_supported(&one.at("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
        }
        backend(&one.get("backend"), p);
    }
}

fn backend(b: &Field, p: &mut Problems) {
    let (service, resource) = (b.get("service"), b.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => p.invalid(b.path(), "", "cannot set both resource and service backends"),
        (false, false) => p.invalid(b.path(), "", "resource or service backend is required"),
        (false, true) => object_reference(&resource, p),
        (true, false) => service_backend(b, &service, p),
    }
}

fn service_backend(b: &Field, service: &Field, p: &mut Problems) {
    match service.str("name") {
        "" => p.required(&service.at("name"), ""),
        name => invalid_each(p, &service.at("name"), name, names::dns_label(name, false)),
    }
    let port = service.get("port");
    match (port.str("name"), port.int("number")) {
        ("", 0) => p.required(b.path(), "port name or number is required"),
        ("", n) => formats::port_number(n).into_iter().for_each(|m| p.invalid(&port.at("number"), n, m)),
        (name, 0) => invalid_each(p, &port.at("name"), name, formats::port_name(name)),
        _ => p.invalid(b.path(), "", "cannot set both port name & port number"),
    }
}

/// Another object of the same namespace.
pub fn object_reference(r: &Field, p: &mut Problems) {
    if let Some(group) = r.opt_str("apiGroup") {
        invalid_each(p, &r.at("apiGroup"), group, names::dns_subdomain(group, false));
    }
    for name in ["kind", "name"] {
        match r.str(name) {
            "" => p.required(&r.at(name), ""),
            value => invalid_each(p, &r.at(name), value, names::path_segment(value, false)),
        }
    }
}
