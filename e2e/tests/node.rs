//! What the node does with a pod: probes, hooks, limits, volumes, environment, isolation, errors.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn status(c: &Cluster, pod: &str) -> Value {
    c.json(&["get", "pod", pod])["status"].clone()
}

#[test]
fn pods_behave_as_their_specs_say() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    probes_act(&c);
    init_containers_run_first(&c);
    memory_limits_kill(&c);
    volumes_and_environment(&c);
    containers_are_confined(&c);
    images_and_commands_that_fail_say_so(&c);
    files_of_images_and_of_earlier_containers(&c);
    a_resize_reaches_the_running_container(&c);
    a_resize_of_the_whole_pod_reaches_its_cgroup(&c);
    one_exit_restarts_all_containers(&c);
}

/// An image volume, variables from a file, and a subPath that is not there.
fn files_of_images_and_of_earlier_containers(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: files}}
spec:
  restartPolicy: Never
  initContainers: [{{name: i, image: "{WEB}", command: [sh, -c, "echo \"GREETING='hello you'\" > /d/e.env"], volumeMounts: [{{name: d, mountPath: /d}}]}}]
  containers:
  - name: c
    image: {WEB}
    command: [sh, -c, "echo $GREETING; head -1 /image/etc/passwd | cut -d: -f1; touch /image/x; stat -c %a /sub"]
    env: [{{name: GREETING, valueFrom: {{fileKeyRef: {{volumeName: d, path: e.env, key: GREETING}}}}}}]
    volumeMounts: [{{name: im, mountPath: /image}}, {{name: d, mountPath: /sub, subPath: made/here}}]
  volumes: [{{name: d, emptyDir: {{}}}}, {{name: im, image: {{reference: "{WEB}", pullPolicy: Never}}}}]
"#
    ));
    c.phase("pod", "files", "Succeeded");
    let log = c.kubectl(&["logs", "files", "-c", "c"]);
    for line in ["hello you", "root", "touch: /image/x: Read-only file system", "777"] {
        assert!(log.lines().any(|l| l == line), "{line} is missing in\n{log}");
    }
}

fn a_resize_reaches_the_running_container(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: sized}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "{WEB}", resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 200m, memory: 64Mi}}}}}}]
"#
    ));
    c.wait_ready("sized");
    let resize = |cpu: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}},"limits":{{"cpu":"{cpu}"}}}}}}]}}}}"#);
        c.kubectl(&["patch", "pod", "sized", "--subresource", "resize", "--patch", &patch]);
    };
    resize("150m");
    until("the resize", SOON, || {
        let s = status(c, "sized");
        let container = &s["containerStatuses"][0];
        if container["resources"]["limits"]["cpu"] == "150m" && container["allocatedResources"]["cpu"] == "150m" { Ok(()) } else { Err(s.to_string()) }
    });
    let quota = c.exec("sized", &["sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max"]);
    assert_eq!(quota.split_whitespace().next(), Some("15000"), "{quota}");
    assert_eq!(status(c, "sized")["containerStatuses"][0]["restartCount"], 0);
    resize("900");
    until("the refusal", SOON, || {
        let s = status(c, "sized");
        let pending = s["conditions"].as_array().into_iter().flatten().any(|k| k["type"] == "PodResizePending" && k["reason"] == "Infeasible");
        if pending { Ok(()) } else { Err(s.to_string()) }
    });
}

/// KEP-5419: a container without limits of its own has the pod's, before and after.
fn a_resize_of_the_whole_pod_reaches_its_cgroup(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: whole}}
spec:
  terminationGracePeriodSeconds: 0
  resources: {{requests: {{cpu: 100m, memory: 32Mi}}, limits: {{cpu: 200m, memory: 64Mi}}}}
  containers: [{{name: c, image: "{WEB}"}}]
