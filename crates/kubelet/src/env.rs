//! A container's environment from every source, in upstream's order of precedence.
//!
//! Entry point: [`build`]. Later names win: services, envFrom, env; `$(VAR)` sees what stands before it.

use crate::expansion::expand;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};
use keles_volumes::{Mounted, Objects, downward, env_file};
use std::collections::BTreeMap;

/// The texts users see in CreateContainerConfigError.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("{0}")]
    Field(String),
    #[error("cannot find the volume \"{0}\" referenced by FileKeyRef")]
    NoVolume(String),
    #[error("couldn't parse env file")]
    EnvFile,
    #[error("environment variable key \"{key}\" not found in file \"{path}\"")]
    NoFileKey { key: String, path: String },
    #[error("{0}")]
    Api(#[from] keles_volumes::VolumeError),
}

/// Objects read once for one container.
struct Reader<'a> {
    objects: &'a dyn Objects,
    namespace: &'a str,
    mounted: &'a BTreeMap<String, Mounted>,
    maps: BTreeMap<String, Option<ConfigMap>>,
    secrets: BTreeMap<String, Option<Secret>>,
}

impl Reader<'_> {
    async fn map(&mut self, name: &str, optional: bool) -> Result<Option<&ConfigMap>, EnvError> {
        if !self.maps.contains_key(name) {
            let found = self.objects.config_map(self.namespace, name).await?;
            self.maps.insert(name.into(), found);
        }
        match self.maps.get(name).and_then(Option::as_ref) {
            None if !optional => Err(EnvError::NotFound { kind: "configmap", name: name.into() }),
            found => Ok(found),
        }
    }

    async fn secret(&mut self, name: &str, optional: bool) -> Result<Option<&Secret>, EnvError> {
        if !self.secrets.contains_key(name) {
            let found = self.objects.secret(self.namespace, name).await?;
            self.secrets.insert(name.into(), found);
        }
        match self.secrets.get(name).and_then(Option::as_ref) {
            None if !optional => Err(EnvError::NotFound { kind: "secret", name: name.into() }),
            found => Ok(found),
        }
    }
}

/// The container's variables without the image's; `services` are those of its namespace.
pub async fn build(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
    facts: &downward::Facts,
    services: &BTreeMap<String, String>,
    mounted: &BTreeMap<String, Mounted>,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut reader = Reader { objects, namespace, mounted, maps: BTreeMap::new(), secrets: BTreeMap::new() };
    let mut named = from_sources(container, &mut reader).await?;
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => from_reference(pod, container, variable, source, &mut reader, facts).await?,
            None => {
                let lookup = |name: &str| named.get(name).or_else(|| services.get(name)).cloned();
                Some(expand(variable.value.as_deref().unwrap_or_default(), &lookup))
            }
        };
        if let Some(value) = value {
            named.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        named.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(named.into_iter().collect())
}

async fn from_sources(container: &Container, reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>, EnvError> {
    let mut named = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            let map = reader.map(&reference.name, reference.optional == Some(true)).await?;
            let data = map.and_then(|map| map.data.as_ref()).into_iter().flatten();
            named.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
        }
        if let Some(reference) = &source.secret_ref {
            let secret = reader.secret(&reference.name, reference.optional == Some(true)).await?;
            let data = secret.and_then(|secret| secret.data.as_ref()).into_iter().flatten();
            named.extend(data.map(|(key, value)| (format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned())));
        }
    }
    Ok(named)
}

