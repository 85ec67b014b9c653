//! A Deployment's life: runs, heals, scales, rolls without losing a request, goes away.

use keles_e2e::{Cluster, WEB, WEB2, skip, until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn web(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: web
        image: {WEB}
        ports: [{{containerPort: 8000, name: http}}]
        readinessProbe: {{httpGet: {{path: /index.html, port: http}}, periodSeconds: 1}}
        lifecycle: {{preStop: {{exec: {{command: [sleep, "1"]}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: NodePort, selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
"#
    )
}

#[test]
fn a_deployment_runs_heals_scales_rolls_and_goes() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    c.apply(&web(3));
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let service = c.json(&["get", "service", "web"]);
    let (ip, node_port) = (service["spec"]["clusterIP"].as_str().expect("allocated").to_owned(), service["spec"]["ports"][0]["nodePort"].as_i64().expect("allocated"));
    spreads_load(&c, &ip, node_port);
    heals(&c);
    c.kubectl(&["scale", "deploy/web", "--replicas=5"]);
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    c.kubectl(&["scale", "deploy/web", "--replicas=2"]);
    until("two pods", SOON, || {
        let n = c.pods("app=web").len();
        if n == 2 { Ok(()) } else { Err(format!("{n} pods")) }
    });
    rolls(&c, &ip);
    c.kubectl(&["delete", "deploy,svc", "web"]);
    until("no pods", SOON, || {
        let all = c.kubectl(&["get", "pods", "-o", "name"]);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
}

fn spreads_load(c: &Cluster, ip: &str, node_port: i64) {
    // A rollout is over when pods are ready; the service's rules come after that.
    until("answers of all three pods", SOON, || {
        let answers = (0..60).map(|_| c.get(&format!("http://{ip}/index.html"))).collect::<Result<std::collections::BTreeSet<String>, String>>()?;
        if answers.len() == 3 { Ok(()) } else { Err(format!("{answers:?}")) }
    });
    assert!(c.get(&format!("http://127.0.0.1:{node_port}/index.html")).expect("the NodePort answers on 127.0.0.1").starts_with("v1"));
    let pod = &c.pods("app=web")[0];
    for name in ["web", "web.default", "web.default.svc.cluster.local"] {
        assert!(c.exec(pod, &["wget", "-qO-", &format!("http://{name}/index.html")]).starts_with("v1"), "{name}");
    }
    let slices = c.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=web"]);
    assert_eq!(slices["items"][0]["endpoints"].as_array().map(Vec::len), Some(3), "{slices}");
}

fn heals(c: &Cluster) {
    let pod = c.pods("app=web")[0].clone();
    c.kill_in_pod(&pod, "httpd");
    until("one restart", SOON, || {
        let status = c.json(&["get", "pod", &pod])["status"]["containerStatuses"][0].clone();
        if status["restartCount"] == 1 && status["lastState"]["terminated"].is_object() { Ok(()) } else { Err(status.to_string()) }
    });
    c.kubectl(&["delete", "pod", &pod]);
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    assert!(!c.pods("app=web").contains(&pod));
}

fn rolls(c: &Cluster, ip: &str) {
    let (stop, lost, seen) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    match c.get(&format!("http://{ip}/index.html")) {
                        Ok(_) => seen.fetch_add(1, SeqCst),
                        Err(e) => {
                            eprintln!("lost: {e}");
                            lost.fetch_add(1, SeqCst)
                        }
                    };
                }
            });
        }
        c.kubectl(&["set", "image", "deploy/web", &format!("web={WEB2}")]);
        let rolled = c.try_kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
        stop.store(true, SeqCst);
        rolled.expect("rolls out");
    });
    assert!(seen.load(SeqCst) > 10 && lost.load(SeqCst) == 0, "{} of {} requests were lost", lost.load(SeqCst), seen.load(SeqCst));
    until("the new version", SOON, || c.get(&format!("http://{ip}/index.html")).and_then(|page| if page.starts_with("v2") { Ok(()) } else { Err(page) }));
    c.kubectl(&["rollout", "undo", "deploy/web"]);
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=60s"]);
    let history = c.kubectl(&["rollout", "history", "deploy/web"]);
    assert_eq!(history.lines().filter(|l| l.starts_with(|c: char| c.is_ascii_digit())).count(), 2, "{history}");
}
