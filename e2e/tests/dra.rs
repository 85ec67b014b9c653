//! Claims of a DRA driver on a real node, from registration to removal, through kills of the agent; the driver is the test's own
//! (`keles_e2e::dra_driver`), and what allocates and reserves is the test.

use keles_e2e::dra_driver::{DraDriver, Hardware};
use keles_e2e::pod_resources::{self, Cdi, Claim, ClaimedDevice};
use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
const NAME: &str = DraDriver::NAME;

#[test]
fn claims_are_prepared_for_pods_and_given_back() {
    if skip() {
        return;
    }
    let mut c = Cluster::start_in_parts();
    let hardware = Arc::new(Hardware::default());
    c.apply(&slice("begins-with-it", NAME));
    a_pod_waits_until_its_claim_is_reserved_and_its_driver_there(&c, &hardware);
    let driver = DraDriver::start(&c.data(), &hardware);
    c.wait_ready("first");
    a_container_has_its_claims_devices(&c, &hardware);
    a_shared_claim_is_prepared_once(&c, &hardware);
    a_driver_that_fails_is_told_and_asked_again(&c, &hardware);
    health_is_shown(&c, &hardware);
    the_agent_is_killed_and_gives_back_what_is_left(&mut c, &hardware);
    slices_of_a_driver_that_is_gone_go(&c, driver);
}

fn claim(name: &str) -> String {
    format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: {name}}}
spec: {{devices: {{requests: [{{name: r, exactly: {{deviceClassName: e2e}}}}]}}}}
"#
    )
}

/// Past the scheduler, to the only node.
fn pod(name: &str, claim: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {}
  terminationGracePeriodSeconds: 1
  resourceClaims: [{{name: device, resourceClaimName: {claim}}}]
  containers:
  - {{name: with, image: "{WEB}", resources: {{claims: [{{name: device, request: r}}]}}}}
  - {{name: without, image: "{WEB}", command: [sleep, "100000"]}}
"#,
        Cluster::NODE
    )
}

fn slice(name: &str, driver: &str) -> String {
    format!(
        r#"
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {{name: {name}}}
spec: {{driver: {driver}, nodeName: {}, pool: {{name: pool, generation: 1, resourceSliceCount: 1}}, devices: [{{name: d}}]}}
"#,
        Cluster::NODE
    )
}

/// What the scheduler does.
fn allocate(c: &Cluster, claim: &str, pods: &[&str]) {
    let uid = |pod: &str| c.json(&["get", "pod", pod])["metadata"]["uid"].clone();
    let reserved: Vec<Value> = pods.iter().map(|pod| json!({"resource": "pods", "name": pod, "uid": uid(pod)})).collect();
    let results = json!([{"request": "r", "driver": NAME, "pool": "pool", "device": format!("of-{claim}")}]);
    let status = json!({"status": {"reservedFor": reserved, "allocation": {"devices": {"results": results}}}});
    c.kubectl(&["patch", "resourceclaim", claim, "--subresource=status", "--type=merge", "-p", &status.to_string()]);
}

fn told(c: &Cluster, pod: &str, what: &str) {
    until(&format!("an event of {pod}: {what}"), SOON, || {
        let events = c.json(&["get", "events", "--field-selector", &format!("involvedObject.name={pod},reason=FailedPrepareDynamicResources")]);
        let messages: Vec<String> = events["items"].as_array().into_iter().flatten().map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect();
        if messages.iter().any(|message| message.contains(what)) { Ok(()) } else { Err(format!("{messages:?}")) }
    });
}

fn asked(hardware: &Hardware, line: &str) {
    until(&format!("the driver is asked: {line}"), SOON, || {
        let lines = hardware.lines();
        if lines.iter().any(|asked| asked == line) { Ok(()) } else { Err(format!("{lines:?}")) }
    });
}

