//! `--container-runtime-endpoint`: the node agent drives containerd (Debian's 1.6) and its CNI network instead of our own runtime.

use keles_e2e::{Cluster, WEB, skip_without, until, web_image};
use keles_testkit::containerd::{CNI_PLUGINS, CniNetwork, Containerd};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Events of such a runtime are seen a second late, and the machine may be busy.
const SOON: Duration = Duration::from_secs(120);
const BRIDGE: &str = "kcni0";
const RANGE: &str = "10.246.0.0/24";
const RANGE_PREFIX: &str = "10.246.0.";

struct World {
    /// Before the runtime: its pods go first.
    c: Cluster,
    containerd: Containerd,
}

fn world() -> Option<World> {
    let needs = [
        (Path::new("/usr/bin/containerd"), "Debian's containerd is not installed (make deps)"),
        (Path::new("/usr/sbin/runc"), "Debian's runc is not installed (make deps)"),
        (Path::new("/usr/lib/cni/bridge"), "Debian's containernetworking-plugins are not installed (make deps)"),
        (Path::new("/usr/sbin/iptables"), "Debian's iptables is not installed (make deps)"),
    ];
    assert!(needs[2].0.starts_with(CNI_PLUGINS));
    if skip_without(&needs) {
        return None;
    }
    let containerd = Containerd::start_with_cri(CniNetwork { bridge: BRIDGE.into(), range: RANGE.into() }).expect("containerd starts");
    containerd.import(WEB, &web_image(&[("VERSION", "v1")])).expect("imported");
    let c = Cluster::start_with(&["--container-runtime-endpoint", &format!("unix://{}", containerd.socket().display())]);
    Some(World { c, containerd })
}

impl World {
    /// Deletes the pods; then nothing is left, of us nor of containerd.
    fn finish(self) {
        let World { c, containerd } = self;
        c.kubectl(&["delete", "deployments,replicasets,pods", "--all", "--force", "--grace-period=0", "--timeout=120s"]);
        until("nothing left on the machine", SOON, || {
            let left: Vec<String> = c.leftovers().iter().map(ToString::to_string).chain(containerd.leftovers()).collect();
            if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
        });
        drop(c);
        drop(containerd);
    }
}

