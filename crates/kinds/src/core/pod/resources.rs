//! Requests and limits of containers and pods, and claims on devices.

use crate::field::{Field, NEGATIVE, invalid_each};
use keles_api::quantity::Quantity;
use keles_api::{Path, Problem, ProblemKind, Problems, names};
use serde_json::Value;
use std::collections::BTreeSet;

const CONTAINER_RESOURCES: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Names without a domain that mean something somewhere: in quotas, nodes, claims.
const STANDARD_RESOURCES: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const INTEGER_RESOURCES: &[&str] =
    &["pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"];

pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Names of Kubernetes itself: without a domain, or of `kubernetes.io`.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// `example.com/gpu`: of nobody's domain we know, and still a good name as `requests.example.com/gpu`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Resources that a container may have more of than it asked for.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// The name of a resource anywhere. `false` when it is no name at all.
pub fn name(p: &mut Problems, at: &Path, name: &str) -> bool {
    let bad = names::qualified_name(name);
    if !bad.is_empty() {
        invalid_each(p, at, name, bad);
        return false;
    }
    if !name.contains('/') && !STANDARD_RESOURCES.contains(&name) && !is_huge_page(name) && !name.starts_with("requests.hugepages-") {
        p.invalid(at, name, "must be a standard resource type or fully qualified");
        return false;
    }
    true
}

/// A resource that containers may ask for.
pub fn container_name(p: &mut Problems, at: &Path, resource: &str) {
    name(p, at, resource);
    if !resource.contains('/') {
        if !CONTAINER_RESOURCES.contains(&resource) && !is_huge_page(resource) {
            p.invalid(at, resource, "must be a standard resource for containers");
        }
    } else if !is_native(resource) && !is_extended(resource) {
        p.invalid(at, resource, "doesn't follow extended resource name standard");
    }
}

/// An amount of a resource: not negative, whole where the resource is counted.
pub fn amount(p: &mut Problems, at: &Path, resource: &str, value: &Value) {
    let shown = value.as_str().unwrap_or("");
    let Ok(amount) = Quantity::parse(shown) else { return };
    if amount.sign() < 0 {
        p.invalid(at, shown, NEGATIVE);
    }
    if (INTEGER_RESOURCES.contains(&resource) || is_extended(resource)) && !is_whole(amount) {
        p.invalid(at, shown, "must be an integer");
    }
}

/// Whether an amount is a whole number of units.
pub fn is_whole(q: Quantity) -> bool {
    q == Quantity::new(q.units(), q.format())
}

fn of_value(v: &Value) -> Quantity {
    Quantity::parse(v.as_str().unwrap_or("")).unwrap_or(Quantity::ZERO)
}

/// `resources` of a container.
pub fn container(r: &Field, claims: &BTreeSet<&str>, p: &mut Problems) {
    requirements(r, container_name, p);
    claimed(r, claims, p);
}

/// Limits and requests; `check` knows which resources may be asked for here.
fn requirements(r: &Field, check: fn(&mut Problems, &Path, &str), p: &mut Problems) {
    let (limits, requests) = (r.get("limits"), r.get("requests"));
    let (mut has_base, mut has_huge) = (false, false);
    for (name, _) in r.map("limits").chain(r.map("requests")) {
        has_base |= name == "cpu" || name == "memory";
        has_huge |= is_huge_page(name);
    }
    for (name, value) in r.map("limits") {
        let at = limits.path().key(name);
        check(p, &at, name);
        amount(p, &at, name, value);
        whole_pages(p, &at, name, value);
    }
    for (name, value) in r.map("requests") {
        let at = requests.path().key(name);
        check(p, &at, name);
        amount(p, &at, name, value);
        against_limit(name, value, &limits, &requests, p);
        whole_pages(p, &at, name, value);
    }
    if has_huge && !has_base {
        p.forbidden(r.path(), "HugePages require cpu or memory");
    }
}

/// `hugepages-2Mi: 3Mi` is a page and a half.
fn whole_pages(p: &mut Problems, at: &Path, name: &str, value: &Value) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let (amount, page) = (of_value(value).units(), Quantity::parse(size).map_or(0, |q| q.units()));
    if amount < 0 || page <= 0 || amount % page != 0 {
        let shown = value.as_str().unwrap_or("");
        p.invalid(at, shown, format!("{shown} is not positive integer multiple of {name}"));
    }
}

