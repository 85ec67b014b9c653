//! The pod network with real namespaces. The test runs itself again inside a network namespace of its own, so that the
//! machine's interfaces and routes stay untouched. Needs root and util-linux's `unshare`.

use keles_linux::netlink::in_netns;
use keles_network::{Options, PodNetwork};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const INSIDE: &str = "KELES_TEST_INSIDE_NETNS";

/// Runs the named test of this binary again inside new network and mount namespaces; true in the outer run.
fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let me = std::env::current_exe().expect("a running test has a path");
    let status = Command::new("unshare").args(["--net", "--mount", "--"]).arg(me).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().expect("util-linux's unshare");
    assert!(status.success(), "{test} failed inside its namespace");
    true
}

/// A pinned network namespace with `lo` up.
fn namespace(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, "").expect("a mount point");
    let script = format!("mount --bind /proc/self/ns/net {} && ip link set lo up", path.display());
    assert!(Command::new("unshare").args(["--net", "sh", "-c", &script]).status().expect("unshare").success());
    path
}

fn options(dir: &Path) -> Options {
    Options { bridge: "kt0".into(), pod_cidr: "10.77.1.0/24".parse().expect("a range"), service_cidr: "10.78.0.0/16".parse().expect("a range"), state_dir: dir.join("addresses") }
}

/// What a server in `netns` at `ip` is sent by a client run by `dial`.
fn reach(netns: &Path, ip: Ipv4Addr, dial: impl FnOnce(std::net::SocketAddr) -> std::io::Result<TcpStream>) -> String {
    let listener = in_netns(netns, || TcpListener::bind((ip, 0)).expect("the pod has its address")).expect("enters");
    let at = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut s, from) = listener.accept().expect("a client");
        s.write_all(from.ip().to_string().as_bytes()).expect("answers");
    });
    let mut got = String::new();
    dial(at).expect("connects").read_to_string(&mut got).expect("reads");
    server.join().expect("served");
    got
}

fn connect(at: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&at, Duration::from_secs(5))
}

#[test]
fn pods_reach_each_other_and_the_node_reaches_pods() {
    if outside("pods_reach_each_other_and_the_node_reaches_pods") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let rt = tokio::runtime::Runtime::new().expect("a runtime");
    let (a, b) = (namespace(dir.path(), "a"), namespace(dir.path(), "b"));
    rt.block_on(async {
        let net = PodNetwork::open(options(dir.path())).await.expect("opens");
        let (ip_a, ip_b) = (net.attach(&a, "pod-a").await.expect("attaches"), net.attach(&b, "pod-b").await.expect("attaches"));
        assert_eq!(net.attach(&a, "pod-a").await.expect("attaching twice is fine"), ip_a);
        assert_eq!(reach(&b, ip_b, |at| in_netns(&a, || connect(at)).expect("enters")), ip_a.to_string());
        assert_eq!(reach(&a, ip_a, connect), net.gateway().to_string());
        // A restart finds bridge, pods and addresses as they are.
        let again = PodNetwork::open(options(dir.path())).await.expect("opens again");
        assert_eq!(again.attach(&a, "pod-a").await.expect("kept"), ip_a);
        again.retain(|uid| uid == "pod-a").await.expect("detaches b");
        let links = Command::new("ip").args(["-o", "link", "show", "type", "veth"]).output().expect("ip");
        assert_eq!(String::from_utf8_lossy(&links.stdout).lines().count(), 1, "pod-b's interface is gone, pod-a's stays");
        again.detach("pod-a").await.expect("detaches");
        again.detach("pod-a").await.expect("detaching twice is fine");
    });
    for ns in [a, b] {
        assert!(Command::new("umount").arg(ns).status().expect("umount").success());
    }
}

#[test]
fn a_service_address_without_a_rule_stays_on_the_bridge() {
    if outside("a_service_address_without_a_rule_stays_on_the_bridge") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    tokio::runtime::Runtime::new().expect("a runtime").block_on(PodNetwork::open(options(dir.path()))).map(|_| ()).expect("opens");
    let out = Command::new("ip").args(["route", "get", "10.78.5.5"]).output().expect("ip");
    assert!(String::from_utf8_lossy(&out.stdout).contains("dev kt0"), "{out:?}");
}
