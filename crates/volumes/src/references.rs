//! Which API objects a volume's files come from, so that a node can watch just these.

use k8s_openapi::api::core::v1::{Volume, VolumeProjection};

/// Kinds whose objects pods show as files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
    /// One ClusterTrustBundle, by its own name.
    TrustBundle,
    /// All ClusterTrustBundles of a signer: `name` is the signer's.
    TrustBundlesOfSigner,
}

/// An object in the pod's own namespace, or one of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub kind: Kind,
    pub name: String,
}

/// The objects that `volume` shows, those that may be absent too.
pub fn references(volume: &Volume) -> Vec<Reference> {
    let config_map = volume.config_map.iter().map(|source| of(Kind::ConfigMap, &source.name));
    let secret = volume.secret.iter().filter_map(|source| source.secret_name.as_deref()).map(|name| of(Kind::Secret, name));
    let projections = volume.projected.iter().flat_map(|source| source.sources.iter().flatten()).flat_map(of_projection);
    config_map.chain(secret).chain(projections).collect()
}

fn of_projection(projection: &VolumeProjection) -> impl Iterator<Item = Reference> {
    let config_map = projection.config_map.iter().map(|source| of(Kind::ConfigMap, &source.name));
    let bundles = projection.cluster_trust_bundle.iter().filter_map(|source| match (&source.name, &source.signer_name) {
        (Some(name), _) => Some(of(Kind::TrustBundle, name)),
        (None, signer) => signer.as_deref().map(|signer| of(Kind::TrustBundlesOfSigner, signer)),
    });
    config_map.chain(projection.secret.iter().map(|source| of(Kind::Secret, &source.name))).chain(bundles)
}

fn of(kind: Kind, name: &str) -> Reference {
    Reference { kind, name: name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_source_that_shows_an_object_names_it() {
        let volume = |source: serde_json::Value| -> Vec<(Kind, String)> {
            let volume: Volume = serde_json::from_value(source).expect("a volume");
            references(&volume).into_iter().map(|reference| (reference.kind, reference.name)).collect()
        };
        assert_eq!(volume(json!({"name": "v", "configMap": {"name": "a", "optional": true}})), [(Kind::ConfigMap, "a".into())]);
        assert_eq!(volume(json!({"name": "v", "secret": {"secretName": "b"}})), [(Kind::Secret, "b".into())]);
        let sources = json!([{"secret": {"name": "c"}}, {"downwardAPI": {}}, {"configMap": {"name": "d"}}]);
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": sources}})), [(Kind::Secret, "c".into()), (Kind::ConfigMap, "d".into())]);
        let sources = json!([{"clusterTrustBundle": {"name": "e", "path": "p"}}, {"clusterTrustBundle": {"signerName": "s.io/f", "path": "q", "labelSelector": {}}}]);
        assert_eq!(volume(json!({"name": "v", "projected": {"sources": sources}})), [(Kind::TrustBundle, "e".into()), (Kind::TrustBundlesOfSigner, "s.io/f".into())]);
        assert_eq!(volume(json!({"name": "v", "emptyDir": {}})), []);
    }
}
