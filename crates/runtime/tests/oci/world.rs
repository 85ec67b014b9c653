//! A test's own bundle, state folder and containers; looked over for what is left when it ends.

use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const LIMIT: Duration = Duration::from_secs(60);
const OURS: &str = env!("CARGO_BIN_EXE_keles-oci");
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct World {
    pub dir: tempfile::TempDir,
    pub id: String,
    /// The runtime's command line up to its global flags.
    pub runtime: Vec<String>,
}

/// What a call ended with.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    #[track_caller]
    pub fn fine(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
    #[track_caller]
    pub fn refused(self, because: &str) {
        assert!(self.code != 0 && self.err.contains(because), "{because:?} is not in {self:?}");
    }
}

fn ended(output: Output) -> Ended {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Ended { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::Builder::new().prefix("koci").tempdir().unwrap();
        // Others than root must reach what is inside.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let id = format!("koci-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = dir.path().join("state").display().to_string();
        let w = World { dir, id, runtime: vec![OURS.into(), "--root".into(), root] };
        build_root(&w.rootfs());
        w
    }
    /// The same bundle under another runtime.
    pub fn with(&self, program: &str) -> World {
        let dir = tempfile::Builder::new().prefix("koci").tempdir().unwrap();
        let root = dir.path().join("state").display().to_string();
        // crun 1.8 refuses a host of both versions: it gets a mount namespace in which there is only the first.
        let alone = "for m in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount $m; done; exec \"$@\"";
        let mut runtime: Vec<String> = if program == "crun" { ["unshare", "-m", "sh", "-c", alone, "sh"].map(String::from).into() } else { Vec::new() };
        runtime.extend([program.into(), "--root".into(), root]);
        World { dir, id: format!("{}-{program}", self.id), runtime }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn rootfs(&self) -> PathBuf {
        self.path("rootfs")
    }

    /// The default bundle of `oci spec`, running this, without a terminal and with a writable root.
    pub fn bundle(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let mut spec = keles_oci::runtime_default::default_spec(None);
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!(args);
        spec["root"]["readonly"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", self.id));
        change(&mut spec);
        std::fs::write(self.path("config.json"), spec.to_string()).unwrap();
    }
    pub fn shell(&self, script: &str, change: impl FnOnce(&mut Value)) {
        self.bundle(&["sh", "-c", script], change);
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(&self.runtime[0]);
        c.args(&self.runtime[1..]).args(args).current_dir(self.dir.path());
        c
    }
    /// Runs a command that leaves nobody behind who holds its output.
    pub fn call(&self, args: &[&str]) -> Ended {
        ended(self.command(args).stdin(Stdio::null()).output().unwrap())
    }
    pub fn on(&self, command: &str) -> Ended {
        self.call(&[command, &self.id])
    }
    /// Runs a container to its end.
    pub fn run(&self) -> Ended {
        self.call(&["run", &self.id])
    }
    /// `create` or `run -d`: the container's output goes to the file `out`, and so does ours.
    pub fn begin(&self, args: &[&str]) -> Ended {
        let (out, err) = (self.path("out"), self.path("err"));
        let mut all = args.to_vec();
        all.push(&self.id);
        let status = self.command(&all).stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).status().unwrap();
        let text = |p: &Path| std::fs::read_to_string(p).unwrap_or_default();
        Ended { code: status.code().unwrap_or(-1), out: text(&out), err: text(&err) }
    }
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.path("out")).unwrap_or_default()
    }
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.on("state").fine()).unwrap()
    }
    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !is_so() {
            assert!(Instant::now() < end, "{what} does not come: {:?} {}", self.output(), self.call(&["list"]).out);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    pub fn groups(&self) -> Vec<PathBuf> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let trees = mounts.lines().filter(|l| l.contains(" - cgroup")).filter_map(|l| l.split(' ').nth(4).map(PathBuf::from));
        trees.map(|t| t.join(&self.id)).filter(|p| p.exists()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.call(&["delete", "--force", &self.id]);
        let left = self.groups();
        if !std::thread::panicking() {
            assert_eq!(left, Vec::<PathBuf>::new(), "control groups are left");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!mounts.contains(&*self.dir.path().to_string_lossy()), "mounts are left");
        }
    }
}

fn build_root(root: &Path) {
    for d in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "run", "var", "data"] {
        std::fs::create_dir_all(root.join(d)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in String::from_utf8_lossy(&applets.stdout).lines().filter(|a| *a != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n").unwrap();
}

/// Whether a program of the machine is there; says when not, and fails where nothing may be skipped.
pub fn installed(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("KELES_TEST_NO_SKIP").is_none(), "{program} is not installed (make deps)");
        eprintln!("SKIPPED: {program} is not installed (make deps)");
    }
    there
}
