//! kill -9 of the server: no container stops, no write is lost, everything is adopted again.

use keles_e2e::{Cluster, WEB, skip, until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// The pods' grace period, which httpd as a container's first process sits out (nothing stops such a one but SIGKILL), and a while for the rest.
const GRACE_AND_SOON: Duration = Duration::from_secs(90);

fn started_at(c: &Cluster, pod: &str) -> String {
    c.json(&["get", "pod", pod])["status"]["containerStatuses"][0]["containerID"].to_string()
}

#[test]
fn containers_and_writes_survive_the_server_and_leave_nothing_when_deleted() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    c.kubectl(&["create", "deployment", "web", &format!("--image={WEB}"), "--replicas=3"]);
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let before: Vec<_> = c.pods("app=web").into_iter().map(|p| (started_at(&c, &p), p)).collect();
    let ip = c.json(&["get", "pod", &before[0].1])["status"]["podIP"].as_str().expect("an address").to_owned();
    for i in 0..20 {
        c.kubectl(&["create", "configmap", &format!("acknowledged-{i}"), "--from-literal=a=b"]);
    }
    keles_e2e::until("the pod answers", std::time::Duration::from_secs(60), || c.get(&format!("http://{ip}:8000/index.html")));
    c.kill_server();
    assert!(c.get(&format!("http://{ip}:8000/index.html")).expect("pods run without the server").starts_with("v1"));
    c.start_server();
    let maps = c.kubectl(&["get", "configmaps", "-o", "name"]);
    assert_eq!(maps.lines().filter(|l| l.contains("acknowledged-")).count(), 20, "every acknowledged write is there");
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let after: Vec<_> = c.pods("app=web").into_iter().map(|p| (started_at(&c, &p), p)).collect();
    assert_eq!(before, after, "the same containers");
    assert_eq!(c.exec_again(&before[0].1, &["hostname"]).trim(), before[0].1, "exec into an adopted container");
    c.kill_in_pod(&before[1].1, "httpd");
    until("healing after the restart", SOON, || {
        let s = c.json(&["get", "pod", &before[1].1])["status"]["containerStatuses"][0].clone();
        if s["restartCount"] == 1 && s["ready"] == true { Ok(()) } else { Err(s.to_string()) }
    });
    // A pod deleted while nobody watches goes away at the next start.
    c.kubectl(&["delete", "deployment", "web", "--wait=false"]);
    c.kill_server();
    c.start_server();
    until("no pods", GRACE_AND_SOON, || {
        let all = c.kubectl(&["get", "pods", "-o", "name"]);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    until("nothing left on the machine", SOON, || {
        let left = c.leftovers();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// KEP-1287: what the node gave is kept from the pod's admission on.
#[test]
fn a_resize_that_is_asked_for_while_no_agent_runs_is_done_by_the_next() {
    if skip() {
        return;
    }
    let mut c = Cluster::start_in_parts();
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: sized}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "{WEB}", resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 200m, memory: 64Mi}}}}}}]
"#
    ));
    c.wait_ready("sized");
    let before = started_at(&c, "sized");
    c.kill_part(Cluster::KUBELET);
    let patch = r#"{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"150m"}}}]}}"#;
    c.kubectl(&["patch", "pod", "sized", "--subresource", "resize", "--patch", patch]);
    c.start_part(Cluster::KUBELET);
    until("the resize", SOON, || {
        let s = c.json(&["get", "pod", "sized"])["status"]["containerStatuses"][0].clone();
        if s["resources"]["limits"]["cpu"] == "150m" && s["allocatedResources"]["cpu"] == "150m" { Ok(()) } else { Err(s.to_string()) }
    });
    let quota = c.exec_again("sized", &["sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max"]);
    assert_eq!(quota.split_whitespace().next(), Some("15000"), "{quota}");
    assert_eq!(started_at(&c, "sized"), before, "the same container");
    let events = c.kubectl(&["get", "events", "-o", "jsonpath={.items[*].reason}"]);
    assert!(events.contains("ResizeStarted") && events.contains("ResizeCompleted"), "{events}");
}
