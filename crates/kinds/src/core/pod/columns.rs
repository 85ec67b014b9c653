//! The columns of a pod: what `kubectl get pods` prints.

use crate::table::{self, AGE, NAME, column, text, wide};
use keles_api::Object;
use keles_registry::kind::{Cells, Column};
use serde_json::{Value, json};

pub const COLUMNS: &[Column<Object>] = &[
    NAME,
    column("Ready", "string", "The aggregate readiness state of this pod for accepting traffic.", |o, _| text(ready(o))),
    column("Status", "string", "The aggregate status of the containers in this pod.", |o, _| text(reason(o))),
    column("Restarts", "string", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.", |o, c| {
        text(restarts(o, c))
    }),
    AGE,
    wide("IP", "string", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated.", |o, _| {
        let first = table::list(o.at(&["status", "podIPs"])).first().and_then(|ip| ip["ip"].as_str()).unwrap_or(o.str_at(&["status", "podIP"]));
        text(if first.is_empty() { "<none>" } else { first })
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

/// A row of a pod that has ended says so.
pub fn conditions(o: &Object) -> Vec<Value> {
    let phase = o.str_at(&["status", "phase"]);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": phase, "message": message})]
}

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

/// What the columns say of a pod's containers, found in one walk over their statuses, as upstream walks them.
struct Progress {
    reason: String,
    ready: usize,
    restarts: i64,
    /// When the last one that restarted had ended.
    last_end: String,
}

/// Restarts that count, and when the last of them was.
#[derive(Default)]
struct Restarts(i64, String);

impl Restarts {
    fn count(&mut self, status: &Value) {
        self.0 += status["restartCount"].as_i64().unwrap_or(0);
        let ended = status["lastState"]["terminated"]["finishedAt"].as_str().unwrap_or("");
        if ended > self.1.as_str() {
            self.1 = ended.to_owned();
        }
    }
}

impl Progress {
    fn of(o: &Object) -> Self {
        let mut reason = o.str_at(&["status", "phase"]).to_owned();
        if !o.str_at(&["status", "reason"]).is_empty() {
            reason = o.str_at(&["status", "reason"]).to_owned();
        }
        if statuses(o, "conditions").iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
            reason = "SchedulingGated".into();
        }
        // Init containers count up to the first that is not through; sidecars count beside the others.
        let (mut all, mut sidecars, mut ready, mut busy) = (Restarts::default(), Restarts::default(), 0, false);
        for (i, s) in statuses(o, "initContainerStatuses").iter().enumerate() {
            let sidecar = is_sidecar(o, s["name"].as_str().unwrap_or(""));
            all.count(s);
            if sidecar {
                sidecars.count(s);
            }
            let ended = &s["state"]["terminated"];
            if !ended.is_null() && ended["exitCode"].as_i64().unwrap_or(0) == 0 {
                continue;
            }
            if sidecar && s["started"] == true {
                ready += usize::from(s["ready"] == true);
                continue;
            }
            let waiting = s["state"]["waiting"]["reason"].as_str().unwrap_or("");
            reason = match () {
                _ if !ended.is_null() => format!("Init:{}", exit(ended)),
                _ if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                _ => format!("Init:{i}/{}", table::len(o.at(&["spec", "initContainers"]))),
            };
            busy = true;
            break;
        }
        if !busy || table::condition_true(o, "Initialized") {
            all = sidecars;
            reason = Self::running(o, reason, &mut all, &mut ready);
        }
        Progress { reason, ready, restarts: all.0, last_end: all.1 }
    }

    /// The word of the first container that waits or has ended; `Running` again when others of a `Completed` pod still run.
    fn running(o: &Object, mut reason: String, restarts: &mut Restarts, ready: &mut usize) -> String {
        let mut has_running = false;
        for s in statuses(o, "containerStatuses").iter().rev() {
            restarts.count(s);
            let state = &s["state"];
            let waiting = state["waiting"]["reason"].as_str().unwrap_or("");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if !state["terminated"].is_null() {
                reason = exit(&state["terminated"]);
            } else if s["ready"] == true && !state["running"].is_null() {
                has_running = true;
                *ready += 1;
            }
        }
        if reason == "Completed" && has_running {
            reason = if table::condition_true(o, "Ready") { "Running".into() } else { "NotReady".into() };
        }
        reason
    }
}

