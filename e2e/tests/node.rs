//! What the node does with a pod: probes, hooks, limits, volumes, environment, isolation, errors.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::Value;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(25);

fn status(c: &Cluster, pod: &str) -> Value {
    c.json(&["get", "pod", pod])["status"].clone()
}

fn phase(c: &Cluster, pod: &str, wanted: &str) -> Value {
    until(&format!("{pod} {wanted}"), SOON, || {
        let s = status(c, pod);
        if s["phase"] == wanted { Ok(s) } else { Err(s.to_string()) }
    })
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
    livenessProbe: {{exec: {{command: [cat, /tmp/alive]}}, periodSeconds: 1, failureThreshold: 2}}
    readinessProbe: {{exec: {{command: [cat, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}
"#
    ));
    c.wait_ready("probed");
    c.exec("probed", &["rm", "/tmp/ready"]);
    c.kubectl(&["wait", "--for=condition=Ready=false", "pod/probed", "--timeout=20s"]);
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
    let s = phase(c, "steps", "Failed");
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
    let s = phase(c, "hog", "Failed");
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
    assert!(c.exec("vols", &["mount"]).lines().any(|l| l.contains("on /mem type tmpfs")));
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
    let s = phase(c, "nocommand", "Failed");
    let t = &s["containerStatuses"][0]["state"]["terminated"];
    assert!(t["reason"] == "StartError" && t["message"].as_str().is_some_and(|m| m.contains("nonesuch")), "{t}");
}
