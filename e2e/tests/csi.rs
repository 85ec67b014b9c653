//! Volumes of a CSI driver on a real node, from registration to removal, through kills of the server; the driver is the test's own (`keles_e2e::csi_driver`).

use keles_e2e::csi_driver::{CsiDriver, Shape, Storage};
use keles_e2e::{Cluster, WEB, skip, until};
use keles_volumes::csi::wire::Capability;
use serde_json::Value;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// The agent looks at what has grown once a minute, as upstream's does.
const A_ROUND: Duration = Duration::from_secs(120);
const DRIVER: &str = "files.test.example";

#[test]
fn volumes_of_a_driver_live_as_their_objects_say() {
    if skip() {
        return;
    }
    let content = tempfile::tempdir().expect("a folder");
    let mut c = Cluster::start();
    let storage = Arc::new(Storage::default());
    let start = |c: &Cluster| CsiDriver::start(&Shape::staging(DRIVER), &c.data(), content.path(), storage.clone());
    let driver = a_driver_registers_goes_and_comes_anew(&c, start);
    c.kubectl(&["create", "secret", "generic", "key", "--from-literal=password=s3cret"]);
    files_are_staged_once_and_given_back_after_a_kill(&mut c, &driver, content.path());
    a_volume_is_attached_before_and_detached_after(&c, &driver.storage, content.path());
    an_inline_volume_lives_with_its_pod(&c, content.path());
    devices_are_given_as_devices(&c, &driver.storage, content.path());
    a_node_takes_no_more_than_its_driver_can(&c, content.path());
    a_claim_that_grows_is_grown_on_the_node(&c, &driver.storage, content.path());
    drop(driver);
}

fn csi_node(c: &Cluster, driver: &str) -> Value {
    let node = c.try_kubectl(&["get", "csinode", Cluster::NODE, "-o", "json"]).unwrap_or_default();
    let node: Value = serde_json::from_str(&node).unwrap_or_default();
    node["spec"]["drivers"].as_array().into_iter().flatten().find(|entry| entry["name"] == driver).cloned().unwrap_or_default()
}

fn registered(c: &Cluster, driver: &str, wanted: bool) -> Value {
    until(&format!("CSINode {} {driver}", if wanted { "shows" } else { "loses" }), SOON, || {
        let entry = csi_node(c, driver);
        if entry.is_null() != wanted { Ok(entry) } else { Err(entry.to_string()) }
    })
}

fn a_driver_registers_goes_and_comes_anew(c: &Cluster, start: impl Fn(&Cluster) -> CsiDriver) -> CsiDriver {
    let driver = start(c);
    let entry = registered(c, DRIVER, true);
    assert_eq!((entry["nodeID"].as_str(), &entry["topologyKeys"]), (Some("node-of-the-test"), &serde_json::json!(["topology.test.example/rack"])));
    let meta = c.json(&["get", "node", Cluster::NODE])["metadata"].clone();
    assert_eq!(meta["labels"]["topology.test.example/rack"], "r1");
    assert_eq!(meta["annotations"]["csi.volume.kubernetes.io/nodeid"], format!(r#"{{"{DRIVER}":"node-of-the-test"}}"#));
    let told = |driver: &CsiDriver| {
        until("the driver is told", SOON, || {
            let lines = driver.storage.lines();
            if lines.contains(&r#"NotifyRegistrationStatus {"error":"","registered":true}"#.to_owned()) { Ok(()) } else { Err(format!("{lines:?}")) }
        });
    };
    told(&driver);
    driver.storage.take();
    drop(driver);
    registered(c, DRIVER, false);
    let again = start(c);
    registered(c, DRIVER, true);
    told(&again);
    again
}

/// A volume of `driver`, and a claim of the same name bound to it.
fn volume(c: &Cluster, name: &str, driver: &str, more: &str) {
    let mode = if more.contains("Block") { "Block" } else { "Filesystem" };
    let access = if more.contains("ReadWriteOncePod") { "ReadWriteOncePod" } else { "ReadWriteOnce" };
    let class = if more.contains("grows") { "grows" } else { "" };
    let (_, attributes) = more.split_once('|').unwrap_or((more, ""));
    c.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: {name}}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [{access}]
  volumeMode: {mode}
  storageClassName: "{class}"
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{name: {name}, namespace: default}}
  csi:
    driver: {driver}
    volumeHandle: handle-{name}
    volumeAttributes: {{pool: fast{attributes}}}
    nodeStageSecretRef: {{name: key, namespace: default}}
    nodePublishSecretRef: {{name: key, namespace: default}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {name}}}
spec: {{accessModes: [{access}], volumeMode: {mode}, storageClassName: "{class}", resources: {{requests: {{storage: 1Gi}}}}}}
"#
    ));
}

