use super::*;
use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// A cluster of one Deployment: its sets, which follow their specs when told to.
struct Rig {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    old_pods_run: bool,
    now: Timestamp,
    made: i64,
}

impl Rig {
    fn new(replicas: i32, strategy: Value) -> Self {
        let value = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "D", "generation": 1},
            "spec": {
                "replicas": replicas, "strategy": strategy, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 10,
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            },
        });
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        Rig { deployment: serde_json::from_value(value).expect("a deployment"), sets: vec![], old_pods_run: false, now, made: 0 }
    }
    fn rolling(replicas: i32, surge: Value, unavailable: Value) -> Self {
        Rig::new(replicas, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}))
    }
    fn spec(&mut self) -> &mut k8s_openapi::api::apps::v1::DeploymentSpec {
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|g| g + 1);
        self.deployment.spec.as_mut().expect("the rig has a spec")
    }
    fn image(&mut self, image: &str) {
        self.spec().template.spec.as_mut().expect("a pod spec").containers[0].image = Some(image.into());
    }
    fn plan(&self) -> Plan {
        plan(World { deployment: &self.deployment, sets: &self.sets, old_pods_run: self.old_pods_run, now: self.now })
    }
    /// Plans, carries it out, and gives what was done in words.
    fn step(&mut self) -> Vec<String> {
        let plan = self.plan();
        let mut words = Vec::new();
        for action in plan.actions {
            match action {
                Action::Create(mut set) => {
                    words.push(format!("create {}", size(&set)));
                    self.made += 1;
                    set.metadata.uid = Some(format!("S{}", self.made));
                    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.made).expect("in range")));
                    self.sets.push(Arc::new(*set));
                }
                Action::Update(set) => {
                    words.push(format!("update {}", self.index(&set)));
                    self.put(*set);
                }
                Action::Scale { set, from, to } => {
                    words.push(format!("scale {} {from}->{to}", self.index(&set)));
                    self.put(*set);
                }
                Action::Delete(set) => {
                    words.push(format!("delete {}", self.index(&set)));
                    self.sets.retain(|held| held.metadata.uid != set.metadata.uid);
                }
            }
        }
        self.deployment.status = Some(plan.status);
        if let Some(revision) = plan.revision {
            self.deployment.metadata.annotations.get_or_insert_default().insert(revisions::REVISION.into(), revision);
        }
        words
    }
    fn index(&self, set: &ReplicaSet) -> String {
        set.metadata.uid.clone().unwrap_or_default()
    }
    fn put(&mut self, set: ReplicaSet) {
        let slot = self.sets.iter_mut().find(|held| held.metadata.uid == set.metadata.uid).expect("only known sets are written");
        *slot = Arc::new(set);
    }
    /// Every set has its pods; `available` says how many of them are available.
    fn settle(&mut self, available: impl Fn(&ReplicaSet) -> i32) {
        for slot in &mut self.sets {
            let mut set = slot.as_ref().clone();
            let (pods, up) = (size(&set), available(&set));
            set.status = Some(ReplicaSetStatus {
                replicas: pods,
                ready_replicas: Some(up),
                available_replicas: Some(up),
                observed_generation: set.metadata.generation,
                ..Default::default()
            });
            *slot = Arc::new(set);
        }
    }
    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| size(set)).collect()
    }
    fn run(&mut self) {
        for _ in 0..50 {
            let done = self.step().is_empty();
            self.settle(size);
            if done && self.step().is_empty() {
                return;
            }
            self.settle(size);
        }
        panic!("the rollout does not end: {:?}", self.sizes());
    }
    fn progressing(&self) -> (String, String) {
        let condition = self.deployment.status.as_ref().and_then(|status| progress::condition(status, progress::PROGRESSING)).expect("the condition is set");
        (condition.status.clone(), condition.reason.clone().unwrap_or_default())
    }
    fn revision(&self) -> &str {
        revisions::revision_text(&self.deployment.metadata).map(String::as_str).unwrap_or("")
    }
}

#[test]
fn a_rolling_update_never_exceeds_surge_nor_falls_below_what_may_be_unavailable() {
    for (replicas, surge, unavailable) in [(10, 3, 2), (4, 1, 0), (4, 0, 1), (1, 1, 0), (7, 7, 7)] {
        let mut rig = Rig::rolling(replicas, json!(surge), json!(unavailable));
        rig.run();
        rig.image("v2");
        for round in 0.. {
            assert!(round < 100, "the rollout does not end");
            rig.step();
            let pods: i32 = rig.sizes().iter().sum();
            assert!(pods <= replicas + surge, "{pods} pods of {replicas}+{surge}");
            // What was scaled down is gone at once, what was scaled up is not available yet.
            let up: i32 = rig.sets.iter().map(|set| available(set).min(size(set))).sum();
            assert!(up >= replicas - unavailable, "{up} available of {replicas}-{unavailable}");
            rig.settle(size);
            if rig.sizes() == [0, replicas] && rig.step().is_empty() {
                break;
            }
        }
        assert_eq!(rig.progressing(), ("True".into(), "NewReplicaSetAvailable".into()));
        assert_eq!(rig.revision(), "2");
    }
}

