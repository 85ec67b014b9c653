//! OpenAPI v3 documents from the schema table, one a group-version, made on demand; the caller caches the bytes.
//!
//! What clients read of it: `kubectl explain` (schemas and descriptions), `kubectl apply` (list types, merge keys), and kubectl's probe for
//! `fieldValidation` (query parameters of the patch operation). Deliberately absent: the deprecated `/watch/` paths.

mod paths;
mod schemas;

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
    document_of(crate::schema::builtin(), resources)
}

/// As [`document`], over any schema.
pub fn document_of(schema: &Schema, resources: &[Resource]) -> Vec<u8> {
    let texts = crate::schema::descriptions();
    let mut roots = BTreeSet::from([format!("{META}.DeleteOptions"), format!("{META}.Status"), format!("{META}.Patch"), format!("{META}.WatchEvent")]);
    let mut out = Map::new();
    for r in resources {
        roots.extend([r.schema.clone(), format!("{}List", r.schema)]);
        roots.extend(r.subresources.iter().map(|s| s.schema.clone()).filter(|s| !s.is_empty()));
        paths::add(r, &mut out);
    }
    let components = components(schema, &texts, roots);
    let doc = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": out,
        "components": {"schemas": components, "securitySchemes": {"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}}},
    });
    serde_json::to_vec(&doc).expect("a JSON tree always encodes")
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
