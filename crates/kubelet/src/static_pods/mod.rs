//! Static pods: manifests of this node that run whether or not there is an API server, and their mirrors, which show them in the API.
//!
//! Entry points: [`run`] reads a folder or file (told by the kernel when it changes, and looked at again every now and then) and a URL;
//! [`complete`] makes a pod of a manifest and is pure; [`Mirrors`] keeps the API's side. A changed manifest is another pod: its uid is a digest
//! of it, so an agent that is started anew takes over what runs.

mod mirrors;
mod sources;

pub use mirrors::{Mirrors, full_name, keep};
pub use sources::{Sources, run};

use k8s_openapi::api::core::v1::Pod;
use keles_api::Object;
use keles_api::problems::Problems;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Hex digits of a static pod's uid.
const UID_DIGITS: usize = 32;
/// Priorities of the classes that every cluster has; others cannot be looked up without an API server.
const CLASSES: [(&str, i32); 2] = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the pod comes from a manifest of this node.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api") && !is_mirror(pod)
}

/// Whether the API's object only shows a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// The manifest as the pod that this node runs. `origin` is the file or URL, `source` the annotation's word for its kind; the fault is for logs.
pub fn complete(manifest: Value, source: &str, origin: &str, node: &str) -> Result<Pod, String> {
    let mut object = Object(manifest);
    let fault = |error: &dyn std::fmt::Display| format!("{origin}: {error}");
    if object.0["kind"] != "Pod" || object.0["apiVersion"] != "v1" {
        return Err(fault(&"it is not a Pod of v1"));
    }
    let digest = Sha256::digest(format!("{}\nhost:{node}\n{source}:{origin}", object.0));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).take(UID_DIGITS / 2).collect();
    let metadata = object.0["metadata"].as_object_mut().ok_or_else(|| fault(&"it has no metadata"))?;
    let name = metadata.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()).ok_or_else(|| fault(&"it has no name"))?;
    let name = format!("{name}-{}", node.to_lowercase());
    metadata.insert("name".into(), name.into());
    metadata.entry("namespace").or_insert_with(|| "default".into());
    let uid = metadata.entry("uid").or_insert_with(|| digest.clone().into()).clone();
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if !annotations.is_object() {
        return Err(fault(&"its annotations are not a map"));
    }
    (annotations[HASH], annotations[SOURCE]) = (uid, source.into());
    let spec = object.0["spec"].as_object_mut().ok_or_else(|| fault(&"it has no spec"))?;
    spec.insert("nodeName".into(), node.into());
    let class = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
    if let Some((_, priority)) = CLASSES.iter().find(|(name, _)| *name == class) {
        spec.insert("priority".into(), json!(priority));
    }
    // Whatever happens to the node's taints, its own pods stay.
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(tolerations) = tolerations.as_array_mut() {
        tolerations.push(json!({"operator": "Exists", "effect": "NoExecute"}));
    }
    let kind = keles_kinds::find("", "v1", "pods").expect("pods are a built-in kind");
    kind.set_defaults(&mut object).map_err(|status| fault(&status.message))?;
    let mut problems = Problems::new();
    kind.validate(&object, &mut problems).map_err(|status| fault(&status.message))?;
    if let Some(problem) = problems.iter().next() {
        return Err(fault(&format!("{}: {}", problem.field, problem.detail)));
    }
    let mut pod: Pod = serde_json::from_value(object.0).map_err(|error| fault(&error))?;
    refuse_references(&pod).map_err(|error| fault(&error))?;
    pod.status = serde_json::from_value(json!({"phase": "Pending"})).ok();
    Ok(pod)
}

/// A pod that must run without an API server can use nothing of it.
fn refuse_references(pod: &Pod) -> Result<(), String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let volumes = spec.volumes.iter().flatten();
    let of_api = |volume: &&k8s_openapi::api::core::v1::Volume| {
        volume.config_map.is_some() || volume.secret.is_some() || volume.projected.is_some() || volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    };
    if let Some(volume) = volumes.clone().find(of_api) {
        return Err(format!("static pods may not reference API objects, as volume {} does", volume.name));
    }
    let reads = |container: &k8s_openapi::api::core::v1::Container| {
        let from = container.env_from.iter().flatten().next().is_some();
        from || container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()).any(|from| from.config_map_key_ref.is_some() || from.secret_key_ref.is_some())
    };
    match spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|container| reads(container)) {
        Some(container) => Err(format!("static pods may not reference API objects, as the variables of container {} do", container.name)),
        None if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) => Err("static pods may not have a service account".into()),
        None => Ok(()),
    }
}

