//! OpenAPI documents from the schema table: v3, one a group-version, group or other path; v2 ([`swagger()`]) made from those, also in the
//! binary form of [`gnostic`]. Made on demand; the caller caches the bytes.
//!
//! What clients read of it: `kubectl explain` (schemas and descriptions), `kubectl apply` (list types, merge keys), and kubectl's probe for
//! `fieldValidation` (query parameters of the patch operation).

pub mod gnostic;
mod paths;
mod schemas;
mod swagger;

pub use swagger::{Parts, frame, swagger};

use crate::schema::{Descriptions, Schema};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A resource of a group-version, as its document lists it.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub kind: String,
    pub namespaced: bool,
    /// Name in the schema table.
    pub schema: String,
    /// As discovery prints them.
    pub verbs: Vec<String>,
    pub subresources: Vec<Subresource>,
}

/// A subresource; empty group, version and schema are the parent's.
#[derive(Clone, Debug, Default)]
pub struct Subresource {
    pub name: String,
    pub group: String,
    pub version: String,
    pub kind: String,
    pub schema: String,
    pub verbs: Vec<String>,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The document of one group-version. Resources of other group-versions must not be among them.
pub fn document(resources: &[Resource]) -> Vec<u8> {
    bytes(&tree(resources))
}

/// [`document`] as a tree, for who adds to it.
pub fn tree(resources: &[Resource]) -> Value {
    let mut out = Map::new();
    resources.iter().for_each(|r| paths::add(r, &mut out));
    if let Some(r) = resources.first() {
        paths::add_root(&r.group, &r.version, &mut out);
    }
    with_components(out, |roots| {
        let mut all = components(crate::schema::builtin(), &crate::schema::descriptions(), roots);
        // Options and events are kinds of every group; a document names its own.
        let own = |g: &Value| resources.iter().any(|r| g["group"] == r.group.as_str() && g["version"] == r.version.as_str());
        for name in [format!("{META}.DeleteOptions"), format!("{META}.WatchEvent")] {
            if let Some(kinds) = all.get_mut(&name).and_then(|t| t[KINDS].as_array_mut()) {
                kinds.retain(|g| (g["group"] == "" && g["version"] == "v1") || own(g));
            }
        }
        all
    })
}

const KINDS: &str = "x-kubernetes-group-version-kind";

/// The document of a group's own path (`/apis/apps/`), of `/api/` for the core group.
pub fn group_document(group: &str) -> Vec<u8> {
    plain_document(|out| paths::add_group(group, out))
}

/// The document of `/apis/`.
pub fn groups_document() -> Vec<u8> {
    plain_document(paths::add_groups)
}

/// The document of `/version/`.
pub fn version_document() -> Vec<u8> {
    const INFO: &str = "io.k8s.apimachinery.pkg.version.Info";
    plain_document(|out| paths::describing("/version/", "getCodeVersion", "version", "get the version information for this server", &["application/json"], INFO, out))
}

/// The document of the token issuer's keys.
pub fn jwks_document() -> Vec<u8> {
    let get = json!({
        "description": "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
        "operationId": "getServiceAccountIssuerOpenIDKeyset",
        "responses": {"200": {"content": {"application/jwk-set+json": {"schema": {"type": "string"}}}, "description": "OK"}, "401": {"description": "Unauthorized"}},
        "tags": ["openid"],
    });
    bytes(&with_components(Map::from_iter([("/openid/v1/jwks/".to_owned(), json!({"get": get}))]), |_| Map::new()))
}

fn plain_document(add: impl FnOnce(&mut Map<String, Value>)) -> Vec<u8> {
    let mut out = Map::new();
    add(&mut out);
    bytes(&with_components(out, |roots| components(crate::schema::builtin(), &crate::schema::descriptions(), roots)))
}

fn bytes(doc: &Value) -> Vec<u8> {
    serde_json::to_vec(doc).expect("a JSON tree always encodes")
}

/// A document of these paths, with the schemas made for what they refer to.
fn with_components(paths: Map<String, Value>, components: impl FnOnce(BTreeSet<String>) -> Map<String, Value>) -> Value {
    let mut roots = BTreeSet::new();
    paths.values().for_each(|v| references(v, &mut roots));
    let mut doc = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "components": {"securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}}},
    });
    doc["paths"] = paths.into();
    let schemas = components(roots);
    if !schemas.is_empty() {
        doc["components"]["schemas"] = schemas.into();
    }
    doc
}

fn references(v: &Value, out: &mut BTreeSet<String>) {
    match v {
        Value::Object(o) => {
            if let Some(name) = o.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/components/schemas/")) {
                out.insert(name.to_owned());
            }
            o.values().for_each(|v| references(v, out));
        }
        Value::Array(a) => a.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

/// The schemas of these types and of all that they refer to.
pub fn components(schema: &Schema, texts: &Descriptions, roots: impl IntoIterator<Item = String>) -> Map<String, Value> {
    let mut waiting: Vec<String> = roots.into_iter().collect();
    let mut out = Map::new();
    while let Some(name) = waiting.pop() {
        if out.contains_key(&name) {
            continue;
        }
        let Some(ty) = schema.get(&name) else { continue };
        let (json, refers_to) = schemas::of_type(ty, texts);
        waiting.extend(refers_to);
        out.insert(name, json);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_what_kubectl_looks_for() {
        let verbs = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
        let r = Resource {
            group: "apps".into(),
            version: "v1".into(),
            plural: "deployments".into(),
            kind: "Deployment".into(),
            namespaced: true,
            schema: "io.k8s.api.apps.v1.Deployment".into(),
            verbs: verbs(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
            subresources: vec![Subresource {
                name: "scale".into(),
                group: "autoscaling".into(),
                version: "v1".into(),
                kind: "Scale".into(),
                schema: "io.k8s.api.autoscaling.v1.Scale".into(),
                verbs: verbs(&["get", "patch", "update"]),
            }],
        };
        let doc: Value = serde_json::from_slice(&document(&[r])).unwrap();
        let patch = &doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "apps", "version": "v1", "kind": "Deployment"}));
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        assert_eq!(doc["paths"]["/apis/apps/v1/deployments"]["get"]["x-kubernetes-action"], "list");
        assert_eq!(doc["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
        let containers = &doc["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(doc["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentList"].is_object());
    }
}
