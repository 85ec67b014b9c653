//! The commands against an iscsiadm of the test's own, and what they lead to on a loop device; no initiator and no target are part of this.

use super::*;
use crate::tests::{LoopDevice, Room};
use serde_json::json;

const IQN: &str = "iqn.2001-04.com.example:storage.disk1";

/// A node with an initiator that notes what it is asked, and whose login makes the link of a unit.
struct Node {
    folder: tempfile::TempDir,
    host: Host,
}

impl Node {
    /// `unit` is the device that login shows; `mood` is shell that runs first, with the arguments in `$*`.
    fn new(unit: &str, mood: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().display();
        let (tools, by_path, blocks) = (folder.path().join("sbin"), folder.path().join("by-path"), folder.path().join("block"));
        [&tools, &blocks].into_iter().for_each(|part| std::fs::create_dir(part).expect("made"));
        let script = format!(
            r#"#!/bin/sh
echo "$*" >>{at}/asked
{mood}
case "$*" in
"-m iface -I default -o show") printf '# BEGIN RECORD\niface.iscsi_ifacename = default\niface.net_ifacename = <empty>\niface.transport_name = tcp\niface.initiatorname = <empty>\n';;
*--login) mkdir -p {at}/by-path; ln -sf {unit} "{at}/by-path/ip-$4-iscsi-$6-lun-0";;
esac
"#
        );
        let tool = tools.join(TOOL);
        // Written by another process: one that this one held open for writing could not be run (ETXTBSY) while another test forks.
        let written = std::process::Command::new("sh").args(["-c", r#"printf %s "$0" >"$1" && chmod 755 "$1""#, &script]).arg(&tool).status();
        assert!(written.expect("a shell").success());
        Self { folder, host: Host { tools: vec![tools], by_path, blocks } }
    }

    fn asked(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        let _ = std::fs::remove_file(self.folder.path().join("asked"));
        text.lines().map(str::to_owned).collect()
    }

    fn pod(&self, name: &str) -> Room {
        let pod_dir = self.folder.path().join("pods").join(name);
        std::fs::create_dir_all(&pod_dir).expect("made");
        Room::in_folder(json!({"containers": [], "securityContext": {"fsGroup": 4321}}), pod_dir)
    }

    async fn set_up(&self, pod: &Room, source: serde_json::Value) -> Result<PathBuf> {
        let mut whole = json!({"targetPortal": "192.0.2.1", "iqn": IQN, "lun": 0});
        whole.as_object_mut().expect("an object").extend(source.as_object().expect("an object").clone());
        let source: ISCSIVolumeSource = serde_json::from_value(whole).expect("a source");
        set_up_on(&self.host, "v", &Source::from(&source), &[], false, &pod.context()).await
    }
}

#[tokio::test]
async fn a_unit_is_mounted_for_each_pod_and_its_session_ends_with_the_last() {
    let Some(device) = LoopDevice::new() else { return eprintln!("this machine gives no loop devices: not tested") };
    let node = Node::new(&device.path, "");
    let (first, second) = (node.pod("a"), node.pod("b"));
    let at = node.set_up(&first, json!({})).await.expect("mounted");
    std::fs::write(at.join("kept"), "data").expect("writable");
    let record = format!("-m node -p 192.0.2.1:3260 -T {IQN} -I default");
    let discovery = "-m discoverydb -t sendtargets -p 192.0.2.1:3260 -I default";
    let began = [format!("{discovery} -o new"), format!("{discovery} --discover"), format!("{record} --login"), format!("{record} -o update -n node.startup -v manual")];
    assert_eq!(node.asked(), began);
    assert_eq!(node.set_up(&first, json!({})).await.expect("again is fine"), at);
    assert!(node.asked().is_empty());
    let reads = node.set_up(&second, json!({"readOnly": true})).await.expect("beside it");
    assert_eq!(std::fs::read_to_string(reads.join("kept")).expect("the same files"), "data");
    std::fs::write(reads.join("new"), "x").expect_err("read-only");
    node.asked();
    tear_down_on(&node.host, first.folder()).await.expect("given back");
    assert!(node.asked().is_empty(), "the other pod has it still");
    assert!(!tmpfs::is_mounted(&at).expect("readable"));
    tear_down_on(&node.host, second.folder()).await.expect("given back");
    assert_eq!(node.asked(), [format!("{record} --logout"), format!("{record} -o delete")]);
    tear_down_on(&node.host, second.folder()).await.expect("once more");
    assert!(node.asked().is_empty());
}

