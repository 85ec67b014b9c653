//! Liveness and readiness.

use super::grpc_health::GrpcHealth;
use keles_e2e::api::{World, condition, eventually, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};
use std::sync::atomic::Ordering::SeqCst;

pub fn cases() -> Vec<Case> {
    vec![
        case("Probing container should have monotonically increasing restart count", |w| restarts(w, DIES_SOON, http("/healthz", 1), 5)),
        case("Probing container should be restarted with a /healthz http liveness probe", |w| restarts(w, DIES_LATER, http("/healthz", 3), 1)),
        case("Probing container should be restarted with a exec \"cat /tmp/health\" liveness probe", |w| {
            restarts(
                w,
                "echo ok > /tmp/health; sleep 10; rm /tmp/health; sleep 600",
                json!({"exec": {"command": ["cat", "/tmp/health"]}, "initialDelaySeconds": 5, "failureThreshold": 1}),
                1,
            )
        }),
        case("Probing container should be restarted with a GRPC liveness probe", restarted_by_grpc),
        case("Probing container should *not* be restarted with a /healthz http liveness probe", |w| {
            lives(w, "mkdir /www; echo ok > /www/healthz; httpd -f -vv -p 8080 -h /www 2>&1 | tee /tmp/seen", http("/healthz", 1), "url:/healthz")
        }),
        case("Probing container should *not* be restarted with a exec \"cat /tmp/health\" liveness probe", |w| {
            let probe = json!({"exec": {"command": ["sh", "-c", "echo asked >> /tmp/seen; cat /tmp/health"]}, "periodSeconds": 1, "failureThreshold": 1});
            lives(w, "echo ok > /tmp/health; touch /tmp/seen; sleep 600", probe, "asked")
        }),
        case("Probing container should *not* be restarted with a tcp:8080 liveness probe", |w| {
            // The server behind the socket has nothing but errors to say.
            let probe = json!({"tcpSocket": {"port": 8080}, "initialDelaySeconds": 3, "periodSeconds": 1, "failureThreshold": 3});
            lives(w, "while true; do echo bad | nc -l -p 8080 > /dev/null; echo asked >> /tmp/seen; done", probe, "asked")
        }),
        case("Probing container should *not* be restarted with a GRPC liveness probe", lives_by_grpc),
        case("Probing container with readiness probe should not be ready before initial delay and never restart", ready_after_delay),
        case("Probing container with readiness probe that fails should never be ready and never restart", never_ready),
    ]
}

const DIES_SOON: &str = "mkdir -p /www; echo ok > /www/healthz; (sleep 3; rm /www/healthz) & exec httpd -f -p 8080 -h /www";
const DIES_LATER: &str = "mkdir -p /www; echo ok > /www/healthz; (sleep 10; rm /www/healthz) & exec httpd -f -p 8080 -h /www";
/// Probes that a container must outlive.
const PROBES: usize = 10;

fn http(path: &str, delay_seconds: u32) -> Value {
    json!({"httpGet": {"path": path, "port": 8080}, "initialDelaySeconds": delay_seconds, "periodSeconds": 1, "failureThreshold": 1})
}

fn spec(script: &str, liveness: Value) -> Value {
    json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1, "containers": [with(shell(script), json!({"livenessProbe": liveness}))]})
}

fn restart_count(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0)
}

/// Waits for so many restarts; the count only ever grows.
async fn restarts(w: World, script: &str, liveness: Value, wanted: u64) {
    w.pod("p", spec(script, liveness)).await;
    let mut last = 0;
    while last < wanted {
        let pod = w.pods().becomes("p", "restarted", |p| restart_count(p) != last).await;
        assert!(restart_count(&pod) > last, "{} after {last}", restart_count(&pod));
        last = restart_count(&pod);
    }
    w.event("p", "Liveness probe failed").await;
}

/// A pause of some seconds is no failure, failures in a row are: fewer than `PROBES`, so that they are seen.
fn patient(probe: Value) -> Value {
    with(probe, json!({"timeoutSeconds": 20, "failureThreshold": 8}))
}

/// The container answers many probes and is the same at the end.
async fn lives(w: World, script: &str, liveness: Value, word: &str) {
    w.pod("p", spec(script, patient(liveness))).await;
    w.pods().phase("p", "Running").await;
    eventually("probes", || async {
        let seen = w.exec("p", "c", &["cat", "/tmp/seen"]).await;
        if seen.matches(word).count() >= PROBES { Ok(()) } else { Err(seen) }
    })
    .await;
    let pod = w.pods().get("p").await;
    assert_eq!((restart_count(&pod), &pod["status"]["phase"]), (0, &json!("Running")), "{}", pod["status"]);
}

async fn lives_by_grpc(w: World) {
    let server = GrpcHealth::start().await;
    let probe = patient(json!({"grpc": {"port": server.port, "service": ""}, "periodSeconds": 1}));
    w.pod("p", with(spec("sleep 600", probe), json!({"hostNetwork": true}))).await;
    eventually("probes", || async {
        let n = server.asked.load(SeqCst);
        if n >= PROBES { Ok(()) } else { Err(format!("{n} probes")) }
    })
    .await;
    let pod = w.pods().get("p").await;
    assert_eq!(restart_count(&pod), 0, "{}", pod["status"]);
}

/// The port is not the server's.
async fn restarted_by_grpc(w: World) {
    restarts(w, "sleep 600", json!({"grpc": {"port": 2333}, "initialDelaySeconds": 3, "periodSeconds": 1, "failureThreshold": 1}), 1).await;
}

async fn ready_after_delay(w: World) {
    const DELAY_SECONDS: i64 = 15;
    let probe = json!({"exec": {"command": ["true"]}, "initialDelaySeconds": DELAY_SECONDS, "periodSeconds": 1});
    w.pod("p", json!({"containers": [with(shell("sleep 600"), json!({"readinessProbe": probe}))]})).await;
    let pod = w.pods().ready("p").await;
    let seconds = |at: &Value| {
        let text = at.as_str().unwrap_or_else(|| panic!("no time in {}", pod["status"]));
        let part = |from: usize| text[from..from + 2].parse::<i64>().expect("digits");
        (part(8) * 24 + part(11)) * 3600 + part(14) * 60 + part(17)
    };
    let (started, ready) = (seconds(&pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]), seconds(&condition(&pod, "Ready")["lastTransitionTime"]));
    // Both times are cut to seconds.
    assert!(ready - started >= DELAY_SECONDS - 1, "ready {} s after the start", ready - started);
    assert_eq!(restart_count(&pod), 0);
}

async fn never_ready(w: World) {
    let probe = json!({"exec": {"command": ["sh", "-c", "echo asked >> /tmp/seen; false"]}, "periodSeconds": 1});
    w.pod("p", json!({"containers": [with(shell("touch /tmp/seen; sleep 600"), json!({"readinessProbe": probe}))]})).await;
    w.pods().phase("p", "Running").await;
    eventually("probes", || async {
        let pod = w.pods().get("p").await;
        assert_ne!(condition(&pod, "Ready")["status"], "True");
        let seen = w.exec("p", "c", &["cat", "/tmp/seen"]).await;
        if seen.lines().count() >= PROBES { Ok(()) } else { Err(seen) }
    })
    .await;
    let pod = w.pods().get("p").await;
    assert_eq!((restart_count(&pod), &condition(&pod, "Ready")["status"], &pod["status"]["containerStatuses"][0]["ready"]), (0, &json!("False"), &json!(false)));
}
