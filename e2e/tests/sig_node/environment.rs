//! Variables: of ConfigMaps, Secrets, the downward API and services; their expansion in commands and sub-paths.

use keles_e2e::WEB;
use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    const MAP: &str = "configMap";
    const SECRET: &str = "secret";
    vec![
        case("Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container", sub_path_mended),
        case("Variable Expansion should succeed in writing subpaths in container", sub_path_written),
        case("Variable Expansion should allow substituting values in a volume subpath", sub_path),
        case("Variable Expansion should fail substituting values in a volume subpath with absolute path", |w| {
            sub_path_refused(w, "/tmp", "error SubPath `/tmp` must not be an absolute path")
        }),
        case("Variable Expansion should fail substituting values in a volume subpath with backticks", |w| sub_path_refused(w, "..", "must not contain '..'")),
        case("Variable Expansion should allow composing env vars into new env vars", composed),
        case("Variable Expansion should allow substituting values in a container's args", |w| in_command(w, "args")),
        case("Variable Expansion should allow substituting values in a container's command", |w| in_command(w, "command")),
        case("ConfigMap should be consumable via environment variable", |w| by_key(w, MAP)),
        case("ConfigMap should be consumable via the environment", |w| whole(w, MAP)),
        case("ConfigMap should be consumable as environment variable names with various prefixes", |w| prefixes(w, MAP)),
        case("Secrets should be consumable from pods in env vars", |w| by_key(w, SECRET)),
        case("Secrets should be consumable via the environment", |w| whole(w, SECRET)),
        case("Secrets should be consumable as environment variable names variable names with various prefixes", |w| prefixes(w, SECRET)),
        case("Downward API should provide pod name, namespace and IP address as env vars", |w| {
            fields(w, &[("metadata.name", "/metadata/name"), ("metadata.namespace", "/metadata/namespace"), ("status.podIP", "/status/podIP")])
        }),
        case("Downward API should provide pod UID as env vars", |w| fields(w, &[("metadata.uid", "/metadata/uid")])),
        case("Downward API should provide host IP as an env var", |w| fields(w, &[("status.hostIP", "/status/hostIP")])),
        case("Downward API should provide hostIPs as an env var", |w| fields(w, &[("status.hostIP", "/status/hostIP"), ("status.hostIPs", "/status/hostIPs/0/ip")])),
        case("Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars", resources),
        case("Downward API should provide default limits.cpu/memory from node allocatable", allocatable),
        case("Pods should contain environment variables for services", services),
    ]
}

fn with_env(script: &str, env: Value) -> Value {
    with(shell(script), json!({"env": env}))
}

async fn object(w: &World, kind: &str, data: Value) {
    match kind {
        "configMap" => w.config_map("o", data).await,
        _ => w.secret("o", data).await,
    }
}

async fn by_key(w: World, kind: &str) {
    object(&w, kind, json!({"data-1": "value-1"})).await;
    let source = json!({format!("{kind}KeyRef"): {"name": "o", "key": "data-1"}});
    let log = w.output(json!({"containers": [with_env("env", json!([{"name": "DATA_1", "valueFrom": source}]))]})).await;
    assert!(log.lines().any(|l| l == "DATA_1=value-1"), "{log}");
}

async fn whole(w: World, kind: &str) {
    object(&w, kind, json!({"data_1": "value-1", "data_2": "value-2", "data_3": "value-3"})).await;
    let reference = |prefix: &str| json!({"prefix": prefix, format!("{kind}Ref"): {"name": "o"}});
    let log = w.output(json!({"containers": [with(shell(""), json!({"command": ["env"], "envFrom": [reference(""), reference("p-")]}))]})).await;
    for n in 1..=3 {
        for line in [format!("data_{n}=value-{n}"), format!("p-data_{n}=value-{n}")] {
            assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
        }
    }
}