#[tokio::test]
async fn chap_is_told_from_the_secret_and_is_in_no_error() {
    let node = Node::new("/dev/null", r#"case "$*" in *password_in*) echo "cannot set $*" >&2; exit 6;; esac"#);
    let pod = node.pod("a");
    let secret = |key: &str| (key.to_owned(), k8s_openapi::ByteString(format!("of-{key}\n").into_bytes()));
    let data = [secret("discovery.sendtargets.auth.username"), secret("node.session.auth.username"), secret("node.session.auth.password_in")].into();
    pod.world.add_secret("chap", data);
    let error = node.set_up(&pod, json!({"chapAuthDiscovery": true, "chapAuthSession": true, "secretRef": {"name": "chap"}})).await.expect_err("it cannot be set").to_string();
    assert_eq!(error, format!("iscsi: iscsiadm -m node -p 192.0.2.1:3260 -T {IQN} -I default -o update -n node.session.auth.password_in failed"));
    let asked = node.asked();
    let told: Vec<&str> = asked.iter().filter_map(|line| line.split_once(" -n ").map(|(_, told)| told)).collect();
    assert_eq!(
        told,
        [
            "discovery.sendtargets.auth.authmethod -v CHAP",
            "discovery.sendtargets.auth.username -v of-discovery.sendtargets.auth.username",
            "node.session.auth.authmethod -v CHAP",
            "node.session.auth.username -v of-node.session.auth.username",
            "node.session.auth.password_in -v of-node.session.auth.password_in",
        ]
    );
    let missing = node.set_up(&pod, json!({"chapAuthSession": true, "secretRef": {"name": "none"}})).await.expect_err("no secret").to_string();
    assert_eq!(missing, "secret \"none\" not found");
}

#[tokio::test]
async fn another_initiators_name_gets_an_interface_of_its_own() {
    let Some(device) = LoopDevice::new() else { return eprintln!("this machine gives no loop devices: not tested") };
    let node = Node::new(&device.path, "");
    let pod = node.pod("a");
    node.set_up(&pod, json!({"initiatorName": "iqn.2001-04.com.example:node"})).await.expect("mounted");
    let own = "-m iface -I 192.0.2.1:3260:v";
    let made = [
        "-m iface -I default -o show".to_owned(),
        format!("{own} -o new"),
        format!("{own} -o update -n iface.transport_name -v tcp"),
        format!("{own} -o update -n iface.initiatorname -v iqn.2001-04.com.example:node"),
    ];
    assert_eq!(node.asked()[..4], made);
    tear_down_on(&node.host, pod.folder()).await.expect("given back");
    assert_eq!(node.asked().last(), Some(&format!("{own} -o delete")));
}

#[tokio::test]
async fn one_portal_of_several_is_enough_and_a_session_that_is_there_is_scanned_again() {
    let Some(device) = LoopDevice::new() else { return eprintln!("this machine gives no loop devices: not tested") };
    let mood = format!(
        r#"case "$*" in *192.0.2.1:3260*--discover) echo "connection refused" >&2; exit 4;; *--login) mkdir -p $(dirname $0)/../by-path; ln -sf {} "$(dirname $0)/../by-path/pci-0-ip-$4-iscsi-$6-lun-0"; exit 15;; esac"#,
        device.path
    );
    let node = Node::new(&device.path, &mood);
    let pod = node.pod("a");
    node.set_up(&pod, json!({"portals": ["192.0.2.2:3261"]})).await.expect("by the second");
    let asked = node.asked();
    assert!(asked.contains(&"-m discoverydb -t sendtargets -p 192.0.2.1:3260 -I default -o delete".to_owned()), "{asked:?}");
    assert!(asked.contains(&format!("-m node -p 192.0.2.2:3261 -T {IQN} -I default --rescan")), "{asked:?}");
    tear_down_on(&node.host, pod.folder()).await.expect("given back");
}

#[tokio::test]
async fn a_node_without_an_initiator_says_what_to_install_and_a_target_that_refuses_is_told() {
    let node = Node::new("/dev/null", r#"case "$*" in *--login) echo "login rejected" >&2; exit 24;; esac"#);
    let pod = node.pod("a");
    let refused = node.set_up(&pod, json!({})).await.expect_err("refused").to_string();
    assert!(refused.starts_with("iscsiadm failed: exit status: 24: login rejected"), "{refused}");
    assert_eq!(node.asked().last(), Some(&format!("-m node -p 192.0.2.1:3260 -T {IQN} -I default -o delete")));
    let bare = Node { host: Host { tools: Vec::new(), ..Host::default() }, ..node };
    assert_eq!(bare.set_up(&pod, json!({})).await.expect_err("no tool").to_string(), "iscsiadm is not on this node; install open-iscsi");
}

#[test]
fn portals_have_their_port_once() {
    let all = portals("192.0.2.1", Some(&["192.0.2.1:3260".into(), "[2001:db8::1]".into(), "[2001:db8::1]:3261".into(), "host:860".into()]));
    assert_eq!(all, ["192.0.2.1:3260", "[2001:db8::1]:3260", "[2001:db8::1]:3261", "host:860"]);
}

#[test]
fn several_paths_are_one_where_multipath_says_so() {
    let node = Node::new("/dev/null", "");
    let block = |name: &str| node.host.blocks.join(name);
    std::fs::create_dir_all(block("sda/holders/dm-0")).and_then(|()| std::fs::create_dir_all(block("dm-0/dm"))).expect("made");
    std::fs::write(block("dm-0/dm/uuid"), "LVM-x").expect("written");
    assert_eq!(node.host.map_of(Path::new("/dev/sda")), None);
    std::fs::write(block("dm-0/dm/uuid"), "mpath-x").expect("written");
    assert_eq!(node.host.map_of(Path::new("/dev/sda")), Some("/dev/dm-0".into()));
}
