//! Every built-in kind of Kubernetes v1.36: one file and one row each.
//!
//! Entry points: [`all`], the kinds that are stored; [`VIRTUAL`], the resources that only answer (reviews, bindings); [`GROUPS`], the
//! order of groups and versions in discovery. A kind's file holds, in this order: names, columns, example, then its rules: defaults,
//! prepare, validate, warnings. Rules read the object as a tree through [`field`]: a missing field and a zero value are the same thing
//! to upstream's rules, and a tree says that without a copy of the object (decision 2026-11-21).
//! Deliberately absent: REST semantics (`registry`), allocation of addresses and ports (`apiserver`), admission.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apiserverinternal;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod conditions;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod field;
pub mod flowcontrol;
pub mod formats;
pub mod gates;
pub mod go_dump;
pub mod ip;
pub mod labels;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod selectable;
pub mod storage;
pub mod storagemigration;
pub mod subresource;
pub mod table;
pub mod virtual_kinds;

use keles_registry::kind::{AnyKind, Erased};
pub use virtual_kinds::{GROUPS, VIRTUAL, VirtualKind};

/// One row a kind, in the order of discovery's groups.
pub fn all() -> &'static [&'static dyn AnyKind] {
    ALL
}

/// The kind that serves this group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
    ALL.iter().copied().find(|k| k.info().plural == plural && k.info().served.iter().any(|s| s.group == group && s.version == version))
}

macro_rules! rows {
    ($($kind:path),* $(,)?) => {
        static ALL: &[&dyn AnyKind] = &[$(&Erased::<$kind>::new()),*];

        /// The same kinds as the registry holds them, beside those made at run time.
        pub fn shared() -> Vec<std::sync::Arc<dyn AnyKind>> {
            vec![$(std::sync::Arc::new(Erased::<$kind>::new())),*]
        }
    };
}

rows![
    core::config_map::ConfigMap,
    core::endpoints::Endpoints,
    core::event::Event,
    core::limit_range::LimitRange,
    core::namespace::Namespace,
    core::node::Node,
    core::persistent_volume_claim::PersistentVolumeClaim,
    core::persistent_volume::PersistentVolume,
    core::pod::Pod,
    core::pod_template::PodTemplate,
    core::replication_controller::ReplicationController,
    core::resource_quota::ResourceQuota,
    core::secret::Secret,
    core::service_account::ServiceAccount,
    core::service::Service,
    admissionregistration::mutating_admission_policy::MutatingAdmissionPolicy,
    admissionregistration::mutating_admission_policy_binding::MutatingAdmissionPolicyBinding,
    admissionregistration::mutating_webhook_configuration::MutatingWebhookConfiguration,
    admissionregistration::validating_admission_policy::ValidatingAdmissionPolicy,
    admissionregistration::validating_admission_policy_binding::ValidatingAdmissionPolicyBinding,
    admissionregistration::validating_webhook_configuration::ValidatingWebhookConfiguration,
    apiextensions::custom_resource_definition::CustomResourceDefinition,
    apiregistration::api_service::APIService,
    apps::controller_revision::ControllerRevision,
    apps::daemon_set::DaemonSet,
    apps::deployment::Deployment,
    apps::replica_set::ReplicaSet,
    apps::stateful_set::StatefulSet,
    autoscaling::horizontal_pod_autoscaler::HorizontalPodAutoscaler,
    batch::cron_job::CronJob,
    batch::job::Job,
    certificates::certificate_signing_request::CertificateSigningRequest,
    certificates::cluster_trust_bundle::ClusterTrustBundle,
    certificates::pod_certificate_request::PodCertificateRequest,
    coordination::lease::Lease,
    coordination::lease_candidate::LeaseCandidate,
    discovery::endpoint_slice::EndpointSlice,
    flowcontrol::flow_schema::FlowSchema,
    flowcontrol::priority_level_configuration::PriorityLevelConfiguration,
    apiserverinternal::storage_version::StorageVersion,
    networking::ingress_class::IngressClass,
    networking::ingress::Ingress,
    networking::ip_address::IPAddress,
    networking::network_policy::NetworkPolicy,
    networking::service_cidr::ServiceCIDR,
    node::runtime_class::RuntimeClass,
    policy::pod_disruption_budget::PodDisruptionBudget,
    rbac::cluster_role_binding::ClusterRoleBinding,
    rbac::cluster_role::ClusterRole,
    rbac::role_binding::RoleBinding,
    rbac::role::Role,
    resource::device_class::DeviceClass,
    resource::resource_claim::ResourceClaim,
    resource::resource_claim_template::ResourceClaimTemplate,
    resource::resource_slice::ResourceSlice,
    resource::device_taint_rule::DeviceTaintRule,
    resource::resource_pool_status_request::ResourcePoolStatusRequest,
    scheduling::priority_class::PriorityClass,
    scheduling::pod_group::PodGroup,
    scheduling::workload::Workload,
    storage::csi_driver::CSIDriver,
    storage::csi_node::CSINode,
    storage::csi_storage_capacity::CSIStorageCapacity,
    storage::storage_class::StorageClass,
    storage::volume_attachment::VolumeAttachment,
    storage::volume_attributes_class::VolumeAttributesClass,
    storagemigration::storage_version_migration::StorageVersionMigration,
];