fn against_limit(name: &str, request: &Value, limits: &Field, requests: &Field, p: &mut Problems) {
    let shown = request.as_str().unwrap_or("");
    match limits.value().get(name) {
        Some(limit) => {
            let (wanted, max) = (of_value(request), of_value(limit));
            let limit = limit.as_str().unwrap_or("");
            if wanted != max && !may_overcommit(name) {
                p.invalid(requests.path(), shown, format!("must be equal to {name} limit of {limit}"));
            } else if wanted > max {
                p.invalid(requests.path(), shown, format!("must be less than or equal to {name} limit of {limit}"));
            }
        }
        None if !may_overcommit(name) => p.required(limits.path(), "Limit must be set for non overcommitable resources"),
        None => {}
    }
}

/// Devices a container uses, by the names of the pod's claims: a claim as a whole, or requests of it.
fn claimed(r: &Field, claims: &BTreeSet<&str>, p: &mut Problems) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in r.items("claims") {
        let (name, request) = (claim.str("name"), claim.str("request"));
        if name.is_empty() {
            p.required(claim.path(), "");
            continue;
        }
        if seen.contains(name) {
            p.duplicate(claim.path(), name);
        } else {
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            if !request.is_empty() {
                invalid_each(p, &claim.at("request"), request, names::dns_label(request, false));
            }
            if seen.contains(&key) {
                p.duplicate(claim.path(), key.as_str());
            } else if request.is_empty() {
                seen.iter().filter(|k| k.split('/').next() == Some(name)).for_each(|_| p.duplicate(claim.path(), name));
            }
            seen.insert(key);
        }
        if !claims.contains(name) {
            let known: Vec<&str> = claims.iter().copied().filter(|c| !c.is_empty()).collect();
            let of = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{of}");
            p.push(Problem { kind: ProblemKind::NotFound, field: claim.path().as_str().into(), value: Some(name.into()), detail });
        }
    }
}

/// The pod's own claims; answers their names. A static pod, whose mirror this is then, may have none.
pub fn claims<'a>(spec: &Field<'a>, mirror: bool, p: &mut Problems) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for claim in spec.items("resourceClaims") {
        let name = claim.str("name");
        if mirror {
            // Upstream names the claim by a path without a name.
            p.forbidden(&Path::new("[]"), "static pods do not support resource claims");
            seen.insert(name);
            continue;
        }
        match name {
            "" => p.required(&claim.at("name"), ""),
            _ if !seen.insert(name) => p.duplicate(&claim.at("name"), name),
            _ => invalid_each(p, &claim.at("name"), name, names::dns_label(name, false)),
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => p.invalid(claim.path(), claim.value().clone(), "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
            (false, false) => p.invalid(claim.path(), claim.value().clone(), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(value) = claim.opt_str(field) {
                invalid_each(p, &claim.at(field), value, names::dns_subdomain(value, false));
            }
        }
    }
    seen
}

/// What containers together ask for must fit in what the pod as a whole asks for.
pub fn pod_level(spec: &Field, p: &mut Problems) {
    let r = spec.get("resources");
    if !r.is_set() {
        return;
    }
    if !r.list("claims").is_empty() {
        p.forbidden(&r.at("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(&r, pod_name, p);
    for (name, used) in keles_rules::requests::of_containers(spec.value()) {
        let Some(asked) = r.get("requests").opt_str(&name) else { continue };
        if used > Quantity::parse(asked).unwrap_or(Quantity::ZERO) {
            p.invalid(&r.at("requests").key(&name), asked, format!("must be greater than or equal to aggregate container requests of {used}"));
        }
    }
    for (i, c) in spec.items("containers").iter().enumerate() {
        for (name, limit) in c.get("resources").map("limits") {
            let Some(of_pod) = r.get("limits").opt_str(name) else { continue };
            if of_value(limit) > Quantity::parse(of_pod).unwrap_or(Quantity::ZERO) {
                let at = r.at("containers").index(i).key(name).child("limits");
                p.invalid(&at, limit.as_str().unwrap_or(""), format!("must be less than or equal to pod limits of {of_pod}"));
            }
        }
    }
}

/// A resource that a pod as a whole may ask for.
fn pod_name(p: &mut Problems, at: &Path, resource: &str) {
    if name(p, at, resource) && !matches!(resource, "cpu" | "memory") && !is_huge_page(resource) {
        p.not_supported(at, resource, &["cpu", "hugepages-", "memory"]);
    }
}

/// What a sandbox itself costs.
pub fn overhead(amounts: &Field, at: &Path, p: &mut Problems) {
    for (resource, value) in amounts.value().as_object().into_iter().flatten() {
        let at = at.child("limits").key(resource);
        container_name(p, &at, resource);
        amount(p, &at, resource, value);
    }
}
