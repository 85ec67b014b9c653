//! Containers: create, start, stop, remove, figures.

use super::{Container, Inner, RequestError, blocking, io_error, new_id, refused, step};
use crate::api::{AppArmor, ContainerConfig, ContainerState, ContainerStatus, DiskUsage, Interface, ProcessUsage, Resources, Result, RuntimeError, Stats};
use crate::apparmor;
use crate::steps::devices;
use crate::usage;
use crate::wire::{Bundle, CONFIG_FILE, Operation, START_ERROR_CODE, now_unix_ns, write_file};
use keles_linux::capabilities::Set;
use keles_linux::cgroup::Group;
use keles_linux::signal::{SIGKILL, SIGTERM};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// How long a killed container may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(15);

impl Inner {
    pub(super) async fn create_container(self: &Arc<Self>, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.ready.load(Ordering::Acquire) {
            return Err(RuntimeError::Step { step: "create container", message: format!("sandbox {sandbox_id} is not running") });
        }
        // Told now rather than by a process that cannot start: the pod waits instead of failing.
        let security = &config.security;
        if !security.privileged {
            Set::default_of_containers().changed(&security.add_capabilities, &security.drop_capabilities).map_err(step("capabilities"))?;
        }
        let mut config = config;
        // Its processes, those of `exec` too, come under what was found now.
        let asked = config.security.clone();
        let profile = blocking(move || apparmor::Host::of(Path::new("/")).profile_for(&asked).map_err(step("AppArmor"))).await?;
        config.security.apparmor = profile.map(AppArmor::Localhost);
        let id = new_id();
        let log_path = sandbox.file.config.log_directory.join(&config.log_path);
        let bundle = Bundle { id: id.clone(), sandbox_id: sandbox_id.to_owned(), created_at_unix_ns: now_unix_ns(), log_path, config };
        let group = self.layout.group(&format!("{}/{id}", sandbox.file.cgroup)).map_err(step("container cgroup"))?;
        let users = sandbox.file.config.users.map_or(0, |users| users.first);
        let (inner, b, g) = (self.clone(), bundle.clone(), group.clone());
        blocking(move || {
            inner.build_container(&b, &g, users).inspect_err(|_| {
                // The first error is the one to tell; what stays is removed at the next open.
                let _ = g.destroy();
                let _ = inner.remove_folder(&inner.container_folder(&b.id), CONFIG_FILE);
            })
        })
        .await?;
        let status = watch::Sender::new(new_status(&bundle));
        let container = Arc::new(Container { bundle, pod_uid: sandbox.file.config.uid.clone(), group, status });
        self.containers.lock().expect("no panic while held").insert(id.clone(), container.clone());
        self.emit(&container, ContainerState::Created);
        Ok(id)
    }