/// Any printable ASCII character but the equals sign may stand in a name.
async fn prefixes(w: World, kind: &str) {
    object(&w, kind, json!({"data-1": "value-1"})).await;
    let all = ["#_", "$_", "%_", "&_", "+_", ":_", ";_", "<_", ">_", "?@_", "[_", "\\_", "1_", "a.b-"];
    let from: Vec<Value> = all.iter().map(|p| json!({"prefix": p, format!("{kind}Ref"): {"name": "o"}})).collect();
    let log = w.output(json!({"containers": [with(shell(""), json!({"command": ["cat", "/proc/self/environ"], "envFrom": from}))]})).await;
    for p in all {
        assert!(log.split('\0').any(|v| v == format!("{p}data-1=value-1")), "{p} is missing in {log}");
    }
}

async fn composed(w: World) {
    let env = json!([{"name": "FOO", "value": "foo-value"}, {"name": "BAR", "value": "bar-value"}, {"name": "FOOBAR", "value": "$(FOO);;$(BAR)"}]);
    let log = w.output(json!({"containers": [with_env("env", env)]})).await;
    for line in ["FOO=foo-value", "BAR=bar-value", "FOOBAR=foo-value;;bar-value"] {
        assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
    }
}

async fn in_command(w: World, field: &str) {
    let script = "TEST_VAR=wrong echo \"$(TEST_VAR)\"";
    let own = match field {
        "args" => json!({"command": ["sh", "-c"], "args": [script]}),
        _ => json!({"command": ["sh", "-c", script]}),
    };
    let container = with(json!({"name": "c", "image": WEB, "env": [{"name": "TEST_VAR", "value": "test-value"}]}), own);
    assert_eq!(w.output(json!({"containers": [container]})).await, "test-value\n");
}

async fn fields(w: World, all: &[(&str, &str)]) {
    let env: Vec<Value> = all.iter().enumerate().map(|(n, (field, _))| json!({"name": format!("V{n}"), "valueFrom": {"fieldRef": {"fieldPath": field}}})).collect();
    let log = w.output(json!({"containers": [with_env("env", json!(env))]})).await;
    let pod = w.pods().get("p").await;
    for (n, (field, at)) in all.iter().enumerate() {
        let value = pod.pointer(at).and_then(Value::as_str).unwrap_or_else(|| panic!("{field} in {pod}"));
        assert!(!value.is_empty() && log.lines().any(|l| l == format!("V{n}={value}")), "{field} is not {value} in\n{log}");
    }
}

fn of_resources() -> Value {
    let one = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource}}});
    json!([one("CPU_LIMIT", "limits.cpu"), one("MEMORY_LIMIT", "limits.memory"), one("CPU_REQUEST", "requests.cpu"), one("MEMORY_REQUEST", "requests.memory")])
}

