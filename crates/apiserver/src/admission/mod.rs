//! Admission plugins, one file and one row each, in upstream's order.
//!
//! Entry point: [`rows`].

mod certificate_subject;
mod certificates;
mod claim_admin_access;
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
use keles_registry::{Admission, Attributes};
use serde_json::Value;
use std::sync::Arc;
pub use webhooks::Client;

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
        Arc::new(claim_admin_access::ClaimAdminAccess),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every plugin in the order they run, with a test of what it does: the file under `tests/`, and the test.
    const TESTED: &[(&str, &str, &str)] = &[
        ("NamespaceLifecycle", "admission", "nothing_is_created_in_a_namespace_that_ends"),
        ("LimitRanger", "admission", "limit_ranges_set_defaults_and_bounds"),
        ("ServiceAccount", "chain", "pods_get_what_admission_gives_every_pod"),
        ("NodeRestriction", "node_rules", "a_node_touches_the_pods_bound_to_it_alone"),
        ("TaintNodesByCondition", "admission", "new_nodes_are_tainted_and_claims_protected"),
        ("PodSecurity", "admission_classes", "pods_must_meet_the_standard_of_their_namespace"),
        ("Priority", "admission", "priorities_come_from_classes_alone"),
        ("DefaultTolerationSeconds", "admission", "tolerations_are_added_only_where_none_fits"),
        ("DefaultStorageClass", "admission_classes", "claims_and_ingresses_get_the_default_class_and_claims_grow_where_it_allows"),
        ("StorageObjectInUseProtection", "admission", "new_nodes_are_tainted_and_claims_protected"),
        ("PersistentVolumeClaimResize", "admission_classes", "claims_and_ingresses_get_the_default_class_and_claims_grow_where_it_allows"),
        ("ClaimAdminAccess", "admission_classes", "devices_of_others_are_for_claims_of_namespaces_that_say_so"),
        ("RuntimeClass", "admission_classes", "a_pod_takes_overhead_and_scheduling_from_its_runtime_class"),
        ("CertificateApproval", "admission_certificates", "approving_and_signing_need_a_right_on_the_signer"),
        ("CertificateSigning", "admission_certificates", "approving_and_signing_need_a_right_on_the_signer"),
        ("CertificateSubjectRestriction", "admission_certificates", "nobody_becomes_an_administrator_by_a_request"),
        ("DefaultIngressClass", "admission_classes", "claims_and_ingresses_get_the_default_class_and_claims_grow_where_it_allows"),
        ("PodTopologyLabels", "admission", "a_pod_says_where_its_node_is_from_the_moment_it_has_one"),
        ("CreateRight", "admission_certificates", "a_patch_that_creates_needs_the_right_to_create"),
        ("RBACEscalation", "chain", "nobody_grants_what_they_do_not_hold"),
        ("MutatingAdmissionPolicy", "admission_policies", "a_mutating_policy_applies_configurations_and_patches"),
        ("MutatingAdmissionWebhook", "webhooks", "a_mutating_hook_sees_the_request_and_its_patch_is_stored"),
        ("ServiceAddresses", "addresses", "a_refused_write_takes_nothing_and_a_taken_address_stays_with_its_holder"),
        ("ValidatingAdmissionPolicy", "admission_policies", "a_policy_refuses_in_its_own_words"),
        ("ValidatingAdmissionWebhook", "webhooks", "a_denial_stands_and_nothing_is_stored"),
        ("ResourceQuota", "admission_classes", "a_quota_is_charged_before_an_object_is_stored_and_never_overrun"),
    ];

    /// A row without a test, a test that went, or another order: upstream's is defaults and limits, then hooks, then what counts.
    #[test]
    fn every_plugin_stands_in_its_place_and_has_its_test() {
        let names: Vec<&str> = rows(&Config::new("/nowhere"), Later::default()).iter().map(|r| r.name()).collect();
        assert_eq!(names, TESTED.iter().map(|(name, ..)| *name).collect::<Vec<_>>());
        for (name, file, test) in TESTED {
            let path = format!("{}/tests/requests/{file}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert!(text.contains(&format!("#[tokio::test]\nasync fn {test}()")), "{name}: {path} has no test {test}");
        }
    }
}
