//! After a restart: what lives is adopted, what has ended is told as it was, what was half made or half removed goes.

use super::client::ShimClient;
use super::container::new_status;
use super::{Container, Inner, Sandbox, apply_exit, blocking};
use crate::api::{ContainerState, Result};
use crate::wire::{Bundle, CONFIG_FILE, EXIT_FILE, Exit, Operation, SANDBOX_FILE, STARTED_FILE, STATE_FILE, SandboxFile, SandboxState, Started, read_file};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub fn read_exit(folder: &Path) -> Option<Exit> {
    read_file(&folder.join(EXIT_FILE)).ok()
}

pub async fn recover(inner: &Arc<Inner>) -> Result<()> {
    let i = inner.clone();
    blocking(move || i.load()).await?;
    let sandboxes: Vec<Arc<Sandbox>> = inner.sandboxes.lock().expect("no panic while held").values().cloned().collect();
    for sandbox in sandboxes {
        if !sandbox.state.lock().expect("no panic while held").stopped && inner.adopt(&sandbox).await {
            continue;
        }
        let (i, stopped) = (inner.clone(), sandbox.state.lock().expect("no panic while held").stopped);
        blocking(move || {
            if stopped {
                i.clear_sandbox(&sandbox.file)?;
            }
            i.end_lost_containers(&sandbox.file.id);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn folders(of: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(of).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

impl Inner {
    fn load(&self) -> Result<()> {
        let mut incomplete = Vec::new();
        for folder in folders(&self.options.state_dir.join("sandboxes")) {
            match (read_file::<SandboxFile>(&folder.join(SANDBOX_FILE)), read_file::<SandboxState>(&folder.join(STATE_FILE))) {
                (Ok(file), Ok(state)) => self.add_sandbox(file, state),
                (Ok(file), Err(_)) => incomplete.push(file),
                (Err(_), _) => self.remove_folder(&folder, STATE_FILE)?,
            }
        }
        for folder in folders(&self.options.state_dir.join("containers")) {
            match read_file::<Bundle>(&folder.join(CONFIG_FILE)) {
                Ok(bundle) if self.add_container(&bundle) => {}
                _ => self.remove_folder(&folder, CONFIG_FILE)?,
            }
        }
        for file in incomplete {
            tracing::info!(sandbox = file.id, "removing a sandbox that was not completed");
            self.discard_sandbox(&file)?;
        }
        Ok(())
    }

    fn add_sandbox(&self, file: SandboxFile, state: SandboxState) {
        let id = file.id.clone();
        let sandbox = Sandbox { file, state: Mutex::new(state), client: Mutex::new(None), lifecycle: tokio::sync::Mutex::default(), ready: AtomicBool::new(false) };
        self.sandboxes.lock().expect("no panic while held").insert(id, Arc::new(sandbox));
    }

    /// False: its sandbox is not known, so it belongs to nothing.
    fn add_container(&self, bundle: &Bundle) -> bool {
        let Ok(sandbox) = self.sandbox(&bundle.sandbox_id) else { return false };
        let Ok(group) = self.layout.group(&format!("{}/{}", sandbox.file.cgroup, bundle.id)) else { return false };
        let container = Container { bundle: bundle.clone(), pod_uid: sandbox.file.config.uid.clone(), group, status: watch::Sender::new(new_status(bundle)) };
        self.refresh(&container);
        self.containers.lock().expect("no panic while held").insert(bundle.id.clone(), Arc::new(container));
        true
    }

    /// Takes the status from the shim's files.
    fn refresh(&self, c: &Container) {
        let folder = self.container_folder(&c.bundle.id);
        let started: Option<Started> = read_file(&folder.join(STARTED_FILE)).ok();
        let exit = read_exit(&folder);
        c.status.send_modify(|s| {
            if let Some(started) = started.filter(|_| s.state == ContainerState::Created) {
                (s.state, s.pid, s.started_at_unix_ns) = (ContainerState::Running, Some(started.pid), started.at_unix_ns);
            }
            if let Some(exit) = exit {
                apply_exit(s, &exit);
            }
        });
    }

    /// Connects to the sandbox's shim; false when it is gone.
    async fn adopt(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> bool {
        let Ok(client) = ShimClient::connect(&sandbox.file.socket, Arc::downgrade(self), &sandbox.file.id) else { return false };
        // Answered once the shim counts us among its connections: later changes come as events, earlier ones are in files.
        if client.request(Operation::Setup, &[]).await.is_err() {
            return false;
        }
        *sandbox.client.lock().expect("no panic while held") = Some(client.clone());
        sandbox.ready.store(true, Ordering::Release);
        if client.is_gone() {
            self.shim_gone(&sandbox.file.id);
        }
        self.containers_of(&sandbox.file.id).iter().for_each(|c| self.refresh(c));
        true
    }
}
