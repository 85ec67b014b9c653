//! Two `keles server` on one etcd: kubectl may ask either, one of them schedules and controls, and when it is killed the other goes on.

use keles_e2e::{keles, skip, until};
use keles_testkit::etcd::{self, Etcd};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A leader that was killed is waited for before another takes its place.
const SOON: Duration = Duration::from_secs(120);
const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: somewhere}
"#;

struct Server {
    dir: PathBuf,
    process: Child,
}

impl Server {
    fn start(dir: &Path, etcd: &Etcd) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port().to_string();
        std::fs::create_dir_all(dir).expect("a folder");
        let log = std::fs::File::create(dir.join("server.log")).expect("a log");
        let mut command = Command::new(keles());
        command.args(["server", "--disable-agent", "--datastore-endpoint", &etcd.endpoints(), "--https-listen-port", &port]).arg("--data-dir").arg(dir);
        for (flag, file) in [("--etcd-cafile", "ca.pem"), ("--etcd-certfile", "client.pem"), ("--etcd-keyfile", "client-key.pem")] {
            command.arg(flag).arg(etcd.file(file));
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the release binary (make build)");
        let mut server = Server { dir: dir.to_owned(), process };
        until("readiness", SOON, || {
            let ended = server.process.try_wait().ok().flatten();
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", std::fs::read_to_string(dir.join("server.log")).unwrap_or_default());
            server.kubectl(&["get", "--raw", "/readyz"])
        });
        server
    }
    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let o = Command::new("kubectl").arg("--kubeconfig").arg(self.dir.join("kubeconfig")).args(args).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        if o.status.success() { Ok(String::from_utf8_lossy(&o.stdout).into_owned()) } else { Err(String::from_utf8_lossy(&o.stderr).into_owned()) }
    }
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.kubectl(&[args, &["-o", "json"]].concat()).expect("answered")).expect("JSON")
    }
    fn apply(&self, text: &str) {
        let file = self.dir.join("apply.yaml");
        std::fs::write(&file, text).expect("written");
        self.kubectl(&["apply", "-f", &file.display().to_string()]).expect("applied");
    }
    fn kill(&mut self) {
        self.process.kill().and_then(|()| self.process.wait()).expect("SIGKILL ends it");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pods(s: &Server) -> BTreeSet<String> {
    s.json(&["get", "pods", "-l", "app=web"])["items"].as_array().expect("a list").iter().map(|p| p["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

fn holder(s: &Server, component: &str) -> Result<String, String> {
    s.kubectl(&["get", "lease", "-n", "kube-system", component, "-o", "jsonpath={.spec.holderIdentity}"])
}

#[test]
fn two_servers_on_one_etcd_are_one_cluster_and_one_of_them_may_be_killed() {
    if skip() || !etcd::installed() {
        return;
    }
    let etcd = Etcd::start(etcd::Options { tls: true, ..etcd::Options::default() }).expect("etcd starts");
    let dir = tempfile::tempdir().expect("a folder");
    let mut first = Server::start(&dir.path().join("first"), &etcd);
    let (from, to) = (dir.path().join("first/pki"), dir.path().join("second/pki"));
    until("the ServiceAccount key", SOON, || if from.join("sa.key").exists() { Ok(()) } else { Err("not yet".to_owned()) });
    std::fs::create_dir_all(&to).expect("a folder");
    for file in ["ca.crt", "ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key"] {
        std::fs::copy(from.join(file), to.join(file)).expect("copied");
    }
    let leader = until("a leader", SOON, || holder(&first, "kube-controller-manager").and_then(|h| if h.is_empty() { Err("nobody".into()) } else { Ok(h) }));
    let second = Server::start(&dir.path().join("second"), &etcd);
    second.apply(NODE);
    first.apply(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nowhere.example/none:v1}]}
"#,
    );
    until("pods", SOON, || if pods(&second).len() == 3 { Ok(()) } else { Err(format!("{:?}", pods(&second))) });
    assert_eq!(holder(&second, "kube-controller-manager"), Ok(leader.clone()), "one leads");
    let before = pods(&second);
    assert_eq!(before, pods(&first), "both say the same");
    first.kill();
    second.kubectl(&["scale", "deployment", "web", "--replicas=5"]).expect("the other answers");
    until("the other leads and works", SOON, || if pods(&second).len() == 5 { Ok(()) } else { Err(format!("{:?}", pods(&second))) });
    assert!(before.is_subset(&pods(&second)), "what was there stays");
    assert_ne!(holder(&second, "kube-controller-manager"), Ok(leader));
}
