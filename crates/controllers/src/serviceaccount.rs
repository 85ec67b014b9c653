//! Every active namespace has a ServiceAccount `default` (lesson 72: everything waits for it).

use crate::Start;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};

const DEFAULT: &str = "default";

pub struct ServiceAccountController {
    namespaces: Informer<Namespace>,
    accounts: Writer<ServiceAccount>,
}

impl ServiceAccountController {
    pub fn new(start: &Start) -> Self {
        ServiceAccountController { namespaces: start.informers.of(), accounts: start.writer() }
    }
}

impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(&self.namespaces);
        watches.on(self.accounts.informer(), |change, queue| {
            if change.object().metadata.name.as_deref() == Some(DEFAULT) {
                queue.add(ObjectKey::cluster(change.object().metadata.namespace.clone().unwrap_or_default()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        let active = self.namespaces.get_key(key).is_some_and(|namespace| is_active(&namespace));
        if !active || self.accounts.informer().get(&key.name, DEFAULT).is_some() {
            return Ok(Outcome::Done);
        }
        let metadata = ObjectMeta { name: Some(DEFAULT.into()), namespace: Some(key.name.clone()), ..Default::default() };
        match self.accounts.create(&ServiceAccount { metadata, ..Default::default() }).await {
            Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

/// Whether new objects may be made in the namespace.
pub fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none() && namespace.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Terminating")
}
