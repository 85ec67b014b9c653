//! Which ResourceClaims a pod names, and whether it may use them. Source: k8s.io/dynamic-resource-allocation/resourceclaim.

use super::DraError;
use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use std::collections::BTreeSet;

/// One claim that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Of the ResourceClaim.
    pub claim: String,
    /// Made for the pod from a template: it must be the pod's.
    pub is_own: bool,
}

/// All of a pod's claims, the one for extended resources (`status.extendedResourceClaimStatus`) last. An entry for which none was needed is passed over.
pub fn all(pod: &Pod) -> Result<Vec<Reference>, DraError> {
    let entries = pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten());
    let mut found = Vec::new();
    for entry in entries {
        found.extend(of_entry(pod, entry)?);
    }
    found.extend(extended(pod).map(|claim| Reference { claim: claim.into(), is_own: false }));
    Ok(found)
}

/// The claim behind an entry of `spec.resourceClaims`; `None`: it needs none.
fn of_entry(pod: &Pod, entry: &PodResourceClaim) -> Result<Option<Reference>, DraError> {
    if let Some(claim) = &entry.resource_claim_name {
        return Ok(Some(Reference { claim: claim.clone(), is_own: false }));
    }
    if entry.resource_claim_template_name.is_none() {
        return Err(DraError::NoField { pod: name_of(pod), claim: entry.name.clone() });
    }
    let mut statuses = pod.status.iter().flat_map(|status| status.resource_claim_statuses.iter().flatten());
    let status = statuses.find(|status| status.name == entry.name).ok_or_else(|| DraError::NotCreated { pod: name_of(pod) })?;
    Ok(status.resource_claim_name.clone().map(|claim| Reference { claim, is_own: true }))
}

/// The claim that the scheduler made for extended resources which devices stand behind.
fn extended(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref().map(|status| status.resource_claim_name.as_str())
}

/// What a container uses of the pod's claims: entry of the pod, claim, and the request that is meant (`None`: all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// As the container's status names it; `None` for extended resources.
    pub entry: Option<String>,
    pub claim: String,
    pub request: Option<String>,
}

/// In the order of the pod's entries.
pub fn of_container(pod: &Pod, container: &Container) -> Result<Vec<Use>, DraError> {
    let named = || container.resources.iter().flat_map(|resources| resources.claims.iter().flatten());
    let mut uses = Vec::new();
    for entry in pod.spec.iter().flat_map(|spec| spec.resource_claims.iter().flatten()) {
        let mut meant = named().filter(|claim| claim.name == entry.name).peekable();
        if meant.peek().is_none() {
            continue;
        }
        let Some(reference) = of_entry(pod, entry)? else { continue };
        uses.extend(meant.map(|claim| Use {
            entry: Some(entry.name.clone()),
            claim: reference.claim.clone(),
            request: claim.request.clone().filter(|request| !request.is_empty()),
        }));
    }
    uses.extend(extended_uses(pod, container));
    Ok(uses)
}

fn extended_uses<'a>(pod: &'a Pod, container: &'a Container) -> impl Iterator<Item = Use> + 'a {
    let status = pod.status.iter().flat_map(|status| &status.extended_resource_claim_status);
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    status.flat_map(move |status| {
        let of_it = status.request_mappings.iter().filter(move |mapping| mapping.container_name == container.name);
        let asked = of_it.filter(move |mapping| requests.and_then(|all| all.get(&mapping.resource_name)).is_some_and(|amount| amount.0 != "0"));
        asked.map(|mapping| Use { entry: None, claim: status.resource_claim_name.clone(), request: Some(mapping.request_name.clone()) })
    })
}

/// Whether the pod may use the claim as it stands; the drivers that have a part in its allocation.
pub fn check(pod: &Pod, reference: &Reference, claim: &ResourceClaim) -> Result<BTreeSet<String>, DraError> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let owners = claim.metadata.owner_references.iter().flatten();
    let is_owner = owners.filter(|owner| owner.controller == Some(true)).any(|owner| owner.uid == uid);
    if reference.is_own && (claim.metadata.namespace != pod.metadata.namespace || !is_owner) {
        let of_claim = format!("{}/{}", claim.metadata.namespace.as_deref().unwrap_or_default(), reference.claim);
        return Err(DraError::NotOwned { claim: of_claim, pod: name_of(pod) });
    }
    let reserved = claim.status.iter().flat_map(|status| status.reserved_for.iter().flatten());
    if !reserved.into_iter().any(|consumer| consumer.uid == uid) {
        let pod = pod.metadata.name.clone().unwrap_or_default();
        return Err(DraError::NotReserved { pod, uid, claim: reference.claim.clone(), claim_uid: claim.metadata.uid.clone().unwrap_or_default() });
    }
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref()).ok_or_else(|| DraError::NotAllocated(reference.claim.clone()))?;
    let results = allocation.devices.iter().flat_map(|devices| devices.results.iter().flatten());
    Ok(results.map(|result| result.driver.clone()).collect())
}

