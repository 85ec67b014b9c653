//! `/statusz` and `/flagz`: what a component is, for people and, when they say exactly what they want, for programs.
//!
//! Source: kubernetes.io/docs/reference/instrumentation/zpages (KEP-4827, KEP-4828). Plain text is what everybody gets; the structured form
//! of the group config.k8s.io must be asked for by group, version and kind, in JSON, YAML or CBOR. Nothing here knows HTTP.

use crate::metrics::started_unix_seconds;
use keles_api::{Status, cbor, yaml};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A component, as its pages show it.
#[derive(Clone, Debug)]
pub struct Component {
    /// `kube-apiserver`
    pub name: &'static str,
    /// `1.36.0+keles`
    pub version: &'static str,
    /// Roots of the paths it serves.
    pub paths: Vec<String>,
    /// Flags by name, secrets already left out.
    pub flags: BTreeMap<String, String>,
}

/// Body and media type.
pub type Page = (Vec<u8>, &'static str);

const TEXT: &str = "text/plain; charset=utf-8";
const GROUP: &str = "config.k8s.io";
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];
const EMULATION: &str = "1.36";
const COMPATIBILITY: &str = "1.35";
const WARNING: &str = "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.";
const STRUCTURED: [&str; 3] = ["application/json", "application/yaml", cbor::MEDIA_TYPE];

/// What an Accept header asks of a page.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Text,
    /// Version and media type.
    Structured(&'static str, &'static str),
}

/// 406 when nothing in the header can be given.
fn asked(accept: &str, kind: &str) -> Result<Asked, Status> {
    if accept.trim().is_empty() {
        return Ok(Asked::Text);
    }
    let clauses = accept.split(',').filter_map(|clause| {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next()?;
        let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).filter(|(k, _)| *k != "q").collect();
        match media {
            "text/plain" | "text/*" | "*/*" if parameters.iter().all(|(k, v)| *k == "charset" && v.eq_ignore_ascii_case("utf-8")) => Some(Asked::Text),
            _ => {
                let get = |name: &str| parameters.iter().find(|(k, _)| *k == name).map_or("", |(_, v)| v);
                let media = STRUCTURED.into_iter().find(|m| *m == media)?;
                let version = VERSIONS.into_iter().find(|v| *v == get("v"))?;
                (get("g") == GROUP && get("as") == kind).then_some(Asked::Structured(version, media))
            }
        }
    });
    let mut clauses = clauses;
    clauses.next().ok_or_else(|| Status::not_acceptable(&["text/plain", STRUCTURED[0], STRUCTURED[1], STRUCTURED[2]]))
}

fn structured(component: &Component, kind: &str, version: &str, media: &'static str, mut fields: Value) -> Page {
    fields["kind"] = kind.into();
    fields["apiVersion"] = format!("{GROUP}/{version}").into();
    fields["metadata"] = json!({"name": component.name});
    let body = match media {
        cbor::MEDIA_TYPE => cbor::encode(&fields),
        "application/yaml" => yaml::to_yaml(&fields).into(),
        _ => serde_json::to_vec(&fields).expect("a JSON tree always encodes"),
    };
    (body, media)
}

/// `/statusz`
pub fn statusz(c: &Component, accept: &str) -> Result<Page, Status> {
    let started = jiff::Timestamp::from_second(started_unix_seconds() as i64).unwrap_or_default();
    let up = (jiff::Timestamp::now().as_second() - started.as_second()).max(0);
    if let Asked::Structured(version, media) = asked(accept, "Statusz")? {
        let fields = json!({
            "startTime": started.to_string(), "uptimeSeconds": up, "goVersion": GO_VERSION, "binaryVersion": c.version,
            "emulationVersion": EMULATION, "minimumCompatibilityVersion": COMPATIBILITY, "paths": c.paths,
        });
        return Ok(structured(c, "Statusz", version, media, fields));
    }
    let text = format!(
        "\n{} statusz\n{WARNING}\n\nStarted: {}\nUp: {} hr {:02} min {:02} sec\nGo version: {GO_VERSION}\nBinary version: {}\nEmulation version: {EMULATION}\nPaths: {}\n",
        c.name,
        started.strftime("%a %b %e %H:%M:%S UTC %Y"),
        up / 3600,
        up / 60 % 60,
        up % 60,
        c.version,
        c.paths.join(" ")
    );
    Ok((text.into(), TEXT))
}

/// What stands where upstream names its Go.
pub const GO_VERSION: &str = "none (Rust)";

/// `/flagz`
pub fn flagz(c: &Component, accept: &str) -> Result<Page, Status> {
    if let Asked::Structured(version, media) = asked(accept, "Flagz")? {
        return Ok(structured(c, "Flagz", version, media, json!({"flags": c.flags})));
    }
    let mut text = format!("\n{} flags\n{WARNING}\n\n", c.name);
    text.extend(c.flags.iter().map(|(k, v)| format!("{k}={v}\n")));
    Ok((text.into(), TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component() -> Component {
        let flags = BTreeMap::from([("profiling".to_owned(), "true".to_owned()), ("data-dir".to_owned(), "/d".to_owned())]);
        Component { name: "kube-apiserver", version: "1.36.0+keles", paths: vec!["/healthz".into(), "/metrics".into()], flags }
    }
    fn text(p: Page) -> String {
        String::from_utf8(p.0).unwrap()
    }

    #[test]
    fn people_get_text_under_upstreams_headline() {
        for accept in ["", "*/*", "text/plain", "text/plain;charset=UTF-8", "application/json, text/plain"] {
            let p = statusz(&component(), accept).unwrap();
            assert_eq!(p.1, "text/plain; charset=utf-8", "{accept}");
            let said = text(p);
            assert!(said.starts_with("\nkube-apiserver statusz\nWarning: This endpoint is not meant to be machine parseable,"), "{said}");
            assert!(said.contains("\nBinary version: 1.36.0+keles\nEmulation version: 1.36\nPaths: /healthz /metrics\n"), "{said}");
        }
        assert!(text(flagz(&component(), "").unwrap()).ends_with("debugging purposes only.\n\ndata-dir=/d\nprofiling=true\n"));
    }

    #[test]
    fn programs_name_group_version_and_kind_or_get_406() {
        let of = |accept: &str| statusz(&component(), accept);
        let v: Value = serde_json::from_slice(&of("application/json;v=v1beta1;g=config.k8s.io;as=Statusz").unwrap().0).unwrap();
        assert_eq!((&v["kind"], &v["apiVersion"], &v["metadata"]["name"]), (&"Statusz".into(), &"config.k8s.io/v1beta1".into(), &"kube-apiserver".into()));
        assert!(v["uptimeSeconds"].is_u64() && v["paths"] == json!(["/healthz", "/metrics"]));
        let y = flagz(&component(), "application/yaml;g=config.k8s.io;v=v1alpha1;as=Flagz").unwrap();
        assert!(text(y).contains("apiVersion: config.k8s.io/v1alpha1\n"));
        let c = flagz(&component(), "application/cbor;g=config.k8s.io;v=v1beta1;as=Flagz").unwrap();
        assert_eq!(cbor::decode(&c.0).unwrap()["flags"]["profiling"], "true");
        for bad in ["application/json", "application/json;v=v9;g=config.k8s.io;as=Statusz", "application/json;v=v1beta1;g=config.k8s.io;as=Flagz", "text/html", "text/plain;x=1"] {
            assert_eq!(of(bad).unwrap_err().code, 406, "{bad}");
        }
    }
}
