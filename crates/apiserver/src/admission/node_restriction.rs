//! NodeRestriction: a node changes only itself, what belongs to it and the pods bound to it.
//!
//! Rules and texts: kubernetes plugin/pkg/admission/noderestriction. It decides in the mutating phase, as upstream's does, so that a node
//! hears what it may not do before it hears what is wrong with the object.
//! Deliberately absent: PodCertificateRequests, whose own rules and signer check the pod and its node.

use super::{is, list};
use crate::admission::Later;
use crate::policy::any_reference;
use async_trait::async_trait;
use keles_api::{Object, Status};
use keles_auth::node::node_name;
use keles_auth::{Attributes as Asked, NODE_PREFIX, NODES};
use keles_registry::{Admission, Attributes, Operation, Registry};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

pub struct NodeRestriction {
    pub server: Later,
}

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Labels of Kubernetes' own names that a node may give itself.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// And those in these domains, or below them.
const OWN_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Why a node may not.
type Refused = String;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation != Operation::Connect && a.request.user.groups.iter().any(|g| g == NODES) && a.request.user.name.starts_with(NODE_PREFIX) && known(a)
    }
    /// It refuses there, as upstream's does.
    fn mutates(&self) -> bool {
        true
    }
    async fn mutate(&self, a: &Attributes<'_>, o: &mut Object, _: &mut Vec<String>) -> Result<(), Status> {
        self.check(a, Some(o)).await
    }
    async fn validate(&self, a: &Attributes<'_>, object: Option<&Object>, _: &mut Vec<String>) -> Result<(), Status> {
        // Everything else was looked at while it could still be changed.
        if a.operation == Operation::Delete { self.check(a, object).await } else { Ok(()) }
    }
}

/// Whether there is a rule for the resource.
fn known(a: &Attributes<'_>) -> bool {
    let place = (a.info.served[0].group, a.info.plural);
    matches!(
        place,
        ("", "pods" | "nodes" | "persistentvolumeclaims" | "serviceaccounts")
            | ("coordination.k8s.io", "leases")
            | ("storage.k8s.io", "csinodes")
            | ("resource.k8s.io", "resourceslices")
    )
}

impl NodeRestriction {
    async fn check(&self, a: &Attributes<'_>, o: Option<&Object>) -> Result<(), Status> {
        let (group, plural) = (a.info.served[0].group, a.info.plural);
        // What is asked for by name is named by it, everything else by the object.
        let name = if a.request.name.is_empty() { o.map_or("", Object::name) } else { &a.request.name };
        let refused = match node_name(&a.request.user) {
            None => Err(format!("could not determine node from user {:?}", a.request.user.name)),
            Some(node) => match plural {
                "pods" => pods(a, o, node),
                "nodes" => nodes(a, o, name, node),
                "persistentvolumeclaims" => claims(a, o, node),
                "serviceaccounts" => self.tokens(a, o, node).await?,
                "leases" => leases(a, name, node),
                "csinodes" => own(name == node, "can only access CSINode with the same name as the requesting node"),
                _ => slices(a, o, node),
            },
        };
        refused.map_err(|why| Status::forbidden(group, plural, name, why))
    }

    /// A node asks for tokens of its pods, for the audiences that these use.
    async fn tokens(&self, a: &Attributes<'_>, o: Option<&Object>, node: &str) -> Result<Result<(), Refused>, Status> {
        let Some(request) = o.filter(|_| a.operation == Operation::Create && a.request.subresource == "token") else { return Ok(Ok(())) };
        let bound = |f: &str| request.str_at(&["spec", "boundObjectRef", f]);
        if (bound("apiVersion"), bound("kind")) != ("v1", "Pod") || bound("name").is_empty() {
            return Ok(refuse("node requested token not bound to a pod"));
        }
        let uid = bound("uid");
        if uid.is_empty() {
            return Ok(refuse("node requested token with a pod binding without a uid"));
        }
        let pod = a.registry.read("", "pods", &a.request.namespace, bound("name")).ok_or_else(|| Status::not_found("", "pods", bound("name")))?;
        if uid != pod.uid() {
            return Ok(Err(format!("the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated")));
        }
        if pod.str_at(&["spec", "nodeName"]) != node {
            return Ok(refuse("node requested token bound to a pod scheduled on a different node"));
        }
        let audiences: Vec<&str> = list(request.at(&["spec", "audiences"])).filter_map(Value::as_str).collect();
        let audience = match audiences[..] {
            [] => "",
            [one] => one,
            _ => return Ok(refuse("node may only request 0 or 1 audiences")),
        };
        if uses_audience(a.registry, &pod, audience) || self.is_granted(a, audience).await {
            return Ok(Ok(()));
        }
        Ok(Err(format!("audience {audience:?} not found in pod spec volume")))
    }

