//! Whether this node takes a pod that was bound to it: the scheduler may have been wrong, or was not asked.
//!
//! Entry point: [`admit`], pure. A refused pod is Failed with a reason and `Pod was rejected: …`.

use crate::eviction::{self, Condition, Pressure};
use crate::machine::is_sidecar;
use k8s_openapi::api::core::v1::{Container, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use keles_runtime::api::AppArmor;
use keles_volumes::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};

/// Sysctls that are namespaced and cannot harm others (upstream's list for v1.36).
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

/// The node as far as admission looks at it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub allocatable: BTreeMap<String, Quantity>,
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The kernel enforces AppArmor.
    pub apparmor: bool,
    /// The runtime knows no supplementalGroupsPolicy but Merge.
    pub merges_groups_only: bool,
    /// What it is short of.
    pub pressure: Pressure,
}

/// `others` are the pods that hold resources and ports here already.
pub fn admit(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    suits(pod, node)?;
    fits(pod, node, others)?;
    ports(pod, others)
}

/// The same of a node that has room for everybody.
pub fn admit_given_room(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    suits(pod, node)?;
    ports(pod, others)
}

fn suits(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    pressure(pod, node)?;
    sysctls(pod, node)?;
    app_armor(pod, node)?;
    groups(pod, node)?;
    operating_system(pod)?;
    selects(pod, node)
}

fn refuse(reason: &str, message: String) -> Result<(), Refusal> {
    Err(Refusal { reason: reason.into(), message })
}

/// A node that is short takes only pods it cannot do without; short of memory alone, also those that asked for what they need or tolerate it.
fn pressure(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    const TAINT: &str = "node.kubernetes.io/memory-pressure";
    if node.pressure.is_empty() || eviction::is_critical(pod) {
        return Ok(());
    }
    if node.pressure.iter().eq([&Condition::Memory]) {
        let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        let tolerates = |spec: &PodSpec| spec.tolerations.iter().flatten().any(|toleration| keles_rules::tolerations::tolerates(toleration, &taint));
        if pod.spec.as_ref().is_some_and(|spec| tolerates(spec) || crate::qos::class(spec) != crate::qos::BEST_EFFORT) {
            return Ok(());
        }
    }
    let names: Vec<&str> = node.pressure.iter().map(|condition| condition.name()).collect();
    refuse(crate::machine::conditions::EVICTED, format!("The node had condition: [{}]. ", names.join(" ")))
}

fn sysctls(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let spec = pod.spec.as_ref();
    let security = spec.and_then(|spec| spec.security_context.as_ref());
    for sysctl in security.and_then(|security| security.sysctls.as_ref()).into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        let listed = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        };
        let on_host = |flag: Option<bool>| flag == Some(true);
        let namespaced = match name.split('.').next() {
            Some("net") => !on_host(spec.and_then(|spec| spec.host_network)),
            _ => !on_host(spec.and_then(|spec| spec.host_ipc)),
        };
        let allowed = SAFE_SYSCTLS.contains(&name.as_str()) || node.allowed_unsafe_sysctls.iter().any(listed);
        if !(allowed && namespaced) {
            return refuse("SysctlForbidden", format!("forbidden sysctl: \"{name}\" not allowlisted"));
        }
    }
    Ok(())
}

/// A pod that asks for a profile is better told than run without. Whether one of the host's is loaded, the runtime says.
fn app_armor(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let spec = pod.spec.iter();
    let profiles = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())).filter_map(|container| crate::security::app_armor(pod, container));
    let asked: Vec<AppArmor> = profiles.filter(|profile| *profile != AppArmor::Unconfined).collect();
    if !asked.is_empty() && !node.apparmor {
        return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
    }
    let nameless = asked.iter().find_map(|profile| if let AppArmor::Localhost(name) = profile { Some(name).filter(|name| name.trim().is_empty()) } else { None });
    nameless.map_or(Ok(()), |name| refuse("AppArmor", format!("Cannot enforce AppArmor: invalid AppArmor profile name: {name:?}")))
}

