use super::actions::{Actions, Role, Start, decide};
use super::*;
use crate::machine::backoff::{Backoffs, MAX_WAIT};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Value, json};
use std::time::Duration;

const SANDBOX: &str = "s0";

/// A pod with what is observed of it; time starts at `START` and moves by hand.
struct World {
    pod: Pod,
    life: Life,
    sandbox: Option<SandboxView>,
    records: Vec<ContainerStatus>,
    verdicts: BTreeMap<String, Verdicts>,
    failures: BTreeMap<String, StartFailure>,
    backoffs: Backoffs,
    now: Timestamp,
    told: PodStatus,
    resize: resize::State,
    running_with: resize::Amounts,
    holds_claims: bool,
    resize_restarts: BTreeSet<String>,
}

fn start_time() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn pod(spec: Value) -> World {
    let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec});
    let sandbox = SandboxView { id: SANDBOX.into(), attempt: 0, ready: true, ips: vec!["10.42.0.5".into()], handler: String::new() };
    World {
        pod: serde_json::from_value(pod).expect("a pod"),
        life: Life::Syncing,
        sandbox: Some(sandbox),
        records: Vec::new(),
        verdicts: BTreeMap::new(),
        failures: BTreeMap::new(),
        backoffs: Backoffs::default(),
        now: start_time(),
        told: PodStatus::default(),
        resize: resize::State::default(),
        running_with: BTreeMap::new(),
        holds_claims: false,
        resize_restarts: BTreeSet::new(),
    }
}

fn containers(policy: &str, names: &[&str]) -> Value {
    json!({"restartPolicy": policy, "containers": names.iter().map(|name| json!({"name": name, "image": "i"})).collect::<Vec<_>>()})
}

fn with_inits(policy: &str, inits: Value, names: &[&str]) -> Value {
    let mut spec = containers(policy, names);
    spec["initContainers"] = inits;
    spec
}

impl World {
    fn record(mut self, name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> Self {
        let ns = i64::try_from(self.now.as_nanosecond()).expect("this century");
        let id = format!("{name}{attempt}");
        self.records.push(ContainerStatus {
            id,
            sandbox_id: self.sandbox.as_ref().map(|sandbox| sandbox.id.clone()).unwrap_or_default(),
            name: name.into(),
            attempt,
            state,
            created_at_unix_ns: ns,
            started_at_unix_ns: ns,
            finished_at_unix_ns: ns,
            exit_code,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            image: "i".into(),
            image_id: "sha256:1".into(),
            log_path: format!("{name}/{attempt}.log").into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            pid: None,
        });
        self
    }
    fn running(self, name: &str) -> Self {
        self.record(name, 0, ContainerState::Running, 0)
    }
    fn exited(self, name: &str, code: i32) -> Self {
        self.record(name, 0, ContainerState::Exited, code)
    }
    fn verdict(mut self, id: &str, verdicts: Verdicts) -> Self {
        self.verdicts.insert(id.into(), verdicts);
        self
    }
    fn later(mut self, seconds: i64) -> Self {
        self.now += SignedDuration::from_secs(seconds);
        self
    }
    fn ending(mut self, ending: Ending) -> Self {
        self.life = Life::Terminating(ending);
        self
    }
    fn given_back(mut self) -> Self {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.ready = false;
        }
        self
    }
    fn observed<'a>(&'a self, messages: &'a BTreeMap<String, String>) -> Observed<'a> {
        Observed {
            pod: &self.pod,
            life: &self.life,
            sandbox: self.sandbox.as_ref(),
            records: &self.records,
            verdicts: &self.verdicts,
            failures: &self.failures,
            backoffs: &self.backoffs,
            resize: &self.resize,
            running_with: &self.running_with,
            resize_restarts: &self.resize_restarts,
            holds_claims: self.holds_claims,
            messages,
            runtime: super::RuntimeFacts { id_scheme: "keles", recursive_read_only: true },
            now: self.now,
        }
    }
    fn decide(&self) -> Actions {
        decide(&self.observed(&BTreeMap::new()))
    }
    fn status(&self) -> PodStatus {
        super::status::generate(&self.observed(&BTreeMap::new()), &self.told, &["192.0.2.1".to_string()])
    }
    fn starts(&self) -> Vec<(Role, usize, u32)> {
        self.decide().start.into_iter().map(|Start { role, index, attempt }| (role, index, attempt)).collect()
    }
    /// One line a container: state and its reason, ready, started, restarts.
    fn shown(&self) -> Vec<String> {
        let status = self.status();
        let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let line = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            let state = serde_json::to_value(&status.state).expect("encodable");
            let (kind, detail) = state.as_object().and_then(|map| map.iter().next()).map(|(k, v)| (k.clone(), v.clone())).unwrap_or_default();
            let reason = detail.get("reason").and_then(Value::as_str).unwrap_or("-").to_string();
            format!("{} {kind} {reason} ready={} started={} restarts={}", status.name, status.ready, status.started == Some(true), status.restart_count)
        };
        all.map(line).collect()
    }
    fn conditions(&self) -> BTreeMap<String, (String, String)> {
        let conditions = self.status().conditions.unwrap_or_default();
        conditions.into_iter().map(|condition| (condition.type_, (condition.status, condition.reason.unwrap_or_default()))).collect()
    }
    fn phase(&self) -> String {
        self.status().phase.unwrap_or_default()
    }
}

