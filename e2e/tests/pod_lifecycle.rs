//! What the node does beside running containers: user namespaces, a look into another container's processes, read-only mounts, what it does when
//! it is short of something.

use keles_e2e::{Cluster, WEB, skip, until};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn status(c: &Cluster, pod: &str) -> Value {
    c.json(&["get", "pod", pod])["status"].clone()
}

fn logged(c: &Cluster, pod: &str, container: &str, word: &str) -> String {
    until(&format!("{word:?} of {pod}"), SOON, || match c.try_kubectl(&["logs", pod, "-c", container]) {
        Ok(text) if text.contains(word) => Ok(text),
        other => Err(format!("{other:?} {}", status(c, pod))),
    })
}

#[test]
fn the_node_keeps_pods_apart_and_itself_alive() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    a_pod_that_the_node_needs_pushes_another_out(&c);
    a_pod_has_a_user_namespace_of_its_own(&mut c);
    a_debugger_sees_its_targets_processes(&c);
    an_old_end_is_forgotten_but_the_last(&c);
    a_node_without_room_ends_pods_and_says_why(&mut c);
    a_manifest_of_the_node_runs_and_is_shown(&mut c);
    a_log_is_rotated_and_its_past_compressed(&mut c);
}

/// The kernel's weight of a class's pods: v1's shares, or v2's.
fn weight(c: &Cluster, class: &str) -> u64 {
    let group = format!("*/{}/{class}", c.cgroup());
    let args = ["/sys/fs/cgroup", "-path", &format!("{group}/cpu.shares"), "-o", "-path", &format!("{group}/cpu.weight")];
    let found = std::process::Command::new("find").args(args).output().expect("find");
    let file = String::from_utf8_lossy(&found.stdout).lines().next().expect("a group of the class").to_owned();
    std::fs::read_to_string(file).expect("a weight").trim().parse().expect("a number")
}

/// A pod that the scheduler was not asked for, with a priority for which others go (upstream's preemption by the node); classes weigh what they ask for.
fn a_pod_that_the_node_needs_pushes_another_out(c: &Cluster) {
    let cores: u64 = c.json(&["get", "node", Cluster::NODE])["status"]["allocatable"]["cpu"].as_str().and_then(|cores| cores.parse().ok()).expect("whole cores");
    let most = cores * 1000 * 3 / 4;
    let pod = |name: &str, class: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default}}
spec:
  nodeName: {}
  priorityClassName: {class}
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: "{WEB}", resources: {{requests: {{cpu: {most}m}}}}}}]
"#,
            Cluster::NODE
        )
    };
    c.apply("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: usual}\nvalue: 10\n");
    let (least, before) = (weight(c, "besteffort"), weight(c, "burstable"));
    assert!(before <= 2 * least, "{before} {least}");
    c.apply(&pod("usual", "usual"));
    c.wait_ready("usual");
    until("the weight of a class", SOON, || match weight(c, "burstable") {
        now if now > 8 * before => Ok(()),
        now => Err(now.to_string()),
    });
    c.apply(&pod("refused", "usual"));
    until("a refusal", SOON, || match status(c, "refused")["reason"].as_str() {
        Some("OutOfcpu") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    c.apply(&pod("needed", "system-node-critical"));
    c.wait_ready("needed");
    let gone = status(c, "usual");
    assert_eq!((gone["phase"].as_str(), gone["reason"].as_str(), gone["message"].as_str()), (Some("Failed"), Some("Preempting"), Some("Preempted in order to admit critical pod")));
    let disrupted = gone["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "DisruptionTarget")).expect("a condition");
    assert_eq!(disrupted["reason"], "TerminationByKubelet");
    c.kubectl(&["delete", "pod", "usual", "refused", "needed", "--now"]);
    until("the weight of a class without pods", SOON, || match weight(c, "burstable") {
        now if now == before => Ok(()),
        now => Err(now.to_string()),
    });
}

/// `--container-log-max-size`, `--container-log-max-files`: the log that is written, the one before, and compressed ones before that.
fn a_log_is_rotated_and_its_past_compressed(c: &mut Cluster) {
    c.kill_server();
    c.flags = ["--container-log-max-size=64Ki", "--container-log-max-files=3"].map(str::to_owned).to_vec();
    c.start_server();
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: talks}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "{WEB}", command: [sh, -c, "while true; do seq 1 1000; sleep 0.5; done"]}}]
"#
    ));
    c.wait_ready("talks");
    let uid = c.json(&["get", "pod", "talks"])["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let folder = c.data().join("pods-logs").join(format!("default_talks_{uid}")).join("c");
    let compressed = until("a compressed log", 2 * SOON, || {
        let names: Vec<_> = std::fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten().map(|entry| entry.file_name().into_string().unwrap_or_default()).collect();
        assert!(names.iter().filter(|name| !name.ends_with(".tmp")).count() <= 3, "{names:?}");
        names.iter().find(|name| name.starts_with("0.log.") && name.ends_with(".gz")).cloned().ok_or_else(|| format!("{names:?}"))
    });
    let checked = std::process::Command::new("gzip").arg("-t").arg(folder.join(&compressed)).status().expect("gzip runs");
    assert!(checked.success() || !folder.join(&compressed).exists(), "{compressed} is whole, or gone by now");
    logged(c, "talks", "c", "999");
    let links = || {
        let all = std::fs::read_dir(c.data().join("container-logs")).expect("a folder").flatten();
        all.map(|link| link.path()).filter(|link| link.file_name().is_some_and(|name| name.to_string_lossy().starts_with("talks_default_c-"))).collect::<Vec<_>>()
    };
    let [link] = &links()[..] else { panic!("one link to the log") };
    assert!(std::fs::read_to_string(link).expect("it leads to the log").contains(" stdout F "));
    c.kubectl(&["delete", "pod", "talks", "--timeout=60s"]);
    until("the end of the link", SOON, || if links().is_empty() { Ok(()) } else { Err("still there".to_owned()) });
    c.kill_server();
    c.flags.clear();
    c.start_server();
}

