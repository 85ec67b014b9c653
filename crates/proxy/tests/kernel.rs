//! The rules in a real kernel: a node and three pods as network namespaces. The test runs itself again inside a network
//! namespace of its own. Needs root and util-linux's `unshare`, iproute2 and nftables (as the oracle).

use keles_linux::netlink::{Socket, in_netns};
use keles_linux::nft;
use keles_proxy::rules::{Rules, State, compute};
use keles_proxy::table::{self, Frame, Range};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const INSIDE: &str = "KELES_TEST_INSIDE_NETNS";
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 9);
const UNUSED: Ipv4Addr = Ipv4Addr::new(10, 88, 9, 9);
const PODS: [Ipv4Addr; 3] = [Ipv4Addr::new(10, 87, 0, 2), Ipv4Addr::new(10, 87, 0, 3), Ipv4Addr::new(10, 87, 0, 4)];
const WAIT: Duration = Duration::from_secs(5);

fn outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let me = std::env::current_exe().expect("a running test has a path");
    let status = Command::new("unshare").args(["--net", "--mount", "--"]).arg(me).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").status().expect("util-linux's unshare");
    assert!(status.success(), "{test} failed inside its namespace");
    true
}

fn sh(script: &str) {
    let out = Command::new("sh").args(["-ec", script]).output().expect("a shell");
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A bridge as the pod network makes it, and three pods on it with /32 addresses.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().expect("a folder");
        sh("ip link set lo up; ip link add kp0 type bridge; ip addr add 10.87.0.1/24 dev kp0; ip link set kp0 up; ip route add 10.88.0.0/16 dev kp0 src 10.87.0.1
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/conf/kp0/route_localnet");
        for (i, ip) in PODS.iter().enumerate() {
            let path = dir.path().join(i.to_string());
            std::fs::write(&path, "").expect("a mount point");
            sh(&format!(
                "unshare --net sh -c 'mount --bind /proc/self/ns/net {0}'
                 ip link add v{i} type veth peer name e{i}; ip link set v{i} master kp0 up; ip link set v{i} type bridge_slave hairpin on
                 nsenter --net={0} sleep 5 & P=$!
                 until [ $(readlink /proc/$P/ns/net) != $(readlink /proc/self/ns/net) ]; do :; done
                 ip link set e{i} netns $P
                 nsenter --net={0} sh -ec 'ip link set lo up; ip link set e{i} name eth0 up; ip addr add {ip}/32 dev eth0; ip route add 10.87.0.1 dev eth0; ip route add default via 10.87.0.1'
                 kill $P",
                path.display()
            ));
        }
        Node { dir }
    }
    fn pod(&self, i: usize) -> PathBuf {
        self.dir.path().join(i.to_string())
    }
    /// An echo of the peer's address behind the pod's own, for every connection to port 8000.
    fn serve(&self, i: usize) {
        let listener = in_netns(&self.pod(i), || TcpListener::bind((PODS[i], 8000)).expect("the pod's address")).expect("enters");
        std::thread::spawn(move || {
            for c in listener.incoming() {
                let mut c = c.expect("a client");
                let _ = write!(c, "{i} {}", c.peer_addr().expect("connected").ip());
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        (0..PODS.len()).for_each(|i| drop(Command::new("umount").arg(self.pod(i)).status()));
    }
}

fn frame() -> Frame {
    let range = |base| Range { base, mask: Ipv4Addr::new(255, 255, 0, 0) };
    Frame { table: "keles-test".into(), bridge: "kp0".into(), pods: range(Ipv4Addr::new(10, 87, 0, 0)), services: range(Ipv4Addr::new(10, 88, 0, 0)) }
}

fn desired(ready: &[Ipv4Addr], affinity: &str) -> Rules {
    let service = json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"clusterIP": SERVICE, "sessionAffinity": affinity,
        "ports": [{"name": "t", "port": 80, "nodePort": 30080}, {"name": "u", "port": 53, "protocol": "UDP"}]}});
    let slice = json!({"metadata": {"name": "web-1", "namespace": "d", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "t", "port": 8000}, {"name": "u", "port": 5353, "protocol": "UDP"}], "endpoints": ready.iter().map(|ip| json!({"addresses": [ip]})).collect::<Vec<_>>()});
    let (service, slice) = (Arc::new(serde_json::from_value(service).expect("a service")), Arc::new(serde_json::from_value(slice).expect("a slice")));
    compute(&State { services: &[service], slices: &[slice], pods: &[], node: "n" })
}

fn commit(old: Option<&Rules>, new: &Rules) {
    let batch = match old {
        Some(old) => table::update(&frame(), old, new),
        None => table::replace(&frame(), new),
    };
    batch.commit(&mut Socket::netfilter().expect("a socket")).expect("the kernel takes it");
}

