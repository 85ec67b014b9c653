//! Images' commands, logs, the hosts file, image volumes.

use keles_e2e::WEB;
use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use keles_testkit::image::Image;
use keles_testkit::registry::Registry;
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    // The image has a command and no entrypoint: arguments take the command's place.
    vec![
        case("Containers should use the image defaults if command and args are blank", |w| async move {
            w.pod("p", json!({"containers": [{"name": "c", "image": WEB}]})).await;
            w.pods().ready("p").await;
            keles_e2e::api::eventually("the image's own words", || async { Some(w.log("p", "").await).filter(|l| l.contains("serving v1")).ok_or_else(|| "no log".into()) }).await;
        }),
        case("Containers should be able to override the image's default arguments (container cmd)", |w| {
            says(w, json!({"args": ["echo", "override", "arguments"]}), "override arguments\n")
        }),
        case("Containers should be able to override the image's default command (container entrypoint)", |w| says(w, json!({"command": ["echo", "overriden"]}), "overriden\n")),
        case("Containers should be able to override the image's default command and arguments", |w| {
            says(w, json!({"command": ["echo"], "args": ["both", "overriden"]}), "both overriden\n")
        }),
        case("Kubelet when scheduling a busybox command in a pod should print the output to logs", |w| {
            says(w, json!({"command": ["sh", "-c", "echo 'Hello World' ; echo and to stderr >&2"]}), "Hello World\nand to stderr\n")
        }),
        case("Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete", |w| async move {
            w.pod("p", json!({"restartPolicy": "Always", "containers": [shell("false")]})).await;
            w.pods().becomes("p", "failed once", |p| p["status"]["containerStatuses"][0]["lastState"]["terminated"].is_object()).await;
            w.pods().delete("p").await;
            w.pods().gone("p").await;
        }),
        case("Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason", |w| async move {
            w.pod("p", json!({"containers": [shell("false")]})).await;
            let pod = w.pods().phase("p", "Failed").await;
            let all = pod["status"]["containerStatuses"].as_array().expect("statuses");
            assert_eq!((all.len(), &all[0]["state"]["terminated"]["reason"], &all[0]["state"]["terminated"]["exitCode"]), (1, &json!("Error"), &json!(1)));
        }),
        case("Kubelet when scheduling a read only busybox container should not write to root filesystem", |w| async move {
            let container = with(shell("echo test > /file || echo refused; test ! -e /file"), json!({"securityContext": {"readOnlyRootFilesystem": true}}));
            let log = w.output(json!({"containers": [container]})).await;
            assert!(log.contains("Read-only file system") && log.contains("refused"), "{log}");
        }),
        case("Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts", |w| async move {
            let aliases = json!([{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]);
            let log = w.output(json!({"hostAliases": aliases, "containers": [shell("cat /etc/hosts")]})).await;
            assert!(log.contains("# Entries added by HostAliases.\n123.45.67.89\tfoo\tbar\n"), "{log}");
        }),
        case("KubeletManagedEtcHosts should test kubelet managed /etc/hosts file", managed_hosts),
        case("ImageVolume should succeed with pod and pull policy of Always", image_volume),
    ]
}

async fn says(w: World, own: Value, wanted: &str) {
    let log = w.output(json!({"containers": [with(json!({"name": "c", "image": WEB}), own)]})).await;
    let sorted = |s: &str| {
        let mut lines: Vec<String> = s.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&log), sorted(wanted));
}

async fn managed_hosts(w: World) {
    const MARK: &str = "# Kubernetes-managed hosts file.";
    let named = |name: &str| with(shell("cat /etc/hosts"), json!({"name": name}));
    let own = with(named("own"), json!({"volumeMounts": [{"name": "h", "mountPath": "/etc/hosts"}]}));
    let volume = json!({"name": "h", "hostPath": {"path": "/etc/hosts", "type": "File"}});
    w.pod("p", json!({"containers": [named("a"), named("b"), own], "volumes": [volume]})).await;
    w.pod("on-node", json!({"hostNetwork": true, "containers": [named("a"), named("b")]})).await;
    w.succeeds("p").await;
    w.succeeds("on-node").await;
    for (pod, container, managed) in [("p", "a", true), ("p", "b", true), ("p", "own", false), ("on-node", "a", false), ("on-node", "b", false)] {
        let log = w.log(pod, container).await;
        assert_eq!(log.starts_with(MARK), managed, "{pod}/{container}:\n{log}");
        if !managed {
            // The comment of the node's network names its own mark in the first line.
            assert!(!log.contains(MARK) || pod == "on-node", "{log}");
        }
    }
}

/// The registry is asked each time, as the policy says; what is pulled is what the volume shows, and nobody writes there.
async fn image_volume(w: World) {
    let image = Image::new().base().and_then(|i| i.add_bytes("dir/file", b"of the image\n")).expect("an image");
    let registry = Registry::start().await;
    registry.serve("volume", "v1", &image.blobs());
    let own = json!({"volumeMounts": [{"name": "v", "mountPath": "/image"}]});
    let volume = json!({"name": "v", "image": {"reference": format!("{}/volume:v1", registry.host), "pullPolicy": "Always"}});
    for (n, name) in ["first", "second"].iter().enumerate() {
        w.pod(name, json!({"containers": [with(shell("cat /image/dir/file; touch /image/x 2>&1 || true"), own.clone())], "volumes": [volume]})).await;
        w.succeeds(name).await;
        assert_eq!(w.log(name, "").await, "of the image\ntouch: /image/x: Read-only file system\n");
        assert!(registry.count("/manifests/") > n, "the registry was not asked for {name}");
    }
}