fn condition(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

#[test]
fn a_new_pod_gets_a_sandbox_before_any_container() {
    let mut world = pod(containers("Always", &["c"]));
    world.sandbox = None;
    assert_eq!(world.decide(), Actions { sandbox: Some(0), ..Default::default() });
    assert_eq!(world.shown(), ["c waiting ContainerCreating ready=false started=false restarts=0"]);
    assert_eq!((world.phase().as_str(), world.conditions()["PodReadyToStartContainers"].clone()), ("Pending", condition("False", "")));
}

#[test]
fn containers_start_together_once_the_sandbox_is_ready() {
    assert_eq!(pod(containers("Always", &["a", "b"])).starts(), [(Role::Main, 0, 0), (Role::Main, 1, 0)]);
}

#[test]
fn init_containers_run_one_after_another_and_show_pod_initializing() {
    let spec = with_inits("Never", json!([{"name": "i1"}, {"name": "i2"}]), &["c"]);
    assert_eq!(pod(spec.clone()).starts(), [(Role::Init, 0, 0)]);
    let first = pod(spec.clone()).running("i1");
    assert!(first.starts().is_empty());
    assert_eq!(
        first.shown(),
        [
            "i1 running - ready=false started=true restarts=0",
            "i2 waiting PodInitializing ready=false started=false restarts=0",
            "c waiting PodInitializing ready=false started=false restarts=0"
        ]
    );
    assert_eq!(pod(spec.clone()).exited("i1", 0).starts(), [(Role::Init, 1, 0)]);
    let done = pod(spec).exited("i1", 0).exited("i2", 0);
    assert_eq!(done.starts(), [(Role::Main, 0, 0)]);
    assert_eq!(done.shown()[0], "i1 terminated Completed ready=true started=false restarts=0");
}

#[test]
fn messages_of_all_containers_together_are_bounded_and_begin_at_their_beginning() {
    let mut world = pod(containers("Never", &["a", "b", "c", "d"]));
    for name in ["a", "b", "c", "d"] {
        world = world.exited(name, 0);
    }
    let long = format!("<{}", "x".repeat(4095));
    let messages: BTreeMap<String, String> = [("a0", long.as_str()), ("b0", long.as_str()), ("c0", "short")].map(|(id, text)| (id.to_string(), text.to_string())).into();
    let status = super::status::generate(&world.observed(&messages), &world.told, &["192.0.2.1".to_string()]);
    let shown: Vec<String> = status.container_statuses.iter().flatten().filter_map(|c| c.state.clone()?.terminated?.message).collect();
    assert_eq!(shown.iter().map(String::len).collect::<Vec<_>>()[..3], [3072, 3072, 5]);
    assert!(shown[0].starts_with('<') && shown[2] == "short");
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let world = pod(with_inits("Never", json!([{"name": "i1"}, {"name": "i2"}]), &["c"])).exited("i1", 5);
    assert!(world.decide().finish);
    let world = world.ending(Ending::Completed).given_back();
    assert_eq!(world.phase(), "Failed");
    let conditions = world.conditions();
    assert_eq!((conditions["Initialized"].clone(), conditions["Ready"].clone()), (condition("False", "ContainersNotInitialized"), condition("False", "PodFailed")));
}

#[test]
fn a_failed_init_container_is_tried_again_otherwise() {
    for policy in ["OnFailure", "Always"] {
        assert_eq!(pod(with_inits(policy, json!([{"name": "i"}]), &["c"])).exited("i", 1).starts(), [(Role::Init, 0, 1)]);
    }
}

#[test]
fn a_sidecar_gates_what_follows_until_it_has_started() {
    let side = json!([{"name": "side", "restartPolicy": "Always", "startupProbe": {"exec": {"command": ["x"]}}}]);
    let world = pod(with_inits("Never", side, &["c"])).running("side");
    assert!(world.starts().is_empty());
    let started = world.verdict("side0", Verdicts { startup: Some(true), ..Default::default() });
    assert_eq!(started.starts(), [(Role::Main, 0, 0)]);
}

#[test]
fn a_sidecar_restarts_beside_running_containers_and_keeps_the_pod_initialized() {
    let side = json!([{"name": "side", "restartPolicy": "Always"}]);
    let world = pod(with_inits("Never", side, &["c"])).running("c").exited("side", 1);
    assert_eq!(world.starts(), [(Role::Init, 0, 1)]);
    assert_eq!(world.phase(), "Running");
    let conditions = world.conditions();
    assert_eq!((conditions["Initialized"].clone(), conditions["ContainersReady"].clone()), (condition("True", ""), condition("False", "ContainersNotReady")));
}

#[test]
fn sidecars_end_with_the_last_regular_container() {
    let side = json!([{"name": "side", "restartPolicy": "Always"}]);
    let world = pod(with_inits("Never", side, &["c"])).running("side").exited("c", 0);
    assert!(world.decide().finish);
    assert_ne!(world.phase(), "Succeeded", "not while the sidecar runs");
}

#[test]
fn the_restart_policy_decides_what_an_exit_means() {
    let cases = [("Always", 0, true), ("Always", 1, true), ("OnFailure", 0, false), ("OnFailure", 1, true), ("Never", 0, false), ("Never", 1, false)];
    for (policy, code, restarts) in cases {
        let world = pod(containers(policy, &["c"])).exited("c", code);
        assert_eq!((world.starts().len() == 1, world.decide().finish), (restarts, !restarts), "{policy} {code}");
    }
}

#[test]
fn a_rule_restarts_a_container_by_its_exit_code() {
    let rule = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never", "restartPolicyRules": rule}]});
    assert_eq!(pod(spec.clone()).exited("c", 42).starts(), [(Role::Main, 0, 1)]);
    assert!(pod(spec).exited("c", 1).decide().finish);
}

#[test]
fn a_rule_restarts_all_containers_init_containers_first() {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}],
        "containers": [{"name": "a", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "b"}]});
    let world = pod(spec).exited("i", 0).running("b").exited("a", 42);
    let kills = world.decide().kill;
    assert_eq!((kills.len(), kills[0].name.as_str(), kills[0].grace_seconds, kills[0].restart.clone()), (1, "b", Some(0), None));
    assert_eq!(world.conditions()["AllContainersRestarting"], condition("True", ""));
    let mut ended = world;
    ended.records[1].state = ContainerState::Exited;
    assert_eq!(ended.starts(), [(Role::Init, 0, 1)], "everything begins anew, whatever ended well before");
    let again = ended.later(1).record("i", 1, ContainerState::Exited, 0);
    assert_eq!(again.starts(), [(Role::Main, 0, 1), (Role::Main, 1, 1)]);
    assert_eq!(again.conditions()["AllContainersRestarting"], condition("False", ""));
    let done = again.record("a", 1, ContainerState::Exited, 0).record("b", 1, ContainerState::Exited, 0);
    assert!(done.decide().finish);
}

