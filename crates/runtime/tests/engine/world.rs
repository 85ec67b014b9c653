//! A test's own engine, folders, cgroup root and busybox image.

use keles_runtime::api::*;
use keles_runtime::{Engine, EngineOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub const LIMIT: Duration = Duration::from_secs(60);
static NEXT: AtomicU32 = AtomicU32::new(0);

pub struct World {
    pub dir: tempfile::TempDir,
    pub options: EngineOptions,
    pub engine: Engine,
    cgroups: Vec<PathBuf>,
}

/// A root folder with busybox and a few users.
fn build_image(root: &Path) {
    for d in ["bin", "etc", "tmp", "proc", "root", "var"] {
        std::fs::create_dir_all(root.join(d)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "true", "false", "id", "ls", "mkdir", "hostname", "mount", "stat", "dd", "head", "wc", "stty", "ps", "nc", "env", "pwd", "kill", "ip",
        "unshare", "chroot", "readlink", "grep", "seq", "tail", "test", "touch", "mknod", "tr", "usleep", "awk", "yes", "date",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/srv:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\nlogs:x:7:web\n").unwrap();
    std::fs::write(root.join("etc/not-executable"), "text").unwrap();
    symlink("/run", root.join("var/run")).unwrap();
}

fn cgroup_mounts() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|l| l.contains(" - cgroup")).map(|l| l.split(' ').nth(4).unwrap().into()).collect()
}

impl World {
    pub async fn new() -> World {
        let dir = tempfile::Builder::new().prefix("kr").tempdir().unwrap();
        build_image(&dir.path().join("image"));
        let name = format!("keles-rt-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut options = EngineOptions::new(dir.path().join("state"), dir.path().join("run"), &name);
        options.shim_exe = env!("CARGO_BIN_EXE_keles-shim").into();
        let engine = Engine::open(options.clone()).await.unwrap();
        let cgroups = cgroup_mounts().into_iter().map(|m| m.join(&name)).collect();
        World { dir, options, engine, cgroups }
    }

    pub fn pod(&self) -> SandboxConfig {
        SandboxConfig {
            name: "p".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            hostname: "p".into(),
            log_directory: self.dir.path().join("logs"),
            cgroup: "burstable/podu-1".into(),
            pid: NamespaceMode::Container,
            ..SandboxConfig::default()
        }
    }

    pub fn command(&self, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            name: "c".into(),
            layers: vec![self.dir.path().join("image")],
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            log_path: "c/0.log".into(),
            security: Security {
                seccomp: Seccomp::Unconfined,
                masked_paths: vec!["/proc/kcore".into(), "/proc/interrupts".into()],
                read_only_paths: vec!["/proc/sys".into()],
                ..Security::default()
            },
            ..ContainerConfig::default()
        }
    }
    pub fn shell(&self, script: &str) -> ContainerConfig {
        self.command(&["/bin/sh", "-c", script])
    }

    pub async fn sandbox(&self) -> String {
        self.engine.run_sandbox(self.pod()).await.unwrap().id
    }
    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.engine.create_container(sandbox, config).await.unwrap();
        if let Err(e) = self.engine.start_container(&id).await {
            panic!("{e}\n{}", self.shim_logs());
        }
        id
    }
    pub async fn exited(&self, id: &str) -> ContainerStatus {
        let mut events = self.engine.events();
        let wait = async {
            loop {
                let status = self.engine.container_status(id).await.unwrap();
                if status.state == ContainerState::Exited {
                    return status;
                }
                let _ = events.recv().await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("container does not end; {}", self.shim_logs()))
    }
    /// Runs one container in a new sandbox; its end and what it printed, a shell's errors among the rest: two streams have no order.
    pub async fn output_in(&self, pod: SandboxConfig, mut config: ContainerConfig) -> (ContainerStatus, String) {
        if let [shell, flag, script] = config.args.as_mut_slice()
            && (shell.as_str(), flag.as_str()) == ("/bin/sh", "-c")
        {
            script.insert_str(0, "exec 2>&1; ");
        }
        let sandbox = self.engine.run_sandbox(pod).await.unwrap().id;
        let id = self.start(&sandbox, config).await;
        let status = self.exited(&id).await;
        let text = self.log_text();
        self.engine.remove_sandbox(&sandbox).await.unwrap();
        std::fs::remove_file(self.log_path()).unwrap();
        (status, text)
    }
    pub async fn output(&self, config: ContainerConfig) -> String {
        self.output_in(self.pod(), config).await.1
    }
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("logs/c/0.log")
    }
    /// The log's text without times and tags.
    pub fn log_text(&self) -> String {
        let raw = std::fs::read_to_string(self.log_path()).unwrap();
        raw.lines()
            .map(|l| {
                let mut w = l.splitn(4, ' ').skip(2);
                let (tag, text) = (w.next().unwrap(), w.next().unwrap());
                format!("{text}{}", if tag == "F" { "\n" } else { "" })
            })
            .collect()
    }
    /// Waits until a running container has logged `word`; all it has printed.
    pub async fn logged(&self, id: &str, word: &str) -> String {
        let path = self.engine.container_status(id).await.unwrap().log_path;
        let end = tokio::time::Instant::now() + LIMIT * 3;
        loop {
            let raw = std::fs::read_to_string(&path).unwrap();
            let text: String = raw.lines().filter_map(|l| l.splitn(4, ' ').nth(3)).flat_map(|l| [l, "\n"]).collect();
            if text.contains(word) {
                return text;
            }
            assert!(tokio::time::Instant::now() < end, "{word:?} is never printed: {text}\n{}", self.shim_logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    pub async fn exec(&self, id: &str, script: &str) -> ExecOutput {
        self.engine.exec_sync(id, vec!["/bin/sh".into(), "-c".into(), script.into()], LIMIT).await.unwrap()
    }

    fn shim_logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.options.state_dir.join("sandboxes")).unwrap().flatten() {
            all += &std::fs::read_to_string(entry.path().join("shim.log")).unwrap_or_default();
        }
        all
    }

    /// Mounts, cgroups, pins, sockets and processes that belong to this world.
    pub fn leftovers(&self) -> Vec<String> {
        let here = self.dir.path().to_string_lossy().into_owned();
        let mut found: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|l| l.contains(&here)).map(|l| format!("mount {l}")).collect();
        for c in &self.cgroups {
            let pods = std::fs::read_dir(c.join("burstable")).into_iter().flatten().flatten().filter(|e| e.path().is_dir());
            found.extend(pods.map(|e| format!("cgroup {}", e.path().display())));
        }
        for folder in ["netns", "shim"] {
            found.extend(std::fs::read_dir(self.options.run_dir.join(folder)).unwrap().flatten().map(|e| format!("file {}", e.path().display())));
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).contains(&here) {
                found.push(format!("process {}", entry.path().display()));
            }
        }
        found
    }

    /// Removes all pods and asserts that nothing stays.
    pub async fn finish(self) {
        for s in self.engine.list_sandboxes().await.unwrap() {
            self.engine.remove_sandbox(&s.id).await.unwrap();
        }
        assert_eq!(self.leftovers(), Vec::<String>::new());
        for folder in ["sandboxes", "containers"] {
            assert_eq!(std::fs::read_dir(self.options.state_dir.join(folder)).unwrap().count(), 0, "{folder}");
        }
    }
}

impl Drop for World {
    /// After a failed test: end what runs, so that the machine stays clean.
    fn drop(&mut self) {
        for c in &self.cgroups {
            let _ = std::fs::write(c.join("cgroup.kill"), "1");
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).contains(&*self.dir.path().to_string_lossy())
                && let Ok(pid) = entry.file_name().to_string_lossy().parse()
                && pid != std::process::id() as i32
            {
                let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL);
            }
        }
        let pins = std::fs::read_dir(self.options.run_dir.join("netns")).into_iter().flatten().flatten();
        pins.for_each(|e| {
            let _ = rustix::mount::unmount(e.path(), rustix::mount::UnmountFlags::DETACH);
        });
        for c in &self.cgroups {
            remove_groups(c);
        }
    }
}

fn remove_groups(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_groups(&entry.path());
    }
    let _ = std::fs::remove_dir(folder);
}
