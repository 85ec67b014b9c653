//! The node agent's own API and `metrics.k8s.io`: who may ask, what is told of the node, its pods and their containers.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_node_tells_what_it_runs_to_those_who_may_ask() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: busy, labels: {{app: busy}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: spin
    image: {WEB}
    command: [sh, -c, "echo more > /written; while :; do :; done"]
    resources: {{limits: {{cpu: 200m, memory: 64Mi}}}}
  - name: web
    image: {WEB}
    readinessProbe: {{tcpSocket: {{port: 8000}}, periodSeconds: 1}}
    volumeMounts: [{{name: d, mountPath: /d}}]
  volumes: [{{name: d, emptyDir: {{}}}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: monitor}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: stranger}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: node-figures}}
rules:
- {{apiGroups: [""], resources: [nodes/stats, nodes/metrics], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: node-figures}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: node-figures}}
subjects: [{{kind: ServiceAccount, name: monitor, namespace: default}}]
"#
    ));
    c.wait_ready("busy");
    tokens_are_reviewed(&c);
    the_summary_has_every_part(&c);
    metrics_have_their_names(&c);
    the_agent_shows_its_configuration(&c);
    the_agent_shows_the_nodes_logs(&c);
    top_shows_nodes_and_pods(&c);
    commands_run_and_uids_count(&c);
    metrics_follow_what_users_install(&c);
}

/// (code, body) of a path of the agent's own port.
fn ask(c: &Cluster, path: &str, token: &str) -> (String, String) {
    let node = c.json(&["get", "node", Cluster::NODE]);
    let address =
        node["status"]["addresses"].as_array().into_iter().flatten().find(|a| a["type"] == "InternalIP").and_then(|a| a["address"].as_str()).expect("an address").to_owned();
    let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().expect("a port");
    let header = format!("Authorization: Bearer {token}");
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--max-time", "30", "-w", "\n%{http_code}", &format!("https://{address}:{port}{path}")]);
    if !token.is_empty() {
        curl.args(["-H", &header]);
    }
    let out = String::from_utf8_lossy(&curl.output().expect("curl").stdout).into_owned();
    let (body, code) = out.rsplit_once('\n').expect("a code after the body");
    (code.to_owned(), body.trim_end().to_owned())
}

fn raw(c: &Cluster, path: &str) -> String {
    c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/{path}", Cluster::NODE)])
}

fn tokens_are_reviewed(c: &Cluster) {
    let token = |account: &str| c.kubectl(&["create", "token", account]).trim().to_owned();
    let (monitor, stranger) = (token("monitor"), token("stranger"));
    assert_eq!(ask(c, "/healthz", ""), ("401".into(), "Unauthorized".into()));
    assert_eq!(ask(c, "/stats/summary", "nobody's").0, "401");
    let (code, body) = ask(c, "/stats/summary", &monitor);
    assert_eq!(code, "200", "{body}");
    assert_eq!(ask(c, "/metrics/resource", &monitor).0, "200");
    let forbidden =
        |account: &str, what: &str| ("403".to_owned(), format!("Forbidden (user=system:serviceaccount:default:{account}, verb=get, resource=nodes, subresource(s)=[{what}])"));
    assert_eq!(ask(c, "/pods", &monitor), forbidden("monitor", "pods proxy"));
    assert_eq!(ask(c, "/configz", &monitor), forbidden("monitor", "configz proxy"));
    assert_eq!(ask(c, "/metrics", &stranger), forbidden("stranger", "metrics"));
    assert_eq!(ask(c, "/containerLogs/default/busy/web", &stranger), forbidden("stranger", "proxy"));
}

