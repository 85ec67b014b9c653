//! Hooks, init containers, ephemeral containers, restarts and messages at the end.

use keles_e2e::WEB;
use keles_e2e::api::{World, condition, eventually, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    let mut all = vec![
        case("Container Runtime blackbox test when starting a container that exits should run with the expected status", exits_by_restart_policy),
        case("InitContainer [NodeConformance] should not start app containers if init containers fail on a RestartAlways pod", init_fails_always),
        case("InitContainer [NodeConformance] should not start app containers and fail the pod if init containers fail on a RestartNever pod", init_fails_never),
        case("InitContainer [NodeConformance] should invoke init containers on a RestartAlways pod", |w| init_runs(w, "Always")),
        case("InitContainer [NodeConformance] should invoke init containers on a RestartNever pod", |w| init_runs(w, "Never")),
        case("Ephemeral Containers [NodeConformance] will start an ephemeral container in an existing pod", |w| ephemeral(w, &["debugger"])),
        case("Ephemeral Containers [NodeConformance] should update the ephemeral containers in an existing pod", |w| ephemeral(w, &["debugger", "debugger2"])),
    ];
    let exec = |ip: &str| json!({"exec": {"command": ["sh", "-c", format!("wget -qO- http://{ip}:8080/hooked")]}});
    let http = |ip: &str| json!({"httpGet": {"host": ip, "port": 8080, "path": "/hooked"}});
    all.extend([
        case("Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly", move |w| hook(w, "postStart", exec)),
        case("Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly", move |w| hook(w, "postStart", http)),
        case("Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly", move |w| hook(w, "preStop", exec)),
        case("Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly", move |w| hook(w, "preStop", http)),
        case("PreStop should call prestop when killing a pod", |w| {
            hook(w, "preStop", |ip| json!({"exec": {"command": ["wget", "-qO-", "--post-data={}", format!("http://{ip}:8080/hooked")]}}))
        }),
    ]);
    const TO_DEFAULT: &str = "/dev/termination-log";
    all.extend([
        case("Container Runtime blackbox test on terminated container should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set", |w| {
            message(w, "echo DONE", json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), "Succeeded", "")
        }),
        case("Container Runtime blackbox test on terminated container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set", |w| {
            message(w, "echo -n OK > /dev/termination-log; echo DONE", json!({"terminationMessagePolicy": "FallbackToLogsOnError", "terminationMessagePath": TO_DEFAULT}), "Succeeded", "OK")
        }),
        case("Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set", |w| {
            message(w, "echo -n DONE; exit 1", json!({"terminationMessagePolicy": "FallbackToLogsOnError"}), "Failed", "DONE")
        }),
        case("Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set as non-root user and at a non-default path", |w| {
            let own = json!({"terminationMessagePath": "/dev/termination-custom-log", "securityContext": {"runAsUser": 1000}});
            message(w, "echo -n DONE > /dev/termination-custom-log", own, "Succeeded", "DONE")
        }),
    ]);
    all
}

async fn message(w: World, script: &str, own: Value, phase: &str, wanted: &str) {
    w.pod("p", json!({"containers": [with(shell(script), own)]})).await;
    let ended = w.pods().phase("p", phase).await;
    assert_eq!(ended["status"]["containerStatuses"][0]["state"]["terminated"]["message"].as_str().unwrap_or_default(), wanted, "{}", ended["status"]);
}

