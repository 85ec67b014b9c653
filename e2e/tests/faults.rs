//! kill -9 of the server and of a pod's shim at every step of the pod's life: it ends up right, and nothing is left.
//!
//! A step is what it leaves on the machine; the moment that is there, the process dies.

use keles_e2e::{Cluster, WEB, skip, until};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);

/// Where a pod's life shows.
struct Life {
    data: PathBuf,
    /// A folder of this machine that the pod's containers write into.
    told: tempfile::TempDir,
}

impl Life {
    fn has_told(&self, word: &str) -> bool {
        self.told.path().join(word).exists()
    }
    fn lines(&self, word: &str) -> usize {
        std::fs::read_to_string(self.told.path().join(word)).unwrap_or_default().lines().count()
    }
    fn any(&self, folder: &str) -> bool {
        is_filled(&self.data.join(folder))
    }
    /// The pod's shim, once there is one.
    fn shim(&self) -> Option<i32> {
        let of = |pid: &str| std::fs::read(format!("/proc/{pid}/cmdline")).map(|c| String::from_utf8_lossy(&c).into_owned()).unwrap_or_default();
        let data = self.data.display().to_string();
        let pids = std::fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.parse::<i32>().is_ok());
        pids.filter(|pid| of(pid).contains("\0shim\0") && of(pid).contains(&data)).find_map(|pid| pid.parse().ok())
    }
}

fn is_filled(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

type Step = (&'static str, fn(&Life) -> bool);

const BEGINNING: [Step; 6] = [
    ("has a folder", |l| l.any("pods")),
    ("has a sandbox", |l| l.any("runtime/sandboxes")),
    ("has a shim", |l| l.shim().is_some()),
    ("has a container", |l| l.any("runtime/containers")),
    ("is initialised", |l| l.has_told("init")),
    ("runs", |l| l.has_told("main")),
];

const END: [Step; 6] = [
    ("is to go", |_| true),
    ("runs its hook", |l| l.has_told("hook")),
    ("is told to stop", |l| l.has_told("stopped")),
    ("has no container", |l| !l.any("runtime/containers")),
    ("has no sandbox", |l| !l.any("runtime/sandboxes")),
    ("has no folder", |l| !l.any("pods")),
];

/// Waits for a step as closely as it can: what comes next is already under way.
fn reached(life: &Life, (name, is_there): Step) {
    let end = Instant::now() + SOON;
    while !is_there(life) {
        assert!(Instant::now() < end, "the pod never {name}");
        std::thread::yield_now();
    }
}

/// Asks for the pod, and does not wait for the answer: its life begins sooner.
fn create(c: &Cluster, name: &str) -> Life {
    let told = tempfile::Builder::new().prefix("keles-faults-").tempdir().expect("a folder");
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 30
  initContainers:
  - {{name: init, image: {WEB}, command: [sh, -c, echo >> /told/init], volumeMounts: [{{name: told, mountPath: /told}}]}}
  containers:
  - name: c
    image: {WEB}
    command: [sh, -c, "trap 'echo >> /told/stopped; exit 0' TERM; echo >> /told/main; while true; do sleep 0.05; done"]
    lifecycle: {{preStop: {{exec: {{command: [sh, -c, echo >> /told/hook]}}}}}}
    volumeMounts: [{{name: told, mountPath: /told}}]
  volumes:
  - {{name: told, hostPath: {{path: {}}}}}
"#,
        told.path().display()
    );
    std::fs::write(told.path().join("pod.yaml"), manifest).expect("written");
    let mut asking = c.spawn(&["create", "-f", &told.path().join("pod.yaml").display().to_string()]);
    // The server may be killed before it answers.
    std::thread::spawn(move || asking.wait());
    Life { data: c.data(), told }
}

fn gone(c: &Cluster, name: &str, life: &Life) {
    until(&format!("the end of {name}"), SOON, || match c.try_kubectl(&["get", "pod", name, "-o", "json"]) {
        Err(e) if e.contains("NotFound") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("nothing left on the machine", SOON, || {
        let left = c.leftovers();
        if left.is_empty() && !life.any("pods") { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

#[test]
fn a_pod_outlives_the_server_at_every_step_and_leaves_nothing() {
    if skip() {
        return;
    }
    let mut c = Cluster::start();
    for (begin, end) in BEGINNING.into_iter().zip(END.into_iter().cycle()) {
        eprintln!("the server dies when a pod {}, and again when it {}", begin.0, end.0);
        let life = create(&c, "p");
        reached(&life, begin);
        c.kill_server();
        c.start_server();
        until("the pod", SOON, || c.try_kubectl(&["get", "pod", "p"]));
        c.wait_ready("p");
        let status = c.json(&["get", "pod", "p"])["status"].clone();
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "{}: {status}", begin.0);
        assert_eq!(life.lines("main"), 1, "{}: the container ran once", begin.0);
        c.kubectl(&["delete", "pod", "p", "--wait=false"]);
        reached(&life, end);
        c.kill_server();
        c.start_server();
        gone(&c, "p", &life);
        assert_eq!((life.lines("stopped"), life.lines("main")), (1, 1), "{}: it stopped in peace, and did not come back", end.0);
        assert!(life.lines("hook") >= 1, "{}: its hook ran", end.0);
    }
}

#[test]
fn a_pod_outlives_its_shim_at_every_step_and_leaves_nothing() {
    if skip() {
        return;
    }
    let c = Cluster::start();
    for (name, is_there) in BEGINNING.into_iter().skip(2) {
        eprintln!("the shim dies when a pod {name}");
        let life = create(&c, "p");
        reached(&life, (name, is_there));
        let Some(shim) = life.shim() else { panic!("{name}: no shim") };
        assert!(std::process::Command::new("kill").args(["-9", &shim.to_string()]).status().expect("kill").success());
        until("another shim", SOON, || life.shim().filter(|pid| *pid != shim).ok_or_else(|| "none".to_owned()));
        c.wait_ready("p");
        assert_eq!(c.exec("p", &["echo", "here"]), "here\n", "{name}");
        c.kubectl(&["delete", "pod", "p", "--wait=false"]);
        gone(&c, "p", &life);
    }
}