/// `1/2`: ready containers of all, sidecars among them.
fn ready(o: &Object) -> String {
    let sidecars = table::list(o.at(&["spec", "initContainers"])).iter().filter(|c| c["restartPolicy"].as_str() == Some("Always")).count();
    format!("{}/{}", Progress::of(o).ready, table::len(o.at(&["spec", "containers"])) + sidecars)
}

/// How an ended container is called: its reason, else its signal or exit code.
fn exit(terminated: &Value) -> String {
    match (terminated["reason"].as_str().unwrap_or(""), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// The STATUS column: the phase, or what holds the pod up.
fn reason(o: &Object) -> String {
    let reason = Progress::of(o).reason;
    let lost = o.str_at(&["status", "reason"]) == NODE_LOST;
    let over = matches!(o.str_at(&["status", "phase"]), "Failed" | "Succeeded");
    match o.deletion_timestamp() {
        Some(_) if lost => "Unknown".into(),
        Some(_) if !over => "Terminating".into(),
        _ => reason,
    }
}

/// `3 (5m ago)`: restarts of the containers (of the init containers while they run), and the last one's age.
fn restarts(o: &Object, c: &Cells) -> String {
    let progress = Progress::of(o);
    match progress.restarts {
        0 => "0".into(),
        n if progress.last_end.is_empty() => n.to_string(),
        n => format!("{n} ({} ago)", table::age(&progress.last_end, c)),
    }
}

/// `1/2` readiness gates whose condition is True.
fn readiness_gates(o: &Object) -> String {
    let gates = table::list(o.at(&["spec", "readinessGates"]));
    let open = gates.iter().filter(|g| table::condition_true(o, g["conditionType"].as_str().unwrap_or(""))).count();
    if gates.is_empty() { "<none>".into() } else { format!("{open}/{}", gates.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: Cells = Cells { now_unix_seconds: 1_767_225_600 };

    fn status(name: &str, restarts: i64, state: Value) -> Value {
        json!({"name": name, "restartCount": restarts, "state": state, "lastState": {"terminated": {"finishedAt": "2025-12-31T23:59:00Z"}}})
    }

    fn pod(init: Value, running: Value) -> Object {
        let spec = json!({"initContainers": [{"name": "a"}, {"name": "s", "restartPolicy": "Always"}, {"name": "b"}], "containers": [{"name": "c"}]});
        Object(json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": init, "containerStatuses": running}}))
    }

    #[test]
    fn while_a_pod_initializes_its_init_containers_count_up_to_the_first_that_is_not_through() {
        let mut sidecar = status("s", 2, json!({"running": {}}));
        sidecar["started"] = true.into();
        sidecar["ready"] = true.into();
        let o = pod(
            json!([status("a", 1, json!({"terminated": {"exitCode": 0}})), sidecar, status("b", 4, json!({"waiting": {"reason": "CrashLoopBackOff"}}))]),
            json!([status("c", 8, json!({"waiting": {"reason": "PodInitializing"}}))]),
        );
        assert_eq!((restarts(&o, &CELLS), ready(&o), reason(&o)), ("7 (60s ago)".into(), "1/2".into(), "Init:CrashLoopBackOff".into()));
        let o = pod(json!([status("a", 1, json!({"running": {}})), status("s", 2, json!({})), status("b", 4, json!({}))]), json!([]));
        assert_eq!((restarts(&o, &CELLS), ready(&o), reason(&o)), ("1 (60s ago)".into(), "0/2".into(), "Init:0/3".into()));
    }

    #[test]
    fn a_sidecar_that_has_ended_well_is_not_ready_and_its_restarts_count() {
        let mut sidecar = status("s", 2, json!({"terminated": {"exitCode": 0}}));
        sidecar["started"] = true.into();
        sidecar["ready"] = true.into();
        let through = json!({"terminated": {"exitCode": 0}});
        let o = pod(
            json!([status("a", 1, through.clone()), sidecar, status("b", 4, through.clone())]),
            json!([status("c", 8, json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))]),
        );
        assert_eq!((restarts(&o, &CELLS), ready(&o), reason(&o)), ("10 (60s ago)".into(), "0/2".into(), "Completed".into()));
    }

    #[test]
    fn the_row_of_a_pod_that_has_ended_says_so() {
        let row = |phase: &str| conditions(&Object(json!({"status": {"phase": phase}})));
        assert_eq!(row("Running"), Vec::<Value>::new());
        assert_eq!(row("Succeeded"), [json!({"type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully."})]);
        assert_eq!(row("Failed")[0]["message"], "The pod failed.");
    }
}