fn pod(c: &Cluster, name: &str, claim: &str, mounts: &str) {
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {{fsGroup: 4321}}
  containers: [{{name: c, image: {WEB}, {mounts}}}]
  volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}}}}}]
"#
    ));
}

const MOUNTS: &str = "volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /part, subPath: made/here}]";

fn driver_object(c: &Cluster, name: &str, spec: &str) {
    c.apply(&format!("apiVersion: storage.k8s.io/v1\nkind: CSIDriver\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"));
}

fn remove(c: &Cluster, claim: &str) {
    c.kubectl(&["delete", "pvc", claim, "--timeout=60s"]);
    c.kubectl(&["delete", "pv", claim, "--timeout=60s"]);
}

fn event(c: &Cluster, object: &str, part: &str) {
    until(&format!("an event of {object} with {part:?}"), SOON, || {
        let events =
            c.kubectl(&["get", "events", "--field-selector", &format!("involvedObject.name={object}"), "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"]);
        if events.contains(part) { Ok(()) } else { Err(events) }
    });
}

fn files_are_staged_once_and_given_back_after_a_kill(c: &mut Cluster, driver: &CsiDriver, content: &Path) {
    driver_object(c, DRIVER, "attachRequired: false, podInfoOnMount: true, fsGroupPolicy: File");
    std::fs::create_dir(content.join("handle-shared")).expect("made");
    std::fs::write(content.join("handle-shared/kept"), "data\n").expect("written");
    volume(c, "shared", DRIVER, "");
    driver.storage.take();
    pod(c, "one", "shared", MOUNTS);
    pod(c, "two", "shared", MOUNTS);
    c.wait_ready("one");
    c.wait_ready("two");
    assert_eq!(c.exec("one", &["sh", "-c", "cat /v/kept && echo x > /part/file && stat -c %g /v/kept"]), "data\n4321\n");
    assert_eq!(c.exec("two", &["cat", "/v/made/here/file"]), "x\n", "one volume, two pods");
    let lines = driver.storage.take();
    let of = |call: &str| lines.iter().filter(|line| line.starts_with(call)).collect::<Vec<_>>();
    assert_eq!(of("NodeStageVolume"), [&r#"NodeStageVolume {"block":false,"id":"handle-shared","publish":{},"secrets":{"password":"s3cret"}}"#.to_owned()]);
    let published = of("NodePublishVolume");
    assert_eq!(published.len(), 2, "{lines:?}");
    assert!(
        published
            .iter()
            .any(|line| line.contains(r#""csi.storage.k8s.io/pod.name":"one""#) && line.contains(r#""csi.storage.k8s.io/ephemeral":"false""#) && line.contains(r#""pool":"fast""#))
    );
    let summary: Value = serde_json::from_str(&c.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/stats/summary", Cluster::NODE)])).expect("JSON");
    let volumes = summary["pods"].as_array().into_iter().flatten().find(|pod| pod["podRef"]["name"] == "one").map(|pod| pod["volume"].clone()).unwrap_or_default();
    let figures = volumes.as_array().into_iter().flatten().find(|volume| volume["name"] == "v").cloned().unwrap_or_default();
    assert_eq!((&figures["capacityBytes"], &figures["pvcRef"]["name"]), (&serde_json::json!(100), &serde_json::json!("shared")), "{volumes}");
    driver.storage.take();
    // The agent is killed and finds everything as it was; the driver is asked for nothing that stands.
    c.kill_server();
    c.start_server();
    registered(c, DRIVER, true);
    c.wait_ready("one");
    assert_eq!(c.exec("one", &["cat", "/v/kept"]), "data\n");
    c.kubectl(&["delete", "pod", "one", "--timeout=60s"]);
    let stays = driver.storage.take();
    assert!(stays.iter().any(|line| line.starts_with("NodeUnpublishVolume")), "{stays:?}");
    assert!(!stays.iter().any(|line| line.starts_with("NodeUnstageVolume") || line.starts_with("NodePublishVolume")), "another pod has it: {stays:?}");
    // The second pod goes while nobody looks: its object is removed at once, its volume when the agent comes back.
    c.kill_in_pod("two", "httpd");
    c.kubectl(&["delete", "pod", "two", "--force", "--grace-period=0", "--timeout=60s"]);
    c.kill_server();
    c.start_server();
    until("the last one lets go", SOON, || {
        let calls = driver.storage.calls();
        if calls.contains(&"NodeUnstageVolume".to_owned()) { Ok(()) } else { Err(format!("{calls:?}")) }
    });
    assert_eq!(std::fs::read_to_string(content.join("handle-shared/kept")).expect("the volume's own"), "data\n");
    remove(c, "shared");
}

fn attachments(c: &Cluster) -> Vec<Value> {
    c.json(&["get", "volumeattachments"])["items"].as_array().cloned().unwrap_or_default()
}

fn a_volume_is_attached_before_and_detached_after(c: &Cluster, storage: &Storage, content: &Path) {
    c.kubectl(&["delete", "csidriver", DRIVER]);
    driver_object(c, DRIVER, "attachRequired: true");
    std::fs::create_dir(content.join("handle-disk")).expect("made");
    volume(c, "disk", DRIVER, "");
    storage.take();
    pod(c, "writer", "disk", MOUNTS);
    let attachment = until("a VolumeAttachment", SOON, || attachments(c).pop().ok_or_else(|| "none".to_owned()));
    let name = attachment["metadata"]["name"].as_str().expect("a name").to_owned();
    assert_eq!(name, keles_volumes::csi::attachment_name("handle-disk", DRIVER, Cluster::NODE));
    assert_eq!((&attachment["spec"]["attacher"], &attachment["spec"]["source"]["persistentVolumeName"]), (&serde_json::json!(DRIVER), &serde_json::json!("disk")));
    let unique = format!("kubernetes.io/csi/{DRIVER}^handle-disk");
    let status = |field: &str| c.json(&["get", "node", Cluster::NODE])["status"][field].clone();
    until("the node wants it", SOON, || {
        let used = status("volumesInUse");
        if used == serde_json::json!([unique]) { Ok(()) } else { Err(used.to_string()) }
    });
    // An attempt that fails is told to the pod.
    c.kubectl(&["patch", "volumeattachment", &name, "--subresource=status", "--type=merge", "-p", r#"{"status":{"attached":false,"attachError":{"message":"no slot left"}}}"#]);
    event(c, "writer", "FailedAttachVolume: AttachVolume.Attach failed for volume \"disk\" : no slot left");
    assert!(!storage.calls().iter().any(|call| call == "NodeStageVolume"), "not before it is attached");
    c.kubectl(&[
        "patch",
        "volumeattachment",
        &name,
        "--subresource=status",
        "--type=merge",
        "-p",
        r#"{"status":{"attached":true,"attachError":null,"attachmentMetadata":{"lun":"7"}}}"#,
    ]);
    c.wait_ready("writer");
    event(c, "writer", "SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume \"disk\"");
    assert!(storage.lines().iter().any(|line| line.starts_with("NodeStageVolume") && line.contains(r#""publish":{"lun":"7"}"#)), "{:?}", storage.lines());
    assert_eq!(status("volumesAttached"), serde_json::json!([{"name": unique, "devicePath": ""}]));
    // The driver's attacher holds the object until it has detached.
    c.kubectl(&["patch", "volumeattachment", &name, "--type=merge", "-p", r#"{"metadata":{"finalizers":["external-attacher/test"]}}"#]);
    c.kubectl(&["delete", "pod", "writer", "--timeout=60s"]);
    until("the attachment is to go", SOON, || {
        let all = attachments(c);
        if all.iter().all(|one| one["metadata"]["deletionTimestamp"].is_string()) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert!(storage.calls().iter().any(|call| call == "NodeUnstageVolume"), "only after the node let go");
    let attached = status("volumesAttached");
    assert!(attached.as_array().is_none_or(Vec::is_empty), "{attached}");
    c.kubectl(&["patch", "volumeattachment", &name, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    until("it is gone", SOON, || if attachments(c).is_empty() { Ok(()) } else { Err("still there".to_owned()) });
    remove(c, "disk");
}

fn an_inline_volume_lives_with_its_pod(c: &Cluster, content: &Path) {
    const INLINE: &str = "inline.test.example";
    let storage = Arc::new(Storage::default());
    driver_object(c, INLINE, "attachRequired: false, podInfoOnMount: true, volumeLifecycleModes: [Ephemeral], tokenRequests: [{audience: vault}]");
    let shape = Shape { capabilities: Vec::new(), ..Shape::staging(INLINE) };
    // The pod is there first: it waits for its driver.
    c.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: inline}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{{name: c, image: {WEB}, volumeMounts: [{{name: v, mountPath: /v}}]}}]
  volumes: [{{name: v, csi: {{driver: {INLINE}, readOnly: true, volumeAttributes: {{size: small}}}}}}]
"#
    ));
    event(c, "inline", "driver name inline.test.example not found in the list of registered CSI drivers");
    let driver = CsiDriver::start(&shape, &c.data(), content, storage.clone());
    c.wait_ready("inline");
    let lines = storage.take();
    let published = lines.iter().find(|line| line.starts_with("NodePublishVolume")).expect("published");
    for part in [r#""csi.storage.k8s.io/ephemeral":"true""#, r#""size":"small""#, r#""readonly":true"#, r#"\"vault\":{\"expirationTimestamp\":"#] {
        assert!(published.contains(part), "{part}: {published}");
    }
    assert!(c.try_kubectl(&["exec", "inline", "--", "touch", "/v/file"]).expect_err("read-only").contains("Read-only file system"));
    c.kubectl(&["delete", "pod", "inline", "--timeout=60s"]);
    assert!(storage.calls().contains(&"NodeUnpublishVolume".to_owned()));
    drop(driver);
    registered(c, INLINE, false);
}

/// Loop devices as a storage system's disks, of a driver and as local volumes.
fn devices_are_given_as_devices(c: &Cluster, storage: &Storage, content: &Path) {
    let loops: Vec<String> =
        (0..8).map(|number| format!("/dev/loop{number}")).filter(|path| std::fs::metadata(path).is_ok_and(|info| info.file_type().is_block_device())).collect();
    let [first, second, ..] = &loops[..] else { panic!("no loop devices on this machine: {loops:?}") };
    c.kubectl(&["delete", "csidriver", DRIVER]);
    driver_object(c, DRIVER, "attachRequired: false");
    let _ = content;
    volume(c, "raw", DRIVER, &format!("Block|, device: {first}"));
    storage.take();
    let devices = "volumeDevices: [{name: v, devicePath: /dev/xvda}]";
    pod(c, "raw", "raw", devices);
    c.wait_ready("raw");
    let number = |path: &str| std::fs::metadata(path).expect("there").rdev();
    let inside = |pod: &str| {
        let text = c.exec(pod, &["stat", "-c", "%t %T %F", "/dev/xvda"]);
        let mut parts = text.trim().splitn(3, ' ').map(str::to_owned);
        let hex = |part: Option<String>| u32::from_str_radix(&part.expect("a number"), 16).expect("hex");
        let (major, minor) = (hex(parts.next()), hex(parts.next()));
        assert_eq!(parts.next().as_deref(), Some("block special file"));
        u64::from(major) << 8 | u64::from(minor)
    };
    assert_eq!(inside("raw"), number(first));
    c.kubectl(&["delete", "pod", "raw", "--timeout=60s"]);
    assert!(storage.calls().ends_with(&["NodeUnpublishVolume".to_owned(), "NodeUnstageVolume".to_owned()]), "{:?}", storage.calls());
    remove(c, "raw");
    let node = Cluster::NODE;
    c.apply(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: local-raw}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  volumeMode: Block
  claimRef: {{name: local-raw, namespace: default}}
  local: {{path: {second}}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: local-raw}}
spec: {{accessModes: [ReadWriteOnce], volumeMode: Block, storageClassName: "", resources: {{requests: {{storage: 1Mi}}}}}}
"#
    ));
    pod(c, "local-raw", "local-raw", devices);
    c.wait_ready("local-raw");
    assert_eq!(inside("local-raw"), number(second));
    c.kubectl(&["delete", "pod", "local-raw", "--timeout=60s"]);
    remove(c, "local-raw");
}

fn a_node_takes_no_more_than_its_driver_can(c: &Cluster, content: &Path) {
    const SMALL: &str = "small.test.example";
    driver_object(c, SMALL, "attachRequired: false");
    let shape = Shape { capabilities: vec![Capability::SingleNodeMultiWriter], max_volumes: 1, ..Shape::staging(SMALL) };
    let driver = CsiDriver::start(&shape, &c.data(), content, Arc::default());
    assert_eq!(registered(c, SMALL, true)["allocatable"]["count"], 1);
    volume(c, "own", SMALL, "ReadWriteOncePod");
    volume(c, "more", SMALL, "");
    pod(c, "first", "own", MOUNTS);
    c.wait_ready("first");
    let lines = driver.storage.take();
    assert!(lines.iter().any(|line| line.starts_with("NodePublishVolume") && line.contains(r#""mode":6"#)), "SINGLE_NODE_SINGLE_WRITER: {lines:?}");
    pod(c, "second", "own", MOUNTS);
    event(c, "second", "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode");
    pod(c, "third", "more", MOUNTS);
    event(c, "third", "node(s) exceed max volume count");
    c.kubectl(&["delete", "pod", "first", "second", "--timeout=60s"]);
    c.wait_ready("third");
    c.kubectl(&["delete", "pod", "third", "--timeout=60s"]);
    remove(c, "own");
    remove(c, "more");
    drop(driver);
}

fn a_claim_that_grows_is_grown_on_the_node(c: &Cluster, storage: &Storage, content: &Path) {
    c.apply(&format!("apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: grows}}\nprovisioner: {DRIVER}\nallowVolumeExpansion: true\n"));
    std::fs::create_dir(content.join("handle-grows")).expect("made");
    volume(c, "grows", DRIVER, "grows");
    pod(c, "grows", "grows", MOUNTS);
    c.wait_ready("grows");
    storage.take();
    c.kubectl(&["patch", "pvc", "grows", "--type=merge", "-p", r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#]);
    event(c, "grows", "ExternalExpanding: waiting for an external controller to expand this PVC");
    // What the driver's external resizer does.
    c.kubectl(&["patch", "pv", "grows", "--type=merge", "-p", r#"{"spec":{"capacity":{"storage":"2Gi"}}}"#]);
    let pending = r#"{"status":{"conditions":[{"type":"FileSystemResizePending","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}],"allocatedResources":{"storage":"2Gi"},"allocatedResourceStatuses":{"storage":"NodeResizePending"}}}"#;
    c.kubectl(&["patch", "pvc", "grows", "--subresource=status", "--type=merge", "-p", pending]);
    let status = until("the claim has what it asked for", A_ROUND, || {
        let status = c.json(&["get", "pvc", "grows"])["status"].clone();
        if status["capacity"]["storage"] == "2Gi" { Ok(status) } else { Err(status.to_string()) }
    });
    assert!(status["conditions"].as_array().is_none_or(Vec::is_empty) && status["allocatedResourceStatuses"].as_object().is_none_or(serde_json::Map::is_empty), "{status}");
    assert!(storage.lines().iter().any(|line| line.starts_with("NodeExpandVolume") && line.contains("2147483648")), "{:?}", storage.lines());
    event(c, "grows", "FileSystemResizeSuccessful: MountVolume.NodeExpandVolume succeeded for volume \"grows\"");
    c.kubectl(&["delete", "pod", "grows", "--timeout=60s"]);
    remove(c, "grows");
}