#[test]
fn the_first_restart_is_immediate_then_waits_double_up_to_five_minutes() {
    let mut backoffs = Backoffs::default();
    let mut now = start_time();
    assert_eq!(backoffs.waiting("c", now, now), None);
    let mut waits = Vec::new();
    for _ in 0..7 {
        backoffs.attempted("c", now, now);
        let wait = backoffs.waiting("c", now, now).expect("waits");
        waits.push(wait.delay_text());
        now = wait.until;
        assert_eq!(backoffs.waiting("c", now - SignedDuration::from_secs(wait.delay_seconds), now), None, "the wait is over");
    }
    assert_eq!(waits, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
    let much_later = now + SignedDuration::from_secs(700);
    backoffs.attempted("c", much_later, much_later);
    assert_eq!(backoffs.waiting("c", much_later, much_later).expect("waits").delay_seconds, 10, "forgotten after ten minutes");
}

#[test]
fn a_node_may_allow_shorter_waits_only() {
    let now = start_time();
    let waits = |seconds| {
        let mut backoffs = Backoffs::new(Duration::from_secs(seconds));
        let attempts = (0..3).map(|_| {
            backoffs.attempted("c", now, now);
            backoffs.waiting("c", now, now).map_or(0, |wait| wait.delay_seconds)
        });
        attempts.collect::<Vec<i64>>()
    };
    assert_eq!((waits(1), waits(15)), (vec![1, 1, 1], vec![10, 15, 15]));
    let world = pod(containers("Always", &["c"])).record("c", 9, ContainerState::Exited, 1);
    let rebuilt = Backoffs::rebuild(&world.records, Duration::from_secs(30));
    assert_eq!(rebuilt.waiting("c", world.now, world.now).expect("waits").delay_seconds, 30);
}

#[test]
fn a_held_restart_shows_its_end_first_and_crash_loop_back_off_from_the_next_sync() {
    let mut world = pod(containers("Always", &["c"])).exited("c", 0).record("c", 1, ContainerState::Exited, 0);
    world.backoffs.attempted("c", world.now, world.now);
    let actions = world.decide();
    assert_eq!((actions.start.len(), actions.held.len()), (0, 1));
    assert_eq!((world.shown()[0].as_str(), world.phase().as_str()), ("c terminated Completed ready=false started=false restarts=1", "Running"));
    let message = "back-off 10s restarting failed container=c pod=p_n(u)".to_string();
    world.failures.insert("c".into(), StartFailure { reason: "CrashLoopBackOff", message });
    assert_eq!(world.shown(), ["c waiting CrashLoopBackOff ready=false started=false restarts=1"]);
    let status = &world.status().container_statuses.expect("statuses")[0];
    assert_eq!(status.last_state.as_ref().and_then(|state| state.terminated.as_ref()).and_then(|ended| ended.container_id.as_deref()), Some("keles://c1"));
    assert_eq!(world.later(11).starts(), [(Role::Main, 0, 2)]);
}

#[test]
fn back_off_survives_a_restart_of_the_agent() {
    let world = pod(containers("Always", &["c"])).record("c", 3, ContainerState::Exited, 1);
    let rebuilt = Backoffs::rebuild(&world.records, MAX_WAIT);
    assert_eq!(rebuilt.waiting("c", world.now, world.now).expect("waits").delay_seconds, 40);
    let fresh = pod(containers("Always", &["c"])).exited("c", 1);
    assert_eq!(Backoffs::rebuild(&fresh.records, MAX_WAIT).waiting("c", fresh.now, fresh.now), None, "the first restart is still immediate");
}

#[test]
fn a_failed_liveness_probe_kills_and_says_whether_it_restarts() {
    let spec = |policy: &str| {
        let mut spec = containers(policy, &["c"]);
        spec["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["x"]}, "terminationGracePeriodSeconds": 7});
        spec
    };
    let failed = Verdicts { liveness: Some(false), ..Default::default() };
    let kills = pod(spec("Always")).running("c").verdict("c0", failed).decide().kill;
    assert_eq!((kills[0].message.as_str(), kills[0].grace_seconds), ("Container c failed liveness probe, will be restarted", Some(7)));
    let kills = pod(spec("Never")).running("c").verdict("c0", failed).decide().kill;
    assert_eq!(kills[0].message, "Container c failed liveness probe");
}

#[test]
fn a_restart_after_a_failed_probe_is_counted_against_the_end_before_it() {
    let mut spec = containers("Always", &["c"]);
    spec["containers"][0]["livenessProbe"] = json!({"exec": {"command": ["x"]}});
    let failed = Verdicts { liveness: Some(false), ..Default::default() };
    let kill = |world: World| world.decide().kill.remove(0);
    let first = kill(pod(spec.clone()).running("c").verdict("c0", failed));
    assert_eq!((first.restart.map(|start| start.attempt), first.ended_before), (Some(1), None));
    let world = pod(spec).exited("c", 137).record("c", 1, ContainerState::Running, 0).verdict("c1", failed);
    let second = kill(world);
    assert_eq!((second.restart.map(|start| start.attempt), second.ended_before), (Some(2), Some(start_time())));
}

#[test]
fn readiness_starts_false_with_a_probe_and_true_without() {
    let mut spec = containers("Always", &["c"]);
    let plain = pod(spec.clone()).running("c");
    assert_eq!((plain.shown()[0].as_str(), plain.conditions()["Ready"].clone()), ("c running - ready=true started=true restarts=0", condition("True", "")));
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["x"]}});
    let probed = pod(spec).running("c");
    assert_eq!(probed.shown(), ["c running - ready=false started=true restarts=0"]);
    let message = probed.status().conditions.unwrap_or_default().into_iter().find(|condition| condition.type_ == "Ready").and_then(|condition| condition.message);
    assert_eq!(message.as_deref(), Some("containers with unready status: [c]"));
    let ready = probed.verdict("c0", Verdicts { readiness: Some(true), ..Default::default() });
    assert_eq!(ready.conditions()["Ready"], condition("True", ""));
}

