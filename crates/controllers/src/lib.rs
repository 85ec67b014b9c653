//! The controllers: one file and one row each.
//!
//! Entry point: [`run`]. Each controller is a row of [`ALL`], writes as its own user, and reads from informers that all share.
//! Invariants: every reconcile is level-triggered and idempotent; writes that would change nothing are not sent; decisions are pure functions.
//! Deliberately absent: the loop (in `reconcile`), and anything that talks to something else than the Kubernetes API.

mod attach_detach;
mod certificate_requests;
mod claims;
mod csr_approving;
mod csr_cleaner;
mod csr_signing;
mod deployment;
mod discovery;
mod endpoints;
mod endpointslice;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod garbage;
mod legacy_token_cleaner;
mod namespace;
mod node_lifecycle;
mod persistent_volume_binder;
mod pod_gc;
mod protection;
mod pv_protection;
mod pvc_protection;
mod replicaset;
mod resource_quota;
mod root_ca;
mod service_cidr;
mod service_ports;
mod serviceaccount;
mod serviceaccount_token;
mod slices;
mod slim;
mod storage_migration;
mod taint_eviction;
mod vac_protection;
mod validating_policy_status;
mod volume_expand;

use keles_client::{Informers, Watched};
use keles_pki::{Authority, SigningKey};
use keles_reconcile::{Controller, EventStyle, Recorder, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The user whose list and watch fill the shared caches.
pub const INFORMER_USER: &str = "system:kube-controller-manager";

/// Upstream's life of certificates.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the operator sets.
#[derive(Clone)]
pub struct Options {
    /// PEM of the API server's CA, published into every namespace; empty: the publisher does not run.
    pub root_ca: String,
    /// Names not to run, out of [`ALL`].
    pub disabled: Vec<String>,
    /// How long a node may be silent before it counts as unreachable.
    pub node_grace: Duration,
    /// Signs certificate requests of the built-in signers; absent: those controllers do not run.
    pub signer: Option<Arc<Authority>>,
    /// Longest life of a certificate that is asked for (`--cluster-signing-duration`).
    pub signing_duration: Duration,
    /// Signs the tokens of Secrets of type `kubernetes.io/service-account-token`; absent: they stay empty.
    pub token_key: Option<SigningKey>,
    /// Caches to share with other parts of the process; made by `run` when absent.
    pub informers: Option<Informers>,
}

impl Default for Options {
    fn default() -> Self {
        Options { root_ca: String::new(), disabled: Vec::new(), node_grace: Duration::from_secs(40), signer: None, signing_duration: YEAR, token_key: None, informers: None }
    }
}

/// One controller of the table.
pub struct Row {
    pub name: &'static str,
    /// The service account in kube-system that it writes as; empty: the controller manager itself.
    pub account: &'static str,
    pub on_by_default: bool,
    start: fn(Start, &mut JoinSet<()>),
}

/// Every controller, in upstream's names.
pub const ALL: &[Row] = &[
    row("deployment-controller", "deployment-controller", |s, set| s.run(set, deployment::DeploymentController::new(&s))),
    row("replicaset-controller", "replicaset-controller", |s, set| s.run(set, replicaset::ReplicaSetController::new(&s))),
    row("endpoints-controller", "endpoint-controller", |s, set| s.run(set, endpoints::EndpointsController::new(&s))),
    row("endpointslice-controller", "endpointslice-controller", |s, set| s.run(set, endpointslice::EndpointSliceController::new(&s))),
    row("endpointslice-mirroring-controller", "endpointslicemirroring-controller", |s, set| s.run(set, endpointslice_mirroring::MirroringController::new(&s))),
    row("namespace-controller", "namespace-controller", |s, set| s.run(set, namespace::NamespaceController::new(&s))),
    row("serviceaccount-controller", "service-account-controller", |s, set| s.run(set, serviceaccount::ServiceAccountController::new(&s))),
    row("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", |s, set| s.run(set, root_ca::RootCaPublisher::new(&s))),
    row("service-cidr-controller", "service-cidrs-controller", |s, set| s.run(set, service_cidr::ServiceCidrController::new(&s))),
    row("resourcequota-controller", "resourcequota-controller", |s, set| s.run(set, resource_quota::ResourceQuotaController::new(&s))),
    row("garbage-collector-controller", "generic-garbage-collector", |s, set| s.run(set, garbage::GarbageCollector::new(&s))),
    row("node-lifecycle-controller", "node-controller", |s, set| s.run(set, node_lifecycle::NodeLifecycleController::new(&s))),
    row("taint-eviction-controller", "node-controller", |s, set| s.run(set, taint_eviction::TaintEvictionController::new(&s))),
    // It writes Secrets of every namespace, which no account of a controller may: upstream runs it as the manager itself.
    row("serviceaccount-token-controller", "", |s, set| s.run(set, serviceaccount_token::ServiceAccountTokenController::new(&s))),
    row("legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", |s, set| s.run(set, legacy_token_cleaner::LegacyTokenCleaner::new(&s))),
    row("certificatesigningrequest-approving-controller", "certificate-controller", |s, set| s.run(set, csr_approving::CsrApprovingController::new(&s))),
    row("certificatesigningrequest-signing-controller", "certificate-controller", |s, set| s.run(set, csr_signing::CsrSigningController::new(&s))),
    row("certificatesigningrequest-cleaner-controller", "certificate-controller", |s, set| s.run(set, csr_cleaner::CsrCleanerController::new(&s))),
    row("pod-garbage-collector-controller", "pod-garbage-collector", |s, set| s.run(set, pod_gc::PodGarbageCollector::new(&s))),
    row("persistentvolume-binder-controller", "persistent-volume-binder", |s, set| s.run(set, persistent_volume_binder::PersistentVolumeBinder::new(&s))),
    row("persistentvolume-protection-controller", "pv-protection-controller", |s, set| s.run(set, pv_protection::PvProtectionController::new(&s))),
    row("persistentvolumeclaim-protection-controller", "pvc-protection-controller", |s, set| s.run(set, pvc_protection::PvcProtectionController::new(&s))),
    row("persistentvolume-attach-detach-controller", "attachdetach-controller", |s, set| s.run(set, attach_detach::AttachDetachController::new(&s))),
    row("persistentvolume-expander-controller", "expand-controller", |s, set| s.run(set, volume_expand::VolumeExpandController::new(&s))),
    row("ephemeral-volume-controller", "ephemeral-volume-controller", |s, set| s.run(set, ephemeral_volume::EphemeralVolumeController::new(&s))),
    row("storage-version-migrator-controller", "storage-version-migrator-controller", |s, set| s.run(set, storage_migration::StorageVersionMigrator::new(&s))),
    row("validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status-controller", |s, set| {
        s.run(set, validating_policy_status::ValidatingPolicyStatusController::new(&s))
    }),
    row("volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", |s, set| s.run(set, vac_protection::VacProtectionController::new(&s))),
];

const fn row(name: &'static str, account: &'static str, start: fn(Start, &mut JoinSet<()>)) -> Row {
    Row { name, account, on_by_default: true, start }
}

/// What a controller is made of.
pub(crate) struct Start {
    client: kube::Client,
    informers: Informers,
    options: Options,
    component: &'static str,
    shutdown: CancellationToken,
}

impl Start {
    fn run<C: Controller>(&self, set: &mut JoinSet<()>, controller: C) {
        let events = Recorder::start(self.client.clone(), self.component, "", EventStyle::Core, self.shutdown.clone());
        set.spawn(keles_reconcile::run(controller, events, self.shutdown.clone()));
    }
    /// A writer of a kind as this controller's user.
    fn writer<K>(&self) -> Writer<K>
    where
        K: Watched + kube::Resource + serde::Serialize,
        K::DynamicType: Default,
    {
        Writer::new(self.client.clone(), self.informers.of())
    }
}

/// Runs every enabled controller until shutdown. `client_for` gives a client for a user name (`system:serviceaccount:kube-system:…`).
pub async fn run(client_for: impl Fn(&str) -> kube::Client, options: Options, shutdown: CancellationToken) {
    let informers = options.informers.clone().unwrap_or_else(|| Informers::new(client_for(INFORMER_USER), shutdown.child_token()));
    let mut set = JoinSet::new();
    for row in ALL.iter().filter(|row| row.on_by_default && !options.disabled.iter().any(|name| name == row.name)) {
        let user = if row.account.is_empty() { INFORMER_USER.to_owned() } else { format!("system:serviceaccount:kube-system:{}", row.account) };
        let client = client_for(&user);
        let start = Start { client, informers: informers.clone(), options: options.clone(), component: row.name, shutdown: shutdown.clone() };
        (row.start)(start, &mut set);
    }
    while let Some(ended) = set.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_row_has_its_own_name() {
        let names: BTreeSet<&str> = ALL.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