#[test]
fn a_first_rollout_creates_one_set_with_hash_owner_and_notes() {
    let mut rig = Rig::rolling(3, json!(1), json!(1));
    assert_eq!(rig.step(), ["create 3"]);
    assert_eq!(rig.progressing(), ("True".into(), "NewReplicaSetCreated".into()));
    let set = &rig.sets[0];
    let hash = set.metadata.labels.as_ref().expect("labels")[HASH_LABEL].clone();
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    assert_eq!(set.spec.as_ref().expect("a spec").selector.match_labels.as_ref().expect("labels")[HASH_LABEL], hash);
    assert_eq!((annotated(set, DESIRED_REPLICAS), annotated(set, super::super::numbers::MAX_REPLICAS)), (Some(3), Some(4)));
    assert!(rig.step().is_empty(), "nothing changed, nothing to write");
}

#[test]
fn broken_new_pods_stop_the_rollout_and_unhealthy_old_pods_go_first() {
    let mut rig = Rig::rolling(4, json!(0), json!(1));
    rig.run();
    rig.image("broken");
    rig.step();
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) } else { 0 });
    rig.step();
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) } else { 0 });
    assert_eq!(rig.sizes(), [3, 1]);
    assert!(rig.step().is_empty(), "three of four must stay up");
    // An old pod that breaks makes nobody worse off by going.
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) - 1 } else { 0 });
    assert!(rig.step().is_empty(), "but the newest set's missing pods count against the budget");
}

#[test]
fn rollover_leaves_an_unfinished_set_and_goes_straight_to_the_latest() {
    let mut rig = Rig::rolling(4, json!(1), json!(0));
    rig.run();
    rig.image("v2");
    rig.step();
    assert_eq!(rig.sizes(), [4, 1]);
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) } else { 0 });
    rig.image("v3");
    rig.run();
    assert_eq!(rig.sizes(), [0, 0, 4]);
    assert_eq!(rig.revision(), "3");
}

#[test]
fn a_rollback_reuses_the_old_set_under_a_new_revision() {
    let mut rig = Rig::rolling(2, json!(1), json!(0));
    rig.run();
    rig.image("v2");
    rig.run();
    rig.image("v1");
    rig.run();
    assert_eq!(rig.sizes(), [2, 0], "no third set");
    assert_eq!(rig.revision(), "3");
    let annotations = rig.sets[0].metadata.annotations.as_ref().expect("annotations");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional_with_the_rest_to_the_largest() {
    let mut rig = Rig::rolling(10, json!(3), json!(2));
    rig.run();
    rig.image("v2");
    rig.step();
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) } else { 0 });
    rig.step();
    assert_eq!(rig.sizes(), [8, 5]);
    rig.settle(|set| if set.metadata.uid.as_deref() == Some("S1") { size(set) } else { 0 });
    rig.spec().replicas = Some(15);
    rig.step();
    assert_eq!(rig.sizes(), [11, 7], "18 pods at most: each set grows by 18/13, rounded");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut rig = Rig::rolling(2, json!(1), json!(0));
    rig.run();
    rig.spec().paused = Some(true);
    rig.image("v2");
    assert!(rig.step().is_empty());
    assert_eq!(rig.progressing(), ("Unknown".into(), "DeploymentPaused".into()));
    rig.spec().replicas = Some(5);
    assert_eq!(rig.step(), ["scale S1 2->5"]);
    rig.settle(size);
    rig.spec().paused = Some(false);
    rig.run();
    assert_eq!(rig.sizes(), [0, 5]);
}

#[test]
fn recreate_starts_the_new_set_only_after_the_last_old_pod_is_gone() {
    let mut rig = Rig::new(2, json!({"type": "Recreate"}));
    rig.run();
    rig.image("v2");
    rig.old_pods_run = true;
    assert_eq!(rig.step(), ["scale S1 2->0"]);
    rig.settle(size);
    assert!(rig.step().is_empty(), "pods still terminate");
    rig.old_pods_run = false;
    assert_eq!(rig.step(), ["create 2"]);
    rig.run();
    assert_eq!(rig.progressing().1, "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_without_progress_times_out_and_says_so() {
    let mut rig = Rig::rolling(2, json!(1), json!(0));
    rig.step();
    rig.settle(|_| 0);
    rig.step();
    let plan = rig.plan();
    assert_eq!(plan.again.map(|again| again.as_secs()), Some(601), "the clock will tell");
    rig.now = "2026-01-01T00:10:01Z".parse().expect("a time");
    rig.step();
    assert_eq!(rig.progressing(), ("False".into(), "ProgressDeadlineExceeded".into()));
    rig.settle(size);
    rig.run();
    assert_eq!(rig.progressing(), ("True".into(), "NewReplicaSetAvailable".into()), "late success is success");
}

#[test]
fn old_sets_beyond_the_history_limit_are_deleted_oldest_first() {
    let mut rig = Rig::rolling(1, json!(1), json!(0));
    rig.spec().revision_history_limit = Some(1);
    for image in ["v1", "v2", "v3", "v4"] {
        rig.image(image);
        rig.run();
    }
    let left: Vec<&str> = rig.sets.iter().filter_map(|set| set.metadata.uid.as_deref()).collect();
    assert_eq!(left, ["S3", "S4"]);
}

#[test]
fn scaling_to_zero_and_back_keeps_the_set() {
    let mut rig = Rig::rolling(3, json!("25%"), json!("25%"));
    rig.run();
    rig.spec().replicas = Some(0);
    rig.run();
    assert_eq!(rig.sizes(), [0]);
    rig.spec().replicas = Some(2);
    rig.run();
    assert_eq!(rig.sizes(), [2]);
    assert_eq!(rig.revision(), "1");
}
