//! Who is ended first: those over their requests, then by priority, then by how much over. Pure. Source: upstream's eviction order.

use super::machine::{Shortage, bytes};
use super::signals::Signal;
use keles_volumes::quantity::Quantity;
use std::cmp::Reverse;

/// What a container holds of the resource that is short.
#[derive(Clone, Debug, Default)]
pub struct Use {
    pub name: String,
    /// Bytes or a count.
    pub used: i64,
    pub requested: i64,
}

/// A pod that could be ended.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    pub uid: String,
    pub priority: i32,
    /// Of the spec's own; what is not among them is not named.
    pub containers: Vec<Use>,
    /// Held by volumes on the node's disk and by ephemeral containers.
    pub others: i64,
    /// What the whole pod asks for.
    pub requested: i64,
}

impl Candidate {
    fn used(&self) -> i64 {
        self.containers.iter().map(|container| container.used).sum::<i64>() + self.others
    }

    /// The pod's status message when it is ended for `shortage`: upstream's words.
    pub fn message(&self, shortage: &Shortage) -> String {
        let signal = shortage.threshold.signal;
        let mut message = shortage.message();
        // Process ids and inodes cannot be asked for.
        if !signal.is_count() {
            for container in self.containers.iter().filter(|container| container.used > container.requested) {
                let (used, requested) = (bytes(container.used), bytes(container.requested));
                message.push_str(&format!("Container {} was using {used}, request is {requested}, has larger consumption of {}. ", container.name, signal.resource()));
            }
        }
        message
    }
}

/// First who goes first.
pub fn rank(signal: Signal, mut pods: Vec<Candidate>) -> Vec<Candidate> {
    let asks = !signal.is_count();
    pods.sort_by_key(|pod| {
        let over = if asks { pod.used() - pod.requested } else { pod.used() };
        (Reverse(asks && over > 0), pod.priority, Reverse(over))
    });
    pods
}

/// A container's request of a resource, 0 without one.
pub fn request(container: &k8s_openapi::api::core::v1::Container, resource: &str) -> i64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    requests.and_then(|requests| requests.get(resource)).and_then(|quantity| Quantity::parse(&quantity.0)).map_or(0, Quantity::whole)
}

#[cfg(test)]
mod tests {
    use super::super::machine::Figure;
    use super::super::threshold::{Threshold, Value};
    use super::*;

    fn pod(uid: &str, priority: i32, used: i64, requested: i64) -> Candidate {
        Candidate { uid: uid.into(), priority, containers: vec![Use { name: "c".into(), used, requested }], others: 0, requested }
    }

    fn order(signal: Signal, pods: Vec<Candidate>) -> Vec<String> {
        rank(signal, pods).into_iter().map(|pod| pod.uid).collect()
    }

    #[test]
    fn over_requests_then_priority_then_by_how_much() {
        let pods =
            vec![pod("within", 0, 50, 100), pod("a bit over", 0, 110, 100), pod("far over", 0, 200, 100), pod("over but dear", 1000, 900, 100), pod("asks nothing", 0, 150, 0)];
        assert_eq!(order(Signal::MemoryAvailable, pods), ["asks nothing", "far over", "a bit over", "over but dear", "within"]);
    }

    #[test]
    fn process_ids_go_by_priority_and_number_alone() {
        assert_eq!(order(Signal::PidAvailable, vec![pod("few", 0, 3, 0), pod("many", 0, 300, 0), pod("dear", 5, 900, 0)]), ["many", "few", "dear"]);
    }

    #[test]
    fn the_message_names_containers_over_their_requests() {
        let threshold = Threshold { signal: Signal::MemoryAvailable, value: Value::Amount(100 << 20, "100Mi".into()), grace: None, minimum_reclaim: None };
        let shortage = Shortage { threshold, figure: Figure { available: 51_200 << 10, capacity: 4 << 30 } };
        let mut pod = pod("p", 0, 2 << 20, 1 << 20);
        pod.containers.push(Use { name: "small".into(), used: 1, requested: 1 << 20 });
        let said =
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Mi, request is 1Mi, has larger consumption of memory. ";
        assert_eq!(pod.message(&shortage), said);
    }
}