"#
    ));
    until("the pod", SOON, || {
        let s = status(c, "whole");
        let ready = s["conditions"].as_array().into_iter().flatten().any(|k| k["type"] == "Ready" && k["status"] == "True");
        if ready { Ok(()) } else { Err(s.to_string()) }
    });
    let resize =
        |resources: &str| c.try_kubectl(&["patch", "pod", "whole", "--subresource", "resize", "--type", "merge", "--patch", &format!(r#"{{"spec":{{"resources":{resources}}}}}"#)]);
    resize(r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"96Mi"}}"#).expect("a resize");
    until("the resize", SOON, || {
        let s = status(c, "whole");
        let resizing = s["conditions"].as_array().into_iter().flatten().any(|k| k["type"].as_str().is_some_and(|t| t.starts_with("PodResize")));
        let done = s["resources"]["limits"]["memory"] == "96Mi" && s["resources"]["requests"]["cpu"] == "150m" && s["allocatedResources"]["cpu"] == "150m" && !resizing;
        if done { Ok(()) } else { Err(s.to_string()) }
    });
    let limits = c.exec("whole", &["sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max; cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max"]);
    assert_eq!(limits.split_whitespace().collect::<Vec<_>>(), ["30000", (96u64 << 20).to_string().as_str()]);
    assert_eq!(status(c, "whole")["containerStatuses"][0]["restartCount"], 0);
    let refused = resize(r#"{"limits":{"memory":null}}"#).expect_err("a limit stays");
    assert!(refused.contains("resource limits cannot be removed"), "{refused}");
    resize(r#"{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}"#).expect("the API takes it");
    until("the refusal", SOON, || {
        let s = status(c, "whole");
        let pending = s["conditions"].as_array().into_iter().flatten().any(|k| k["type"] == "PodResizePending" && k["reason"] == "Infeasible");
        if pending && s["allocatedResources"]["cpu"] == "150m" { Ok(()) } else { Err(s.to_string()) }
    });
    c.kubectl(&["delete", "pod", "whole"]);
}

fn one_exit_restarts_all_containers(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: together}}
spec:
  restartPolicy: Never
  initContainers: [{{name: i, image: "{WEB}", command: [sh, -c, "echo i >> /d/log"], volumeMounts: [{{name: d, mountPath: /d}}]}}]
  containers:
  - name: a
    image: {WEB}
    command: [sh, -c, "test $(wc -l < /d/log) -gt 1 && exit 0; exit 42"]
    restartPolicy: Never
    restartPolicyRules: [{{action: RestartAllContainers, exitCodes: {{operator: In, values: [42]}}}}]
    volumeMounts: [{{name: d, mountPath: /d}}]
  - {{name: b, image: "{WEB}", command: [sh, -c, "while test $(wc -l < /d/log) -lt 2; do sleep 0.1; done"], volumeMounts: [{{name: d, mountPath: /d}}]}}
  volumes: [{{name: d, emptyDir: {{}}}}]
"#
    ));
    let s = c.phase("pod", "together", "Succeeded");
    assert_eq!(s["initContainerStatuses"][0]["restartCount"], 1, "{s}");
    assert_eq!(s["containerStatuses"][1]["restartCount"], 1, "{s}");
}

fn probes_act(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: probed}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {WEB}
    command: [sh, -c, "touch /tmp/alive /tmp/ready; sleep 3600"]
    livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}}
    readinessProbe: {{exec: {{command: [cat, /tmp/ready]}}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}}
"#
    ));
    c.wait_ready("probed");
    c.exec("probed", &["rm", "/tmp/ready"]);
    c.kubectl(&["wait", "--for=condition=Ready=false", "pod/probed", "--timeout=60s"]);
    c.exec("probed", &["rm", "/tmp/alive"]);
    until("a restart", SOON, || {
        let s = status(c, "probed");
        if s["containerStatuses"][0]["restartCount"] == 1 { Ok(()) } else { Err(s.to_string()) }
    });
    assert!(c.kubectl(&["get", "events", "--field-selector", "involvedObject.name=probed"]).contains("Unhealthy"));
}

fn init_containers_run_first(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: steps}}
spec:
  restartPolicy: Never
  initContainers: [{{name: first, image: "{WEB}", command: [sh, -c, "echo prepared > /d/x"], volumeMounts: [{{name: d, mountPath: /d}}]}}]
  containers: [{{name: main, image: "{WEB}", command: [sh, -c, "cat /d/x; exit 3"], volumeMounts: [{{name: d, mountPath: /d}}]}}]
  volumes: [{{name: d, emptyDir: {{}}}}]