#[test]
fn a_startup_probe_holds_started_and_ready_back() {
    let mut spec = containers("Always", &["c"]);
    spec["containers"][0]["startupProbe"] = json!({"exec": {"command": ["x"]}});
    assert_eq!(pod(spec.clone()).running("c").shown(), ["c running - ready=false started=false restarts=0"]);
    let started = pod(spec).running("c").verdict("c0", Verdicts { startup: Some(true), ..Default::default() });
    assert_eq!(started.shown(), ["c running - ready=true started=true restarts=0"]);
}

#[test]
fn a_readiness_gate_must_hold_too() {
    let mut spec = containers("Always", &["c"]);
    spec["readinessGates"] = json!([{"conditionType": "example.com/gate"}]);
    let mut world = pod(spec).running("c");
    assert_eq!((world.conditions()["Ready"].clone(), world.conditions()["ContainersReady"].clone()), (condition("False", "ReadinessGatesNotReady"), condition("True", "")));
    world.told = serde_json::from_value(json!({"conditions": [{"type": "example.com/gate", "status": "True"}]})).expect("a status");
    assert_eq!(world.conditions()["Ready"], condition("True", ""));
    assert!(world.conditions().contains_key("example.com/gate"), "conditions of others stay");
}

#[test]
fn the_phase_tells_success_and_failure_only_when_all_is_given_back() {
    for (a, b, phase) in [(0, 0, "Succeeded"), (2, 0, "Failed")] {
        let world = pod(containers("Never", &["a", "b"])).exited("a", a).exited("b", b).ending(Ending::Completed);
        assert_ne!(world.phase(), phase, "the sandbox still stands");
        assert_eq!(world.given_back().phase(), phase);
    }
}

