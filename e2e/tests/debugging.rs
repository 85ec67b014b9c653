//! exec, logs, attach, port-forward, describe and events with the real kubectl.

use keles_e2e::{Cluster, WEB, skip, until};
use std::io::{BufRead, BufReader};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn pod(name: &str, container: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"{WEB}\", {container}}}\n")
}

#[test]
fn a_pod_can_be_looked_into() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    c.apply(&pod("web", "ports: [{containerPort: 8000}]"));
    c.wait_ready("web");
    exec(&c);
    logs(&c);
    c.port_forward();
    let described = c.kubectl(&["describe", "pod", "web"]);
    for event in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(event), "{event} is missing in\n{described}");
    }
    attach(&c);
}

fn exec(c: &Cluster) {
    assert_eq!(c.exec("web", &["hostname"]).trim(), "web");
    assert_eq!(c.kubectl_with(&["exec", "-i", "web", "--", "sh", "-c", "cat; echo end"], "typed\n").expect("runs"), "typed\nend\n");
    let failed = c.try_kubectl(&["exec", "web", "--", "sh", "-c", "exit 7"]).expect_err("exit code 7");
    assert!(failed.contains("exit code 7"), "{failed}");
    let out = c.exec("web", &["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
    assert_eq!(out.len(), 3_000_000, "all of a large output arrives");
    let missing = c.try_kubectl(&["exec", "web", "--", "nonesuch"]).expect_err("no such program");
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
}

fn logs(c: &Cluster) {
    assert!(c.kubectl(&["logs", "web"]).contains("serving v1"));
    assert!(c.kubectl(&["logs", "web", "--tail=1", "--timestamps"]).contains("Z serving v1"));
    let ip = c.json(&["get", "pod", "web"])["status"]["podIP"].as_str().expect("an address").to_owned();
    let mut follow = c.spawn(&["logs", "-f", "web"]);
    let mut lines = BufReader::new(follow.stdout.take().expect("piped")).lines();
    assert!(lines.next().expect("a line").expect("text").contains("serving"));
    keles_e2e::until("the pod answers the node", std::time::Duration::from_secs(60), || c.get(&format!("http://{ip}:8000/index.html")));
    let seen = lines.map_while(Result::ok).find(|l| l.contains("index.html") || l.contains("response:200"));
    follow.kill().and_then(|()| follow.wait()).expect("ends");
    assert!(seen.is_some(), "the request appears in the followed log");
    let none = c.try_kubectl(&["logs", "web", "-c", "nope"]).expect_err("no such container");
    assert!(none.contains("nope"), "{none}");
}

fn attach(c: &Cluster) {
    c.apply(&pod("cat", "stdin: true, stdinOnce: true, command: [sh, -c, \"read x; echo got $x\"]").replace("spec:\n", "spec:\n  restartPolicy: Never\n"));
    c.wait_ready("cat");
    let said = c.kubectl_with(&["attach", "-i", "cat"], "words\n").expect("attaches");
    assert!(said.contains("got words"), "{said}");
    until("the end", SOON, || {
        let p = c.json(&["get", "pod", "cat"])["status"]["phase"].to_string();
        if p == "\"Succeeded\"" { Ok(()) } else { Err(p) }
    });
}