/// A runtime that does not know the policy would give the groups that it forbids (KEP-3619).
fn groups(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let policy = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.supplemental_groups_policy.as_deref());
    match policy {
        Some("Strict") if node.merges_groups_only => refuse("SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node".into()),
        _ => Ok(()),
    }
}

fn operating_system(pod: &Pod) -> Result<(), Refusal> {
    match pod.spec.as_ref().and_then(|spec| spec.os.as_ref()) {
        Some(os) if os.name != "linux" => refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS".into()),
        _ => Ok(()),
    }
}

fn selects(pod: &Pod, node: &Node) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let by_labels = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let by_affinity = required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| matches(term, node)));
    if by_labels && by_affinity {
        return Ok(());
    }
    refuse("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into())
}

fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |key: &str| (key == "metadata.name").then_some(&node.name);
    // An empty term selects nothing (API).
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, node.labels.get(&requirement.key)))
        && fields.iter().all(|requirement| holds(requirement, name(&requirement.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: &String| text.parse::<i64>().ok();
    let compare = |ordering| match (value.and_then(number), values.first().and_then(number)) {
        (Some(have), Some(bound)) => have.cmp(&bound) == ordering,
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(std::cmp::Ordering::Greater),
        "Lt" => compare(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn requests_of(container: &Container) -> BTreeMap<String, Quantity> {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.into_iter().flatten().filter_map(|(name, quantity)| Some((name.clone(), Quantity::parse(&quantity.0)?))).collect()
}

fn add(total: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>) {
    for (name, quantity) in more {
        let sum = total.get(name).copied().unwrap_or_default() + *quantity;
        total.insert(name.clone(), sum);
    }
}

/// What a pod needs at once: its containers and sidecars together, or its largest init step beside the sidecars before it (KEP-753); where the pod
/// as a whole asks for an amount, that one (KEP-2837).
pub fn requests(pod: &Pod) -> BTreeMap<String, Quantity> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let mut running = BTreeMap::new();
    let mut largest: BTreeMap<String, Quantity> = BTreeMap::new();
    for init in spec.init_containers.iter().flatten() {
        let own = requests_of(init);
        let mut step = running.clone();
        add(&mut step, &own);
        if is_sidecar(init) {
            running = step.clone();
        }
        for (name, quantity) in step {
            let most = largest.entry(name).or_default();
            *most = (*most).max(quantity);
        }
    }
    for container in &spec.containers {
        add(&mut running, &requests_of(container));
    }
    for (name, quantity) in largest {
        let most = running.entry(name).or_default();
        *most = (*most).max(quantity);
    }
    let parse = |(name, quantity): (&String, &ApiQuantity)| Some((name.clone(), Quantity::parse(&quantity.0)?));
    running.extend(spec.resources.iter().flat_map(|whole| whole.requests.iter().flatten()).filter_map(parse));
    let overhead = spec.overhead.iter().flatten().filter_map(parse).collect();
    add(&mut running, &overhead);
    running
}

/// A resource of which a pod asks for more than is left: in milli-cores of cpu, else in units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

impl Shortage {
    /// How much more there would have to be.
    pub fn missing(&self) -> i64 {
        self.requested - (self.capacity - self.used)
    }
}

/// What a pod asks for of a resource, in a shortage's unit; of `pods` itself.
pub fn requested(pod: &Pod, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        name => requests(pod).get(name).map_or(0, |quantity| figure(name, *quantity)),
    }
}

fn figure(resource: &str, quantity: Quantity) -> i64 {
    if resource == "cpu" { quantity.milli() } else { quantity.whole() }
}

/// Of what there is too little for `pod` beside `others`; `pods` first.
pub fn shortages(pod: &Pod, node: &Node, others: &[&Pod]) -> Vec<Shortage> {
    let capacity = node.allocatable.get("pods").map_or(i64::MAX, |quantity| quantity.whole());
    let count = others.len() as i64;
    let of_pods = (count + 1 > capacity).then(|| Shortage { resource: "pods".into(), requested: 1, used: count, capacity });
    let mut used = BTreeMap::new();
    for other in others {
        add(&mut used, &requests(other));
    }
    let others = requests(pod).into_iter().filter_map(|(name, wanted)| {
        let capacity = node.allocatable.get(&name).copied()?;
        let taken = used.get(&name).copied().unwrap_or_default();
        (!wanted.is_zero() && taken + wanted > capacity).then(|| Shortage {
            requested: figure(&name, wanted),
            used: figure(&name, taken),
            capacity: figure(&name, capacity),
            resource: name,
        })
    });
    of_pods.into_iter().chain(others).collect()
}

/// Whether the requests of `pod` fit beside those of `others`.
pub(crate) fn fits(pod: &Pod, node: &Node, others: &[&Pod]) -> Result<(), Refusal> {
    let Some(Shortage { resource, requested, used, capacity }) = shortages(pod, node, others).into_iter().next() else { return Ok(()) };
    refuse(&format!("OutOf{resource}"), format!("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"))
}

/// Host ports a pod asks for: address, protocol, port.
fn host_ports(pod: &Pod) -> BTreeSet<(String, String, i32)> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|init| is_sidecar(init)));
    let ports = all.flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        Some((address, port.protocol.clone().unwrap_or_else(|| "TCP".into()), number))
    });
    named.collect()
}