/// KEP-127: root inside is an id of the pod's own outside, volumes show the files with the ids they have on disk, and after a kill -9 of the
/// server the pod has the same ids.
fn a_pod_has_a_user_namespace_of_its_own(c: &mut Cluster) {
    c.kubectl(&["create", "configmap", "words", "--from-literal=word=hello"]);
    let pod = |name: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostUsers: false
  securityContext: {{fsGroup: 2000}}
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: {WEB}
    command: [sh, -c, "cat /proc/self/uid_map; cat /words/word; echo; stat -c '%u:%g' /empty; touch /empty/made; stat -c '%u:%g' /empty/made /etc/hosts; echo told > /dev/termination-log; echo ready; sleep 3600"]
    readinessProbe: {{exec: {{command: ["true"]}}, periodSeconds: 1}}
    volumeMounts: [{{name: words, mountPath: /words, readOnly: true, recursiveReadOnly: IfPossible}}, {{name: empty, mountPath: /empty}}]
  - {{name: other, image: "{WEB}", command: [sh, -c, "id -u; id -G; cat /words/word && echo read; sleep 3600"], securityContext: {{runAsUser: 1000}}, volumeMounts: [{{name: words, mountPath: /words}}]}}
  volumes: [{{name: words, configMap: {{name: words}}}}, {{name: empty, emptyDir: {{}}}}]
"#
        )
    };
    c.apply(&pod("inside"));
    c.apply(&pod("inside-too"));
    let maps: Vec<String> = ["inside", "inside-too"]
        .map(|name| {
            c.wait_ready(name);
            let text = logged(c, name, "c", "ready");
            let map: Vec<&str> = text.lines().next().expect("a line").split_whitespace().collect();
            assert_eq!((map[0], map[2]), ("0", "65536"), "{text}");
            for word in ["hello", "0:2000"] {
                assert!(text.contains(word), "{word}: {text}");
            }
            assert!(logged(c, name, "other", "read").starts_with("1000\n"), "another user reads the volume too");
            map[1].to_owned()
        })
        .into();
    let first: u32 = maps[0].parse().expect("a number");
    assert!(first >= 65_536 && first % 65_536 == 0 && maps[0] != maps[1], "{maps:?}");
    assert_eq!(c.exec("inside", &["id", "-u"]).trim(), "0");
    let p = c.json(&["get", "pod", "inside"]);
    let mounts = p["status"]["containerStatuses"][0]["volumeMounts"].as_array().expect("mounts").clone();
    assert!(mounts.iter().any(|m| m["mountPath"] == "/words" && m["recursiveReadOnly"] == "Enabled"), "{mounts:?}");
    let uid = p["metadata"]["uid"].as_str().expect("a uid");
    let folder = c.data().join("pods").join(uid);
    let made = std::fs::metadata(folder.join("volumes/kubernetes.io~empty-dir/empty/made")).expect("on the host's disk");
    assert_eq!((made.uid(), made.gid()), (0, 2000), "files of a volume have the ids that the container sees");
    let kept = std::fs::read_to_string(folder.join("userns")).expect("kept on disk");
    assert!(kept.contains(&format!("\"hostId\":{first}")), "{kept}");
    c.kill_server();
    c.start_server();
    c.wait_ready("inside");
    assert!(c.exec_again("inside", &["cat", "/proc/self/uid_map"]).contains(&maps[0]));
    c.apply(&pod("inside-three"));
    c.wait_ready("inside-three");
    let third = c.exec("inside-three", &["cat", "/proc/self/uid_map"]).split_whitespace().nth(1).expect("a number").to_owned();
    assert!(!maps.contains(&third), "what is taken is known after a restart: {maps:?} and {third}");
    let node = c.json(&["get", "node", Cluster::NODE]);
    let handlers = node["status"]["runtimeHandlers"].as_array().expect("handlers");
    assert!(handlers.iter().any(|h| h["name"] == "" && h["features"]["userNamespaces"] == true && h["features"]["recursiveReadOnlyMounts"] == true), "{handlers:?}");
    c.kubectl(&["delete", "pod", "inside", "inside-too", "inside-three", "--wait=true"]);
}

