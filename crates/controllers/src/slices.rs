//! Fitting endpoints into slices with as few writes as can be: what both controllers of EndpointSlices share.

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use keles_client::ObjectKey;
use keles_reconcile::{WriteError, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MAX_ENDPOINTS_PER_SLICE: usize = 100;

/// Endpoints that share an address family and a resolved port set (its text is the second part of the key).
pub type Groups = BTreeMap<(String, String), (Vec<EndpointPort>, Vec<Endpoint>)>;

/// The service of a slice, when `manager` manages it.
pub fn managed_by(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    (labels.get(MANAGED_BY_LABEL)? == manager).then_some(())?;
    Some(ObjectKey::new(slice.metadata.namespace.clone()?, labels.get(SERVICE_NAME_LABEL)?.clone()))
}

#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// Endpoints appear before they disappear, so that one that moves is never missing.
    pub async fn carry_out(&self, slices: &Writer<EndpointSlice>) -> Result<(), WriteError> {
        for slice in &self.update {
            slices.update(slice).await?;
        }
        for slice in &self.create {
            match slices.create(slice).await {
                Err(error) if error.is_namespace_terminating() => return Ok(()),
                other => _ = other?,
            };
        }
        for slice in &self.delete {
            slices.delete(slice).await?;
        }
        Ok(())
    }
}

/// The writes that make `held` hold `groups`; each group has at least one slice, an empty one if need be. `pattern` is a slice's metadata.
pub fn fit(groups: Groups, held: &[Arc<EndpointSlice>], pattern: &ObjectMeta) -> Plan {
    let mut plan = Plan::default();
    let mut spare: Vec<&Arc<EndpointSlice>> = held.iter().collect();
    for ((family, _), (ports, endpoints)) in groups {
        let mine: Vec<&Arc<EndpointSlice>>;
        (mine, spare) = spare.into_iter().partition(|slice| slice.address_type == family && same_ports(slice.ports.as_deref().unwrap_or_default(), &ports));
        let mut contents = place(&mine, endpoints);
        // The first one stays even when empty, unless another has the endpoints.
        contents.sort_by_key(|(_, endpoints)| endpoints.is_empty());
        for (position, (slice, endpoints)) in contents.into_iter().enumerate() {
            match slice {
                Some(slice) if endpoints.is_empty() && position > 0 => plan.delete.push(slice.clone()),
                Some(slice) => plan.update.extend(changed(slice, &endpoints, pattern)),
                None => plan.create.push(new_slice(&family, &ports, endpoints, pattern)),
            }
        }
    }
    plan.delete.extend(spare.into_iter().cloned());
    plan
}

/// What makes an endpoint the same one after a change: the pod behind it, or its address.
fn identity(endpoint: &Endpoint) -> String {
    let pod = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    pod.or_else(|| endpoint.addresses.first().cloned()).unwrap_or_default()
}

/// Distributes endpoints over the slices there are, then over new ones. Endpoints that a slice holds stay in it.
fn place<'s>(slices: &[&'s Arc<EndpointSlice>], endpoints: Vec<Endpoint>) -> Vec<(Option<&'s Arc<EndpointSlice>>, Vec<Endpoint>)> {
    let mut wanted: BTreeMap<String, Endpoint> = endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut contents: Vec<(Option<&Arc<EndpointSlice>>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().flatten().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
        contents.push((Some(slice), kept));
    }
    for endpoint in wanted.into_values() {
        match contents.iter_mut().find(|(_, endpoints)| endpoints.len() < MAX_ENDPOINTS_PER_SLICE) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => contents.push((None, vec![endpoint])),
        }
    }
    if contents.is_empty() {
        contents.push((None, Vec::new()));
    }
    contents
}

/// The slice as it should be, or `None` when it is so.
fn changed(slice: &EndpointSlice, endpoints: &[Endpoint], pattern: &ObjectMeta) -> Option<EndpointSlice> {
    let same = slice.endpoints.as_deref().unwrap_or_default() == endpoints && slice.metadata.labels == pattern.labels;
    if same {
        return None;
    }
    let mut new = slice.clone();
    new.endpoints = Some(endpoints.to_vec());
    new.metadata.labels = pattern.labels.clone();
    Some(new)
}

fn new_slice(family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>, pattern: &ObjectMeta) -> EndpointSlice {
    EndpointSlice { metadata: pattern.clone(), address_type: family.to_owned(), endpoints: Some(endpoints), ports: Some(ports.to_vec()) }
}

fn same_ports(held: &[EndpointPort], wanted: &[EndpointPort]) -> bool {
    let sorted = |ports: &[EndpointPort]| {
        let mut ports: Vec<String> = ports.iter().map(|p| format!("{:?}/{:?}/{:?}/{:?}", p.name.as_deref().unwrap_or(""), p.port, p.protocol, p.app_protocol)).collect();
        ports.sort();
        ports
    };
    sorted(held) == sorted(wanted)
}
