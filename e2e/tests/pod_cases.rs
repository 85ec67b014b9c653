//! Pods as people write them, right and wrong, and what upstream's agent says of each: beside the conformance list, which asks less.

use keles_e2e::WEB;
use keles_e2e::api::{World, condition, shell, with};
use keles_e2e::conformance::{case, play};
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_told_of_in_upstreams_words() {
    play(vec![
        case("a failed liveness probe has a grace period of its own", liveness_grace),
        case("a probe finds its port by name and needs its successes in a row", named_port),
        case("exit codes of a deleted pod: handled, killed, ended by the signal", exit_codes_of_a_deletion),
        case("preStop sleeps before the signal", pre_stop_sleep),
        case("root is refused where it must not be", run_as_non_root),
        case("an image that must be there and is not", never_pulled),
        case("an image name that is none", invalid_image_name),
        case("a host path of another type", host_path_types),
        case("a missing ConfigMap as a volume", missing_config_map),
        case("a missing key of a ConfigMap as a variable", missing_key),
        case("optional sources may be missing", optional_sources),
        case("the deadline counts init containers", deadline_in_init),
        case("messages are cut to their limits", message_limits),
        case("capabilities: all dropped, one added", capabilities),
        case("a privileged container has all", privileged),
        case("groups and the group of volumes", groups),
        case("host name, subdomain and the whole name", host_names),
        case("dnsConfig is put over the policy's", dns_config),
        case("divisors of resources", divisors),
        case("a projected volume's modes", projected_modes),
        case("a memory volume has its size", memory_size),
        case("a working directory that is not there is made", working_dir),
        case("observedGeneration stands in the status and its conditions", observed_generation),
    ])
    .await;
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// Waits for the container to wait with this reason; its message.
async fn waits(w: &World, reason: &str) -> String {
    let pod = w.pods().becomes("p", reason, |p| status(p)["state"]["waiting"]["reason"] == reason).await;
    assert_eq!(pod["status"]["phase"], "Pending");
    status(&pod)["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned()
}

async fn liveness_grace(w: World) {
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 1});
    let container = with(shell("trap '' TERM; while true; do sleep 1; done"), json!({"livenessProbe": probe}));
    w.pod("p", json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 3600, "containers": [container]})).await;
    let pod = w.pods().becomes("p", "restarted", |p| status(p)["lastState"]["terminated"].is_object()).await;
    assert_eq!(status(&pod)["lastState"]["terminated"]["exitCode"], 137);
    w.event("p", "Killing: Container c failed liveness probe, will be restarted").await;
    w.event("p", "Unhealthy: Liveness probe failed: ").await;
    // Not by force: the node would then wait as long as the spec says.
    w.pods().delete_with_grace("p", 1).await;
}

async fn named_port(w: World) {
    let probe = json!({"httpGet": {"path": "/index.html", "port": "web"}, "periodSeconds": 1, "successThreshold": 3});
    let own = json!({"ports": [{"name": "web", "containerPort": 8000}], "readinessProbe": probe});
    w.pod("p", json!({"containers": [with(json!({"name": "c", "image": WEB}), own)]})).await;
    w.pods().ready("p").await;
}

/// Handles the signal, and is ready once it does: before, the first process of a container ignores it.
fn traps(script: &str) -> Value {
    let ready = json!({"readinessProbe": {"exec": {"command": ["test", "-e", "/trapped"]}, "periodSeconds": 1, "timeoutSeconds": 20}});
    with(shell(&format!("trap '{script}' TERM; touch /trapped; while true; do sleep 0.1; done")), ready)
}

/// A finalizer keeps the object, so that the last status can be read.
async fn exit_codes_of_a_deletion(w: World) {
    let held = json!({"finalizers": ["e2e.example.com/hold"]});
    let named = |name: &str, c: Value| with(c, json!({"name": name}));
    let containers = json!([named("handled", traps("exit 7")), named("killed", shell("trap '' TERM; while true; do sleep 0.1; done"))]);
    w.labelled_pod("p", held.clone(), json!({"terminationGracePeriodSeconds": 10, "containers": containers})).await;
    // A shared process namespace: the container's process is not the first one, which ignores signals without a handler.
    let shared = json!({"shareProcessNamespace": true, "terminationGracePeriodSeconds": 30, "containers": [{"name": "c", "image": WEB, "command": ["sleep", "600"]}]});
    w.labelled_pod("shared", held, shared).await;
    for name in ["p", "shared"] {
        w.pods().ready(name).await;
        w.pods().delete(name).await;
    }
    let over = |p: &Value| p["status"]["containerStatuses"].as_array().into_iter().flatten().all(|s| s["state"]["terminated"].is_object());
    let pod = w.pods().becomes("p", "over", over).await;
    let codes: Vec<&Value> = pod["status"]["containerStatuses"].as_array().expect("two").iter().map(|s| &s["state"]["terminated"]["exitCode"]).collect();
    assert_eq!(codes, [7, 137]);
    let pod = w.pods().becomes("shared", "over", over).await;
    assert_eq!(status(&pod)["state"]["terminated"]["exitCode"], 143);
    w.event("p", "Killing: Stopping container handled").await;
    for name in ["p", "shared"] {
        w.pods().patch(name, json!({"metadata": {"finalizers": null}})).await;
        w.pods().gone(name).await;
    }
}

