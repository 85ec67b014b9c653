//! The methods of containers.

use crate::container_config::{self, Input};
use crate::security::{self, Host};
use crate::status::OfImage;
use crate::{Cri, events, faults, record, resources, status};
use keles_cri::{
    CheckpointContainerRequest, CheckpointContainerResponse, Container, ContainerConfig, ContainerEventType, ContainerFilter, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, CreateContainerResponse, ExecSyncRequest, ExecSyncResponse, LinuxContainerUser, ListContainersRequest, ListContainersResponse, RemoveContainerRequest,
    RemoveContainerResponse, ReopenContainerLogRequest, ReopenContainerLogResponse, StartContainerRequest, StartContainerResponse, StopContainerRequest, StopContainerResponse,
    UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
};
use keles_grpc::{Code, Status};
use keles_images::Image;
use keles_runtime::api::{ContainerState, ContainerStatus, PodRuntime};
use keles_runtime::process;
use std::path::PathBuf;
use std::time::Duration;

/// What a command may print that is run to its end, less than a message by what surrounds it there.
const OUTPUT_BYTES_MAX: usize = keles_grpc::MESSAGE_BYTES_MAX - 1024;
/// Of it what errors have, however much else there is.
const ERRORS_BYTES_MIN: usize = 64 << 10;

fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