/// `None`: an optional reference without a value leaves the variable out.
async fn from_reference(
    pod: &Pod,
    container: &Container,
    variable: &EnvVar,
    source: &EnvVarSource,
    reader: &mut Reader<'_>,
    facts: &downward::Facts,
) -> Result<Option<String>, EnvError> {
    let namespace = reader.namespace.to_string();
    let no_key = |kind, name: &str, key: &str| EnvError::NoKey { kind, namespace, name: name.into(), key: key.into() };
    if let Some(field) = &source.field_ref {
        return downward::field(pod, &field.field_path, facts).map(Some).map_err(EnvError::Field);
    }
    if let Some(selector) = &source.resource_field_ref {
        let value = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => downward::resource_of(pod, name, selector, facts),
            None => downward::resource(container, selector, facts),
        };
        return value.map(Some).map_err(EnvError::Field);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = reader.map(&reference.name, optional).await? else { return Ok(None) };
        return match map.data.as_ref().and_then(|data| data.get(&reference.key)) {
            None if !optional => Err(no_key("ConfigMap", &reference.name, &reference.key)),
            value => Ok(value.cloned()),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = reader.secret(&reference.name, optional).await? else { return Ok(None) };
        return match secret.data.as_ref().and_then(|data| data.get(&reference.key)) {
            None if !optional => Err(no_key("Secret", &reference.name, &reference.key)),
            value => Ok(value.map(|value| String::from_utf8_lossy(&value.0).into_owned())),
        };
    }
    if let Some(reference) = &source.file_key_ref {
        let optional = reference.optional == Some(true);
        let volume = reader.mounted.get(&reference.volume_name).ok_or_else(|| EnvError::NoVolume(reference.volume_name.clone()))?;
        return match env_file::read(&volume.path, &reference.path, &reference.key) {
            // An empty value counts as none, as upstream's does.
            Ok(Some(value)) if !value.is_empty() => Ok(Some(value)),
            _ if optional => Ok(None),
            Ok(_) => Err(EnvError::NoFileKey { key: reference.key.clone(), path: reference.path.clone() }),
            Err(fault) => {
                tracing::info!(%fault, volume = reference.volume_name, path = reference.path, "env file not read");
                Err(EnvError::EnvFile)
            }
        };
    }
    Err(EnvError::Field(format!("env variable {} names a source this node does not support", variable.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use keles_volumes::{Token, TokenAsk, VolumeError};
    use serde_json::json;

    /// One ConfigMap `cfg` and one Secret `sec`.
    struct OneOfEach;

    #[async_trait]
    impl Objects for OneOfEach {
        async fn config_map(&self, _: &str, name: &str) -> keles_volumes::Result<Option<ConfigMap>> {
            Ok((name == "cfg").then(|| serde_json::from_value(json!({"data": {"a": "one", "b.txt": "two"}})).expect("a ConfigMap")))
        }
        async fn secret(&self, _: &str, name: &str) -> keles_volumes::Result<Option<Secret>> {
            Ok((name == "sec").then(|| serde_json::from_value(json!({"data": {"p": "czNjcmV0"}})).expect("a Secret")))
        }
        async fn trust_bundle(&self, _: &str) -> keles_volumes::Result<Option<k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle>> {
            Ok(None)
        }
        async fn trust_bundles_of(&self, _: &str) -> keles_volumes::Result<Vec<k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle>> {
            Ok(Vec::new())
        }
        async fn claim(&self, _: &str, _: &str) -> keles_volumes::Result<Option<k8s_openapi::api::core::v1::PersistentVolumeClaim>> {
            Ok(None)
        }
        async fn persistent_volume(&self, _: &str) -> keles_volumes::Result<Option<k8s_openapi::api::core::v1::PersistentVolume>> {
            Ok(None)
        }
        async fn node_labels(&self) -> keles_volumes::Result<BTreeMap<String, String>> {
            Ok(BTreeMap::new())
        }
        async fn token(&self, _: &TokenAsk) -> keles_volumes::Result<Token> {
            Err(VolumeError::Api("not part of this test".into()))
        }
        async fn csi_driver(&self, _: &str) -> keles_volumes::Result<Option<k8s_openapi::api::storage::v1::CSIDriver>> {
            Ok(None)
        }
        async fn attached(&self, _: &str, _: &str) -> keles_volumes::Result<k8s_openapi::api::storage::v1::VolumeAttachment> {
            Err(VolumeError::Api("not part of this test".into()))
        }
        async fn claim_grows(&self, _: &k8s_openapi::api::core::v1::PersistentVolumeClaim) -> keles_volumes::Result<()> {
            Ok(())
        }
        async fn claim_grew(&self, _: &k8s_openapi::api::core::v1::PersistentVolumeClaim, _: &k8s_openapi::api::core::v1::PersistentVolume) -> keles_volumes::Result<()> {
            Ok(())
        }
        async fn claim_did_not_grow(&self, _: &k8s_openapi::api::core::v1::PersistentVolumeClaim, _: bool) -> keles_volumes::Result<()> {
            Ok(())
        }
        fn tell(&self, _: &k8s_openapi::api::core::v1::Pod, _: bool, _: &'static str, _: String) {}
    }

    /// One volume `files` with the file `e.env` in a folder.
    fn mounted(folder: &std::path::Path) -> BTreeMap<String, Mounted> {
        std::fs::write(folder.join("e.env"), "A='from a file'\n").expect("written");
        BTreeMap::from([("files".to_string(), Mounted::files("files", folder.to_owned(), false))])
    }

    #[tokio::test]
    async fn a_variable_comes_from_a_file_of_a_volume() {
        let one = |volume: &str, path: &str, key: &str, optional: bool| json!({"name": "c", "env": [{"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": volume, "path": path, "key": key, "optional": optional}}}]});
        assert_eq!(env_of(one("files", "e.env", "A", false)).await.expect("built").get("X").map(String::as_str), Some("from a file"));
        assert!(!env_of(one("files", "e.env", "B", true)).await.expect("built").contains_key("X"));
        for (container, expected) in [
            (one("files", "e.env", "B", false), "environment variable key \"B\" not found in file \"e.env\""),
            (one("files", "none", "A", false), "couldn't parse env file"),
            (one("none", "e.env", "A", false), "cannot find the volume \"none\" referenced by FileKeyRef"),
        ] {
            assert_eq!(env_of(container).await, Err(expected.to_string()));
        }
    }

    async fn env_of(container: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]}});
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let facts = downward::Facts { pod_ips: vec!["10.42.0.7".into()], ..Default::default() };
        let services = BTreeMap::from([("WEB_SERVICE_HOST".to_string(), "10.43.0.1".to_string()), ("A".to_string(), "service".to_string())]);
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let folder = tempfile::tempdir().expect("a folder");
        let built = build(&pod, container, &OneOfEach, &facts, &services, &mounted(folder.path())).await;
        built.map(|env| env.into_iter().collect()).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn every_source_gives_its_value_and_later_ones_win() {
        let env = env_of(json!({"name": "c",
            "envFrom": [{"configMapRef": {"name": "cfg"}, "prefix": "P_"}, {"secretRef": {"name": "sec"}}, {"secretRef": {"name": "no", "optional": true}}],
            "env": [{"name": "A", "value": "x"}, {"name": "B", "value": "b-$(A)-$(P_a)-$(WEB_SERVICE_HOST)-$(NONE)-$$(A)"}, {"name": "P_a", "value": "own"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "SEC", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "p"}}},
                {"name": "OPT", "valueFrom": {"configMapKeyRef": {"name": "cfg", "key": "zz", "optional": true}}}]}));
        let env = env.await.expect("built");
        for (name, value) in [
            ("A", "x"),
            ("B", "b-x-one-10.43.0.1-$(NONE)-$(A)"),
            ("P_a", "own"),
            ("P_b.txt", "two"),
            ("p", "s3cret"),
            ("IP", "10.42.0.7"),
            ("SEC", "s3cret"),
            ("WEB_SERVICE_HOST", "10.43.0.1"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("OPT"), "an optional key that is absent leaves the variable out");
    }

    #[tokio::test]
    async fn what_is_missing_is_named_in_the_known_words() {
        let one = |source: serde_json::Value| json!({"name": "c", "env": [{"name": "A", "valueFrom": source}]});
        let cases = [
            (one(json!({"configMapKeyRef": {"name": "nope", "key": "a"}})), "configmap \"nope\" not found"),
            (one(json!({"configMapKeyRef": {"name": "cfg", "key": "zz"}})), "couldn't find key zz in ConfigMap n/cfg"),
            (one(json!({"secretKeyRef": {"name": "sec", "key": "zz"}})), "couldn't find key zz in Secret n/sec"),
            (json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}), "secret \"no\" not found"),
        ];
        for (container, expected) in cases {
            assert_eq!(env_of(container).await, Err(expected.to_string()));
        }
    }
}
