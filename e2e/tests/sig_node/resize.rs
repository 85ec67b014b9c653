//! Resize in place: what the containers have afterwards, in the API and in their cgroups, without a restart.

use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, c2, decrease cpu & mem on c3 - net increase", |w| {
            guaranteed(w, [("20m", "40Mi"), ("20m", "40Mi"), ("20m", "40Mi")], [("30m", "50Mi"), ("30m", "50Mi"), ("15m", "35Mi")])
        }),
        case("Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase cpu & mem on c1, decrease cpu & mem on c2, c3 - net decrease", |w| {
            guaranteed(w, [("30m", "50Mi"), ("30m", "50Mi"), ("30m", "50Mi")], [("35m", "55Mi"), ("15m", "35Mi"), ("15m", "35Mi")])
        }),
        case("Pod InPlace Resize Container guaranteed pods with multiple containers 3 containers - increase: CPU (c1,c3), memory (c2, c3) ; decrease: CPU (c2)", |w| {
            guaranteed(w, [("20m", "40Mi"), ("30m", "40Mi"), ("20m", "40Mi")], [("25m", "40Mi"), ("20m", "50Mi"), ("30m", "60Mi")])
        }),
        case("Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests)", six),
        case("Pod InPlace Resize Container burstable pods - extended resize with equivalents", equivalents),
        case("Pod InPlace Resize Container resize pod via the replace endpoint", replaced),
    ]
}

fn container(name: &str, resources: Value) -> Value {
    with(shell("sleep 600"), json!({"name": name, "resources": resources}))
}

fn both(cpu: &str, memory: &str) -> Value {
    let one = json!({"cpu": cpu, "memory": memory});
    json!({"requests": one, "limits": one})
}

async fn resize(w: &World, containers: Vec<Value>) {
    w.pods().patch_strategically("p/resize", json!({"spec": {"containers": containers}})).await;
    resized(w).await;
}

/// Every container has what its spec says, was not restarted, and no condition of a resize is left.
async fn resized(w: &World) -> Value {
    let has = |p: &Value| {
        let statuses = p["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let containers = p["spec"]["containers"].as_array().expect("containers");
        let done =
            containers.iter().all(|c| statuses.iter().any(|s| s["name"] == c["name"] && s["resources"] == c["resources"] && s["allocatedResources"] == c["resources"]["requests"]));
        let conditions = p["status"]["conditions"].as_array().cloned().unwrap_or_default();
        done && p["status"]["observedGeneration"] == p["metadata"]["generation"] && !conditions.iter().any(|c| c["type"].as_str().is_some_and(|t| t.starts_with("PodResize")))
    };
    let pod = w.pods().becomes("p", "resized", has).await;
    for s in pod["status"]["containerStatuses"].as_array().expect("statuses") {
        assert_eq!(s["restartCount"], 0, "{s}");
        in_cgroup(w, s).await;
    }
    pod
}

/// The limits that the kernel holds the container to.
async fn in_cgroup(w: &World, status: &Value) {
    let name = status["name"].as_str().expect("a name");
    let read = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    let said = w.exec("p", name, &["sh", "-c", read]).await;
    let mut lines = said.lines();
    let limits = &status["resources"]["limits"];
    if let Some(millis) = limits["cpu"].as_str().and_then(|c| c.strip_suffix('m')) {
        let quota = (millis.parse::<u64>().expect("millis") * 100).max(1000);
        assert_eq!(lines.next(), Some(quota.to_string().as_str()), "{name}: {said}");
    }
    if let Some(mebibytes) = limits["memory"].as_str().and_then(|m| m.strip_suffix("Mi")) {
        assert_eq!(said.lines().nth(1), Some((mebibytes.parse::<u64>().expect("a number") << 20).to_string().as_str()), "{name}: {said}");
    }
}

async fn guaranteed(w: World, before: [(&str, &str); 3], after: [(&str, &str); 3]) {
    let all = |sizes: [(&str, &str); 3]| sizes.iter().zip(["c1", "c2", "c3"]).map(|((cpu, memory), name)| (name, both(cpu, memory))).collect::<Vec<_>>();
    w.pod("p", json!({"restartPolicy": "OnFailure", "containers": all(before).into_iter().map(|(n, r)| container(n, r)).collect::<Vec<_>>()})).await;
    w.pods().ready("p").await;
    resize(&w, all(after).into_iter().map(|(n, r)| json!({"name": n, "resources": r})).collect()).await;
    assert_eq!(w.pods().get("p").await["status"]["qosClass"], "Guaranteed");
}

async fn six(w: World) {
    let before = [
        ("c1", json!({"requests": {"cpu": "10m", "memory": "30Mi"}, "limits": {"cpu": "20m", "memory": "40Mi"}})),
        ("c2", json!({"requests": {"cpu": "10m", "memory": "30Mi"}, "limits": {"cpu": "20m", "memory": "40Mi"}})),
        ("c3", json!({"requests": {"cpu": "10m"}})),
        ("c4", json!({"requests": {"memory": "30Mi"}})),
        ("c5", json!({})),
        ("c6", json!({"requests": {"cpu": "10m", "memory": "30Mi"}, "limits": {"memory": "40Mi"}})),
    ];
    let after = [
        ("c1", json!({"requests": {"cpu": "15m", "memory": "35Mi"}, "limits": {"cpu": "30m", "memory": "50Mi"}})),
        ("c2", json!({"requests": {"cpu": "5m", "memory": "20Mi"}, "limits": {"cpu": "15m", "memory": "35Mi"}})),
        ("c3", json!({"requests": {"cpu": "12m"}, "limits": {"cpu": "40m"}})),
        ("c4", json!({"requests": {"memory": "35Mi"}, "limits": {"memory": "60Mi"}})),
        ("c5", json!({"requests": {"cpu": "10m", "memory": "30Mi"}})),
        ("c6", json!({"requests": {"cpu": "12m", "memory": "32Mi"}, "limits": {"cpu": "30m", "memory": "50Mi"}})),
    ];
    w.pod("p", json!({"containers": before.map(|(n, r)| container(n, r))})).await;
    w.pods().ready("p").await;
    resize(&w, after.map(|(n, r)| json!({"name": n, "resources": r})).to_vec()).await;
}

/// 2m and 1m of CPU are the same to the kernel, whose smallest share and quota they are below.
async fn equivalents(w: World) {
    w.pod("p", json!({"containers": [container("c", json!({"requests": {"cpu": "2m"}, "limits": {"cpu": "10m"}}))]})).await;
    w.pods().ready("p").await;
    resize(&w, vec![json!({"name": "c", "resources": {"requests": {"cpu": "1m"}, "limits": {"cpu": "5m"}}})]).await;
}

async fn replaced(w: World) {
    w.pod("p", json!({"containers": [container("c", both("20m", "40Mi"))]})).await;
    w.pods().ready("p").await;
    w.pods().update("p/resize", |p| p["spec"]["containers"][0]["resources"] = both("30m", "50Mi")).await;
    let main = resized(&w).await;
    let piece = w.pods().get("p/resize").await;
    assert_eq!((&piece["spec"], &piece["status"], &piece["metadata"]["uid"]), (&main["spec"], &main["status"], &main["metadata"]["uid"]));
}
