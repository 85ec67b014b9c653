//! Names that the node agent and the attaching controller must agree on, and which volumes have to be attached.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::CSIDriver;
use sha2::{Digest, Sha256};

/// SHA-256 in hexadecimal digits.
pub fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a node's `status.volumesInUse` and `status.volumesAttached` name a volume.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Name of the VolumeAttachment of a volume on a node.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hash(&format!("{handle}{driver}{node}")))
}

/// Driver and handle of a volume that a CSI driver has.
pub fn source(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    Some((&source.driver, &source.volume_handle))
}

/// Whether the driver's volumes have to be attached; one without an object has to (CSIDriver `attachRequired`).
pub fn attaches(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        assert_eq!(attachment_name("h", "d", "n"), format!("csi-{}", hash("hdn")));
        assert_eq!(hash("h"), "aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123");
        assert_eq!(unique_name("d", "h"), "kubernetes.io/csi/d^h");
        assert!(attaches(None) && attaches(Some(&CSIDriver::default())));
    }
}