#[test]
fn completed_pods_have_the_conditions_of_upstream() {
    let world = pod(containers("Never", &["c"])).exited("c", 0).ending(Ending::Completed).given_back();
    let conditions = world.conditions();
    for (kind, expected) in [
        ("Initialized", condition("True", "PodCompleted")),
        ("Ready", condition("False", "PodCompleted")),
        ("ContainersReady", condition("False", "PodCompleted")),
        ("PodReadyToStartContainers", condition("False", "")),
    ] {
        assert_eq!(conditions[kind], expected, "{kind}");
    }
}

#[test]
fn a_terminal_phase_waits_until_claims_are_given_back() {
    let mut world = pod(containers("Never", &["c"])).exited("c", 0).ending(Ending::Completed).given_back();
    world.holds_claims = true;
    assert_eq!(world.phase(), "Pending");
    world.holds_claims = false;
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_terminal_phase_is_never_taken_back() {
    let mut world = pod(containers("Never", &["c"])).given_back();
    world.told.phase = Some("Failed".into());
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn a_deadline_fails_the_pod_with_its_reason() {
    let ending = Ending::Failed { reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline".into() };
    let mut world = pod(containers("Never", &["c"])).running("c").ending(ending);
    world.told.phase = Some("Running".into());
    assert_eq!((world.phase().as_str(), world.status().reason), ("Running", None));
    world.records.clear();
    let world = world.record("c", 0, ContainerState::Exited, 137).given_back();
    assert_eq!((world.phase().as_str(), world.status().reason.as_deref()), ("Failed", Some("DeadlineExceeded")));
}

#[test]
fn an_ended_pod_accounts_for_every_container_it_had_come_to() {
    let deadline = || Ending::Failed { reason: "DeadlineExceeded", message: "late".into() };
    let lost = |name: &str| format!("{name} terminated ContainerStatusUnknown ready=false started=false restarts=0");
    assert_eq!(pod(containers("Never", &["c"])).ending(deadline()).given_back().shown(), [lost("c")]);
    let inits = || json!([{"name": "i1"}, {"name": "i2"}, {"name": "i3"}]);
    let waits = |name: &str| format!("{name} waiting PodInitializing ready=false started=false restarts=0");
    let done = |name: &str| format!("{name} terminated Completed ready=true started=false restarts=0");
    let world = pod(with_inits("Never", inits(), &["c"])).ending(deadline()).given_back();
    assert_eq!(world.shown(), [lost("i1"), waits("i2"), waits("i3"), waits("c")]);
    let world = pod(with_inits("Never", inits(), &["c"])).exited("i1", 0).exited("i2", 0).ending(deadline()).given_back();
    assert_eq!(world.shown(), [done("i1"), done("i2"), waits("i3"), waits("c")]);
    let world = pod(with_inits("Never", json!([{"name": "i"}]), &["c"])).exited("i", 0).ending(deadline()).given_back();
    assert_eq!(world.shown(), [done("i"), lost("c")]);
}

#[test]
fn an_evicted_pod_says_that_the_node_ended_it() {
    for reason in [conditions::EVICTED, conditions::TERMINATED, crate::preemption::PREEMPTING] {
        let ending = Ending::Failed { reason, message: "too much".into() };
        let world = pod(containers("Never", &["c"])).exited("c", 137).ending(ending).given_back();
        assert_eq!((world.phase().as_str(), world.status().reason.as_deref()), ("Failed", Some(reason)));
        assert_eq!(world.conditions()["DisruptionTarget"], condition("True", "TerminationByKubelet"));
    }
}

#[test]
fn a_start_error_shows_128_whatever_the_runtime_says() {
    let mut world = pod(containers("Never", &["c"])).exited("c", 127);
    world.records[0].reason = "StartError".into();
    let status = &world.status().container_statuses.expect("statuses")[0];
    let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref()).expect("terminated");
    assert_eq!((ended.exit_code, ended.reason.as_deref()), (128, Some("StartError")));
}

#[test]
fn a_start_failure_is_shown_while_the_container_is_due() {
    let mut world = pod(containers("Never", &["c"]));
    world.failures.insert("c".into(), StartFailure { reason: "CreateContainerConfigError", message: "configmap \"nope\" not found".into() });
    assert_eq!((world.shown()[0].as_str(), world.phase().as_str()), ("c waiting CreateContainerConfigError ready=false started=false restarts=0", "Pending"));
}

#[test]
fn a_lost_sandbox_is_made_again_and_init_containers_run_again() {
    let spec = with_inits("Always", json!([{"name": "i"}]), &["c"]);
    let mut world = pod(spec).exited("i", 0).running("c").given_back();
    assert_eq!(world.decide().sandbox, Some(1));
    world.sandbox = Some(SandboxView { id: "s1".into(), attempt: 1, ready: true, ips: vec!["10.42.0.6".into()], handler: String::new() });
    assert_eq!(world.starts(), [(Role::Init, 0, 1)], "what ran in the old sandbox does not count");
}

#[test]
fn a_pod_that_never_restarts_ends_with_its_sandbox() {
    assert!(pod(containers("Never", &["c"])).exited("c", 1).given_back().decide().finish);
}

#[test]
fn nothing_is_started_in_a_pod_that_ends() {
    for life in [Life::Terminating(Ending::Deleted), Life::Terminated] {
        let mut world = pod(containers("Always", &["c"])).exited("c", 1);
        world.life = life;
        assert_eq!(world.decide(), Actions::default());
    }
}

#[test]
fn statuses_carry_generation_addresses_and_resources() {
    let mut spec = containers("Always", &["c"]);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}});
    let status = pod(spec).running("c").status();
    assert_eq!(
        (status.observed_generation, status.pod_ip.as_deref(), status.host_ip.as_deref(), status.qos_class.as_deref()),
        (Some(3), Some("10.42.0.5"), Some("192.0.2.1"), Some("Burstable"))
    );
    assert!(status.conditions.iter().flatten().all(|condition| condition.observed_generation == Some(3)));
    let container = &status.container_statuses.expect("statuses")[0];
    assert_eq!(container.container_id.as_deref(), Some("keles://c0"));
    assert_eq!(container.allocated_resources.as_ref().and_then(|map| map.get("cpu")).map(|quantity| quantity.0.as_str()), Some("100m"));
    assert_eq!(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()).and_then(|map| map.get("cpu")).map(|quantity| quantity.0.as_str()), Some("200m"));
}

