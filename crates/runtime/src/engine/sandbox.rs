//! Sandboxes: make, stop, remove.

use super::client::{ShimClient, end_shim};
use super::{Inner, Sandbox, blocking, file_exists, io_error, new_id, refused, step};
use crate::api::{NamespaceMode, Result, RuntimeError, SandboxConfig, SandboxStatus};
use crate::wire::{Operation, SANDBOX_FILE, STATE_FILE, SandboxFile, SandboxState, now_unix_ns, write_file};
use keles_linux::{fdpass, mount};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// How much of an id names sockets and pins, whose paths must be short.
const SHORT_ID_DIGITS: usize = 16;

/// mimalloc's options, read by the shim's process only.
const SMALL_ALLOCATOR: &[(&str, &str)] = &[("MIMALLOC_ARENA_EAGER_COMMIT", "0"), ("MIMALLOC_EAGER_COMMIT", "0"), ("MIMALLOC_ALLOW_THP", "0"), ("MIMALLOC_PURGE_DELAY", "0")];

impl Inner {
    pub(super) async fn run_sandbox(self: &Arc<Self>, config: SandboxConfig) -> Result<SandboxStatus> {
        let id = new_id();
        let file = self.sandbox_file(&id, config);
        match self.build_sandbox(&file).await {
            Ok(client) => {
                let sandbox = Arc::new(Sandbox {
                    file,
                    state: Mutex::default(),
                    client: Mutex::new(Some(client.clone())),
                    lifecycle: tokio::sync::Mutex::default(),
                    ready: AtomicBool::new(true),
                });
                self.sandboxes.lock().expect("no panic while held").insert(id.clone(), sandbox.clone());
                if client.is_gone() {
                    self.shim_gone(&id);
                }
                Ok(sandbox.status())
            }
            Err(e) => {
                let inner = self.clone();
                blocking(move || inner.discard_sandbox(&file)).await?;
                Err(e)
            }
        }
    }

    fn sandbox_file(&self, id: &str, config: SandboxConfig) -> SandboxFile {
        let short = &id[..SHORT_ID_DIGITS];
        let pinned = config.network != NamespaceMode::Node;
        SandboxFile {
            id: id.to_owned(),
            created_at_unix_ns: now_unix_ns(),
            cgroup: self.options.group_path(&config.cgroup),
            layout: self.layout.clone(),
            netns: pinned.then(|| self.options.run_dir.join("netns").join(short)),
            socket: self.options.run_dir.join("shim").join(short),
            containers: self.options.state_dir.join("containers"),
            config,
        }
    }

    async fn build_sandbox(self: &Arc<Self>, file: &SandboxFile) -> Result<Arc<ShimClient>> {
        let (inner, f) = (self.clone(), file.clone());
        let listener = blocking(move || inner.prepare_sandbox(&f)).await?;
        self.spawn_shim(&file.id, listener)?;
        let client = ShimClient::connect(&file.socket, Arc::downgrade(self), &file.id).map_err(io_error("connect to shim"))?;
        client.request(Operation::Setup, &[]).await.map_err(refused("set up sandbox"))?;
        write_file(&self.sandbox_folder(&file.id).join(STATE_FILE), &SandboxState::default()).map_err(io_error("write sandbox state"))?;
        Ok(client)
    }

    fn prepare_sandbox(&self, file: &SandboxFile) -> Result<OwnedFd> {
        let folder = self.sandbox_folder(&file.id);
        std::fs::create_dir(&folder).map_err(io_error(format!("make {}", folder.display())))?;
        write_file(&folder.join(SANDBOX_FILE), file).map_err(io_error("write sandbox file"))?;
        let group = self.layout.group(&file.cgroup).map_err(step("pod cgroup"))?;
        group.create().map_err(step("pod cgroup"))?;
        group.inherit_cpuset().map_err(step("pod cgroup"))?;
        group.limit(&file.config.resources.limits(false)).map_err(step("pod cgroup"))?;
        fdpass::listen(&file.socket).map_err(io_error(format!("listen on {} (at most 107 bytes; use a shorter run folder)", file.socket.display())))
    }