fn name_of(pod: &Pod) -> String {
    format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(claims: Value, status: Value, container: Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"resourceClaims": claims, "containers": [container]}, "status": status})).expect("a pod")
    }

    fn claim(owner: &str, reserved: &str, allocation: Value) -> ResourceClaim {
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": owner, "controller": true});
        let metadata = json!({"name": "c", "namespace": "n", "uid": "cu", "ownerReferences": [owner]});
        let status = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": reserved}], "allocation": allocation});
        serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).expect("a claim")
    }

    #[test]
    fn claims_are_named_directly_by_the_status_or_not_at_all() {
        let entries = json!([{"name": "a", "resourceClaimName": "one"}, {"name": "b", "resourceClaimTemplateName": "t"}, {"name": "none", "resourceClaimTemplateName": "t"}]);
        let status = json!({"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}, {"name": "none"}]});
        let uses = json!({"name": "c", "resources": {"claims": [{"name": "b", "request": "r"}, {"name": "a"}, {"name": "none"}]}});
        let all_of = pod(entries.clone(), status, uses);
        let names: Vec<(String, bool)> = all(&all_of).expect("named").into_iter().map(|reference| (reference.claim, reference.is_own)).collect();
        assert_eq!(names, [("one".to_owned(), false), ("p-b-x".to_owned(), true)]);
        let uses = of_container(&all_of, &all_of.spec.as_ref().expect("a spec").containers[0]).expect("named");
        let uses: Vec<_> = uses.iter().map(|found| (found.entry.as_deref().unwrap_or("-"), found.claim.as_str(), found.request.as_deref())).collect();
        assert_eq!(uses, [("a", "one", None), ("b", "p-b-x", Some("r"))]);
        let not_yet = pod(entries, json!({}), json!({"name": "c"}));
        assert_eq!(all(&not_yet).expect_err("not created").to_string(), "pod \"n/p\": ResourceClaim not created yet");
        let bare = pod(json!([{"name": "a"}]), json!({}), json!({"name": "c"}));
        assert_eq!(all(&bare).expect_err("no field").to_string(), "pod \"n/p\", spec.resourceClaim \"a\": none of the supported fields are set");
    }

    #[test]
    fn extended_resources_come_from_the_schedulers_claim() {
        let mapping = |container: &str, resource: &str| json!({"containerName": container, "resourceName": resource, "requestName": format!("{container}-{resource}")});
        let mappings = [mapping("c", "example.com/gpu"), mapping("c", "example.com/none"), mapping("other", "example.com/gpu")];
        let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": "p-extended", "requestMappings": mappings}});
        let of = pod(json!([]), status, json!({"name": "c", "resources": {"requests": {"example.com/gpu": "1", "example.com/none": "0"}}}));
        assert_eq!(all(&of).expect("named"), [Reference { claim: "p-extended".into(), is_own: false }]);
        let uses = of_container(&of, &of.spec.as_ref().expect("a spec").containers[0]).expect("named");
        assert_eq!(uses, [Use { entry: None, claim: "p-extended".into(), request: Some("c-example.com/gpu".into()) }]);
    }

    #[test]
    fn a_claim_must_be_the_pods_reserved_and_allocated() {
        let of = pod(json!([]), json!({}), json!({"name": "c"}));
        let own = Reference { claim: "c".into(), is_own: true };
        let shared = Reference { is_own: false, ..own.clone() };
        let allocated = json!({"devices": {"results": [{"request": "r", "driver": "d.example.com", "pool": "w", "device": "x"}]}});
        let said = |reference: &Reference, claim: &ResourceClaim| check(&of, reference, claim).map(Vec::from_iter).map_err(|error| error.to_string());
        assert_eq!(said(&own, &claim("u", "u", allocated.clone())), Ok(vec!["d.example.com".to_owned()]));
        let foreign = claim("another", "u", allocated.clone());
        assert_eq!(said(&own, &foreign), Err("ResourceClaim n/c was not created for Pod n/p (Pod is not owner)".into()));
        assert!(said(&shared, &foreign).is_ok());
        assert_eq!(said(&own, &claim("u", "another", allocated)), Err("pod p (u) is not allowed to use ResourceClaim c (cu)".into()));
        assert_eq!(said(&own, &claim("u", "u", Value::Null)), Err("ResourceClaim c: not allocated".into()));
    }
}
