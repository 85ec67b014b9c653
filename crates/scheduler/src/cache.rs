//! Nodes and what is placed on them, assumed placements included.
//!
//! Invariant: a pod counts on exactly one node. An assumed pod counts like a bound one until it is seen bound (then that stands) or forgotten.

use crate::resources::{Resources, assumed};
use k8s_openapi::api::core::v1::{Node, Pod};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The profile of pods that name none.
pub const DEFAULT_PROFILE: &str = "default-scheduler";

/// Whose pod it is.
pub fn profile_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or(DEFAULT_PROFILE)
}

/// A port that a pod takes on its node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    /// Two ports clash when protocol and number agree and either binds every address.
    pub fn clashes(&self, other: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == ANY || other.ip == ANY || self.ip == other.ip)
    }
}

/// A pod with what scheduling needs of it, computed once.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub requests: Resources,
    /// Milli-cpu and bytes as scoring sees them.
    pub assumed: (i64, i64),
    pub host_ports: Vec<HostPort>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let (requests, assumed, host_ports) = match &pod.spec {
            Some(spec) => {
                let mut requests = Resources::of_pod(&pod);
                requests.pods = 1;
                let assumed = assumed(spec, &requests);
                (requests, assumed, host_ports(&pod))
            }
            None => Default::default(),
        };
        PodInfo { pod, requests, assumed, host_ports }
    }
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }
    pub fn node(&self) -> Option<&str> {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
    }
    pub fn priority(&self) -> i32 {
        self.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
    }
    pub fn display(&self) -> String {
        format!("{}/{}", self.pod.metadata.namespace.as_deref().unwrap_or_default(), self.pod.metadata.name.as_deref().unwrap_or_default())
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        Some(HostPort { ip, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()), port: number })
    });
    taken.collect()
}

/// A node and the sums over its pods.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// `None` while pods name a node that is not there.
    pub node: Option<Arc<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub assumed: (i64, i64),
    pub host_ports: Vec<HostPort>,
    pods: HashMap<String, Arc<PodInfo>>,
}

impl NodeInfo {
    fn empty() -> Self {
        NodeInfo { node: None, allocatable: Resources::default(), requested: Resources::default(), assumed: (0, 0), host_ports: Vec::new(), pods: HashMap::new() }
    }
    fn set_node(&mut self, node: Arc<Node>) {
        self.allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref()).map(Resources::of_list).unwrap_or_default();
        self.node = Some(node);
    }
    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed = (self.assumed.0 + pod.assumed.0, self.assumed.1 + pod.assumed.1);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.uid().to_owned(), pod);
    }
    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.sub(&pod.requests);
        self.assumed = (self.assumed.0 - pod.assumed.0, self.assumed.1 - pod.assumed.1);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|held| held == port) {
                self.host_ports.swap_remove(at);
            }
        }
        Some(pod)
    }
    pub fn pods(&self) -> impl Iterator<Item = &PodInfo> {
        self.pods.values().map(Arc::as_ref)
    }
    pub fn name(&self) -> &str {
        self.node.as_ref().and_then(|node| node.metadata.name.as_deref()).unwrap_or_default()
    }
}

#[derive(Default)]
pub struct Cache {
    nodes: BTreeMap<String, Arc<NodeInfo>>,
    /// Pod uid -> its node, and whether that is only assumed.
    placed: HashMap<String, (String, bool)>,
    /// How many of them are only assumed.
    assumed: usize,
}