fn the_summary_has_every_part(c: &Cluster) {
    let summary: Value = serde_json::from_str(&raw(c, "stats/summary")).expect("JSON");
    let node = &summary["node"];
    assert_eq!(node["nodeName"], Cluster::NODE);
    for path in [
        "/cpu/usageCoreNanoSeconds",
        "/cpu/usageNanoCores",
        "/memory/workingSetBytes",
        "/memory/availableBytes",
        "/fs/capacityBytes",
        "/fs/inodes",
        "/runtime/imageFs/usedBytes",
        "/rlimit/maxpid",
        "/rlimit/curproc",
        "/swap/swapUsageBytes",
    ] {
        assert!(node.pointer(path).is_some_and(Value::is_u64), "{path} of {node}");
    }
    let pod = summary["pods"].as_array().into_iter().flatten().find(|p| p["podRef"]["name"] == "busy").expect("the pod");
    for path in ["/cpu/usageCoreNanoSeconds", "/memory/workingSetBytes", "/network/rxBytes", "/ephemeral-storage/usedBytes", "/process_stats/process_count"] {
        assert!(pod.pointer(path).is_some_and(Value::is_u64), "{path} of {pod}");
    }
    assert!(pod["volume"].as_array().into_iter().flatten().any(|v| v["name"] == "d" && v["usedBytes"].is_u64()), "{pod}");
    let spin = pod["containers"].as_array().into_iter().flatten().find(|k| k["name"] == "spin").expect("the container");
    assert!(spin["cpu"]["usageNanoCores"].as_u64().is_some_and(|n| n > 0), "it never rests: {spin}");
    assert!(spin["rootfs"]["inodesUsed"].as_u64().is_some_and(|n| n >= 2), "a file was written: {spin}");
    assert_eq!(spin["memory"]["availableBytes"].as_u64().zip(spin["memory"]["workingSetBytes"].as_u64()).map(|(a, b)| a + b), Some(64 << 20));
    if std::path::Path::new("/proc/pressure/cpu").exists() {
        assert!(node["cpu"]["psi"]["some"]["total"].is_u64(), "{node}");
    }
    let lean: Value = serde_json::from_str(&raw(c, "stats/summary?only_cpu_and_memory=true")).expect("JSON");
    assert!(lean["node"]["fs"].is_null() && lean["node"]["cpu"]["usageCoreNanoSeconds"].is_u64(), "{lean}");
}

fn metrics_have_their_names(c: &Cluster) {
    let has = |text: &str, starts: &str| text.lines().any(|l| l.starts_with(starts));
    let resource = raw(c, "metrics/resource");
    for line in [
        "node_cpu_usage_seconds_total ",
        "node_memory_working_set_bytes ",
        "container_cpu_usage_seconds_total{container=\"spin\",namespace=\"default\",pod=\"busy\"} ",
        "container_memory_working_set_bytes{container=\"web\",namespace=\"default\",pod=\"busy\"} ",
        "container_start_time_seconds{container=\"spin\",namespace=\"default\",pod=\"busy\"} ",
        "pod_cpu_usage_seconds_total{namespace=\"default\",pod=\"busy\"} ",
        "pod_memory_working_set_bytes{namespace=\"default\",pod=\"busy\"} ",
        "resource_scrape_error 0",
    ] {
        assert!(has(&resource, line), "{line} in\n{resource}");
    }
    let cadvisor = raw(c, "metrics/cadvisor");
    for name in [
        "container_cpu_usage_seconds_total",
        "container_cpu_cfs_periods_total",
        "container_memory_working_set_bytes",
        "container_memory_rss",
        "container_memory_cache",
        "container_spec_memory_limit_bytes",
        "container_spec_cpu_quota",
        "container_fs_usage_bytes",
        "container_start_time_seconds",
        "container_last_seen",
    ] {
        let line = cadvisor.lines().find(|l| l.starts_with(&format!("{name}{{container=\"spin\","))).unwrap_or_else(|| panic!("{name} in\n{cadvisor}"));
        for label in ["id=\"/", "image=\"", "name=\"", "namespace=\"default\"", "pod=\"busy\""] {
            assert!(line.contains(label), "{label} in {line}");
        }
    }
    let network = cadvisor.lines().find(|l| l.starts_with("container_network_receive_bytes_total{container=\"\",id=\"/keles")).unwrap_or_else(|| panic!("{cadvisor}"));
    assert!(network.contains("interface=\"eth0\"") && network.contains("pod=\""), "{network}");
    for line in ["machine_cpu_cores{", "machine_memory_bytes{", "container_cpu_usage_seconds_total{container=\"\",cpu=\"total\",id=\"/\""] {
        assert!(has(&cadvisor, line), "{line} in\n{cadvisor}");
    }
    until("a counted probe", LIMIT, || {
        let probes = raw(c, "metrics/probes");
        let counted = probes
            .lines()
            .any(|l| l.starts_with("prober_probe_total{container=\"web\",namespace=\"default\",pod=\"busy\",") && l.contains("probe_type=\"Readiness\",result=\"successful\""));
        if counted { Ok(()) } else { Err(probes) }
    });
    let own = raw(c, "metrics");
    for line in [
        "kubelet_running_pods ",
        "kubelet_running_containers{container_state=\"running\"} ",
        "kubelet_node_name{node=\"",
        "kubelet_http_requests_total{",
        "process_resident_memory_bytes ",
        "kubelet_started_pods_total ",
        "kubelet_started_containers_total{container_type=\"container\"} ",
        "kubelet_pod_start_duration_seconds_count ",
        "kubelet_pod_start_sli_duration_seconds_count ",
        "kubelet_pod_worker_duration_seconds_count{operation_type=\"create\"} ",
        "kubelet_pod_status_sync_duration_seconds_count ",
        "kubelet_runtime_operations_total{operation_type=\"start_container\"} ",
        "kubelet_run_podsandbox_duration_seconds_count{runtime_handler=\"\"} ",
        "kubelet_managed_ephemeral_containers 0",
    ] {
        assert!(has(&own, line), "{line} in\n{own}");
    }
}