#[test]
fn a_condition_keeps_its_transition_time_until_it_changes() {
    let mut world = pod(containers("Always", &["c"])).running("c");
    let first = world.status();
    let time =
        |status: &PodStatus, kind: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == kind).and_then(|condition| condition.last_transition_time.clone());
    world.told = first.clone();
    let world = world.later(60);
    assert_eq!(world.status(), first, "nothing changed, so nothing is written");
    let mut crashed = world;
    crashed.records[0].state = ContainerState::Exited;
    let second = crashed.status();
    assert_ne!(time(&second, "Ready"), time(&first, "Ready"));
    assert_eq!(time(&second, "Initialized"), time(&first, "Initialized"));
}

#[test]
fn what_an_earlier_agent_told_of_an_ended_container_stands() {
    let mut world = pod(containers("Never", &["c"])).given_back();
    let ended = json!({"phase": "Succeeded", "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
    world.told = serde_json::from_value(ended).expect("a status");
    assert_eq!(world.shown(), ["c terminated Completed ready=false started=false restarts=2"]);
}

#[test]
fn a_resize_that_waits_or_runs_is_a_condition_and_goes_when_it_is_done() {
    let mut world = pod(containers("Always", &["c"])).running("c");
    world.resize.pending = Some(resize::Pending { reason: "Deferred", message: "later".into() });
    world.resize.in_progress = Some(None);
    let conditions = world.conditions();
    assert_eq!((conditions["PodResizePending"].clone(), conditions["PodResizeInProgress"].clone()), (condition("True", "Deferred"), condition("True", "")));
    world.told = world.status();
    world.resize = resize::State::default();
    assert!(!world.conditions().keys().any(|kind| kind.starts_with("PodResize")));
}

#[test]
fn a_status_shows_what_was_given_and_what_the_container_runs_with() {
    let mut spec = containers("Always", &["c"]);
    spec["containers"][0]["resources"] = json!({"requests": {"cpu": "200m"}});
    let mut world = pod(spec).running("c");
    world.running_with.insert("c0".into(), serde_json::from_value(json!({"requests": {"cpu": "100m"}})).expect("resources"));
    let status = world.status().container_statuses.expect("statuses").remove(0);
    let cpu = |map: Option<BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| map.and_then(|map| map.get("cpu").map(|quantity| quantity.0.clone()));
    assert_eq!((cpu(status.allocated_resources), cpu(status.resources.and_then(|resources| resources.requests))), (Some("200m".into()), Some("100m".into())));
}

#[test]
fn a_resize_that_needs_a_restart_kills_and_starts_at_once() {
    let mut world = pod(containers("Always", &["c"])).running("c");
    world.resize_restarts.insert("c0".into());
    let kill = world.decide().kill.remove(0);
    assert_eq!((kill.message.as_str(), kill.restart.map(|start| start.attempt), kill.ended_before), ("Container c resize requires restart", Some(1), None));
}

#[test]
fn an_ephemeral_container_starts_beside_the_others() {
    let mut spec = containers("Always", &["c"]);
    spec["ephemeralContainers"] = json!([{"name": "debug", "image": "i"}]);
    assert_eq!(pod(spec).running("c").starts(), [(Role::Ephemeral, 0, 0)]);
}