    /// Whether somebody gave the node the right to tokens of this audience.
    async fn is_granted(&self, a: &Attributes<'_>, audience: &str) -> bool {
        let Some(server) = self.server.get().and_then(std::sync::Weak::upgrade) else { return false };
        let asked = Asked {
            verb: "request-serviceaccounts-token-audience",
            version: "v1",
            resource: audience,
            namespace: &a.request.namespace,
            name: &a.request.name,
            ..Asked::of(&a.request.user)
        };
        !audience.is_empty() && server.allows(&asked).await
    }
}

fn refuse(why: &str) -> Result<(), Refused> {
    Err(why.to_owned())
}

fn own(yes: bool, otherwise: &str) -> Result<(), Refused> {
    if yes { Ok(()) } else { refuse(otherwise) }
}

fn word(o: Operation) -> &'static str {
    match o {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn pods(a: &Attributes<'_>, o: Option<&Object>, node: &str) -> Result<(), Refused> {
    let bound = |pod: Option<&Object>| pod.is_none_or(|p| p.str_at(&["spec", "nodeName"]) == node);
    match (a.request.subresource.as_str(), a.operation) {
        ("", Operation::Create) => o.map_or(Ok(()), |pod| mirror(a.registry, pod, node)),
        ("", Operation::Delete) => own(bound(a.old), &format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        ("", operation) => Err(format!("unexpected operation {:?}, node {node:?} can only create and delete mirror pods", word(operation))),
        ("status", Operation::Update) => {
            own(bound(a.old), &format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))?;
            let (Some(old), Some(new)) = (a.old, o) else { return Ok(()) };
            own(labels(old) == labels(new), &format!("node {node:?} cannot update labels through pod status"))?;
            let claims =
                |p: &Object| -> Vec<(Value, Value)> { list(p.at(&["status", "resourceClaimStatuses"])).map(|c| (c["name"].clone(), c["resourceClaimName"].clone())).collect() };
            own(claims(old) == claims(new), &format!("node {node:?} cannot update resource claim statues"))?;
            let extended = |p: &Object| p.at(&["status", "extendedResourceClaimStatus"]).clone();
            own(extended(old) == extended(new), &format!("node {node:?} cannot update extended resource claim status"))
        }
        // The eviction deletes the pod in the node's name once it is admitted itself.
        ("eviction", Operation::Create | Operation::Delete) => {
            let pod = a.registry.read("", "pods", &a.request.namespace, &a.request.name);
            own(bound(pod.as_deref()), &format!("node {node} can only evict pods with spec.nodeName set to itself"))
        }
        ("status" | "eviction", operation) => Err(format!("unexpected operation {:?}", word(operation))),
        (other, _) => Err(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed")),
    }
}

/// A pod that a node makes stands for one of its own files, is owned by it, and refers to nothing in the cluster.
fn mirror(registry: &Registry, pod: &Object, node: &str) -> Result<(), Refused> {
    if pod.annotation(MIRROR).is_none() {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    own(pod.str_at(&["spec", "nodeName"]) == node, &format!("node {node:?} can only create pods with spec.nodeName set to itself"))?;
    owned(registry, pod, node)?;
    let may_not = |what: &str| Err(format!("node {node:?} can not create pods that reference {what}"));
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return may_not("a service account");
    }
    for what in ["secrets", "configmaps"] {
        if any_reference(pod, what) {
            return may_not(what);
        }
    }
    let volumes = || list(pod.at(&["spec", "volumes"]));
    if volumes().any(|v| list(&v["projected"]["sources"]).any(|s| !s["clusterTrustBundle"].is_null())) {
        return may_not("clustertrustbundles");
    }
    if list(pod.at(&["spec", "resourceClaims"])).next().is_some() {
        return may_not("resourceclaims");
    }
    if volumes().any(|v| !v["persistentVolumeClaim"].is_null()) {
        return may_not("persistentvolumeclaims");
    }
    Ok(())
}

fn owned(registry: &Registry, pod: &Object, node: &str) -> Result<(), Refused> {
    let owners: Vec<&Value> = list(pod.meta("ownerReferences")).collect();
    let owner = match owners[..] {
        [one] => one,
        [] => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
        _ => return Err(format!("node {node:?} can only create pods with a single owner reference set to itself")),
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Err(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    own(owner["controller"] == true, &format!("node {node:?} can only create pods with a controller owner reference set to itself"))?;
    own(owner["blockOwnerDeletion"] != true, &format!("node {node:?} must not set blockOwnerDeletion on an owner reference"))?;
    let known = registry.read("", "nodes", "", node).ok_or_else(|| format!("error looking up node {node} to verify uid: node {node:?} not found"))?;
    let uid = owner["uid"].as_str().unwrap_or_default();
    own(uid == known.uid(), &format!("node {node} UID mismatch: expected {uid} got {}", known.uid()))
}

fn nodes(a: &Attributes<'_>, o: Option<&Object>, name: &str, node: &str) -> Result<(), Refused> {
    own(name == node, &format!("node {node:?} is not allowed to modify node {name:?}"))?;
    let Some(new) = o else { return Ok(()) };
    let source = |o: &Object| o.at(&["spec", "configSource"]).clone();
    match a.old {
        None if a.operation == Operation::Create => {
            own(source(new).is_null(), &format!("node {node:?} is not allowed to create pods with a non-nil configSource"))?;
            let forbidden = forbidden_labels(&labels(new), &BTreeMap::new());
            own(forbidden.is_empty(), &format!("node {node:?} is not allowed to set the following labels: {}", forbidden.join(", ")))
        }
        Some(old) if a.operation == Operation::Update => {
            let kept = source(new).is_null() || source(new) == source(old);
            own(kept, &format!("node {node:?} is not allowed to update configSource to a new non-nil configSource"))?;
            let taints = |o: &Object| -> Vec<Value> { list(o.at(&["spec", "taints"])).cloned().collect() };
            own(taints(new) == taints(old), &format!("node {node:?} is not allowed to modify taints"))?;
            let forbidden = forbidden_labels(&labels(new), &labels(old));
            own(forbidden.is_empty(), &format!("is not allowed to modify labels: {}", forbidden.join(", ")))
        }
        _ => Ok(()),
    }
}

fn labels(o: &Object) -> BTreeMap<String, String> {
    o.meta("labels").as_object().into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// Labels by which a node could draw others' pods to itself, out of those that differ.
fn forbidden_labels(new: &BTreeMap<String, String>, old: &BTreeMap<String, String>) -> Vec<String> {
    let differing: BTreeSet<&String> = new.keys().chain(old.keys()).filter(|k| new.get(*k) != old.get(*k)).collect();
    differing.into_iter().filter(|k| is_forbidden(k)).cloned().collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(d, _)| d);
    let within = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let of_kubernetes = within("kubernetes.io") || within("k8s.io");
    let own = OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|d| within(d));
    within(RESTRICTED) || (of_kubernetes && !own)
}

/// Of a claim a node says how large it has become.
fn claims(a: &Attributes<'_>, o: Option<&Object>, node: &str) -> Result<(), Refused> {
    if a.request.subresource != "status" {
        return refuse("may only update PVC status");
    }
    if a.operation != Operation::Update {
        return Err(format!("unexpected operation {:?}", word(a.operation)));
    }
    let (Some(old), Some(new)) = (a.old, o) else { return Ok(()) };
    let rest = |o: &Object| {
        let mut o = o.clone();
        ["resourceVersion", "managedFields"].iter().for_each(|f| o.set_meta(f, Value::Null));
        if let Some(status) = o.0.get_mut("status").and_then(Value::as_object_mut) {
            ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"].iter().for_each(|f| drop(status.remove(*f)));
        }
        o.0.as_object_mut().map(|root| root.retain(|_, v| !v.is_null() && v.as_object().is_none_or(|m| !m.is_empty())));
        o
    };
    own(rest(old) == rest(new), &format!("node {node:?} is not allowed to update fields other than status.capacity and status.conditions"))
}

fn leases(a: &Attributes<'_>, name: &str, node: &str) -> Result<(), Refused> {
    own(a.request.namespace == LEASES, &format!("can only access leases in the {LEASES:?} system namespace"))?;
    own(name == node, "can only access node lease with the same name as the requesting node")
}

fn slices(a: &Attributes<'_>, o: Option<&Object>, node: &str) -> Result<(), Refused> {
    let of = |o: Option<&Object>| o.is_none_or(|o| o.str_at(&["spec", "nodeName"]) == node);
    match a.operation {
        Operation::Create => own(of(o), "can only create ResourceSlice with the same NodeName as the requesting node"),
        Operation::Delete if is(a, "resource.k8s.io", "resourceslices") => own(of(a.old), "can only delete ResourceSlice with the same NodeName as the requesting node"),
        // Other requests get checked by the node authorizer.
        _ => Ok(()),
    }
}

/// Whether a volume of the pod gets a token of this audience, from the kubelet or from a CSI driver.
fn uses_audience(registry: &Registry, pod: &Object, audience: &str) -> bool {
    let of_driver = |driver: &str| {
        let found = registry.read("storage.k8s.io", "csidrivers", "", driver);
        found.is_some_and(|d| list(d.at(&["spec", "tokenRequests"])).any(|t| t["audience"].as_str().unwrap_or_default() == audience))
    };
    let of_claim = |claim: &str| {
        let volume = registry.read("", "persistentvolumeclaims", pod.namespace(), claim).map(|c| c.str_at(&["spec", "volumeName"]).to_owned())?;
        let driver = registry.read("", "persistentvolumes", "", &volume)?.str_at(&["spec", "csi", "driver"]).to_owned();
        (!driver.is_empty()).then(|| of_driver(&driver))
    };
    list(pod.at(&["spec", "volumes"])).any(|v| {
        let projected =
            list(&v["projected"]["sources"]).any(|s| !s["serviceAccountToken"].is_null() && s["serviceAccountToken"]["audience"].as_str().unwrap_or_default() == audience);
        let inline = v["csi"]["driver"].as_str().is_some_and(of_driver);
        let claimed = v["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
        let made = v["ephemeral"].is_object().then(|| format!("{}-{}", pod.name(), v["name"].as_str().unwrap_or_default()));
        projected || inline || claimed.or(made).is_some_and(|c| of_claim(&c).unwrap_or(false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_node_labels_itself_only_with_what_draws_nobody() {
        for free in [
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/speed",
            "kubelet.kubernetes.io/a",
            "x.node.kubernetes.io/b",
            "example.com/c",
            "plain",
            "mykubernetes.io/d",
        ] {
            assert!(!is_forbidden(free), "{free}");
        }
        for bound in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "kubernetes.io/unknown",
            "k8s.io/a",
            "topology.kubernetes.io/rack",
        ] {
            assert!(is_forbidden(bound), "{bound}");
        }
        let of = |v: Value| labels(&Object(json!({"metadata": {"labels": v}})));
        let differ = forbidden_labels(&of(json!({"k8s.io/a": "1", "k8s.io/same": "x", "a": "1"})), &of(json!({"k8s.io/a": "2", "k8s.io/same": "x", "k8s.io/gone": ""})));
        assert_eq!(differ, ["k8s.io/a", "k8s.io/gone"]);
    }
}