    /// `first_id` is what the pod's user namespace shows as 0.
    fn build_container(&self, bundle: &Bundle, group: &Group, first_id: u32) -> Result<()> {
        let folder = self.container_folder(&bundle.id);
        for name in ["rootfs", "upper", "work"] {
            std::fs::create_dir_all(folder.join(name)).map_err(io_error(format!("make {}", folder.display())))?;
        }
        copy_root_metadata(bundle.config.layers.first(), &folder.join("upper"), first_id).map_err(io_error("prepare root"))?;
        group.create().map_err(step("container cgroup"))?;
        group.inherit_cpuset().map_err(step("container cgroup"))?;
        group.limit(&bundle.config.resources.limits(true)).map_err(step("container cgroup"))?;
        group.allow_devices(&devices::rules(bundle.config.security.privileged, &bundle.config.devices)).map_err(step("container cgroup"))?;
        create_log(&bundle.log_path).map_err(io_error(format!("make log {}", bundle.log_path.display())))?;
        write_file(&folder.join(CONFIG_FILE), bundle).map_err(io_error("write container configuration"))
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let client = self.client_of(&container)?;
        match client.request(Operation::Start { id: id.to_owned() }, &[]).await {
            Ok(_) => Ok(()),
            Err(RequestError::Failed(failure)) => Err(RuntimeError::Start { message: failure.for_users(), exit_code: START_ERROR_CODE }),
            Err(e) => Err(refused("start container")(e)),
        }
    }

    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let container = match self.container(id) {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            r => r?,
        };
        if container.status.borrow().state != ContainerState::Running {
            return Ok(());
        }
        let signal = container.bundle.config.stop_signal.unwrap_or(SIGTERM);
        if !grace.is_zero() {
            self.signal(&container, signal, false).await?;
            if wait_exited(&container, grace).await {
                return Ok(());
            }
        }
        self.kill(&container).await
    }

    async fn kill(&self, container: &Container) -> Result<()> {
        self.signal(container, SIGKILL, true).await?;
        if wait_exited(container, KILL_LIMIT).await {
            return Ok(());
        }
        Err(RuntimeError::Step { step: "stop container", message: format!("container {} does not end after SIGKILL", container.bundle.id) })
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<()> {
        let operation = Operation::Kill { id: container.bundle.id.clone(), signal, all };
        let Ok(client) = self.client_of(container) else { return Ok(()) };
        match client.request(operation, &[]).await {
            // Without its shim it is being ended already.
            Ok(_) | Err(RequestError::Gone) => Ok(()),
            Err(e) => Err(refused("signal container")(e)),
        }
    }

    pub(super) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = match self.container(id) {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            r => r?,
        };
        if container.status.borrow().state == ContainerState::Running {
            self.kill(&container).await?;
        }
        if let Ok(client) = self.client_of(&container) {
            match client.request(Operation::Forget { id: id.to_owned() }, &[]).await {
                Ok(_) | Err(RequestError::Gone) => {}
                Err(e) => return Err(refused("remove container")(e)),
            }
        }
        let (inner, c) = (self.clone(), container.clone());
        blocking(move || {
            c.group.destroy().map_err(step("remove container cgroup"))?;
            inner.remove_folder(&inner.container_folder(&c.bundle.id), CONFIG_FILE)
        })
        .await?;
        self.containers.lock().expect("no panic while held").remove(id);
        Ok(())
    }

    pub(super) async fn stats(&self, id: &str) -> Result<Stats> {
        let no_group = step("cgroup of figures");
        if let Ok(c) = self.container(id) {
            let group = c.group.clone();
            return Ok(Stats::new(group.path().to_owned(), blocking(move || group.figures()).await, Vec::new()));
        }
        let (cgroup, netns) = match id {
            "" => (self.options.cgroup_root.clone(), None),
            id => {
                let sandbox = self.sandbox(id).map_err(|_| RuntimeError::NotFound { what: "container", id: id.to_owned() })?;
                (sandbox.file.cgroup.clone(), sandbox.file.netns.clone())
            }
        };
        let group = self.layout.group(&cgroup).map_err(no_group)?;
        let (figures, interfaces) = blocking(move || (group.figures(), netns.map(|pin| interfaces_in(&pin)).unwrap_or_default())).await;
        Ok(Stats::new(cgroup, figures, interfaces))
    }

    pub(super) async fn written(&self, id: &str) -> Result<DiskUsage> {
        let folder = self.container_folder(&self.container(id)?.bundle.id).join("upper");
        Ok(blocking(move || usage::disk(&folder)).await)
    }

    pub(super) async fn processes(&self, id: &str) -> Result<ProcessUsage> {
        let group = self.container(id)?.group.clone();
        Ok(blocking(move || usage::processes(Path::new("/proc"), &group.members())).await)
    }

    pub(super) async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        self.client_of(&container)?.request(Operation::ReopenLog { id: id.to_owned() }, &[]).await.map(drop).map_err(refused("reopen log"))
    }

    pub(super) async fn update_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let container = self.container(id)?;
        blocking(move || container.group.limit(&resources.limits(true)).map_err(step("container cgroup"))).await
    }

    pub(super) async fn update_sandbox_resources(&self, id: &str, resources: Resources) -> Result<()> {
        let group = self.layout.group(&self.sandbox(id)?.file.cgroup).map_err(step("pod cgroup"))?;
        blocking(move || group.limit(&resources.limits(false)).map_err(step("pod cgroup"))).await
    }

    pub(super) async fn limit_group(&self, group: &str, resources: Resources) -> Result<()> {
        let group = self.layout.group(&self.options.group_path(group)).map_err(step("cgroup of pods"))?;
        let made = move || group.create().and_then(|()| group.inherit_cpuset()).and_then(|()| group.limit(&resources.limits(false)));
        blocking(move || made().map_err(step("cgroup of pods"))).await
    }
}

/// None where the sandbox's network is gone.
fn interfaces_in(pin: &Path) -> Vec<Interface> {
    let read = keles_linux::netlink::in_netns(pin, || std::fs::read_to_string("/proc/thread-self/net/dev"));
    read.and_then(|r| r).map(|text| usage::interfaces(&text)).unwrap_or_default()
}

pub(super) fn new_status(bundle: &Bundle) -> ContainerStatus {
    let c = &bundle.config;
    ContainerStatus {
        id: bundle.id.clone(),
        sandbox_id: bundle.sandbox_id.clone(),
        name: c.name.clone(),
        attempt: c.attempt,
        state: ContainerState::Created,
        created_at_unix_ns: bundle.created_at_unix_ns,
        started_at_unix_ns: 0,
        finished_at_unix_ns: 0,
        exit_code: 0,
        signal: 0,
        reason: String::new(),
        message: String::new(),
        image: c.image.clone(),
        image_id: c.image_id.clone(),
        log_path: bundle.log_path.clone(),
        labels: c.labels.clone(),
        annotations: c.annotations.clone(),
        pid: None,
    }
}

/// True once it has exited.
async fn wait_exited(container: &Container, limit: Duration) -> bool {
    let mut status = container.status.subscribe();
    tokio::time::timeout(limit, status.wait_for(|s| s.state == ContainerState::Exited)).await.is_ok_and(|r| r.is_ok())
}

/// The overlay's root shows the upper folder's owner and mode: take the image's, as the pod's user namespace sees them.
fn copy_root_metadata(top_layer: Option<&PathBuf>, upper: &Path, first_id: u32) -> std::io::Result<()> {
    let (mode, uid, gid) = match top_layer {
        Some(layer) => std::fs::metadata(layer).map(|m| (m.mode() & 0o7777, m.uid(), m.gid()))?,
        None => (0o755, 0, 0),
    };
    std::os::unix::fs::chown(upper, Some(first_id + uid), Some(first_id + gid))?;
    std::fs::set_permissions(upper, std::fs::Permissions::from_mode(mode))
}

/// Before start, so that a reader finds it.
fn create_log(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).mode(0o640).open(path).map(drop)
}
