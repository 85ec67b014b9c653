//! The columns of a pod: what `kubectl get pods` prints.

use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Cells, Column};
use serde_json::Value;

pub const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", |o, _| text(ready(o))),
    column("Status", "string", "The aggregate status of the containers in this pod.", |o, _| text(reason(o))),
    column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.", |o, c| {
        text(restarts(o, c))
    }),
    AGE,
    wide("IP", "string", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.", |o, _| {
        table::str_or(o, &["status", "podIP"], "<none>")
    }),
    wide(
        "Node",
        "string",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
        |o, _| table::str_or(o, &["spec", "nodeName"], "<none>"),
    ),
    wide(
        "Nominated Node",
        "string",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
        |o, _| table::str_or(o, &["status", "nominatedNodeName"], "<none>"),
    ),
    wide(
        "Readiness Gates",
        "string",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
        |o, _| text(readiness_gates(o)),
    ),
];

/// Reason of a pod that the node controller gave up on.
const NODE_LOST: &str = "NodeLost";

fn statuses<'a>(o: &'a Object, field: &str) -> &'a [Value] {
    table::list(o.at(&["status", field]))
}

/// Init containers that keep running beside the others (sidecars) count as containers.
fn is_sidecar(o: &Object, name: &str) -> bool {
    let of_name = |c: &&Value| c["name"].as_str() == Some(name);
    table::list(o.at(&["spec", "initContainers"])).iter().find(of_name).is_some_and(|c| c["restartPolicy"].as_str() == Some("Always"))
}

/// `1/2`: ready containers of all, sidecars among them.
fn ready(o: &Object) -> String {
    let sidecars = table::list(o.at(&["spec", "initContainers"])).iter().filter(|c| c["restartPolicy"].as_str() == Some("Always")).count();
    let all = table::len(o.at(&["spec", "containers"])) + sidecars;
    let started_and_ready = |s: &&Value| s["started"] == true && s["ready"] == true;
    let mut ready = statuses(o, "initContainerStatuses").iter().filter(|s| is_sidecar(o, s["name"].as_str().unwrap_or(""))).filter(started_and_ready).count();
    if !initializing(o).1 || pod_initialized(o) {
        ready += statuses(o, "containerStatuses").iter().filter(|s| s["ready"] == true && !s["state"]["running"].is_null()).count();
    }
    format!("{ready}/{all}")
}

fn pod_initialized(o: &Object) -> bool {
    table::condition_true(o, "Initialized")
}

/// How an ended container is called: its reason, else its signal or exit code.
fn ended(terminated: &Value) -> String {
    match (terminated["reason"].as_str().unwrap_or(""), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The first init container that is not through, in words, and whether there is one.
fn initializing(o: &Object) -> (String, bool) {
    for (i, s) in statuses(o, "initContainerStatuses").iter().enumerate() {
        let state = &s["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        match () {
            _ if !state["terminated"].is_null() && state["terminated"]["exitCode"].as_i64().unwrap_or(0) == 0 => continue,
            _ if s["started"] == true && is_sidecar(o, s["name"].as_str().unwrap_or("")) => continue,
            _ if !state["terminated"].is_null() => return (format!("Init:{}", ended(&state["terminated"])), true),
            _ if !waiting.is_empty() && waiting != "PodInitializing" => return (format!("Init:{waiting}"), true),
            _ => return (format!("Init:{i}/{}", table::len(o.at(&["spec", "initContainers"]))), true),
        }
    }
    (String::new(), false)
}

/// The STATUS column: the phase, or what holds the pod up.
fn reason(o: &Object) -> String {
    let mut reason = o.str_at(&["status", "phase"]).to_owned();
    if !o.str_at(&["status", "reason"]).is_empty() {
        reason = o.str_at(&["status", "reason"]).to_owned();
    }
    if table::condition(o, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        reason = "SchedulingGated".into();
    }
    let (init, busy) = initializing(o);
    if busy {
        reason = init;
    }
    if !busy || pod_initialized(o) {
        reason = running_reason(o, reason);
    }
    if o.deletion_timestamp().is_some() {
        let lost = o.str_at(&["status", "reason"]) == NODE_LOST;
        let over = matches!(o.str_at(&["status", "phase"]), "Failed" | "Succeeded");
        reason = match (lost, over) {
            (true, _) => "Unknown".into(),
            (false, false) => "Terminating".into(),
            (false, true) => reason,
        };
    }
    reason
}

/// The word of the first container that waits or has ended; `Running` again when others of a `Completed` pod still run.
fn running_reason(o: &Object, mut reason: String) -> String {
    let mut has_running = false;
    for s in statuses(o, "containerStatuses").iter().rev() {
        let state = &s["state"];
        let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
        if !waiting.is_empty() {
            reason = waiting.to_owned();
        } else if !state["terminated"].is_null() {
            reason = ended(&state["terminated"]);
        } else if s["ready"] == true && !state["running"].is_null() {
            has_running = true;
        }
    }
    if reason == "Completed" && has_running {
        reason = if table::condition_true(o, "Ready") { "Running".into() } else { "NotReady".into() };
    }
    reason
}

/// `3 (5m ago)`: restarts of the containers (of the init containers while they run), and the last one's age.
fn restarts(o: &Object, c: &Cells) -> String {
    let busy = initializing(o).1 && !pod_initialized(o);
    let sidecar = |s: &&Value| is_sidecar(o, s["name"].as_str().unwrap_or(""));
    let counted: Vec<&Value> = if busy {
        statuses(o, "initContainerStatuses").iter().collect()
    } else {
        statuses(o, "initContainerStatuses").iter().filter(sidecar).chain(statuses(o, "containerStatuses")).collect()
    };
    let total: i64 = counted.iter().filter_map(|s| s["restartCount"].as_i64()).sum();
    let last = counted.iter().filter_map(|s| s["lastState"]["terminated"]["finishedAt"].as_str()).max();
    match last {
        Some(at) if total > 0 => format!("{total} ({} ago)", table::age(at, c)),
        _ => total.to_string(),
    }
}

/// `1/2` readiness gates whose condition is True.
fn readiness_gates(o: &Object) -> String {
    let gates = table::list(o.at(&["spec", "readinessGates"]));
    let open = gates.iter().filter(|g| table::condition_true(o, g["conditionType"].as_str().unwrap_or(""))).count();
    if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()) }
}