"#
    ));
    let s = c.phase("pod", "steps", "Failed");
    assert_eq!(s["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert_eq!(c.kubectl(&["logs", "steps"]), "prepared\n");
}

fn memory_limits_kill(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: hog}}
spec:
  restartPolicy: Never
  containers: [{{name: c, image: "{WEB}", command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=200M count=1"], resources: {{limits: {{memory: 20Mi, cpu: 500m}}}}}}]
"#
    ));
    let s = c.phase("pod", "hog", "Failed");
    assert_eq!(s["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled", "{s}");
}

fn volumes_and_environment(c: &Cluster) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {{name: conf}}
data: {{greeting: hello}}
---
apiVersion: v1
kind: Secret
metadata: {{name: key}}
stringData: {{password: s3cret}}
---
apiVersion: v1
kind: Pod
metadata: {{name: vols, labels: {{a: b}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {WEB}
    env:
    - {{name: PASSWORD, valueFrom: {{secretKeyRef: {{name: key, key: password}}}}}}
    - {{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}
    - {{name: JOINED, value: "$(POD)-$(PASSWORD)-$$(POD)"}}
    envFrom: [{{prefix: C_, configMapRef: {{name: conf}}}}]
    volumeMounts: [{{name: conf, mountPath: /conf}}, {{name: mem, mountPath: /mem}}, {{name: info, mountPath: /info}}]
  volumes:
  - {{name: conf, configMap: {{name: conf}}}}
  - {{name: mem, emptyDir: {{medium: Memory}}}}
  - {{name: info, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}
"#
    ));
    c.wait_ready("vols");
    let env = c.exec("vols", &["env"]);
    for line in ["PASSWORD=s3cret", "POD=vols", "JOINED=vols-s3cret-$(POD)", "C_greeting=hello", "KUBERNETES_SERVICE_HOST=10.245.0.1"] {
        assert!(env.lines().any(|l| l == line), "{line} is missing in\n{env}");
    }
    assert_eq!(c.exec("vols", &["cat", "/conf/greeting", "/info/labels"]), "helloa=\"b\"");
    let mounts = c.exec("vols", &["mount"]);
    let memory = mounts.lines().find(|l| l.contains("on /mem type tmpfs")).expect("in memory");
    let release = c.exec("vols", &["uname", "-r"]);
    let kernel: Vec<u32> = release.split('.').take(2).filter_map(|n| n.parse().ok()).collect();
    assert_eq!(memory.contains("noswap"), kernel >= vec![6, 4], "since Linux 6.4 a tmpfs stays out of swap when asked: {memory}");
    assert!(c.exec("vols", &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"]).starts_with("ey"), "the pod has a token");
    let resolv = c.exec("vols", &["cat", "/etc/resolv.conf"]);
    assert!(
        resolv.contains("nameserver 10.245.0.10") && resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local") && resolv.contains("ndots:5"),
        "{resolv}"
    );
}

fn containers_are_confined(c: &Cluster) {
    let sh = |script: &str| c.exec("vols", &["sh", "-c", script]);
    assert_eq!(sh("cat /proc/1/comm; ls /proc | grep -c '^[0-9]'").lines().next(), Some("httpd"), "a pid namespace of its own");
    assert_eq!(sh("grep CapEff /proc/1/status").split_whitespace().last(), Some("00000000a80425fb"), "the fourteen default capabilities");
    let mount = sh("mount -t tmpfs none /tmp 2>&1 || true");
    assert!(mount.contains("denied") || mount.contains("not permitted"), "{mount}");
    assert_eq!(sh("wc -c < /proc/timer_list").trim(), "0", "masked");
    assert!(sh("(echo 1 > /proc/sys/kernel/panic) 2>&1 || true").contains("ead-only"));
}

fn images_and_commands_that_fail_say_so(c: &Cluster) {
    let pod = |name: &str, rest: &str| {
        c.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{restartPolicy: Never, terminationGracePeriodSeconds: 0, containers: [{{name: c, {rest}}}]}}\n"
        ))
    };
    pod("noimage", r#"image: "localhost:1/none:v1""#);
    pod("nocommand", &format!(r#"image: "{WEB}", command: [nonesuch]"#));
    until("an image error", SOON, || {
        let reason = status(c, "noimage")["containerStatuses"][0]["state"]["waiting"]["reason"].to_string();
        if reason.contains("ErrImagePull") || reason.contains("ImagePullBackOff") { Ok(()) } else { Err(reason) }
    });
    let s = c.phase("pod", "nocommand", "Failed");
    let t = &s["containerStatuses"][0]["state"]["terminated"];
    assert!(t["reason"] == "StartError" && t["message"].as_str().is_some_and(|m| m.contains("nonesuch")), "{t}");
}