fn pod(name: &str, container: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n{rest}  containers:\n  - {{name: c, image: \"{WEB}\", imagePullPolicy: Never, {container}}}\n"
    )
}

fn status(c: &Cluster, pod: &str) -> Value {
    c.json(&["get", "pod", pod])["status"].clone()
}

fn until_waiting(c: &Cluster, pod: &str, reason: &str) -> String {
    until(&format!("{pod} {reason}"), SOON, || {
        let waiting = status(c, pod)["containerStatuses"][0]["state"]["waiting"].clone();
        if waiting["reason"] == reason { Ok(waiting["message"].to_string()) } else { Err(waiting.to_string()) }
    })
}

#[test]
fn pods_run_in_containerd_as_in_our_own_runtime() {
    let Some(w) = world() else { return };
    let c = &w.c;
    let version = c.kubectl(&["get", "node", Cluster::NODE, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}"]);
    assert!(version.starts_with("containerd://1."), "{version}");
    deployment(c);
    logs(c);
    exec(c);
    attach(c);
    c.port_forward();
    services(c);
    crash(c);
    init_and_volume(c);
    probes(c);
    policies(c);
    refusals(c);
    grace(c);
    figures(c);
    w.finish();
}

fn deployment(c: &Cluster) {
    c.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - {{name: c, image: \"{WEB}\", imagePullPolicy: IfNotPresent, ports: [{{containerPort: 8000}}]}}\n"
    ));
    c.kubectl(&["rollout", "status", "deploy/web", "--timeout=120s"]);
    for pod in c.pods("app=web") {
        let s = status(c, &pod);
        let ip = s["podIP"].as_str().expect("an address");
        assert!(ip.starts_with(RANGE_PREFIX), "the address is CNI's: {s}");
        assert!(s["containerStatuses"][0]["containerID"].as_str().expect("an id").starts_with("containerd://"), "{s}");
        assert!(s["containerStatuses"][0]["imageID"].as_str().expect("an id").contains("sha256:"), "{s}");
        // Ready is not yet listening.
        assert_eq!(until("the pod answers", SOON, || c.get(&format!("http://{ip}:8000/index.html"))).trim(), format!("v1 {pod}"));
    }
    c.apply(&pod("web", "ports: [{containerPort: 8000}], resources: {limits: {memory: 64Mi, cpu: 500m}}", ""));
    c.wait_ready("web");
}

fn logs(c: &Cluster) {
    until("its log", SOON, || {
        let said = c.kubectl(&["logs", "web"]);
        if said.contains("serving v1") { Ok(()) } else { Err(said) }
    });
    assert!(c.kubectl(&["logs", "web", "--tail=1", "--timestamps"]).contains("Z serving v1"));
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
    let hosts = c.exec("web", &["cat", "/etc/hosts"]);
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.") && hosts.contains(RANGE_PREFIX), "{hosts}");
}

fn attach(c: &Cluster) {
    c.apply(&pod("cat", "stdin: true, stdinOnce: true, command: [sh, -c, \"read x; echo got $x\"]", "  restartPolicy: Never\n"));
    c.wait_ready("cat");
    let said = c.kubectl_with(&["attach", "-i", "cat"], "words\n").expect("attaches");
    assert!(said.contains("got words"), "{said}");
    until("the end", SOON, || {
        let s = status(c, "cat");
        if s["phase"] == "Succeeded" { Ok(()) } else { Err(s.to_string()) }
    });
}

/// Cluster DNS and Services stand beside the network of another's: the node reaches pods through a Service, a pod the DNS of the cluster.
fn services(c: &Cluster) {
    c.kubectl(&["expose", "deployment", "web", "--port=80", "--target-port=8000"]);
    let address = |name: &str| c.kubectl(&["get", "service", name, "-o", "jsonpath={.spec.clusterIP}"]);
    let (web, api) = (address("web"), address("kubernetes"));
    until("a pod behind its Service", SOON, || match c.get(&format!("http://{web}/index.html")) {
        Ok(page) if page.starts_with("v1 web-") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("a name in a pod", SOON, || {
        let said = c.try_kubectl(&["exec", "web", "--", "nslookup", "kubernetes.default.svc.cluster.local"])?;
        if said.contains(&api) { Ok(()) } else { Err(said) }
    });
    c.kubectl(&["delete", "service", "web"]);
}

/// A container that ends is seen and started again; what it said stays, and what it was stays as its last state.
fn crash(c: &Cluster) {
    c.apply(&pod("crash", "command: [sh, -c, \"echo round; echo told > /dev/termination-log; test -e /keep/x && exec sleep 1000; touch /keep/x; exit 3\"], volumeMounts: [{name: keep, mountPath: /keep}]", "  volumes: [{name: keep, emptyDir: {}}]\n"));
    let s = until("the second round", SOON, || {
        let s = status(c, "crash")["containerStatuses"][0].clone();
        if s["restartCount"] == 1 && s["state"]["running"].is_object() { Ok(s) } else { Err(s.to_string()) }
    });
    let ended = &s["lastState"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"], ended["message"].as_str().map(str::trim)), (&3.into(), &"Error".into(), Some("told")), "{s}");
    assert!(c.kubectl(&["logs", "crash", "--previous"]).contains("round"));
}

fn init_and_volume(c: &Cluster) {
    c.kubectl(&["create", "configmap", "words", "--from-literal=word=hello"]);
    let rest = format!(
        "  volumes: [{{name: words, configMap: {{name: words}}}}, {{name: shared, emptyDir: {{}}}}]\n  initContainers:\n  - {{name: first, image: \"{WEB}\", command: [sh, -c, \"cp /words/word /shared/word\"], volumeMounts: [{{name: words, mountPath: /words}}, {{name: shared, mountPath: /shared}}]}}\n"
    );
    c.apply(&pod("init", "command: [sleep, \"1000\"], env: [{name: A, value: b}], workingDir: /shared, securityContext: {runAsUser: 1000, runAsGroup: 1001, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}, volumeMounts: [{name: shared, mountPath: /shared}, {name: words, mountPath: /words}]", &rest));
    c.wait_ready("init");
    let s = status(c, "init");
    assert_eq!(s["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed", "{s}");
    let said = c.exec("init", &["sh", "-c", "pwd; cat word /words/word; echo; echo $A $(id -u) $(id -g); touch /x 2>&1; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"]);
    for expected in ["/shared\n", "hellohello", "b 1000 1001", "Read-only file system", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(said.contains(expected), "{expected} is missing in\n{said}");
    }
    c.kubectl(&["patch", "configmap", "words", "--type=merge", "-p", r#"{"data":{"word":"changed"}}"#]);
    until("the changed file", SOON, || {
        let word = c.exec("init", &["cat", "/words/word"]);
        if word == "changed" { Ok(()) } else { Err(word) }
    });
}

fn probes(c: &Cluster) {
    let probes = "command: [sh, -c, \"touch /tmp/alive; exec httpd -f -p 8000 -h /tmp\"], readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 1, timeoutSeconds: 20}, livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}";
    c.apply(&pod("probed", probes, ""));
    until("it runs, not ready", SOON, || {
        let s = status(c, "probed")["containerStatuses"][0].clone();
        if s["state"]["running"].is_object() && s["ready"] == false { Ok(()) } else { Err(s.to_string()) }
    });
    c.exec("probed", &["touch", "/tmp/ready"]);
    c.wait_ready("probed");
    c.exec("probed", &["rm", "/tmp/alive"]);
    until("it is started anew", SOON, || {
        let s = status(c, "probed")["containerStatuses"][0].clone();
        if s["restartCount"].as_u64() >= Some(1) { Ok(()) } else { Err(s.to_string()) }
    });
}

fn policies(c: &Cluster) {
    let with = |name: &str, image: &str, policy: &str| pod(name, "command: [sleep, \"1000\"]", "").replace(WEB, image).replace("Never", policy);
    c.apply(&with("absent", "e2e.invalid/none:v1", "Never"));
    assert!(until_waiting(c, "absent", "ErrImageNeverPull").contains("is not present with pull policy of Never"));
    // Nothing listens there: the pull fails at once, in containerd's words.
    c.apply(&with("refused", "127.0.0.1:9/none:v1", "IfNotPresent"));
    let why = until("a failed pull", SOON, || {
        let waiting = status(c, "refused")["containerStatuses"][0]["state"]["waiting"].clone();
        let is_it = waiting["reason"] == "ErrImagePull" || waiting["reason"] == "ImagePullBackOff";
        if is_it { Ok(waiting["message"].to_string()) } else { Err(waiting.to_string()) }
    });
    assert!(why.contains("rpc error") && why.contains("127.0.0.1:9"), "{why}");
    c.apply(&pod("nothing", "command: [/nonesuch]", ""));
    until("a container that cannot be started", SOON, || {
        let s = status(c, "nothing")["containerStatuses"][0].clone();
        let why = s["lastState"]["terminated"]["reason"].as_str().or(s["state"]["waiting"]["reason"].as_str()).unwrap_or_default().to_owned();
        if ["StartError", "RunContainerError"].contains(&why.as_str()) { Ok(()) } else { Err(s.to_string()) }
    });
    c.kubectl(&["delete", "pod", "absent", "refused", "nothing", "--timeout=120s"]);
}

/// What this runtime cannot do is said, not left out in silence.
fn refusals(c: &Cluster) {
    c.apply(&pod("users", "command: [sleep, \"1000\"]", "  hostUsers: false\n"));
    until("a refusal", SOON, || {
        let events = c.kubectl(&["get", "events", "--field-selector=involvedObject.name=users", "-o", "jsonpath={.items[*].message}"]);
        if events.contains("does not support user namespaces") { Ok(()) } else { Err(events) }
    });
    c.apply(&pod("strict", "command: [sleep, \"1000\"]", "  securityContext: {supplementalGroupsPolicy: Strict}\n"));
    until("a refusal", SOON, || {
        let s = status(c, "strict");
        // The scheduler may keep it from a node that does not say it can.
        if s["reason"] == "SupplementalGroupsPolicyNotSupported" || s["conditions"].to_string().contains("Unschedulable") { Ok(()) } else { Err(s.to_string()) }
    });
    c.kubectl(&["delete", "pod", "users", "strict", "--timeout=120s"]);
}

fn grace(c: &Cluster) {
    let script = "command: [sh, -c, \"trap 'echo bye > /out/said; exit 0' TERM; touch /trapped; while true; do sleep 1; done\"], volumeMounts: [{name: out, mountPath: /out}], readinessProbe: {exec: {command: [test, -e, /trapped]}, periodSeconds: 1, timeoutSeconds: 20}";
    let out = c.dir.path().join("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let rest = format!("  volumes: [{{name: out, hostPath: {{path: \"{}\"}}}}]\n", out.display());
    c.apply(&pod("polite", script, &rest).replace("terminationGracePeriodSeconds: 2", "terminationGracePeriodSeconds: 60"));
    c.wait_ready("polite");
    c.kubectl(&["delete", "pod", "polite", "--timeout=120s"]);
    assert_eq!(std::fs::read_to_string(out.join("said")).expect("it was told to end").trim(), "bye");
}

/// Figures come from the control groups that the runtime made where it was told to.
fn figures(c: &Cluster) {
    let memory = until("figures of the container", SOON, || {
        let summary: Value = serde_json::from_str(&c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/stats/summary", Cluster::NODE)])).map_err(|e| e.to_string())?;
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let web = pods.into_iter().find(|pod| pod["podRef"]["name"] == "web").ok_or_else(|| summary["pods"].to_string())?;
        let memory = web["containers"][0]["memory"]["workingSetBytes"].as_u64().filter(|bytes| *bytes > 0).ok_or_else(|| web.to_string())?;
        let received = web["network"]["rxBytes"].as_u64().ok_or_else(|| web.to_string())?;
        if received > 0 { Ok(memory) } else { Err(web.to_string()) }
    });
    assert!(memory < 64 << 20, "{memory}");
    let limit = until("the limit", SOON, || {
        let uid = c.json(&["get", "pod", "web"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let find = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-path", &format!("*pod{uid}/*"), "(", "-name", "memory.limit_in_bytes", "-o", "-name", "memory.max", ")"])
            .output();
        let files = String::from_utf8_lossy(&find.expect("find").stdout).into_owned();
        let limits: Vec<String> = files.lines().filter_map(|file| std::fs::read_to_string(file).ok()).map(|text| text.trim().to_owned()).collect();
        if limits.contains(&(64 << 20).to_string()) { Ok(limits) } else { Err(format!("{files}: {limits:?}")) }
    });
    assert!(!limit.is_empty());
}

#[test]
fn containers_of_containerd_outlive_the_server_and_containerd() {
    let Some(mut w) = world() else { return };
    w.c.apply(&pod("web", "ports: [{containerPort: 8000}]", ""));
    w.c.wait_ready("web");
    let id = |c: &Cluster| status(c, "web")["containerStatuses"][0]["containerID"].to_string();
    let (before, ip) = (id(&w.c), status(&w.c, "web")["podIP"].as_str().expect("an address").to_owned());
    until("the pod answers", SOON, || w.c.get(&format!("http://{ip}:8000/index.html")));
    w.c.kill_server();
    assert!(w.c.get(&format!("http://{ip}:8000/index.html")).expect("pods run without the server").starts_with("v1"));
    w.c.start_server();
    assert_eq!(w.c.exec_again("web", &["hostname"]).trim(), "web", "exec into an adopted container");
    assert_eq!((id(&w.c), status(&w.c, "web")["containerStatuses"][0]["restartCount"].clone()), (before.clone(), 0.into()), "the same container");
    // The runtime itself goes and comes back: the node says so, the pods run on.
    w.containerd.kill().expect("SIGKILL ends it");
    until("a node that is not ready", SOON, || {
        let said = w.c.kubectl(&["get", "node", Cluster::NODE, "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")].message}"]);
        if said.contains("container runtime is down") { Ok(()) } else { Err(said) }
    });
    assert!(w.c.get(&format!("http://{ip}:8000/index.html")).expect("pods run without their runtime").starts_with("v1"));
    w.containerd.restart().expect("starts");
    w.c.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=120s"]);
    assert_eq!(w.c.exec_again("web", &["hostname"]).trim(), "web");
    assert_eq!(id(&w.c), before, "the same container");
    // A pod deleted while nobody watches goes away at the next start.
    w.c.kubectl(&["delete", "pod", "web", "--wait=false"]);
    w.c.kill_server();
    w.c.start_server();
    until("no pods", SOON, || {
        let all = w.c.kubectl(&["get", "pods", "-o", "name"]);
        if all.is_empty() { Ok(()) } else { Err(all) }
    });
    w.finish();
}
