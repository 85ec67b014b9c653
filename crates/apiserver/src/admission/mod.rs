//! Admission plugins, one file and one row each, in upstream's order.
//!
//! Entry point: [`rows`].

mod certificate_subject;
mod certificates;
mod claim_resize;
mod create_right;
mod default_tolerations;
mod defaults_by_class;
mod dynamic;
mod escalation;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod pod_topology_labels;
mod policies;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod service_addresses;
mod storage_in_use;
mod taint_nodes;
mod webhooks;

use crate::config::Config;
pub use escalation::Later;
pub use webhooks::Client;
use keles_registry::{Admission, Attributes};
use serde_json::Value;
use std::sync::Arc;

/// The plugins that are on, in the order they run.
pub fn rows(config: &Config, server: Later) -> Vec<Arc<dyn Admission>> {
    vec![
        Arc::new(namespace_lifecycle::NamespaceLifecycle),
        Arc::new(limit_ranger::LimitRanger),
        Arc::new(service_account::ServiceAccount),
        Arc::new(node_restriction::NodeRestriction { server: server.clone() }),
        Arc::new(taint_nodes::TaintNodesByCondition),
        Arc::new(pod_security::PodSecurity),
        Arc::new(priority::Priority),
        Arc::new(default_tolerations::DefaultTolerationSeconds),
        Arc::new(defaults_by_class::STORAGE),
        Arc::new(storage_in_use::StorageObjectInUseProtection),
        Arc::new(claim_resize::PersistentVolumeClaimResize),
        Arc::new(runtime_class::RuntimeClass),
        Arc::new(certificates::SignerRight::approval(server.clone())),
        Arc::new(certificates::SignerRight::signing(server.clone())),
        Arc::new(certificate_subject::CertificateSubjectRestriction),
        Arc::new(defaults_by_class::INGRESS),
        Arc::new(pod_topology_labels::PodTopologyLabels),
        Arc::new(create_right::CreateRight { server: server.clone() }),
        Arc::new(escalation::Escalation { server: server.clone() }),
        Arc::new(policies::MutatingPolicies::new(server.clone())),
        Arc::new(webhooks::MutatingWebhooks::new(server.clone())),
        Arc::new(service_addresses::ServiceAddresses::new(config)),
        Arc::new(policies::ValidatingPolicies::new(server.clone())),
        Arc::new(webhooks::ValidatingWebhooks::new(server)),
        Arc::new(resource_quota::ResourceQuota::default()),
    ]
}

/// Whether the request is about the resource itself (no subresource) of this group.
fn is(a: &Attributes<'_>, group: &str, plural: &str) -> bool {
    a.request.subresource.is_empty() && a.info.plural == plural && a.info.served[0].group == group
}

/// The elements of a list field; none when it is absent.
fn list(v: &Value) -> impl Iterator<Item = &Value> {
    v.as_array().into_iter().flatten()
}

/// A list field to append to, made when absent.
fn list_mut<'a>(v: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    let slot = &mut v[field];
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("made a list just above")
}