impl Cri {
    pub async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        let asked = request.config.ok_or_else(|| faults::invalid("config of the container is missing"))?;
        let sandbox = self.sandbox(&request.pod_sandbox_id).await?;
        let metadata = asked.metadata.clone().unwrap_or_default();
        let name = format!("container {}_{} of sandbox {}", metadata.name, metadata.attempt, sandbox.id);
        let _held = self.names.hold(name.clone())?;
        let others = self.containers_of(&sandbox.id).await?;
        if let Some(other) = others.iter().find(|other| (&other.name, other.attempt) == (&metadata.name, metadata.attempt)) {
            return Err(Status::new(Code::AlreadyExists, format!("{name} exists as {}; remove it or count metadata.attempt up", other.id)));
        }
        let wanted = asked.image.as_ref().map(|spec| spec.image.as_str()).filter(|image| !image.is_empty()).ok_or_else(|| faults::invalid("image of the container is missing"))?;
        let image = self.present(wanted).await?;
        // What was kept with the sandbox counts: the service says that it never changes.
        let said = record::of_sandbox(&sandbox).config.unwrap_or_default();
        let shared = self.files.shared(&sandbox.id, &said, &crate::sandbox_config::hostname(&said))?;
        let image_volumes = self.image_volumes(&sandbox.id, &asked).await?;
        let input = Input { asked: &asked, sandbox: &sandbox, said: &said, image: &image, shared, image_volumes, host: Host::look() };
        let config = container_config::translate(input)?;
        let id = self.engine.create_container(&sandbox.id, config).await.map_err(faults::of_runtime)?;
        Ok(CreateContainerResponse { container_id: id })
    }

    /// An image that has to be here.
    async fn present(&self, wanted: &str) -> Result<Image, Status> {
        let found = self.images.get(wanted).await.map_err(faults::of_images)?;
        found.ok_or_else(|| Status::new(Code::NotFound, format!("image {wanted:?} is not on this node; pull it first")))
    }

    async fn image_volumes(&self, sandbox_id: &str, asked: &ContainerConfig) -> Result<Vec<PathBuf>, Status> {
        let mut places = Vec::new();
        for (spec, part) in asked.mounts.iter().filter_map(|mount| mount.image.as_ref().map(|image| (image, &mount.image_sub_path))) {
            let image = self.present(&spec.image).await?;
            places.push(self.files.image_volume(sandbox_id, &image.id, &image.layers, part)?);
        }
        Ok(places)
    }

    pub async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Status> {
        let container = self.container(&request.container_id).await?;
        if container.state != ContainerState::Created {
            return Err(Status::new(Code::FailedPrecondition, format!("container {} is in state {:?}; only a new one can be started", container.id, container.state)));
        }
        self.engine.start_container(&container.id).await.map_err(faults::of_runtime)?;
        Ok(StartContainerResponse {})
    }

    pub async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Status> {
        if let Some(container) = faults::unless_absent(self.container(&request.container_id).await)? {
            self.engine.stop_container(&container.id, seconds(request.timeout)).await.map_err(faults::of_runtime)?;
        }
        Ok(StopContainerResponse {})
    }

    pub async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Status> {
        if let Some(container) = faults::unless_absent(self.container(&request.container_id).await)? {
            self.remove(&container).await?;
        }
        Ok(RemoveContainerResponse {})
    }

    /// Killed if it runs.
    pub async fn remove(&self, container: &ContainerStatus) -> Result<(), Status> {
        self.engine.remove_container(&container.id).await.map_err(faults::of_runtime)?;
        self.resources.remove(&container.id);
        self.rates.forget(&container.id);
        let gone = events::event(self, &container.id, &container.sandbox_id, ContainerEventType::Deleted).await;
        self.send(gone).await;
        Ok(())
    }

    pub async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Status> {
        Ok(ListContainersResponse { containers: self.containers(request.filter).await? })
    }

    pub async fn containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.engine.list_containers().await.map_err(faults::of_runtime)?;
        let fits = |item: &Container| {
            item.id.starts_with(&filter.id)
                && item.pod_sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|state| state.state == item.state)
                && status::has_labels(&item.labels, &filter.label_selector)
        };
        Ok(all.iter().map(status::container_item).filter(fits).collect())
    }

    pub async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status> {
        let container = self.container(&request.container_id).await?;
        let mut answer = ContainerStatusResponse { status: Some(self.status_of(&container).await), ..ContainerStatusResponse::default() };
        if request.verbose {
            let info = serde_json::json!({"pid": container.pid, "sandboxID": container.sandbox_id, "signal": container.signal});
            answer.info.insert("info".into(), info.to_string());
        }
        Ok(answer)
    }

    pub async fn status_of(&self, container: &ContainerStatus) -> keles_cri::ContainerStatus {
        status::container(container, &self.resources, self.of_image(container).await.unwrap_or_default())
    }

    /// Who its first process is (whom the client asked for, looked up in the image's own files) and what ends it.
    async fn of_image(&self, container: &ContainerStatus) -> Option<OfImage> {
        let said = record::of_container(container);
        let image = self.images.get(&container.image_id).await.ok().flatten()?;
        let stop_signal = process::signal_number(&image.config.stop_signal);
        let context = said.linux.and_then(|linux| linux.security_context);
        let security = security::translate(context.as_ref(), &image.config.user, Host { selinux: false, apparmor: false }).ok()?;
        let user = tokio::task::spawn_blocking(move || keles_runtime::user_of_layers(&security, &image.layers)).await.ok().flatten();
        let user = user.map(|user| LinuxContainerUser { uid: user.uid.into(), gid: user.gid.into(), supplemental_groups: user.groups.into_iter().map(i64::from).collect() });
        Some(OfImage { user, stop_signal })
    }

    pub async fn update_container_resources(&self, request: UpdateContainerResourcesRequest) -> Result<UpdateContainerResourcesResponse, Status> {
        let container = self.container(&request.container_id).await?;
        if container.state == ContainerState::Exited {
            return Err(Status::new(Code::FailedPrecondition, format!("container {} has exited", container.id)));
        }
        let Some(new) = request.linux else { return Ok(UpdateContainerResourcesResponse {}) };
        let first = record::of_container(&container).linux.and_then(|linux| linux.resources);
        let whole = resources::changed(&self.resources.get(&container.id).or(first).unwrap_or_default(), &new);
        // Whole and not the change alone: quota and period are one file.
        self.engine.update_resources(&container.id, resources::of_linux(&whole)?).await.map_err(faults::of_runtime)?;
        self.resources.set(&container.id, &whole)?;
        Ok(UpdateContainerResourcesResponse {})
    }

    pub async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse, Status> {
        let container = self.container(&request.container_id).await?;
        if container.state != ContainerState::Running {
            return Err(Status::new(Code::FailedPrecondition, format!("container {} is not running", container.id)));
        }
        self.engine.reopen_log(&container.id).await.map_err(faults::of_runtime)?;
        Ok(ReopenContainerLogResponse {})
    }

    pub async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        let container = self.container(&request.container_id).await?;
        if request.cmd.is_empty() {
            return Err(faults::invalid("cmd is empty"));
        }
        let output = self.engine.exec_sync(&container.id, request.cmd, seconds(request.timeout)).await.map_err(faults::of_runtime)?;
        let (mut stdout, mut stderr) = (output.stdout, output.stderr);
        // Both together must fit a message, or the client gets nothing; what goes beyond is lost (CVE-2022-1708).
        stdout.truncate(OUTPUT_BYTES_MAX);
        stderr.truncate(OUTPUT_BYTES_MAX - stdout.len().min(OUTPUT_BYTES_MAX - ERRORS_BYTES_MIN));
        stdout.truncate(OUTPUT_BYTES_MAX - stderr.len());
        Ok(ExecSyncResponse { stdout, stderr, exit_code: output.exit_code })
    }

    pub async fn checkpoint_container(&self, request: CheckpointContainerRequest) -> Result<CheckpointContainerResponse, Status> {
        let container = self.container(&request.container_id).await?;
        Err(faults::refused("CheckpointContainer", format!("container {} cannot be checkpointed by this runtime", container.id)))
    }
}
