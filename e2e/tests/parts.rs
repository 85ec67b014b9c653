//! Every part a process of its own, as the user upstream runs it as: a Deployment runs, is reached, looked into and goes; the node agent
//! may be killed.

use keles_e2e::{Cluster, WEB, skip, until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[test]
fn parts_with_users_of_their_own_make_a_whole_cluster() {
    if skip() {
        return;
    }
    let mut c = Cluster::start_in_parts();
    c.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: web, image: "{WEB}", ports: [{{containerPort: 8000}}]}}]}}
"#
    ));
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let pod = c.pods("app=web")[0].clone();
    until("its log", SOON, || Some(c.kubectl(&["logs", &pod])).filter(|l| l.contains("serving v1")).ok_or_else(|| "nothing yet".to_owned()));
    assert_eq!(c.exec(&pod, &["hostname"]).trim(), pod);
    services_and_host_ports_lead_to_pods(&c);
    the_node_agent_may_be_killed(&mut c, &pod);
    c.kubectl(&["delete", "deployment,service", "--all", "--wait=false"]);
    c.kubectl(&["delete", "pod", "held", "--grace-period=1"]);
    until("no pods", SOON, || {
        let all = c.kubectl(&["get", "pods", "-o", "name"]);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    nobody_was_refused(&c);
}

fn services_and_host_ports_lead_to_pods(c: &Cluster) {
    c.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=8000"]);
    let ip = c.json(&["get", "service", "web"])["spec"]["clusterIP"].as_str().expect("allocated").to_owned();
    until("the service", SOON, || c.get(&format!("http://{ip}/index.html")).and_then(|page| if page.starts_with("v1") { Ok(()) } else { Err(page) }));
    let pod =
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: held}}\nspec: {{containers: [{{name: c, image: \"{WEB}\", ports: [{{containerPort: 8000, hostPort: 21049}}]}}]}}\n");
    c.apply(&pod);
    c.wait_ready("held");
    until("the host port", SOON, || c.get("http://127.0.0.1:21049/index.html"));
}

fn the_node_agent_may_be_killed(c: &mut Cluster, pod: &str) {
    let id = |c: &Cluster| c.json(&["get", "pod", pod])["status"]["containerStatuses"][0]["containerID"].to_string();
    let before = id(c);
    c.kill_part(Cluster::KUBELET);
    let ip = c.json(&["get", "pod", pod])["status"]["podIP"].as_str().expect("an address").to_owned();
    c.get(&format!("http://{ip}:8000/index.html")).expect("pods run without the agent");
    c.start_part(Cluster::KUBELET);
    until("exec through the new agent", SOON, || c.try_kubectl(&["exec", pod, "--", "true"]));
    assert_eq!(id(c), before, "the same container");
}

/// Each part's user may do what the part does: RBAC applies to all of them.
fn nobody_was_refused(c: &Cluster) {
    let log = c.log();
    let refused: Vec<&str> = log.lines().filter(|l| l.contains("is forbidden") || l.contains("cannot list") || l.contains("cannot create")).collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