/// What shows the pod in the API; owned by the node, so that it goes with it.
fn mirror_of(pod: &Pod, node_uid: &str) -> Value {
    let mut mirror = serde_json::to_value(pod).unwrap_or_default();
    let hash = annotation(pod, HASH).unwrap_or_default();
    mirror["metadata"]["annotations"][MIRROR] = hash.into();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    mirror["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true}]);
    for unset in ["uid", "resourceVersion"] {
        mirror["metadata"].as_object_mut().map(|metadata| metadata.remove(unset));
    }
    mirror
}

/// Whether the mirror shows this very pod.
fn shows(mirror: &Pod, pod: &Pod) -> bool {
    annotation(mirror, MIRROR) == annotation(pod, HASH) && mirror.metadata.deletion_timestamp.is_none()
}

/// A pod of the API's, whatever its annotations say: only this node's manifests are static pods.
pub fn of_api(pod: Arc<Pod>) -> Arc<Pod> {
    if annotation(&pod, SOURCE).is_none_or(|source| source == "api") {
        return pod;
    }
    let mut own = (*pod).clone();
    own.metadata.annotations.get_or_insert_default().insert(SOURCE.into(), "api".into());
    Arc::new(own)
}

/// The static pod as its worker is to see it: with what the API has of it.
pub fn with_mirror(pod: &Pod, mirror: &Pod) -> Pod {
    let mut seen = pod.clone();
    seen.status = mirror.status.clone();
    seen.metadata.resource_version = mirror.metadata.resource_version.clone();
    seen.metadata.generation = mirror.metadata.generation;
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: Value) -> Value {
        let mut manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (key, value) in extra.as_object().cloned().unwrap_or_default() {
            manifest["spec"][key] = value;
        }
        manifest
    }

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let make = |extra: Value, origin: &str| complete(manifest(extra), "file", origin, "n1").expect("valid");
        let pod = make(json!({"priorityClassName": "system-node-critical"}), "/m/web.yaml");
        assert_eq!((pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref()), (Some("web-n1"), Some("default")));
        let spec = pod.spec.clone().expect("a spec");
        assert_eq!((spec.node_name.as_deref(), spec.priority, spec.restart_policy.as_deref()), (Some("n1"), Some(2_000_001_000), Some("Always")));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"), "defaults are the API server's");
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert_eq!((annotation(&pod, HASH), annotation(&pod, SOURCE)), (pod.metadata.uid.as_deref(), Some("file")));
        assert_eq!(pod.metadata.uid, make(json!({"priorityClassName": "system-node-critical"}), "/m/web.yaml").metadata.uid, "the same at every start");
        for other in [make(json!({}), "/m/web.yaml"), make(json!({"priorityClassName": "system-node-critical"}), "/m/other.yaml")] {
            assert_ne!(pod.metadata.uid, other.metadata.uid);
        }
        let mirror: Pod = serde_json::from_value(mirror_of(&pod, "node-uid")).expect("a pod");
        assert!(is_mirror(&mirror) && !is_static(&mirror) && shows(&mirror, &pod) && mirror.metadata.uid.is_none());
        assert_eq!(mirror.metadata.owner_references.expect("owned")[0].uid, "node-uid");
    }

    #[test]
    fn what_needs_an_api_server_or_is_no_pod_is_refused_with_its_file() {
        let refused = |value: Value| complete(value, "file", "/m/a.yaml", "n").expect_err("refused");
        for (value, word) in [
            (json!({"kind": "Service", "apiVersion": "v1"}), "not a Pod"),
            (manifest(json!({"containers": []})), "spec.containers"),
            (manifest(json!({"volumes": [{"name": "v", "configMap": {"name": "x"}}]})), "may not reference API objects"),
            (manifest(json!({"serviceAccountName": "x"})), "service account"),
        ] {
            let said = refused(value);
            assert!(said.starts_with("/m/a.yaml: ") && said.contains(word), "{said}");
        }
    }
}