async fn resources(w: World) {
    let own = json!({"resources": {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi"}}});
    let log = w.output(json!({"containers": [with(with_env("env", of_resources()), own)]})).await;
    for line in ["CPU_LIMIT=2", "MEMORY_LIMIT=67108864", "CPU_REQUEST=1", "MEMORY_REQUEST=33554432"] {
        assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
    }
}

async fn allocatable(w: World) {
    let node = w.cluster("v1/nodes").get(w.node).await;
    let log = w.output(json!({"containers": [with_env("env", of_resources())]})).await;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().expect("cpu");
    let cores = cpu.strip_suffix('m').map_or_else(|| cpu.to_owned(), |m| m.parse::<u64>().expect("millis").div_ceil(1000).to_string());
    let memory = node["status"]["allocatable"]["memory"].as_str().and_then(|m| m.strip_suffix("Ki")).expect("memory in Ki").parse::<u64>().expect("a number") << 10;
    for line in [format!("CPU_LIMIT={cores}"), format!("MEMORY_LIMIT={memory}")] {
        assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
    }
}

async fn services(w: World) {
    let port = json!({"port": 8765, "targetPort": 8080});
    let made = w.of("v1/services").create(&json!({"metadata": {"name": "fooservice"}, "spec": {"selector": {"name": "server"}, "ports": [port]}})).await;
    let ip = made["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    w.labelled_pod("server", json!({"labels": {"name": "server"}}), json!({"containers": [{"name": "c", "image": WEB}]})).await;
    w.pods().ready("server").await;
    // The agent learns of services by a watch of its own.
    keles_e2e::api::eventually("the service's variables", || async {
        let name = "client";
        w.pod(name, json!({"enableServiceLinks": true, "containers": [shell("env")]})).await;
        w.succeeds(name).await;
        let log = w.log(name, "").await;
        w.pods().delete_with_grace(name, 0).await;
        w.pods().gone(name).await;
        let wanted = [
            format!("FOOSERVICE_SERVICE_HOST={ip}"),
            "FOOSERVICE_SERVICE_PORT=8765".to_owned(),
            format!("FOOSERVICE_PORT=tcp://{ip}:8765"),
            "FOOSERVICE_PORT_8765_TCP_PORT=8765".to_owned(),
            "FOOSERVICE_PORT_8765_TCP_PROTO=tcp".to_owned(),
            format!("FOOSERVICE_PORT_8765_TCP=tcp://{ip}:8765"),
            format!("FOOSERVICE_PORT_8765_TCP_ADDR={ip}"),
        ];
        if wanted.iter().all(|line| log.lines().any(|l| l == line)) { Ok(()) } else { Err(log) }
    })
    .await;
}

fn expanding(script: &str, expression: &str, name_from: Value) -> Value {
    let own = json!({"env": [{"name": "POD_NAME", "valueFrom": name_from}], "volumeMounts": [{"name": "v", "mountPath": "/sub", "subPathExpr": expression}, {"name": "v", "mountPath": "/all"}]});
    json!({"containers": [with(shell(script), own)], "volumes": [{"name": "v", "emptyDir": {}}]})
}

fn pod_name() -> Value {
    json!({"fieldRef": {"fieldPath": "metadata.name"}})
}

async fn sub_path(w: World) {
    let log = w.output(expanding("touch /sub/test.log; ls /all/foo", "foo/$(POD_NAME)", pod_name())).await;
    assert_eq!(log, "p\n");
}

/// The value becomes bad only when it is expanded: the container is not made, with the reason.
async fn sub_path_refused(w: World, value: &str, why: &str) {
    let own = json!({"env": [{"name": "POD_NAME", "value": value}], "volumeMounts": [{"name": "v", "mountPath": "/sub", "subPathExpr": "$(POD_NAME)"}]});
    w.pod("p", json!({"containers": [with(shell("true"), own)], "volumes": [{"name": "v", "emptyDir": {}}]})).await;
    let waiting = |p: &Value| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = w.pods().becomes("p", "refused", waiting).await;
    let message = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(message.contains(why), "{message}");
    assert_eq!(pod["status"]["phase"], "Pending");
}

/// The expression fails until the annotation that it reads says something usable; the container starts then.
async fn sub_path_mended(w: World) {
    let spec = expanding("sleep 600", "$(POD_NAME)", json!({"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}));
    w.labelled_pod("p", json!({"annotations": {"mysubpath": "/absolute"}}), spec).await;
    w.pods().becomes("p", "refused", |p| p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError").await;
    w.pods().patch("p", json!({"metadata": {"annotations": {"mysubpath": "mypath"}}})).await;
    w.pods().ready("p").await;
    assert_eq!(w.exec("p", "c", &["ls", "/all"]).await, "mypath\n");
    w.pods().delete("p").await;
    w.pods().gone("p").await;
}

/// What is written through the sub-path is in the volume; the annotation may change before the end without harm.
async fn sub_path_written(w: World) {
    let spec = expanding("sleep 600", "$(POD_NAME)", json!({"fieldRef": {"fieldPath": "metadata.annotations['mysubpath']"}}));
    w.labelled_pod("p", json!({"annotations": {"mysubpath": "mypath/foo"}}), spec).await;
    w.pods().ready("p").await;
    w.exec("p", "c", &["touch", "/sub/test.log"]).await;
    assert_eq!(w.exec("p", "c", &["ls", "/all/mypath/foo"]).await, "test.log\n");
    w.pods().patch("p", json!({"metadata": {"annotations": {"mysubpath": "/no longer/usable"}}})).await;
    w.pods().delete("p").await;
    w.pods().gone("p").await;
}
