//! Claims, volumes and classes, as scheduling sees them.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use keles_client::{Informer, Informers};

/// Live copies, shared with other parts of the process where there are any.
#[derive(Clone)]
pub struct Storage {
    pub claims: Informer<PersistentVolumeClaim>,
    pub volumes: Informer<PersistentVolume>,
    pub classes: Informer<StorageClass>,
}

impl Storage {
    pub fn of(informers: &Informers) -> Self {
        Storage { claims: informers.of(), volumes: informers.of(), classes: informers.of() }
    }
    pub async fn synced(&self) -> bool {
        self.claims.synced().await && self.volumes.synced().await && self.classes.synced().await
    }
}
