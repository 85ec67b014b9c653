//! Every active namespace has a ConfigMap `kube-root-ca.crt` with the CA that pods verify the API server by.
//!
//! It is made again when deleted and put right when modified (lesson 72). Only ConfigMaps of that name are watched, not all of them.

use crate::Start;
use crate::serviceaccount::is_active;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::{Informer, ObjectKey, Scope};
use keles_reconcile::{Context, Controller, Outcome, ReconcileError, Watches, Writer};

const NAME: &str = "kube-root-ca.crt";
const FILE: &str = "ca.crt";
const DESCRIPTION_KEY: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or \
                           kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

pub struct RootCaPublisher {
    root_ca: String,
    namespaces: Informer<Namespace>,
    maps: Writer<ConfigMap>,
}

impl RootCaPublisher {
    pub fn new(start: &Start) -> Self {
        let maps = start.informers.scoped(Scope::fields(&format!("metadata.name={NAME}")));
        RootCaPublisher { root_ca: start.options.root_ca.clone(), namespaces: start.informers.of(), maps: Writer::new(start.client.clone(), maps) }
    }
}

impl Controller for RootCaPublisher {
    const NAME: &'static str = "root-ca-certificate-publisher-controller";
    const WORKERS: usize = 1;

    fn watches(&self, watches: &mut Watches) {
        watches.own(&self.namespaces);
        watches.on(self.maps.informer(), |change, queue| {
            if change.object().metadata.name.as_deref() == Some(NAME) {
                queue.add(ObjectKey::cluster(change.object().metadata.namespace.clone().unwrap_or_default()));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey, _: &Context) -> Result<Outcome, ReconcileError> {
        if self.root_ca.is_empty() || !self.namespaces.get_key(key).is_some_and(|namespace| is_active(&namespace)) {
            return Ok(Outcome::Done);
        }
        let held = self.maps.informer().get(&key.name, NAME);
        let Some(wanted) = wanted(held.as_deref(), &key.name, &self.root_ca) else { return Ok(Outcome::Done) };
        let written = if held.is_some() { self.maps.update(&wanted).await } else { self.maps.create(&wanted).await };
        match written {
            Err(error) if !error.is_already_exists() && !error.is_namespace_terminating() => Err(error.into()),
            _ => Ok(Outcome::Done),
        }
    }
}

/// The map as it should be, or `None` when it is so.
fn wanted(held: Option<&ConfigMap>, namespace: &str, root_ca: &str) -> Option<ConfigMap> {
    let data = Some([(FILE.to_owned(), root_ca.to_owned())].into());
    let Some(held) = held else {
        let annotations = Some([(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned())].into());
        let metadata = ObjectMeta { name: Some(NAME.into()), namespace: Some(namespace.into()), annotations, ..Default::default() };
        return Some(ConfigMap { metadata, data, ..Default::default() });
    };
    let described = held.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(DESCRIPTION_KEY));
    if held.data == data && described {
        return None;
    }
    let mut map = ConfigMap { data, ..held.clone() };
    map.metadata.annotations.get_or_insert_default().insert(DESCRIPTION_KEY.to_owned(), DESCRIPTION.to_owned());
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_ca_map_is_made_again_when_deleted_and_put_right_when_modified() {
        let made = wanted(None, "n", "PEM").expect("missing, so it is made");
        assert!(wanted(Some(&made), "n", "PEM").is_none(), "a right one is left alone");
        let mut modified = made.clone();
        modified.data = Some([("ca.crt".to_owned(), "other".to_owned())].into());
        modified.metadata.resource_version = Some("7".into());
        let repaired = wanted(Some(&modified), "n", "PEM").expect("modified, so it is put right");
        assert_eq!(repaired.data, made.data);
        assert_eq!(repaired.metadata.resource_version.as_deref(), Some("7"));
    }
}