    /// Spawned without copying this process; it takes the socket as standard input and lives on when we end.
    fn spawn_shim(&self, id: &str, listener: OwnedFd) -> Result<()> {
        let folder = self.sandbox_folder(id);
        let log = std::fs::File::create(folder.join("shim.log")).map_err(io_error("make shim.log"))?;
        let log_too = log.try_clone().map_err(io_error("make shim.log"))?;
        let mut command = tokio::process::Command::new(format!("/proc/self/fd/{}", self.executable.as_raw_fd()));
        command.arg0("keles").arg("shim").arg("--sandbox").arg(&folder).env_clear();
        // The binary's allocator is tuned for the server; a shim wants to be small.
        command.envs(SMALL_ALLOCATOR.iter().copied());
        command.stdin(Stdio::from(listener)).stdout(Stdio::from(log)).stderr(Stdio::from(log_too));
        let mut child = command.spawn().map_err(io_error(format!("start {} shim", self.options.shim_exe.display())))?;
        let id = id.to_owned();
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await
                && !status.success()
            {
                tracing::warn!(sandbox = id, %status, "shim ended");
            }
        });
        Ok(())
    }

    pub(super) fn set_network(&self, sandbox_id: &str, ips: Vec<String>) -> Result<()> {
        let sandbox = self.sandbox(sandbox_id)?;
        let mut state = sandbox.state.lock().expect("no panic while held");
        state.ips = ips;
        write_file(&self.sandbox_folder(sandbox_id).join(STATE_FILE), &*state).map_err(io_error("write sandbox state"))
    }

    pub(super) async fn stop_sandbox(self: &Arc<Self>, sandbox_id: &str) -> Result<()> {
        let sandbox = match self.sandbox(sandbox_id) {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            r => r?,
        };
        let _one_at_a_time = sandbox.lifecycle.lock().await;
        self.stop_locked(&sandbox).await
    }

    async fn stop_locked(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        {
            // Written first: after a crash the next open finishes the stop.
            let mut state = sandbox.state.lock().expect("no panic while held");
            if !state.stopped {
                state.stopped = true;
                write_file(&self.sandbox_folder(&sandbox.file.id).join(STATE_FILE), &*state).map_err(io_error("write sandbox state"))?;
            }
        }
        sandbox.ready.store(false, Ordering::Release);
        let (inner, file) = (self.clone(), sandbox.file.clone());
        blocking(move || {
            inner.clear_sandbox(&file)?;
            inner.end_lost_containers(&file.id);
            Ok(())
        })
        .await
    }

    /// Ends the shim and everything in the pod, then takes away what it leaves on the host. Fine when done before. Blocks.
    pub(super) fn clear_sandbox(&self, file: &SandboxFile) -> Result<()> {
        end_shim(&file.socket).map_err(io_error("end shim"))?;
        self.destroy_groups(file)?;
        if let Some(pin) = &file.netns {
            mount::unpin_namespace(pin).map_err(io_error(format!("unpin {}", pin.display())))?;
        }
        match std::fs::remove_file(&file.socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("remove shim socket")(e)),
            _ => Ok(()),
        }
    }

    /// The pod's group may be shared by a later sandbox of the same pod, which must live on.
    fn destroy_groups(&self, file: &SandboxFile) -> Result<()> {
        for c in self.containers_of(&file.id) {
            c.group.destroy().map_err(step("remove container cgroup"))?;
        }
        let shared = self.sandboxes.lock().expect("no panic while held").values().any(|s| s.file.id != file.id && s.file.cgroup == file.cgroup && s.ready.load(Ordering::Acquire));
        if shared || file.cgroup == self.options.cgroup_root {
            return Ok(());
        }
        self.layout.group(&file.cgroup).and_then(|g| g.destroy()).map_err(step("remove pod cgroup"))
    }

    /// Takes away a sandbox that was not completed. Blocks.
    pub(super) fn discard_sandbox(&self, file: &SandboxFile) -> Result<()> {
        self.clear_sandbox(file)?;
        self.remove_folder(&self.sandbox_folder(&file.id), STATE_FILE)
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, sandbox_id: &str) -> Result<()> {
        let sandbox = match self.sandbox(sandbox_id) {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            r => r?,
        };
        let _one_at_a_time = sandbox.lifecycle.lock().await;
        self.stop_locked(&sandbox).await?;
        for c in self.containers_of(sandbox_id) {
            self.remove_container(&c.bundle.id).await?;
        }
        let (inner, id) = (self.clone(), sandbox_id.to_owned());
        blocking(move || inner.remove_folder(&inner.sandbox_folder(&id), STATE_FILE)).await?;
        self.sandboxes.lock().expect("no panic while held").remove(sandbox_id);
        Ok(())
    }

    /// Removes `mark` first, so that a folder half removed is known as such at the next open.
    pub(super) fn remove_folder(&self, folder: &std::path::Path, mark: &str) -> Result<()> {
        if !file_exists(folder) {
            return Ok(());
        }
        let _ = std::fs::remove_file(folder.join(mark));
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error(format!("remove {}", folder.display()))(e)),
            _ => Ok(()),
        }
    }
}
