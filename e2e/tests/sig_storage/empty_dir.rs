//! emptyDir volumes by user, mode and medium; volumes beside one another.

use keles_e2e::WEB;
use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("EmptyDir wrapper volumes should not cause race condition when used for configmaps", many_config_maps),
        case("EmptyDir wrapper volumes should not conflict", beside_one_another),
        case("EmptyDir volumes pod should support shared volumes between containers", shared),
        case("EmptyDir volumes volume on default medium should have the correct mode", |w| folder(w, "")),
        case("EmptyDir volumes volume on tmpfs should have the correct mode", |w| folder(w, "Memory")),
        case("EmptyDir volumes should support (root,0644,default)", |w| file(w, 0, "644", "")),
        case("EmptyDir volumes should support (root,0666,default)", |w| file(w, 0, "666", "")),
        case("EmptyDir volumes should support (root,0777,default)", |w| file(w, 0, "777", "")),
        case("EmptyDir volumes should support (root,0644,tmpfs)", |w| file(w, 0, "644", "Memory")),
        case("EmptyDir volumes should support (root,0666,tmpfs)", |w| file(w, 0, "666", "Memory")),
        case("EmptyDir volumes should support (root,0777,tmpfs)", |w| file(w, 0, "777", "Memory")),
        case("EmptyDir volumes should support (non-root,0644,default)", |w| file(w, 1001, "644", "")),
        case("EmptyDir volumes should support (non-root,0666,default)", |w| file(w, 1001, "666", "")),
        case("EmptyDir volumes should support (non-root,0777,default)", |w| file(w, 1001, "777", "")),
        case("EmptyDir volumes should support (non-root,0644,tmpfs)", |w| file(w, 1001, "644", "Memory")),
        case("EmptyDir volumes should support (non-root,0666,tmpfs)", |w| file(w, 1001, "666", "Memory")),
        case("EmptyDir volumes should support (non-root,0777,tmpfs)", |w| file(w, 1001, "777", "Memory")),
    ]
}

fn pod(script: &str, user: u32, medium: &str) -> Value {
    let container = with(shell(script), json!({"securityContext": {"runAsUser": user}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {"medium": medium}}]})
}

fn checks_medium(medium: &str, log: &str) {
    let kind = log.lines().last().expect("the mount's type");
    assert_eq!(kind == "tmpfs", medium == "Memory", "{log}");
}

const TYPE: &str = "awk '$2 == \"/v\" {print $3}' /proc/mounts";

async fn folder(w: World, medium: &str) {
    let log = w.output(pod(&format!("stat -c %a /v; {TYPE}"), 0, medium)).await;
    // The permissions; a tmpfs has the sticky bit besides, upstream too.
    assert_eq!(log.lines().next().map(|mode| &mode[mode.len() - 3..]), Some("777"));
    checks_medium(medium, &log);
}

async fn file(w: World, user: u32, mode: &str, medium: &str) {
    let script = format!("umask 0; echo content > /v/f; chmod {mode} /v/f; cat /v/f; stat -c '%a %u' /v/f; {TYPE}");
    let log = w.output(pod(&script, user, medium)).await;
    assert_eq!(log.lines().take(2).collect::<Vec<_>>(), ["content", &format!("{mode} {user}")]);
    checks_medium(medium, &log);
}

async fn shared(w: World) {
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    let main = with(shell("until test -f /v/shared; do sleep 0.2; done; cat /v/shared"), json!({"volumeMounts": mounts}));
    let sub = with(shell("echo Hello from the sub-container > /v/new; mv /v/new /v/shared"), json!({"name": "sub", "volumeMounts": mounts}));
    let log = w.output(json!({"containers": [main, sub], "volumes": [{"name": "v", "emptyDir": {}}]})).await;
    assert_eq!(log, "Hello from the sub-container\n");
}

async fn beside_one_another(w: World) {
    w.secret("s", json!({"data-1": "secret"})).await;
    w.config_map("m", json!({"data-1": "map"})).await;
    let container = with(shell("cat /s/data-1 /m/data-1"), json!({"volumeMounts": [{"name": "s", "mountPath": "/s", "readOnly": true}, {"name": "m", "mountPath": "/m"}]}));
    let log = w.output(json!({"containers": [container], "volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "m", "configMap": {"name": "m"}}]})).await;
    assert_eq!(log, "secretmap");
}

/// Fifty volumes in each of five replicas; all come up.
async fn many_config_maps(w: World) {
    const MAPS: usize = 50;
    for n in 0..MAPS {
        w.config_map(&format!("m{n}"), json!({"data-1": format!("value {n}")})).await;
    }
    let volumes: Vec<Value> = (0..MAPS).map(|n| json!({"name": format!("v{n}"), "configMap": {"name": format!("m{n}")}})).collect();
    let mounts: Vec<Value> = (0..MAPS).map(|n| json!({"name": format!("v{n}"), "mountPath": format!("/v{n}")})).collect();
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": WEB, "command": ["sleep", "3600"], "volumeMounts": mounts}], "volumes": volumes});
    let template = json!({"metadata": {"labels": {"app": "many"}}, "spec": spec});
    let owner = json!({"metadata": {"name": "many"}, "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "many"}}, "template": template}});
    let sets = w.of("apps/v1/replicasets");
    sets.create(&owner).await;
    sets.becomes("many", "ready with 5 replicas", |s| s["status"]["readyReplicas"] == 5).await;
    let warned: Vec<Value> = w.of("v1/events").list("").await.into_iter().filter(|e| e["reason"] == "FailedMount").collect();
    assert!(warned.is_empty(), "{warned:?}");
    sets.delete("many").await;
}