fn the_agent_shows_its_configuration(c: &Cluster) {
    let configz: Value = serde_json::from_str(&raw(c, "configz")).expect("JSON");
    assert_eq!(configz["kubeletconfig"]["maxPods"], 110, "{configz}");
    assert_eq!(configz["kubeletconfig"]["authorization"]["mode"], "Webhook");
    assert_eq!(raw(c, "healthz"), "ok");
    assert_eq!(raw(c, "healthz/syncloop"), "ok");
    assert!(raw(c, "statusz").contains("kubelet statusz") && raw(c, "flagz").contains("kubelet flags"));
    let running: Value = serde_json::from_str(&raw(c, "runningpods/")).expect("JSON");
    let busy = running["items"].as_array().into_iter().flatten().find(|p| p["metadata"]["name"] == "busy").expect("the pod");
    assert_eq!(busy["spec"]["containers"].as_array().map(Vec::len), Some(2), "{busy}");
    assert_eq!(c.get(&format!("http://127.0.0.1:{}/healthz", c.health_port)).as_deref(), Ok("ok"));
    assert_eq!(configz["kubeletconfig"]["healthzPort"], c.health_port);
}

/// `/var/log` by its list, its files and parts of them, to those who may read `nodes/log`.
fn the_agent_shows_the_nodes_logs(c: &Cluster) {
    let file = tempfile::Builder::new().prefix("keles-e2e-").suffix(".log").tempfile_in("/var/log").expect("a log of the node");
    std::fs::write(file.path(), "first\nsecond\n").expect("written");
    let name = file.path().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    assert!(raw(c, "logs/").contains(&format!("<a href=\"{name}\">{name}</a>\n")));
    assert_eq!(raw(c, &format!("logs/{name}")), "first\nsecond\n");
    assert_eq!(raw(c, &format!("logs/{name}?query=kubelet")), "first\nsecond\n", "log query is off");
    assert!(c.try_kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/logs/no-such.log", Cluster::NODE)]).is_err());
    let stranger = c.kubectl(&["create", "token", "stranger"]).trim().to_owned();
    let forbidden = "Forbidden (user=system:serviceaccount:default:stranger, verb=get, resource=nodes, subresource(s)=[log])";
    assert_eq!(ask(c, &format!("/logs/{name}"), &stranger), ("403".to_owned(), forbidden.to_owned()));
}

fn top_shows_nodes_and_pods(c: &Cluster) {
    let rows = |args: &[&str]| -> Vec<Vec<String>> {
        let said = until(&args.join(" "), LIMIT, || c.try_kubectl(args));
        said.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
    };
    let nodes = rows(&["top", "nodes", "--no-headers"]);
    assert_eq!((nodes.len(), nodes[0][0].as_str()), (1, Cluster::NODE), "{nodes:?}");
    let containers = until("both containers", LIMIT, || {
        let all = rows(&["top", "pods", "--containers", "--no-headers", "-l", "app=busy"]);
        if all.len() == 2 { Ok(all) } else { Err(format!("{all:?}")) }
    });
    let spin = containers.iter().find(|r| r[1] == "spin").expect("a row a container");
    let milli: u64 = spin[2].trim_end_matches('m').parse().expect("thousandths of a processor");
    assert!(milli > 0, "it never rests: {spin:?}");
    assert!(rows(&["top", "pods", "--no-headers", "-l", "app=other"]).iter().all(|r| r[0] != "busy"));
    let one = c.json(&["get", "pods.metrics.k8s.io", "busy"]);
    assert_eq!((&one["kind"], &one["apiVersion"]), (&"PodMetrics".into(), &"metrics.k8s.io/v1beta1".into()), "{one}");
    assert!(one["window"].is_string() && one["timestamp"].is_string(), "{one}");
    let table = rows(&["get", "pods.metrics.k8s.io", "busy"]);
    assert_eq!((table[0].join(" ").as_str(), table[1][0].as_str(), table[1].len()), ("NAME CPU MEMORY WINDOW", "busy", 4), "{table:?}");
    assert_eq!(rows(&["get", "nodes.metrics.k8s.io", "--no-headers"])[0][0], Cluster::NODE);
    let missing = c.try_kubectl(&["get", "nodes.metrics.k8s.io", "other"]).expect_err("no such node");
    assert!(missing.contains("nodes.metrics.k8s.io \"other\" not found"), "{missing}");
    assert!(c.kubectl(&["api-resources", "--api-group=metrics.k8s.io"]).contains("PodMetrics"));
    assert!(c.kubectl(&["explain", "pods.containers.usage", "--api-version=metrics.k8s.io/v1beta1"]).contains("FIELD: usage"));
    // Who may view a namespace may see what its pods use; a stranger may not.
    c.kubectl(&["create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount=default:monitor"]);
    let as_user = |user: &str| c.try_kubectl(&["top", "pods", "--as", &format!("system:serviceaccount:default:{user}")]);
    until("the viewer's right", LIMIT, || as_user("monitor"));
    assert!(as_user("stranger").expect_err("no right").contains("forbidden"));
}

fn commands_run_and_uids_count(c: &Cluster) {
    let uid = c.json(&["get", "pod", "busy"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let run = |path: &str| {
        let path = format!("/api/v1/nodes/{}/proxy/run/default/busy/{path}", Cluster::NODE);
        c.kubectl_with(&["create", "--raw", &path, "-f", "-"], "{}")
    };
    assert_eq!(run("web?cmd=echo+hello").expect("it runs"), "hello\n");
    assert_eq!(run(&format!("{uid}/web?cmd=echo+hello")).expect("it runs"), "hello\n");
    assert!(run("00000000-0000-0000-0000-000000000000/web?cmd=echo+hello").is_err(), "another pod's uid");
    assert!(run("web?cmd=false").is_err(), "a command that fails");
}

/// An APIService with a Service wins, and ours is back when it is gone.
fn metrics_follow_what_users_install(c: &Cluster) {
    const NAME: &str = "v1beta1.metrics.k8s.io";
    c.kubectl(&["patch", "apiservice", NAME, "--type=merge", "-p", r#"{"spec":{"service":{"name":"metrics-server","namespace":"kube-system"},"insecureSkipTLSVerify":true}}"#]);
    until("the other server's answers", LIMIT, || match c.try_kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"]) {
        Err(e) => Ok(e),
        Ok(answer) => Err(answer),
    });
    c.kubectl(&["delete", "apiservice", NAME]);
    until("our own answers", LIMIT, || c.try_kubectl(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes"]));
}