impl Cache {
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        Arc::make_mut(self.nodes.entry(name).or_insert_with(|| Arc::new(NodeInfo::empty()))).set_node(node);
    }
    pub fn remove_node(&mut self, name: &str) {
        if let Some(info) = self.nodes.get_mut(name) {
            Arc::make_mut(info).node = None;
            if info.pods.is_empty() {
                self.nodes.remove(name);
            }
        }
    }
    /// A pod seen bound to a node.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        let Some(node) = pod.node().map(str::to_owned) else { return };
        self.remove_pod(pod.uid());
        self.place(pod, node, false);
    }
    /// A placement decided here that the API does not know yet.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.place(pod, node.to_owned(), true);
    }
    /// Undoes an assumption, unless the pod was seen bound meanwhile.
    pub fn forget(&mut self, uid: &str) -> bool {
        let assumed = self.is_assumed(uid);
        if assumed {
            self.remove_pod(uid);
        }
        assumed
    }
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.placed.get(uid).is_some_and(|(_, assumed)| *assumed)
    }
    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let (node, assumed) = self.placed.remove(uid)?;
        self.assumed -= usize::from(assumed);
        let info = self.nodes.get_mut(&node)?;
        let pod = Arc::make_mut(info).remove(uid);
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(&node);
        }
        pod
    }
    /// Nodes, pods and assumed pods.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.nodes.len(), self.placed.len(), self.assumed)
    }
    /// The nodes as they are now.
    pub fn snapshot(&self) -> Vec<Arc<NodeInfo>> {
        self.nodes.values().filter(|info| info.node.is_some()).cloned().collect()
    }
    fn place(&mut self, pod: Arc<PodInfo>, node: String, assumed: bool) {
        let before = self.placed.insert(pod.uid().to_owned(), (node.clone(), assumed));
        self.assumed = self.assumed + usize::from(assumed) - usize::from(before.is_some_and(|(_, assumed)| assumed));
        Arc::make_mut(self.nodes.entry(node).or_insert_with(|| Arc::new(NodeInfo::empty()))).add(pod);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    pub fn pod(name: &str, spec: serde_json::Value) -> Arc<PodInfo> {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        let pod = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec})).expect("a pod");
        Arc::new(PodInfo::new(Arc::new(pod)))
    }
    pub fn asking(name: &str, cpu: &str, memory: &str) -> Arc<PodInfo> {
        pod(name, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
    }
    pub fn node(name: &str, extra: serde_json::Value) -> Arc<Node> {
        let mut node =
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}, "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}}});
        merge(&mut node, extra);
        Arc::new(serde_json::from_value(node).expect("a node"))
    }
    fn merge(into: &mut serde_json::Value, extra: serde_json::Value) {
        match (into, extra) {
            (serde_json::Value::Object(into), serde_json::Value::Object(extra)) => {
                for (key, value) in extra {
                    merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, extra) => *into = extra,
        }
    }

    #[test]
    fn an_assumed_pod_counts_until_it_is_seen_bound_or_forgotten() {
        let mut cache = Cache::default();
        cache.set_node(node("n1", json!({})));
        let requested = |cache: &Cache| cache.snapshot()[0].requested.milli_cpu;
        cache.assume(asking("a", "500m", "1Gi"), "n1");
        assert_eq!(requested(&cache), 500);
        let bound = pod("a", json!({"nodeName": "n1", "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]}));
        cache.set_pod(bound);
        assert_eq!((requested(&cache), cache.is_assumed("a")), (500, false), "seen bound: counted once, assumed no longer");
        assert!(!cache.forget("a"), "a late failure of the binding does not undo what is bound");
        cache.assume(asking("b", "1", "1Gi"), "n1");
        assert!(cache.forget("b"));
        assert_eq!(requested(&cache), 500);
        cache.remove_pod("a");
        assert_eq!(requested(&cache), 0);
    }

    #[test]
    fn host_ports_clash_by_number_protocol_and_address() {
        let port = |ip: &str, protocol: &str, port: i32| HostPort { ip: ip.into(), protocol: protocol.into(), port };
        assert!(port("0.0.0.0", "TCP", 80).clashes(&port("127.0.0.1", "TCP", 80)));
        assert!(!port("127.0.0.2", "TCP", 80).clashes(&port("127.0.0.1", "TCP", 80)));
        assert!(!port("0.0.0.0", "UDP", 80).clashes(&port("0.0.0.0", "TCP", 80)));
    }
}