fn ports(pod: &Pod, others: &[&Pod]) -> Result<(), Refusal> {
    let taken: BTreeSet<_> = others.iter().flat_map(|other| host_ports(other)).collect();
    let any = "0.0.0.0";
    let clashes = |wanted: &(String, String, i32)| taken.iter().any(|held| (held.1 == wanted.1 && held.2 == wanted.2) && (held.0 == wanted.0 || held.0 == any || wanted.0 == any));
    if host_ports(pod).iter().any(clashes) {
        return refuse("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn a_node_that_is_short_takes_only_what_it_must() {
        let refused = |spec: serde_json::Value, short: &[Condition]| pressure(&pod(spec), &Node { pressure: short.iter().copied().collect(), ..Node::default() }).err();
        let plain = || json!({"containers": [{"name": "c"}]});
        let asking = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]});
        assert_eq!(refused(plain(), &[]), None);
        let said = refused(plain(), &[Condition::Memory]).expect("BestEffort");
        assert_eq!((said.reason.as_str(), said.message.as_str()), ("Evicted", "The node had condition: [MemoryPressure]. "));
        assert_eq!(refused(asking.clone(), &[Condition::Memory]), None);
        let tolerating = json!({"containers": [{"name": "c"}], "tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"}]});
        assert_eq!(refused(tolerating, &[Condition::Memory]), None);
        let said = refused(asking, &[Condition::Disk, Condition::Memory]).expect("the disk is short too");
        assert_eq!(said.message, "The node had condition: [DiskPressure MemoryPressure]. ");
        assert_eq!(refused(json!({"containers": [{"name": "c"}], "priority": 2_000_001_000}), &[Condition::Disk]), None, "the node cannot do without it");
    }

    fn node() -> Node {
        let allocatable = BTreeMap::from([("cpu".to_string(), Quantity::from_whole(2)), ("pods".to_string(), Quantity::from_whole(3))]);
        Node { name: "n1".into(), labels: BTreeMap::from([("os".to_string(), "linux".to_string())]), allocatable, ..Default::default() }
    }

    fn refusal(pod: &Pod, others: &[&Pod]) -> Option<(String, String)> {
        admit(pod, &node(), others).err().map(|refusal| (refusal.reason, refusal.message))
    }

    #[test]
    fn an_unsafe_sysctl_is_forbidden_and_a_safe_one_is_not() {
        let with = |name: &str| pod(json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        assert_eq!(refusal(&with("kernel.msgmax"), &[]), Some(("SysctlForbidden".into(), "forbidden sysctl: \"kernel.msgmax\" not allowlisted".into())));
        assert_eq!(refusal(&with("net.ipv4.ip_unprivileged_port_start"), &[]), None);
    }

    #[test]
    fn what_the_node_cannot_be_is_refused() {
        let windows = pod(json!({"containers": [], "os": {"name": "windows"}}));
        assert_eq!(refusal(&windows, &[]), Some(("PodOSNotSupported".into(), "Failed to admit pod as the OS field doesn't match node OS".into())));
        let profile = |kind: &str| pod(json!({"containers": [{"name": "c", "securityContext": {"appArmorProfile": {"type": kind}}}]}));
        assert_eq!(refusal(&profile("Unconfined"), &[]), None);
        for kind in ["RuntimeDefault", "Localhost"] {
            assert_eq!(refusal(&profile(kind), &[]), Some(("AppArmor".into(), "Cannot enforce AppArmor: AppArmor is not enabled on the host".into())), "{kind}");
        }
        let with = Node { apparmor: true, ..Node::default() };
        assert_eq!(app_armor(&profile("RuntimeDefault"), &with), Ok(()));
        assert_eq!(app_armor(&profile("Localhost"), &with).expect_err("no name").message, "Cannot enforce AppArmor: invalid AppArmor profile name: \"\"");
    }

    #[test]
    fn a_pod_that_does_not_fit_says_of_what_there_is_too_little() {
        let with = |cpu: &str| pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}));
        let (reason, message) = refusal(&with("1500m"), &[&with("1")]).expect("refused");
        assert_eq!((reason.as_str(), message.as_str()), ("OutOfcpu", "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"));
        assert_eq!(refusal(&with("1"), &[&with("1")]), None);
        let small = with("0");
        assert_eq!(refusal(&small, &[&small, &small, &small]).expect("refused").0, "OutOfpods");
    }

    #[test]
    fn host_ports_clash_by_address_protocol_and_number() {
        let with = |ip: &str, protocol: &str| pod(json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}));
        assert_eq!(refusal(&with("", "TCP"), &[&with("127.0.0.1", "TCP")]).expect("clash").0, "NodePorts");
        assert_eq!(refusal(&with("127.0.0.2", "TCP"), &[&with("127.0.0.1", "TCP")]), None);
        assert_eq!(refusal(&with("", "UDP"), &[&with("", "TCP")]), None);
    }

    #[test]
    fn a_pod_bound_past_the_scheduler_must_still_match_the_node() {
        assert_eq!(refusal(&pod(json!({"containers": [], "nodeSelector": {"os": "plan9"}})), &[]).expect("refused").0, "NodeAffinity");
        assert_eq!(refusal(&pod(json!({"containers": [], "nodeSelector": {"os": "linux"}})), &[]), None);
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_a_large_init_step_alone() {
        let spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}], "initContainers": [
            {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
            {"name": "i", "resources": {"requests": {"cpu": "2"}}}]});
        assert_eq!(requests(&pod(spec)).get("cpu").copied().unwrap_or_default().milli(), 2500);
    }

    #[test]
    fn groups_that_the_runtime_would_not_keep_to_are_refused() {
        let of = |policy: &str| pod(json!({"containers": [], "securityContext": {"supplementalGroupsPolicy": policy}}));
        let merges = Node { merges_groups_only: true, ..Node::default() };
        let refusal = admit(&of("Strict"), &merges, &[]).expect_err("cannot");
        assert_eq!((refusal.reason.as_str(), refusal.message.as_str()), ("SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"));
        assert_eq!(admit(&of("Merge"), &merges, &[]), Ok(()));
        assert_eq!(admit(&of("Strict"), &Node::default(), &[]), Ok(()));
    }
}