/// KEP-277: the ephemeral container joins the process namespace of the one it names.
fn a_debugger_sees_its_targets_processes(c: &Cluster) {
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: watched}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"{WEB}\", command: [sleep, \"4242\"]}}\n"));
    c.wait_ready("watched");
    c.kubectl(&[
        "debug",
        "watched",
        &format!("--image={WEB}"),
        "--image-pull-policy=Never",
        "--target=c",
        "--container=look",
        "--",
        "sh",
        "-c",
        "ps -o pid,args; echo seen; sleep 3600",
    ]);
    let text = logged(c, "watched", "look", "seen");
    assert!(text.lines().any(|l| l.trim_start().starts_with("1 ") && l.contains("sleep 4242")), "{text}");
    c.kubectl(&["delete", "pod", "watched", "--wait=true"]);
}

/// Of a container that restarts, the last end stays and the others' files go.
fn an_old_end_is_forgotten_but_the_last(c: &Cluster) {
    // A failure is restarted after 10 s and 20 s: three ends are what a test can wait for.
    c.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: again}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: c, image: \"{WEB}\", command: [sh, -c, \"echo once; exit 3\"]}}\n"));
    let p = until("two restarts", SOON * 2, || {
        let p = c.json(&["get", "pod", "again"]);
        if p["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(2) { Ok(p) } else { Err(p["status"].to_string()) }
    });
    let logs = c.data().join("pods-logs").join(format!("default_again_{}", p["metadata"]["uid"].as_str().expect("a uid"))).join("c");
    until("the first end's log to go", SOON, || if logs.join("0.log").exists() { Err("it is there".to_owned()) } else { Ok(()) });
    assert!(c.kubectl(&["logs", "again", "--previous"]).contains("once"));
    c.kubectl(&["delete", "pod", "again", "--wait=true"]);
}

fn pressed(c: &Cluster) -> Value {
    let conditions = c.json(&["get", "node", Cluster::NODE])["status"]["conditions"].clone();
    conditions.as_array().expect("conditions").iter().find(|k| k["type"] == "MemoryPressure").cloned().expect("always there")
}

