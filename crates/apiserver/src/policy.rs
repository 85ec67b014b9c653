//! What authentication and authorization need to know of stored objects, read from the registry.

use keles_api::Object;
use keles_auth::User;
use keles_auth::authenticators::bootstrap_token::Objects;
use keles_auth::node::PodReferences;
use keles_auth::rbac::{PolicyObjects, PolicySource};
use keles_auth::tokens::{BoundObjects, Found};
use keles_registry::{Call, PatchType, Registry, Request as About, Verb};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

const RBAC: &str = "rbac.authorization.k8s.io";

const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

/// Remembered pods; beyond it the memory is dropped and built anew.
const REMEMBERED: usize = 4096;

/// The registry as the authorizers and the token authenticator see it.
pub struct FromRegistry {
    registry: Arc<Registry>,
    /// The pod that last justified a node's need, by what it needed: looked at first, so that the pods of a namespace are searched
    /// only for what no known pod names.
    justified: Mutex<HashMap<String, String>>,
}

impl FromRegistry {
    pub fn new(registry: Arc<Registry>) -> Self {
        FromRegistry { registry, justified: Mutex::default() }
    }
    fn justified(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.justified.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl PolicySource for FromRegistry {
    fn version(&self) -> u64 {
        ["clusterroles", "clusterrolebindings", "roles", "rolebindings"].iter().map(|r| self.registry.changed(RBAC, r)).sum()
    }
    fn load(&self) -> PolicyObjects {
        let all = |plural| self.registry.read_all(RBAC, plural, "");
        PolicyObjects { cluster_roles: all("clusterroles"), roles: all("roles"), cluster_role_bindings: all("clusterrolebindings"), role_bindings: all("rolebindings") }
    }
}

impl BoundObjects for FromRegistry {
    fn find(&self, plural: &str, namespace: &str, name: &str) -> Option<Found> {
        let o = self.registry.read("", plural, namespace, name)?;
        let deletion = o.deletion_timestamp().and_then(|t| t.parse::<jiff::Timestamp>().ok()).map(|t| t.as_second());
        Some(Found { uid: o.uid().into(), deletion_unix_seconds: deletion })
    }
}

impl Objects for FromRegistry {
    fn read(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.registry.read("", plural, namespace, name)
    }
    /// Notes the day in the label that upstream's clean-up of old tokens reads, at most once a day.
    fn legacy_token_used(&self, secret: &Object) {
        let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
        if secret.label(LAST_USED) == Some(&today) {
            return;
        }
        let request = About {
            user: User { name: "system:apiserver".into(), groups: vec![keles_auth::MASTERS.into()], ..User::default() },
            version: "v1".into(),
            plural: "secrets".into(),
            namespace: secret.namespace().into(),
            name: secret.name().into(),
            now: crate::chain::now(),
            ..About::default()
        };
        let body = serde_json::json!({"metadata": {"labels": {LAST_USED: today}}}).to_string().into();
        let call = Call { request, body, patch_type: Some(PatchType::Merge), user_agent: "kube-apiserver".into(), ..Call::default() };
        let registry = self.registry.clone();
        tokio::spawn(async move {
            if let Err(status) = registry.serve(Verb::Patch, call).await {
                tracing::debug!(%status, "the last use of a legacy token was not noted");
            }
        });
    }
}

impl FromRegistry {
    /// A volume counts for a node when a pod there uses the claim it is bound to.
    fn volume_needed(&self, node: &str, volume: &str) -> bool {
        let Some(v) = self.registry.read("", "persistentvolumes", "", volume) else { return false };
        let (namespace, claim) = (v.str_at(&["spec", "claimRef", "namespace"]), v.str_at(&["spec", "claimRef", "name"]));
        !claim.is_empty() && self.needed(node, "persistentvolumeclaims", namespace, claim)
    }
}

impl PodReferences for FromRegistry {
    fn needed(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let says = |group: &str, field: &[&str]| self.registry.read(group, resource, namespace, name).is_some_and(|o| o.str_at(field) == node);
        match resource {
            "pods" => return says("", &["spec", "nodeName"]),
            "volumeattachments" => return says("storage.k8s.io", &["spec", "nodeName"]),
            "resourceslices" => return says("resource.k8s.io", &["spec", "nodeName"]),
            "persistentvolumes" => return self.volume_needed(node, name),
            _ => {}
        }
        let justifies = |p: &Object| p.str_at(&["spec", "nodeName"]) == node && refers(p, resource, name);
        let need = format!("{node}/{resource}/{namespace}/{name}");
        let known = self.justified().get(&need).cloned();
        if known.and_then(|pod| self.registry.read("", "pods", namespace, &pod)).is_some_and(|p| justifies(&p)) {
            return true;
        }
        let found = self.registry.read_all("", "pods", namespace).into_iter().find(justifies);
        let mut all = self.justified();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        match &found {
            Some(p) => all.insert(need, p.name().to_owned()),
            None => all.remove(&need),
        };
        // The next question is asked of this function again.
        drop(all);
        found.is_some() || (resource == "secrets" && self.secret_of_volume_needed(node, namespace, name))
    }
}

/// Fields of a volume's CSI source that name a secret which some part of the driver is given.
const VOLUME_SECRETS: [&str; 5] = ["controllerPublishSecretRef", "nodePublishSecretRef", "nodeStageSecretRef", "controllerExpandSecretRef", "nodeExpandSecretRef"];

impl FromRegistry {
    /// Whether a volume that the node needs has this secret.
    fn secret_of_volume_needed(&self, node: &str, namespace: &str, name: &str) -> bool {
        let has = |volume: &Object| {
            let named = |field: &&str| volume.str_at(&["spec", "csi", field, "name"]) == name && volume.str_at(&["spec", "csi", field, "namespace"]) == namespace;
            VOLUME_SECRETS.iter().any(|field| named(&field))
        };
        let volumes = self.registry.read_all("", "persistentvolumes", "");
        volumes.iter().any(|volume| has(volume) && self.volume_needed(node, volume.name()))
    }
}

/// Whether a pod's spec names the object, in the fields that the kubelet reads.
pub fn refers(pod: &Object, resource: &str, name: &str) -> bool {
    match resource {
        "serviceaccounts" => pod.str_at(&["spec", "serviceAccountName"]) == name,
        "secrets" => names(pod, &SECRETS, |v| v == name),
        "configmaps" => names(pod, &CONFIG_MAPS, |v| v == name),
        "persistentvolumeclaims" => list(pod.at(&["spec", "volumes"])).any(|v| {
            let own = || v["ephemeral"].is_object() && format!("{}-{}", pod.name(), v["name"].as_str().unwrap_or_default()) == name;
            v["persistentVolumeClaim"]["claimName"] == name || own()
        }),
        "resourceclaims" => {
            let direct = list(pod.at(&["spec", "resourceClaims"])).any(|c| c["resourceClaimName"] == name);
            direct || list(pod.at(&["status", "resourceClaimStatuses"])).any(|c| c["resourceClaimName"] == name)
        }
        _ => false,
    }
}

/// Whether a pod's spec names any object of the resource (`secrets`, `configmaps`).
pub fn any_reference(pod: &Object, resource: &str) -> bool {
    names(pod, if resource == "secrets" { &SECRETS } else { &CONFIG_MAPS }, |v| v.as_str().is_some_and(|name| !name.is_empty()))
}

/// Where a pod names objects of one resource.
struct Places {
    env_from: &'static str,
    env: &'static str,
    /// (volume type, field of the name)
    volumes: &'static [(&'static str, &'static str)],
    projected: &'static str,
    pull_secrets: bool,
}

const SECRETS: Places = Places { env_from: "secretRef", env: "secretKeyRef", volumes: &[("secret", "secretName")], projected: "secret", pull_secrets: true };
const CONFIG_MAPS: Places = Places { env_from: "configMapRef", env: "configMapKeyRef", volumes: &[("configMap", "name")], projected: "configMap", pull_secrets: false };
/// Volume types whose secret hangs on a reference.
const SECRET_REFS: &[(&str, &str)] = &[
    ("azureFile", ""),
    ("cephfs", "secretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
    ("csi", "nodePublishSecretRef"),
];

fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

fn names(pod: &Object, places: &Places, is: impl Fn(&Value) -> bool) -> bool {
    let spec = pod.at(&["spec"]);
    let containers = ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(|f| list(&spec[f]));
    let in_container = |c: &Value| list(&c["envFrom"]).any(|e| is(&e[places.env_from]["name"])) || list(&c["env"]).any(|e| is(&e["valueFrom"][places.env]["name"]));
    let in_volume = |v: &Value| {
        places.volumes.iter().any(|(kind, field)| is(&v[*kind][*field]))
            || list(&v["projected"]["sources"]).any(|s| is(&s[places.projected]["name"]))
            || (places.pull_secrets && SECRET_REFS.iter().any(|(kind, field)| is(&v[*kind][*field]["name"]) || is(&v[*kind]["secretName"])))
    };
    containers.into_iter().any(in_container) || list(&spec["volumes"]).any(in_volume) || (places.pull_secrets && list(&spec["imagePullSecrets"]).any(|s| is(&s["name"])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_names_its_secrets_in_every_place() {
        let pod = Object(json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"envFrom": [{"secretRef": {"name": "from"}}], "env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
            "volumes": [{"name": "a", "secret": {"secretName": "vol"}}, {"name": "b", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "cm"}}]}},
                        {"name": "c", "csi": {"nodePublishSecretRef": {"name": "csi"}}}, {"name": "d", "ephemeral": {}}]}}));
        for s in ["pull", "from", "key", "vol", "proj", "csi"] {
            assert!(refers(&pod, "secrets", s), "{s}");
        }
        assert!(!refers(&pod, "secrets", "cm") && refers(&pod, "configmaps", "cm"));
        assert!(refers(&pod, "persistentvolumeclaims", "p-d"));
        let bare = Object(json!({"spec": {"containers": [{}], "volumes": [{"emptyDir": {}}]}}));
        assert!(any_reference(&pod, "secrets") && any_reference(&pod, "configmaps") && !any_reference(&bare, "secrets") && !any_reference(&bare, "configmaps"));
    }
}