/// The table as Debian's `nft` reads it.
fn listing() -> String {
    let listed = Command::new("nft").args(["list", "table", "ip", "keles-test"]).output().expect("the nft binary");
    assert!(listed.status.success(), "nft cannot read the table: {}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8_lossy(&listed.stdout).into_owned()
}

fn dial(to: (Ipv4Addr, u16)) -> std::io::Result<String> {
    let mut c = TcpStream::connect_timeout(&SocketAddr::from(to), WAIT)?;
    let mut s = String::new();
    c.read_to_string(&mut s)?;
    Ok(s)
}

/// How often each pod answered.
fn spread(netns: Option<&Path>, to: (Ipv4Addr, u16), times: usize) -> BTreeMap<String, usize> {
    let go = || {
        (0..times).map(|_| dial(to).expect("answers")).fold(BTreeMap::new(), |mut m, s| {
            *m.entry(s[..1].to_owned()).or_default() += 1;
            m
        })
    };
    match netns {
        Some(ns) => in_netns(ns, go).expect("enters"),
        None => go(),
    }
}

#[test]
fn services_spread_change_atomically_and_leave_no_address_uncaught() {
    if outside("services_spread_change_atomically_and_leave_no_address_uncaught") {
        return;
    }
    let node = Node::new();
    (0..3).for_each(|i| node.serve(i));
    let all = desired(&PODS, "None");
    commit(None, &all);
    assert!(listing().contains("10.87.0.4 . 8000"), "nft reads our maps: {}", listing());
    for (from, to) in [(None, (SERVICE, 80)), (None, (Ipv4Addr::LOCALHOST, 30080)), (None, (Ipv4Addr::new(10, 87, 0, 1), 30080)), (Some(node.pod(0)), (SERVICE, 80))] {
        assert_eq!(spread(from.as_deref(), to, 60).len(), 3, "{from:?} to {to:?}");
    }
    // A pod reaches itself through its service, and sees another source than itself.
    let alone = desired(&PODS[..1], "None");
    commit(Some(&all), &alone);
    assert_eq!(in_netns(&node.pod(0), || dial((SERVICE, 80))).expect("enters").expect("hairpin"), "0 10.87.0.1");
    // The source of another pod is kept.
    assert_eq!(in_netns(&node.pod(1), || dial((SERVICE, 80))).expect("enters").expect("answers"), "0 10.87.0.3");
    // Affinity: one source, one endpoint.
    let sticky = desired(&PODS, "ClientIP");
    commit(Some(&alone), &sticky);
    assert_eq!(spread(Some(&node.pod(1)), (SERVICE, 80), 20).len(), 1);
    // No endpoint, and no service: refused at once, never sent on.
    let none = desired(&[], "None");
    commit(Some(&sticky), &none);
    for from in [None, Some(node.pod(2))] {
        for to in [(SERVICE, 80), (UNUSED, 80)] {
            let e = match &from {
                Some(ns) => in_netns(ns, || dial(to)).expect("enters"),
                None => dial(to),
            };
            assert_eq!(e.expect_err("nobody serves it").kind(), ErrorKind::ConnectionRefused, "{from:?} to {to:?}");
        }
    }
    let text = listing();
    assert!(text.contains("masquerade") && text.contains("numgen random mod 3"), "{text}");
    assert!(nft::table_exists(&mut Socket::netfilter().expect("a socket"), "keles-test").expect("asks"));
}

#[test]
fn a_udp_flow_does_not_stick_to_an_endpoint_that_is_gone() {
    if outside("a_udp_flow_does_not_stick_to_an_endpoint_that_is_gone") {
        return;
    }
    let node = Node::new();
    for i in 0..2 {
        let socket = in_netns(&node.pod(i), || UdpSocket::bind((PODS[i], 5353)).expect("binds")).expect("enters");
        std::thread::spawn(move || {
            let mut buf = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(&[i as u8], from);
            }
        });
    }
    let (first, second) = (desired(&PODS[..1], "None"), desired(&PODS[1..2], "None"));
    commit(None, &first);
    let client = UdpSocket::bind("0.0.0.0:0").expect("binds");
    client.set_read_timeout(Some(WAIT)).expect("set");
    let ask = || {
        let mut buf = [9];
        client.send_to(b"?", (SERVICE, 53)).expect("sends");
        client.recv_from(&mut buf).expect("an answer");
        buf[0]
    };
    assert_eq!(ask(), 0);
    commit(Some(&first), &second);
    let mut socket = Socket::netfilter().expect("a socket");
    let stale: Vec<_> = nft::flows(&mut socket).expect("lists").into_iter().filter(|f| f.protocol == 17 && f.destination == (SERVICE, 53) && f.answering == PODS[0]).collect();
    assert_eq!(stale.len(), 1, "the flow is known by its service address");
    keles_proxy::forget_stale_udp(&mut socket, &first, &second).expect("forgets");
    assert_eq!(ask(), 1);
}

#[test]
fn a_host_port_reaches_its_pod_from_the_node_its_loopback_and_other_pods() {
    if outside("a_host_port_reaches_its_pod_from_the_node_its_loopback_and_other_pods") {
        return;
    }
    let node = Node::new();
    node.serve(1);
    let ports = json!([{"containerPort": 8000, "hostPort": 8080}, {"containerPort": 8000, "hostPort": 8081, "hostIP": "127.0.0.1"}]);
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Running", "podIP": PODS[1]}});
    let with = compute(&State { services: &[], slices: &[], pods: &[Arc::new(serde_json::from_value(pod).expect("a pod"))], node: "n" });
    commit(None, &with);
    let own = Ipv4Addr::new(10, 87, 0, 1);
    for to in [(own, 8080), (Ipv4Addr::LOCALHOST, 8080), (Ipv4Addr::LOCALHOST, 8081)] {
        assert_eq!(dial(to).unwrap_or_else(|e| panic!("{to:?}: {e}")), "1 10.87.0.1", "{to:?}");
    }
    assert_eq!(in_netns(&node.pod(0), || dial((own, 8080))).expect("enters").expect("answers")[..1], *"1");
    assert_eq!(dial((own, 8081)).expect_err("bound to the loopback alone").kind(), ErrorKind::ConnectionRefused);
    commit(Some(&with), &Rules::default());
    for to in [(own, 8080), (Ipv4Addr::LOCALHOST, 8080)] {
        assert_eq!(dial(to).expect_err("the pod is gone").kind(), ErrorKind::ConnectionRefused, "{to:?}");
    }
}