/// A threshold that no machine keeps: the node says MemoryPressure, ends the pod that asked for nothing with upstream's words, and keeps others out.
fn a_node_without_room_ends_pods_and_says_why(c: &mut Cluster) {
    let pod = |name: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {}\n  containers: [{{name: c, image: \"{WEB}\"}}]\n", Cluster::NODE);
    c.apply(&pod("victim"));
    c.wait_ready("victim");
    c.kill_server();
    c.flags = vec!["--eviction-hard=memory.available<100Ti".into(), "--eviction-pressure-transition-period=1s".into()];
    c.start_server();
    let ended = until("the eviction", SOON, || {
        let s = status(c, "victim");
        if s["reason"] == "Evicted" { Ok(s) } else { Err(s.to_string()) }
    });
    assert_eq!(ended["phase"], "Failed");
    let message = ended["message"].as_str().expect("a message");
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: 100Ti, available: "), "{message}");
    assert!(message.contains("Container c was using ") && message.contains(", request is 0, has larger consumption of memory. "), "{message}");
    assert!(ended["conditions"].as_array().expect("conditions").iter().any(|k| k["type"] == "DisruptionTarget" && k["reason"] == "TerminationByKubelet"), "{ended}");
    let shown = until("the node's condition", SOON, || Some(pressed(c)).filter(|k| k["status"] == "True").ok_or_else(|| pressed(c).to_string()));
    assert_eq!(shown["reason"], "KubeletHasInsufficientMemory");
    c.apply(&pod("late"));
    let refused = until("the refusal", SOON, || {
        let s = status(c, "late");
        if s["phase"] == "Failed" { Ok(s) } else { Err(s.to_string()) }
    });
    assert_eq!((refused["reason"].as_str(), refused["message"].as_str()), (Some("Evicted"), Some("Pod was rejected: The node had condition: [MemoryPressure]. ")));
    c.kill_server();
    c.flags = vec!["--system-reserved=cpu=500m,memory=64Mi".into()];
    c.start_server();
    until("the node to be well", SOON, || Some(pressed(c)).filter(|k| k["status"] == "False").map(drop).ok_or_else(|| pressed(c).to_string()));
    let node = c.json(&["get", "node", Cluster::NODE])["status"].clone();
    let ki = |q: &Value| q.as_str().and_then(|t| t.strip_suffix("Ki")?.parse::<i64>().ok()).expect("Ki");
    let kept = until("what is reserved", SOON, || {
        let node = c.json(&["get", "node", Cluster::NODE])["status"].clone();
        let kept = ki(&node["capacity"]["memory"]) - ki(&node["allocatable"]["memory"]);
        if kept == 164 << 10 { Ok(kept) } else { Err(format!("{kept} Ki")) }
    });
    assert_eq!(kept, 164 << 10, "100Mi of the default threshold and what is reserved: {node}");
}

/// A static pod: shown by a mirror that comes back, replaced when its file changes, kept over a kill -9 of the server, gone with its file.
fn a_manifest_of_the_node_runs_and_is_shown(c: &mut Cluster) {
    let folder = c.dir.path().join("manifests");
    std::fs::create_dir(&folder).expect("made");
    c.kill_server();
    c.flags = vec![format!("--pod-manifest-path={}", folder.display())];
    c.start_server();
    let write = |version: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: own, labels: {{app: own}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  priorityClassName: system-node-critical\n  containers: [{{name: c, image: \"{WEB}\", imagePullPolicy: Never, env: [{{name: VERSION, value: {version}}}]}}]\n"
        );
        std::fs::write(folder.join(".new"), text).expect("written");
        std::fs::rename(folder.join(".new"), folder.join("own.yaml")).expect("renamed");
    };
    let name = format!("own-{}", Cluster::NODE);
    let running = |c: &Cluster, not: (&str, &str)| {
        until("the static pod in the API", SOON, || {
            let p = serde_json::from_str::<Value>(&c.try_kubectl(&["get", "pod", &name, "-n", "default", "-o", "json"])?).map_err(|e| e.to_string())?;
            let (uid, id) =
                (p["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), p["status"]["containerStatuses"][0]["containerID"].as_str().unwrap_or_default().to_owned());
            let ready = p["status"]["containerStatuses"][0]["ready"] == true && p["metadata"]["deletionTimestamp"].is_null();
            if ready && uid != not.0 && id != not.1 { Ok((uid, id, p)) } else { Err(p.to_string()) }
        })
    };
    write("one");
    let (uid, id, p) = running(c, ("", ""));
    let notes = &p["metadata"]["annotations"];
    assert_eq!((&notes["kubernetes.io/config.source"], &notes["kubernetes.io/config.mirror"]), (&Value::from("file"), &notes["kubernetes.io/config.hash"]), "{p}");
    assert_eq!((p["metadata"]["ownerReferences"][0]["kind"].as_str(), p["spec"]["priority"].as_i64()), (Some("Node"), Some(2_000_001_000)), "{p}");
    assert_eq!(c.exec(&name, &["sh", "-c", "echo $VERSION"]).trim(), "one");
    assert!(c.kubectl(&["logs", &name]).contains("serving"));
    c.kubectl(&["delete", "pod", &name, "--wait=false"]);
    let (second, same, _) = running(c, (&uid, ""));
    assert_eq!(same, id, "the mirror came back, the pod never went");
    c.kill_server();
    c.start_server();
    let (_, same, _) = running(c, ("", ""));
    assert_eq!(same, id, "the next run takes it over");
    write("two");
    running(c, (&second, &id));
    assert_eq!(c.exec(&name, &["sh", "-c", "echo $VERSION"]).trim(), "two");
    std::fs::remove_file(folder.join("own.yaml")).expect("removed");
    until("the mirror to go", SOON, || match c.try_kubectl(&["get", "pod", &name]) {
        Err(e) if e.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
