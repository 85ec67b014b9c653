//! ServiceAccount: every pod runs as one, and gets its token, the cluster's CA and its namespace mounted.

use super::{is, list, list_mut};
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_registry::{Admission, Attributes, Follow, Operation};
use rand::Rng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub struct ServiceAccount;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Upstream's life of projected tokens: a little over an hour, so that they are known apart from asked-for hours.
const TOKEN_SECONDS: i64 = 3607;
const FILE_MODE: i64 = 0o644;
/// A fresh namespace gets its default account from a controller in a moment: worth a short wait, as upstream waits.
const ACCOUNT_PATIENCE: Duration = Duration::from_millis(500);

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && is(a, "", "pods")
    }
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, pod: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        if pod.annotation(MIRROR).is_some() || !pod.0["spec"].is_object() {
            return Ok(());
        }
        let mut name = pod.str_at(&["spec", "serviceAccountName"]).to_owned();
        if name.is_empty() {
            name = Some(pod.str_at(&["spec", "serviceAccount"])).filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
        }
        pod.0["spec"]["serviceAccountName"] = name.clone().into();
        pod.0["spec"]["serviceAccount"] = name.clone().into();
        let account = look_up(a, pod, &name).await?;
        let wants = |o: &Object, path: &[&str]| o.at(path).as_bool();
        if wants(pod, &["spec", "automountServiceAccountToken"]).or_else(|| wants(&account, &["automountServiceAccountToken"])).unwrap_or(true) {
            mount(pod);
        }
        if list(pod.at(&["spec", "imagePullSecrets"])).next().is_none()
            && let Some(secrets) = account.at(&["imagePullSecrets"]).as_array().filter(|s| !s.is_empty())
        {
            pod.0["spec"]["imagePullSecrets"] = Value::Array(secrets.clone());
        }
        Ok(())
    }
}

async fn look_up(a: &Attributes<'_>, pod: &Object, name: &str) -> Result<Arc<Object>, Status> {
    let namespace = a.request.namespace.as_str();
    let read = || a.registry.read("", "serviceaccounts", namespace, name);
    let mut found = read();
    if found.is_none() && name == "default" {
        let mut changes = Follow::new(a.registry, &[("", "serviceaccounts")], ACCOUNT_PATIENCE);
        let appears = async {
            loop {
                if let Some(o) = read() {
                    return Some(o);
                }
                if !changes.next(false).await {
                    return None;
                }
            }
        };
        found = tokio::time::timeout(ACCOUNT_PATIENCE, appears).await.ok().flatten();
    }
    if let Some(o) = found {
        return Ok(o);
    }
    Err(Status::forbidden("", "pods", pod.name(), format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found")))
}

/// Mounts the token volume into every container that mounts nothing there; makes the volume when one did.
fn mount(pod: &mut Object) {
    let known = list(pod.at(&["spec", "volumes"])).filter_map(|v| v["name"].as_str()).find(|n| n.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let volume = known.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", suffix()));
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        for c in pod.0["spec"].get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter(|c| c.is_object()) {
            if list(&c["volumeMounts"]).any(|m| m["mountPath"] == MOUNT_PATH) {
                continue;
            }
            list_mut(c, "volumeMounts").push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            mounted = true;
        }
    }
    if mounted && known.is_none() {
        list_mut(&mut pod.0["spec"], "volumes").push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": FILE_MODE, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Five characters of upstream's alphabet for generated names, which spells no words.
fn suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    (0..5).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_and_not_over_an_own_mount() {
        let mut pod = Object(json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]}}));
        mount(&mut pod);
        assert_eq!(pod.0["spec"]["containers"][0]["volumeMounts"][0]["readOnly"], true);
        assert_eq!(list(&pod.0["spec"]["containers"][1]["volumeMounts"]).count(), 1);
        assert_eq!(list(&pod.0["spec"]["volumes"]).count(), 1);
        let once = pod.clone();
        mount(&mut pod);
        assert_eq!(pod, once);
    }
}