/// The hook asks a server pod, whose log tells.
async fn hook(w: World, when: &str, handler: impl Fn(&str) -> Value) {
    let listens = json!({"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 20}});
    w.pod("server", json!({"containers": [with(shell("mkdir /www; echo ok > /www/hooked; exec httpd -f -vv -p 8080 -h /www"), listens)]})).await;
    let ip = w.pods().ready("server").await["status"]["podIP"].as_str().expect("an address").to_owned();
    let container = with(shell("trap 'exit 0' TERM; sleep 600 & wait"), json!({"lifecycle": {when: handler(&ip)}}));
    w.pod("p", json!({"terminationGracePeriodSeconds": 60, "containers": [container]})).await;
    w.pods().ready("p").await;
    if when == "preStop" {
        assert!(!w.log("server", "").await.contains("url:/hooked"), "too early");
        w.pods().delete("p").await;
        w.pods().gone("p").await;
    }
    eventually("the hook at the server", || async {
        let log = w.log("server", "").await;
        if log.contains("url:/hooked") { Ok(()) } else { Err(log) }
    })
    .await;
}

/// Always restarts, OnFailure until it succeeds, Never not: counts, phases and states.
async fn exits_by_restart_policy(w: World) {
    // The folder outlives the containers of a pod: the second run sees the first one's line.
    let script = "echo run >> /v/runs; n=$(wc -l < /v/runs); [ $n -ge 3 ] && KEEP; exit 1";
    for (policy, at_third, phase, restarts, ready) in
        [("Always", "sleep 600", "Running", 2, true), ("OnFailure", "exit 0", "Succeeded", 2, false), ("Never", "exit 0", "Failed", 0, false)]
    {
        let name = policy.to_ascii_lowercase();
        let container = with(shell(&script.replace("KEEP", at_third)), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        w.pod(&name, json!({"restartPolicy": policy, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})).await;
        let count = |p: &Value| p["status"]["containerStatuses"][0]["restartCount"].clone();
        let is = |p: &Value| p["status"]["phase"] == phase && count(p) == restarts && condition(p, "Ready")["status"] == if ready { "True" } else { "False" };
        let pod = w.pods().becomes(&name, "as its policy says", is).await;
        let state = &pod["status"]["containerStatuses"][0]["state"];
        match policy {
            "Always" => assert!(state["running"].is_object(), "{state}"),
            "OnFailure" => assert_eq!(state["terminated"]["exitCode"], 0),
            _ => assert_eq!(state["terminated"]["exitCode"], 1),
        }
    }
}

fn init(name: &str, script: &str) -> Value {
    json!({"name": name, "image": WEB, "command": ["sh", "-c", script]})
}

async fn init_runs(w: World, policy: &str) {
    let main = shell(if policy == "Always" { "sleep 600" } else { "true" });
    w.pod("p", json!({"restartPolicy": policy, "initContainers": [init("init1", "true"), init("init2", "true")], "containers": [main]})).await;
    let pod = w.pods().phase("p", if policy == "Always" { "Running" } else { "Succeeded" }).await;
    assert_eq!(condition(&pod, "Initialized")["status"], "True");
    let inits = pod["status"]["initContainerStatuses"].as_array().expect("two");
    assert_eq!(inits.len(), 2);
    for i in inits {
        assert!(i["ready"] == true && i["state"]["terminated"]["exitCode"] == 0, "{i}");
    }
}

async fn init_fails_always(w: World) {
    w.pod("p", json!({"restartPolicy": "Always", "initContainers": [init("init1", "false"), init("init2", "true")], "containers": [shell("true")]})).await;
    let is = |p: &Value| p["status"]["initContainerStatuses"][0]["restartCount"].as_u64() >= Some(3);
    let pod = w.pods().becomes("p", "restarted its init container", is).await;
    let s = &pod["status"];
    assert_eq!(s["phase"], "Pending");
    let i = condition(&pod, "Initialized");
    assert_eq!((&i["status"], &i["reason"], &i["message"]), (&json!("False"), &json!("ContainersNotInitialized"), &json!("containers with incomplete status: [init1 init2]")));
    for (status, state) in [(&s["initContainerStatuses"][1], "PodInitializing"), (&s["containerStatuses"][0], "PodInitializing")] {
        assert!(status["state"]["waiting"]["reason"] == state && status["restartCount"] == 0, "{status}");
    }
}

async fn init_fails_never(w: World) {
    w.pod("p", json!({"initContainers": [init("init1", "true"), init("init2", "false")], "containers": [shell("true")]})).await;
    let pod = w.pods().phase("p", "Failed").await;
    let s = &pod["status"];
    let i = condition(&pod, "Initialized");
    assert_eq!((&i["status"], &i["reason"], &i["message"]), (&json!("False"), &json!("ContainersNotInitialized"), &json!("containers with incomplete status: [init2]")));
    assert_eq!(s["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_ne!(s["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 0);
    assert!(s["containerStatuses"][0]["state"]["waiting"].is_object(), "{s}");
}

async fn ephemeral(w: World, names: &[&str]) {
    w.pod("p", json!({"containers": [shell("sleep 600")]})).await;
    w.pods().ready("p").await;
    for (n, name) in names.iter().enumerate() {
        let container = json!({"name": name, "image": WEB, "command": ["sh", "-c", "echo polo; sleep 600"], "terminationMessagePolicy": "File"});
        w.pods().patch_strategically("p/ephemeralcontainers", json!({"spec": {"ephemeralContainers": [container]}})).await;
        let running = |p: &Value| p["status"]["ephemeralContainerStatuses"].as_array().into_iter().flatten().any(|s| s["name"] == *name && s["state"]["running"].is_object());
        let pod = w.pods().becomes("p", "runs the ephemeral container", running).await;
        assert_eq!(pod["spec"]["ephemeralContainers"].as_array().map(Vec::len), Some(n + 1));
        assert_eq!(w.exec("p", name, &["cat", "/etc/hostname"]).await.trim(), "p");
        eventually("its log", || async { Some(w.log("p", name).await).filter(|l| l == "polo\n").ok_or_else(|| "nothing yet".to_owned()) }).await;
    }
}
