//! Claims, volumes and classes, and what drivers say of nodes, as scheduling sees them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment};
use keles_client::{Informer, Informers};

/// Live copies, shared with other parts of the process where there are any.
#[derive(Clone)]
pub struct Storage {
    pub claims: Informer<PersistentVolumeClaim>,
    pub volumes: Informer<PersistentVolume>,
    pub classes: Informer<StorageClass>,
    pub csi_nodes: Informer<CSINode>,
    pub drivers: Informer<CSIDriver>,
    pub capacities: Informer<CSIStorageCapacity>,
    pub attachments: Informer<VolumeAttachment>,
}

impl Storage {
    pub fn of(informers: &Informers) -> Self {
        Storage {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            csi_nodes: informers.of(),
            drivers: informers.of(),
            capacities: informers.of(),
            attachments: informers.of(),
        }
    }
    pub async fn synced(&self) -> bool {
        let (claims, volumes, classes) = tokio::join!(self.claims.synced(), self.volumes.synced(), self.classes.synced());
        let (csi_nodes, drivers, capacities, attachments) = tokio::join!(self.csi_nodes.synced(), self.drivers.synced(), self.capacities.synced(), self.attachments.synced());
        claims && volumes && classes && csi_nodes && drivers && capacities && attachments
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::cache::PodInfo;
    use crate::cache::tests::pod;
    use keles_client::{Options, Watched};
    use keles_rules::volume_binding::NO_PROVISIONER;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    pub fn informer<K: Watched>(objects: Value) -> Informer<K> {
        let informer = Informer::detached(Options::default(), CancellationToken::new());
        informer.fill(serde_json::from_value(objects).expect("objects"), 1);
        informer
    }
    /// Bound to `volume`, unless that is empty.
    pub fn claim(name: &str, class: &str, volume: &str) -> Value {
        let annotations = if volume.is_empty() { json!({}) } else { json!({"pv.kubernetes.io/bind-completed": "yes"}) };
        let spec = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": volume, "resources": {"requests": {"storage": "1Gi"}}});
        json!({"metadata": {"name": name, "namespace": "d", "annotations": annotations}, "spec": spec})
    }
    /// Two classes that wait: `wait`, whose volumes are there, and `made`, whose volumes d.example makes.
    pub fn storage(claims: Value, volumes: Value) -> Storage {
        let class = |name: &str, provisioner: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
        Storage {
            claims: informer(claims),
            volumes: informer(volumes),
            classes: informer(json!([class("wait", NO_PROVISIONER), class("made", "d.example")])),
            csi_nodes: informer(json!([])),
            drivers: informer(json!([])),
            capacities: informer(json!([])),
            attachments: informer(json!([])),
        }
    }
    pub fn using(name: &str, claim: &str) -> Arc<PodInfo> {
        pod(name, json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}))
    }
}
