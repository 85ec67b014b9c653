//! Facts that two or more policies share: tolerations, pod requests, QoS, readiness, owners, template and storage hash, node selectors,
//! the fit of volumes and claims, names of CSI volumes, PEM blocks.
//!
//! Pure, over the typed objects. One file a fact.

pub mod csi;
pub mod labels;
pub mod node_selector;
pub mod owners;
pub mod pem;
pub mod qos;
pub mod quota;
pub mod readiness;
pub mod requests;
pub mod storage_hash;
pub mod template_hash;
pub mod tolerations;
pub mod volume_binding;
