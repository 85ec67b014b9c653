//! What befalls a node: containers that fork, write and hang without end, a full disk, a power cut. The pods end up right, and nothing is left (the
//! cluster's end looks). kill -9 is in `faults.rs`; memory, logs and SIGTERM in `node.rs`, `pod_lifecycle.rs`, `pod_cases.rs`; registries that hang in
//! `crates/images/tests/pull.rs`.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Figures of the disk are taken every 10 s, and what was written may have to be removed twice.
const LATER: Duration = Duration::from_secs(120);

fn status(c: &Cluster, pod: &str) -> Value {
    c.json(&["get", "pod", pod])["status"].clone()
}

/// One of a container of [`WEB`]; `more` are fields of the spec.
fn pod(name: &str, container: &str, more: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: \"{WEB}\", {container}}}]\n{more}")
}

fn evicted(c: &Cluster, pod: &str) -> String {
    let ended = until(&format!("the eviction of {pod}"), LATER, || {
        let s = status(c, pod);
        if s["reason"] == "Evicted" { Ok(s) } else { Err(s.to_string()) }
    });
    assert_eq!(ended["phase"], "Failed");
    ended["message"].as_str().expect("a message").to_owned()
}

#[test]
fn containers_that_know_no_end_harm_nobody_else() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    c.kill_server();
    c.flags = vec!["--pod-max-pids=80".into()];
    c.start_server();
    c.apply(&pod("web", "ports: []", ""));
    c.wait_ready("web");
    // Each of its processes makes two of its kind, for ever.
    c.apply(&pod("forks", r#"command: [sh, -c, "echo begun; f() { f | f & }; f; while true; do sleep 1; done"]"#, ""));
    c.apply(&pod(
        "writes",
        r#"command: [sh, -c, "while true; do dd if=/dev/zero of=/d/$(date +%s%N) bs=1M count=16 2>/dev/null; done"], volumeMounts: [{name: d, mountPath: /d}]"#,
        "  volumes: [{name: d, emptyDir: {sizeLimit: 8Mi}}]\n",
    ));
    c.apply(&pod("spills", r#"command: [sh, -c, "dd if=/dev/zero of=/spilled bs=1M count=32; sleep 1000"], resources: {limits: {ephemeral-storage: 8Mi}}"#, ""));
    c.apply(&pod("hangs", r#"command: [sleep, "1000"], livenessProbe: {exec: {command: [sleep, "1000"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1}"#, ""));
    until("a restart of what hangs", SOON, || match status(&c, "hangs")["containerStatuses"][0]["restartCount"].as_u64() {
        Some(1..) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(evicted(&c, "writes"), "Usage of EmptyDir volume \"d\" exceeds the limit \"8Mi\". ");
    assert!(evicted(&c, "spills").contains("exceeds the total limit of containers 8Mi"));
    until("a word of what forks", SOON, || c.try_kubectl(&["logs", "forks"]).and_then(|text| if text.contains("begun") { Ok(()) } else { Err(text) }));
    let web = &status(&c, "web")["containerStatuses"][0];
    assert_eq!((web["ready"].as_bool(), web["restartCount"].as_u64()), (Some(true), Some(0)), "{web}");
    assert_eq!(c.exec_again("web", &["echo", "here"]), "here\n");
    c.kubectl(&["delete", "pod", "forks", "hangs", "writes", "spills", "--timeout=60s"]);
}

#[test]
fn a_full_disk_ends_who_filled_it_and_the_node_goes_on() {
    if skip() {
        return;
    }
    let c = Cluster::start_on_small_disk(256, &["--eviction-pressure-transition-period=1s"]);
    c.apply(&pod("web", "ports: []", ""));
    c.wait_ready("web");
    c.apply(&pod(
        "fills",
        r#"command: [sh, -c, "dd if=/dev/zero of=/d/all bs=1M; sleep 1000"], volumeMounts: [{name: d, mountPath: /d}]"#,
        "  volumes: [{name: d, emptyDir: {}}]\n",
    ));
    let message = evicted(&c, "fills");
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{message}");
    c.kubectl(&["delete", "pod", "fills", "--timeout=60s"]);
    until("the node to be well", LATER, || {
        let conditions = c.json(&["get", "node", Cluster::NODE])["status"]["conditions"].clone();
        let pressed = conditions.as_array().expect("conditions").iter().find(|k| k["type"] == "DiskPressure").expect("told");
        if pressed["status"] == "False" { Ok(()) } else { Err(pressed.to_string()) }
    });
    let web = &status(&c, "web")["containerStatuses"][0];
    assert_eq!((web["ready"].as_bool(), web["restartCount"].as_u64()), (Some(true), Some(0)), "{web}");
    until("a pod after it", SOON, || c.try_kubectl(&["run", "after", "--image", WEB]));
    c.wait_ready("after");
}

#[test]
fn after_a_power_cut_pods_begin_again_where_they_may() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    c.apply(&pod(
        "web",
        r#"command: [sh, -c, "date +%s%N >> /d/lives; exec httpd -f -p 8000 -h /d"], volumeMounts: [{name: d, mountPath: /d}]"#,
        "  volumes: [{name: d, emptyDir: {}}]\n",
    ));
    c.apply(&pod("once", r#"command: [sleep, "1000"]"#, "  restartPolicy: Never\n"));
    c.wait_ready("web");
    c.wait_ready("once");
    c.cut_power();
    c.start_server();
    let again = until("another life", SOON, || {
        let s = status(&c, "web");
        let is_again = s["containerStatuses"][0]["restartCount"] == 1 && s["containerStatuses"][0]["ready"] == true;
        if is_again { Ok(s) } else { Err(s.to_string()) }
    });
    assert!(again["containerStatuses"][0]["lastState"]["terminated"].is_object(), "{again}");
    let address = again["podIP"].as_str().expect("an address");
    let lives = c.get(&format!("http://{address}:8000/lives")).expect("reached");
    assert_eq!(lives.lines().count(), 2, "its volume was kept: {lives}");
    let ended = until("the end of what begins once", SOON, || {
        let s = status(&c, "once");
        if s["phase"] == "Failed" { Ok(s) } else { Err(s.to_string()) }
    });
    assert_eq!(ended["containerStatuses"][0]["restartCount"], 0, "{ended}");
    c.kubectl(&["delete", "pod", "once", "--timeout=60s"]);
}