async fn pre_stop_sleep(w: World) {
    let container = with(traps("exit 0"), json!({"lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}));
    let held = json!({"finalizers": ["e2e.example.com/hold"]});
    let spec = json!({"terminationGracePeriodSeconds": 30, "containers": [container]});
    w.labelled_pod("p", held, spec).await;
    w.pods().ready("p").await;
    // By our clock: the node brings deletionTimestamp forward when the pod is over.
    let asked = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    w.pods().delete("p").await;
    let pod = w.pods().becomes("p", "over", |p| status(p)["state"]["terminated"].is_object()).await;
    let finished = status(&pod)["state"]["terminated"]["finishedAt"].as_str().expect("a time")[17..19].parse::<i64>().expect("seconds");
    let took = (finished - asked).rem_euclid(60);
    assert!((1..30).contains(&took), "the signal came {took} s after the deletion");
    assert_eq!(status(&pod)["state"]["terminated"]["exitCode"], 0);
    w.pods().patch("p", json!({"metadata": {"finalizers": null}})).await;
}

async fn run_as_non_root(w: World) {
    w.pod("p", json!({"securityContext": {"runAsNonRoot": true}, "containers": [shell("true")]})).await;
    let message = waits(&w, "CreateContainerConfigError").await;
    let pod = w.pods().get("p").await;
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    assert_eq!(message, format!("container has runAsNonRoot and image will run as root (pod: \"p_{}({uid})\", container: c)", w.namespace));
    w.event("p", &format!("Failed: Error: {message}")).await;
}

async fn never_pulled(w: World) {
    w.pod("p", json!({"containers": [{"name": "c", "image": "e2e/none:v1", "imagePullPolicy": "Never"}]})).await;
    assert_eq!(waits(&w, "ErrImageNeverPull").await, "Container image \"e2e/none:v1\" is not present with pull policy of Never");
    w.event("p", "ErrImageNeverPull: Container image \"e2e/none:v1\" is not present with pull policy of Never").await;
    w.event("p", "Failed: Error: ErrImageNeverPull").await;
}

async fn invalid_image_name(w: World) {
    w.pod("p", json!({"containers": [{"name": "c", "image": "e2e/UPPER:v1"}]})).await;
    let message = waits(&w, "InvalidImageName").await;
    assert!(message.starts_with("Failed to apply default image tag \"e2e/UPPER:v1\": couldn't parse image name \"e2e/UPPER:v1\": invalid reference format"), "{message}");
    w.event("p", "InspectFailed: Failed to apply default image tag").await;
    w.event("p", "Failed: Error: InvalidImageName").await;
}

async fn host_path_types(w: World) {
    for (kind, path, why) in [
        ("Directory", "/nonexistent-e2e", "/nonexistent-e2e is not a directory"),
        ("File", "/etc", "/etc is not a file"),
        ("Socket", "/etc/passwd", "/etc/passwd is not a socket"),
        ("BlockDevice", "/dev/null", "/dev/null is not a block device"),
        ("CharDevice", "/etc/passwd", "/etc/passwd is not a character device"),
    ] {
        let name = kind.to_ascii_lowercase();
        let container = with(shell("true"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
        w.pod(&name, json!({"containers": [container], "volumes": [{"name": "v", "hostPath": {"path": path, "type": kind}}]})).await;
        w.event(&name, &format!("FailedMount: MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {why}")).await;
    }
}

async fn missing_config_map(w: World) {
    let container = with(shell("true"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    w.pod("p", json!({"containers": [container], "volumes": [{"name": "v", "configMap": {"name": "none"}}]})).await;
    w.event("p", "FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"none\" not found").await;
    assert_eq!(waits(&w, "ContainerCreating").await, "");
    w.config_map("none", json!({"k": "v"})).await;
    w.succeeds("p").await;
}

async fn missing_key(w: World) {
    w.config_map("m", json!({"k": "v"})).await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "other"}}}]);
    w.pod("p", json!({"containers": [with(shell("true"), json!({"env": env}))]})).await;
    assert_eq!(waits(&w, "CreateContainerConfigError").await, format!("couldn't find key other in ConfigMap {}/m", w.namespace));
    w.event("p", &format!("Failed: Error: couldn't find key other in ConfigMap {}/m", w.namespace)).await;
}

async fn optional_sources(w: World) {
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}}]);
    let from = json!([{"configMapRef": {"name": "none", "optional": true}}, {"secretRef": {"name": "none", "optional": true}}]);
    let sources = json!([{"configMap": {"name": "none", "optional": true}}, {"secret": {"name": "none", "optional": true}}]);
    let container = with(shell("echo ${A-unset}; ls /v"), json!({"env": env, "envFrom": from, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    assert_eq!(w.output(json!({"containers": [container], "volumes": [{"name": "v", "projected": {"sources": sources}}]})).await, "unset\n");
}

async fn deadline_in_init(w: World) {
    let init = json!({"name": "i", "image": WEB, "command": ["sleep", "600"]});
    w.pod("p", json!({"activeDeadlineSeconds": 3, "initContainers": [init], "containers": [shell("true")]})).await;
    let pod = w.pods().phase("p", "Failed").await;
    let s = &pod["status"];
    assert_eq!((&s["reason"], &s["message"]), (&json!("DeadlineExceeded"), &json!("Pod was active on the node longer than the specified deadline")));
    assert_eq!(condition(&pod, "Initialized")["status"], "False");
    w.event("p", "DeadlineExceeded: Pod was active on the node longer than the specified deadline").await;
}

/// A message file: the last 4 KiB; a log: the last 80 lines within 2 KiB.
async fn message_limits(w: World) {
    let named = |name: &str, script: &str| with(shell(script), json!({"name": name, "terminationMessagePolicy": "FallbackToLogsOnError"}));
    let containers = json!([
        named("file", "(echo begin; head -c 5000 /dev/zero | tr '\\0' x; echo -n end) > /dev/termination-log"),
        named("lines", "for i in $(seq 1 100); do echo line $i; done; exit 1"),
        named("bytes", "head -c 5000 /dev/zero | tr '\\0' y; exit 1"),
    ]);
    w.pod("p", json!({"containers": containers})).await;
    let pod = w.pods().phase("p", "Failed").await;
    let message = |name: &str| {
        let all = pod["status"]["containerStatuses"].as_array().expect("statuses");
        all.iter().find(|s| s["name"] == name).and_then(|s| s["state"]["terminated"]["message"].as_str()).unwrap_or_default().to_owned()
    };
    let file = message("file");
    assert!(file.len() == 4096 && file.ends_with("xend"), "{} bytes", file.len());
    let lines = message("lines");
    assert_eq!((lines.lines().count(), lines.lines().next(), lines.lines().last()), (80, Some("line 21"), Some("line 100")));
    assert_eq!(message("bytes").len(), 2048);
}

const CAPABILITIES: &str = "grep -E 'Cap(Eff|Prm|Bnd|Amb)' /proc/self/status | cut -f2 | tr '\\n' ' '";

async fn capabilities(w: World) {
    // NET_BIND_SERVICE is the tenth bit. Root has it at work, another user only within its bounds.
    let own = |user: u32| {
        with(shell(CAPABILITIES), json!({"name": format!("u{user}"), "securityContext": {"runAsUser": user, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}))
    };
    w.pod("p", json!({"containers": [own(0), own(1000)]})).await;
    w.succeeds("p").await;
    let (none, one) = ("0000000000000000", "0000000000000400");
    // In the order of /proc: permitted, effective, bounding, ambient.
    assert_eq!(w.log("p", "u0").await.trim(), [one, one, one, none].join(" "));
    assert_eq!(w.log("p", "u1000").await.trim(), [none, none, one, none].join(" "));
}

async fn privileged(w: World) {
    let script = "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status | cut -f2 | tr '\\n' ' '; test -e /dev/kmsg && echo devices; touch /proc/sys/kernel/panic && echo writable";
    let log = w.output(json!({"containers": [with(shell(script), json!({"securityContext": {"privileged": true}}))]})).await;
    assert_eq!(log, "0 0 devices\nwritable\n");
}

async fn groups(w: World) {
    let script = "echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n); stat -c '%a %g' /v; touch /v/f; stat -c %g /v/f";
    let container = with(shell(script), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let security = json!({"runAsUser": 1000, "runAsGroup": 3000, "fsGroup": 2000, "supplementalGroups": [4000]});
    let log = w.output(json!({"securityContext": security, "containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]})).await;
    assert_eq!(log, "1000 3000 2000 3000 4000\n2777 2000\n2000\n");
}

async fn host_names(w: World) {
    let whole = format!("h.sub.{}.svc.cluster.local", w.namespace);
    let script = "hostname; cat /etc/hosts | tail -1 | cut -f2-";
    let spec = json!({"hostname": "h", "subdomain": "sub", "containers": [shell(script)]});
    assert_eq!(w.output(spec.clone()).await, format!("h\n{whole}\th\n"));
    w.pod("fqdn", with(spec, json!({"setHostnameAsFQDN": true}))).await;
    w.succeeds("fqdn").await;
    assert_eq!(w.log("fqdn", "").await.lines().next(), Some(whole.as_str()));
}

async fn dns_config(w: World) {
    let dns = json!({"nameservers": ["192.0.2.53"], "searches": ["corp.example"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    let log = w.output(json!({"dnsConfig": dns, "containers": [shell("cat /etc/resolv.conf")]})).await;
    let line = |word: &str| log.lines().filter(|l| l.starts_with(word)).collect::<Vec<_>>();
    let own = format!("search {}.svc.cluster.local svc.cluster.local cluster.local", w.namespace);
    assert!(line("search")[0].starts_with(&own) && line("search")[0].ends_with("corp.example"), "{log}");
    assert_eq!((line("nameserver").len(), line("nameserver")[1]), (2, "nameserver 192.0.2.53"), "{log}");
    assert!(line("options")[0].contains("ndots:2") && line("options")[0].contains("edns0") && !log.contains("ndots:5"), "{log}");
}

async fn divisors(w: World) {
    let one = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    let env = json!([one("A", "limits.cpu", "1m"), one("B", "limits.memory", "1Mi"), one("C", "requests.memory", "1Gi"), one("D", "limits.ephemeral-storage", "1Ki")]);
    let resources = json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1250m", "memory": "64Mi", "ephemeral-storage": "1Mi"}});
    assert_eq!(w.output(json!({"containers": [with(shell("echo $A $B $C $D"), json!({"env": env, "resources": resources}))]})).await, "1250 64 1 1024\n");
}

async fn projected_modes(w: World) {
    w.config_map("m", json!({"a": "1", "b": "2"})).await;
    w.secret("s", json!({"c": "3"})).await;
    let sources = json!([
        {"configMap": {"name": "m", "items": [{"key": "a", "path": "dir/a", "mode": 0o400}, {"key": "b", "path": "b"}]}},
        {"secret": {"name": "s"}},
        {"downwardAPI": {"items": [{"path": "d", "fieldRef": {"fieldPath": "metadata.namespace"}, "mode": 0o666}]}},
        {"serviceAccountToken": {"path": "t", "expirationSeconds": 600}},
    ]);
    let container = with(shell("cd /v; stat -L -c '%n %a' dir/a b c d t"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let log = w.output(json!({"containers": [container], "volumes": [{"name": "v", "projected": {"defaultMode": 0o440, "sources": sources}}]})).await;
    // A token has 0600 only where the pod names a user or a group of its volumes.
    assert_eq!(log, "dir/a 400\nb 440\nc 440\nd 666\nt 440\n");
}

async fn memory_size(w: World) {
    let container = with(shell("df -k /v | tail -1 | awk '{print $2}'"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let volume = json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}});
    assert_eq!(w.output(json!({"containers": [container], "volumes": [volume]})).await, "16384\n");
}

async fn working_dir(w: World) {
    assert_eq!(w.output(json!({"containers": [with(shell("pwd"), json!({"workingDir": "/not/there/yet"}))]})).await, "/not/there/yet\n");
}

async fn observed_generation(w: World) {
    w.pod("p", json!({"containers": [shell("sleep 600")], "activeDeadlineSeconds": 5000})).await;
    w.pods().ready("p").await;
    w.pods().patch("p", json!({"spec": {"activeDeadlineSeconds": 4000}})).await;
    let is = |p: &Value| p["status"]["observedGeneration"] == 2 && condition(p, "Ready")["observedGeneration"] == 2;
    w.pods().becomes("p", "observed at 2", is).await;
}