fn is_gone(c: &Cluster, kind: &str, name: &str) {
    until(&format!("{kind} {name} goes"), SOON, || match c.try_kubectl(&["get", kind, name]) {
        Err(error) if error.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn a_pod_waits_until_its_claim_is_reserved_and_its_driver_there(c: &Cluster, hardware: &Hardware) {
    c.apply(&claim("one"));
    c.apply(&pod("first", "one"));
    let uid = |kind: &str, name: &str| c.json(&["get", kind, name])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let prefix = "Failed to prepare dynamic resources: prepare dynamic resources: ";
    told(c, "first", &format!("{prefix}pod first ({}) is not allowed to use ResourceClaim one ({})", uid("pod", "first"), uid("resourceclaim", "one")));
    allocate(c, "one", &["first"]);
    told(c, "first", &format!("{prefix}DRA driver {NAME} is not registered"));
    assert_eq!(c.json(&["get", "pod", "first"])["status"]["phase"], "Pending");
    assert!(hardware.lines().is_empty());
}

fn a_container_has_its_claims_devices(c: &Cluster, hardware: &Hardware) {
    asked(hardware, "registered true");
    let mut lines = hardware.take();
    // The pod that waited is as fast as the answer to the registration.
    lines.sort();
    assert_eq!(lines, ["prepare default/one", "registered true"]);
    let value = |container: &str| c.kubectl(&["exec", "first", "-c", container, "--", "sh", "-c", "echo $CLAIM"]);
    assert_eq!((value("with").trim(), value("without").trim()), ("one", ""));
    let listed = pod_resources::containers(c, "first");
    let device = ClaimedDevice { cdi: vec![Cdi { name: "e2e.example.com/claim=one".into() }], driver: NAME.into(), pool: "pool".into(), name: "of-one".into() };
    assert_eq!(listed[0].dynamic, [Claim { name: "one".into(), namespace: "default".into(), devices: vec![device] }]);
    assert!(listed[1].dynamic.is_empty());
    let metrics = c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/metrics", Cluster::NODE)]);
    let call = format!(
        "dra_grpc_operations_duration_seconds_count{{driver_name=\"{NAME}\",grpc_status_code=\"OK\",method_name=\"/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources\"}} 1"
    );
    for line in [&format!("dra_resource_claims_in_use{{driver_name=\"{NAME}\"}} 1"), "dra_resource_claims_in_use{driver_name=\"<any>\"} 1", &call] {
        assert!(metrics.lines().any(|said| said == line), "{line} is not in\n{}", metrics.lines().filter(|line| line.contains("dra_")).collect::<Vec<_>>().join("\n"));
    }
    assert!(metrics.contains("dra_operations_duration_seconds_count{is_error=\"false\",operation_name=\"PrepareResources\"}"));
}

fn a_shared_claim_is_prepared_once(c: &Cluster, hardware: &Hardware) {
    c.apply(&pod("second", "one"));
    allocate(c, "one", &["first", "second"]);
    c.wait_ready("second");
    c.kubectl(&["delete", "pod", "second"]);
    assert!(hardware.take().is_empty(), "neither prepared again nor given back");
    assert_eq!(c.kubectl(&["exec", "first", "-c", "with", "--", "sh", "-c", "echo $CLAIM"]).trim(), "one");
}

fn a_driver_that_fails_is_told_and_asked_again(c: &Cluster, hardware: &Hardware) {
    *hardware.fails.lock().expect("not poisoned") = Some("no such thing".into());
    c.apply(&claim("two"));
    c.apply(&pod("broken", "two"));
    allocate(c, "two", &["broken"]);
    told(c, "broken", "NodePrepareResources failed for ResourceClaim two: no such thing");
    *hardware.fails.lock().expect("not poisoned") = None;
    c.wait_ready("broken");
    c.kubectl(&["delete", "pod", "broken"]);
    asked(hardware, "unprepare default/two");
    // Only a pod whose claims are given back has ended.
    assert!(!std::fs::read_to_string(c.data().join("dra_manager_state")).expect("a checkpoint").contains("two"));
    hardware.take();
}

fn health_is_shown(c: &Cluster, hardware: &Hardware) {
    let shows = |wanted: Value| {
        until(&format!("the status shows {wanted}"), SOON, || {
            let statuses = c.json(&["get", "pod", "first"])["status"]["containerStatuses"].clone();
            let shown: Vec<&Value> = statuses.as_array().into_iter().flatten().map(|status| &status["allocatedResourcesStatus"]).collect();
            if shown == [&wanted, &Value::Null] { Ok(()) } else { Err(format!("{shown:?}")) }
        });
    };
    shows(json!([{"name": "claim:device/r", "resources": [{"health": "Healthy", "resourceID": "e2e.example.com/claim=one"}]}]));
    hardware.break_down("too hot");
    shows(json!([{"name": "claim:device/r", "resources": [{"health": "Unhealthy", "message": "too hot", "resourceID": "e2e.example.com/claim=one"}]}]));
}

fn the_agent_is_killed_and_gives_back_what_is_left(c: &mut Cluster, hardware: &Hardware) {
    let restarts =
        |c: &Cluster| c.json(&["get", "pod", "first"])["status"]["containerStatuses"].as_array().expect("statuses").iter().map(|s| s["restartCount"].clone()).collect::<Vec<_>>();
    c.apply(&claim("three"));
    c.apply(&pod("third", "three"));
    allocate(c, "three", &["third"]);
    c.wait_ready("third");
    c.kill_part(Cluster::KUBELET);
    c.kubectl(&["delete", "pod", "third", "--force", "--grace-period=0"]);
    hardware.take();
    c.start_part(Cluster::KUBELET);
    asked(hardware, "unprepare default/three");
    asked(hardware, "registered true");
    // No driver is there when an agent begins: what they offered before goes until they are.
    is_gone(c, "resourceslice", "begins-with-it");
    assert_eq!(restarts(c), [0, 0]);
    c.kill_in_pod("first", "httpd");
    until("the container runs again", SOON, || {
        let value = c.try_kubectl(&["exec", "first", "-c", "with", "--", "sh", "-c", "echo $CLAIM"])?;
        let again = restarts(c)[0] == 1 && value.trim() == "one";
        if again { Ok(()) } else { Err(format!("{value} {:?}", restarts(c))) }
    });
    c.kubectl(&["delete", "pod", "first"]);
    asked(hardware, "unprepare default/one");
    let lines = hardware.take();
    assert!(!lines.iter().any(|line| line.starts_with("prepare")), "what runs is not prepared again: {lines:?}");
}

fn slices_of_a_driver_that_is_gone_go(c: &Cluster, driver: DraDriver) {
    c.apply(&slice("of-ours", NAME));
    c.apply(&slice("of-another", "another.e2e.example.com"));
    drop(driver);
    is_gone(c, "resourceslice", "of-ours");
    c.kubectl(&["get", "resourceslice", "of-another"]);
}
