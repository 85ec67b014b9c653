//! Containers: what the runtime is told of them, and what it tells.

use crate::call::{LONG, USUAL, failed, gone, seconds};
use crate::{Inner, Known, SANDBOX_ID, held, make_folder, sandbox};
use keles_cri as cri;
use keles_linux::cgroup::{SWAP_MAX, Version, memory_and_swap};
use keles_runtime::api::{AppArmor, ContainerConfig, ContainerState, ContainerStatus, Device, Mount, Propagation, Resources, Result, RuntimeError, Seccomp, Security};
use std::path::Path;
use std::time::Duration;

impl Inner {
    pub(crate) async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String> {
        let known = self.known(sandbox_id).await?.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: sandbox_id.to_owned() })?;
        if let Some(folder) = config.log_path.parent() {
            make_folder(&known.config.log_directory.join(folder))?;
        }
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(self.container_config(sandbox_id, &known, &config)?),
            sandbox_config: Some(self.sandbox_config(&known.config)),
        };
        let made: std::result::Result<cri::CreateContainerResponse, _> = self.caller.raw(cri::CREATE_CONTAINER, &request, LONG).await;
        // The runtime's own words, as upstream shows them: its users look for those.
        let made = made.map_err(|status| RuntimeError::Step { step: "create container", message: status.message })?;
        held(&self.places).insert(made.container_id.clone(), sandbox_id.to_owned());
        Ok(made.container_id)
    }

    fn container_config(&self, sandbox_id: &str, known: &Known, config: &ContainerConfig) -> Result<cri::ContainerConfig> {
        let mut labels = config.labels.clone();
        labels.extend(self.owned());
        let mut annotations = config.annotations.clone();
        annotations.insert(SANDBOX_ID.into(), sandbox_id.to_owned());
        let namespaces = sandbox::namespaces(&known.config, config.pid_target.as_deref());
        Ok(cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: config.name.clone(), attempt: config.attempt }),
            image: Some(cri::ImageSpec { image: config.image_id.clone(), user_specified_image: config.image.clone(), ..Default::default() }),
            command: config.command.clone(),
            args: config.args.clone(),
            working_dir: config.working_dir.clone(),
            envs: config.env.iter().map(|(key, value)| cri::KeyValue { key: key.clone(), value: value.clone() }).collect(),
            mounts: config.mounts.iter().map(mount).collect(),
            devices: config.devices.iter().map(device).collect::<Result<_>>()?,
            labels,
            annotations,
            log_path: config.log_path.display().to_string(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            linux: Some(cri::LinuxContainerConfig {
                resources: Some(resources(&config.resources, self.groups.memory_version())),
                security_context: Some(security(&config.security, namespaces)),
            }),
            cdi_devices: Vec::new(),
            stop_signal: config.stop_signal.and_then(cri::Signal::of_number).unwrap_or(cri::Signal::RuntimeDefault).into(),
        })
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        let started: std::result::Result<cri::StartContainerResponse, _> = self.caller.raw(cri::START_CONTAINER, &request, LONG).await;
        match started {
            Ok(_) => Ok(()),
            // 128: what clients know StartError by.
            Err(status) if status.code != keles_grpc::Code::NotFound => Err(RuntimeError::Start { message: status.message, exit_code: 128 }),
            Err(status) => Err(failed("container", "start container", id, status)),
        }
    }

    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: seconds(grace) };
        gone(self.caller.container::<_, cri::StopContainerResponse>(cri::STOP_CONTAINER, "stop container", id, &request, grace.saturating_add(USUAL)).await)
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        gone(self.caller.container::<_, cri::RemoveContainerResponse>(cri::REMOVE_CONTAINER, "remove container", id, &request, LONG).await)?;
        held(&self.places).remove(id);
        Ok(())
    }

    /// As the runtime lists ours.
    pub(crate) async fn containers(&self) -> Result<Vec<cri::Container>> {
        let filter = cri::ContainerFilter { label_selector: self.owned(), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let answer: cri::ListContainersResponse = self.caller.container(cri::LIST_CONTAINERS, "list containers", "", &request, USUAL).await?;
        let mut places = held(&self.places);
        for container in &answer.containers {
            places.insert(container.id.clone(), container.pod_sandbox_id.clone());
        }
        Ok(answer.containers)
    }

    pub(crate) async fn list_containers(&self) -> Result<Vec<ContainerStatus>> {
        let mut all = Vec::new();
        for container in self.containers().await? {
            match self.container_status(&container.id).await {
                Ok(status) => all.push(status),
                // Removed since.
                Err(RuntimeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub(crate) async fn container_status(&self, id: &str) -> Result<ContainerStatus> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer: cri::ContainerStatusResponse = self.caller.container(cri::CONTAINER_STATUS, "read container", id, &request, USUAL).await?;
        answer.status.map(status).ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })
    }
}

pub(crate) fn state(state: cri::ContainerState) -> ContainerState {
    match state {
        cri::ContainerState::Created => ContainerState::Created,
        cri::ContainerState::Running => ContainerState::Running,
        cri::ContainerState::Exited => ContainerState::Exited,
        cri::ContainerState::Unknown => ContainerState::Unknown,
    }
}

fn status(s: cri::ContainerStatus) -> ContainerStatus {
    let (state, metadata, image) = (state(s.state()), s.metadata.unwrap_or_default(), s.image.unwrap_or_default());
    ContainerStatus {
        sandbox_id: s.annotations.get(SANDBOX_ID).cloned().unwrap_or_default(),
        id: s.id,
        name: metadata.name,
        attempt: metadata.attempt,
        state,
        created_at_unix_ns: s.created_at,
        started_at_unix_ns: s.started_at,
        finished_at_unix_ns: s.finished_at,
        exit_code: s.exit_code,
        // The CRI does not tell it from an exit with the same code.
        signal: 0,
        reason: s.reason,
        message: s.message,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_id: s.image_ref,
        log_path: s.log_path.into(),
        labels: s.labels,
        annotations: s.annotations,
        pid: None,
    }
}

/// cgroup v2 counts swap alone, in a file that `unified` names; v1 together with memory, and only where that is limited.
pub(crate) fn resources(r: &Resources, memory: Option<Version>) -> cri::LinuxContainerResources {
    let swap = |version| r.swap_bytes.filter(|_| memory == Some(version));
    let limit = r.memory_limit_bytes.filter(|bytes| *bytes > 0);
    let max = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    cri::LinuxContainerResources {
        cpu_period: r.cpu_period_us.and_then(|n| i64::try_from(n).ok()).unwrap_or_default(),
        cpu_quota: r.cpu_quota_us.unwrap_or_default(),
        cpu_shares: r.cpu_shares.and_then(|n| i64::try_from(n).ok()).unwrap_or_default(),
        memory_limit_in_bytes: r.memory_limit_bytes.unwrap_or_default(),
        memory_swap_limit_in_bytes: limit.zip(swap(Version::V1)).map(|(limit, swap)| memory_and_swap(limit, swap)).unwrap_or_default(),
        unified: swap(Version::V2).map(|bytes| (SWAP_MAX.to_owned(), max(bytes))).into_iter().collect(),
        oom_score_adj: r.oom_score_adj.unwrap_or_default().into(),
        cpuset_cpus: r.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: r.cpuset_mems.clone().unwrap_or_default(),
        ..Default::default()
    }
}

fn mount(mount: &Mount) -> cri::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => cri::MountPropagation::Private,
        Propagation::HostToContainer => cri::MountPropagation::HostToContainer,
        Propagation::Bidirectional => cri::MountPropagation::Bidirectional,
    };
    cri::Mount {
        container_path: text(&mount.target),
        host_path: text(&mount.source),
        readonly: mount.read_only,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        ..Default::default()
    }
}

/// Mode and owner, which CDI may ask for, have no place in the CRI.
fn device(device: &Device) -> Result<cri::Device> {
    if device.mode.is_some() || device.uid.is_some() || device.gid.is_some() {
        let message = format!(
            "device {}: a runtime behind --container-runtime-endpoint cannot give it another mode or owner than the host's; leave them out of its CDI file",
            text(&device.container_path)
        );
        return Err(RuntimeError::Step { step: "create container", message });
    }
    Ok(cri::Device { container_path: text(&device.container_path), host_path: text(&device.host_path), permissions: device.permissions.clone() })
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn security(of: &Security, namespaces: cri::NamespaceOption) -> cri::LinuxContainerSecurityContext {
    // The image's user is given by number where it is one, as upstream does: the runtime then takes its group from the image's files.
    let named: Option<i64> = of.run_as_username.split(':').next().and_then(|user| user.parse().ok());
    let is_name = named.is_none() && !of.run_as_username.is_empty();
    // The CRI takes no group without a user; an image that names none runs as root.
    let user = of.run_as_user.or(named).or_else(|| (of.run_as_group.is_some() && !is_name).then_some(0));
    let (profile, localhost_ref) = match &of.seccomp {
        Seccomp::RuntimeDefault => (cri::ProfileType::RuntimeDefault, String::new()),
        Seccomp::Unconfined => (cri::ProfileType::Unconfined, String::new()),
        Seccomp::Localhost(path) => (cri::ProfileType::Localhost, text(path)),
    };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: of.add_capabilities.clone(),
            drop_capabilities: of.drop_capabilities.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: of.privileged,
        namespace_options: Some(namespaces),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_username: if user.is_none() { of.run_as_username.clone() } else { String::new() },
        run_as_group: of.run_as_group.map(|value| cri::Int64Value { value }),
        readonly_rootfs: of.read_only_root,
        supplemental_groups: of.supplemental_groups.clone(),
        supplemental_groups_policy: if of.strict_groups { cri::SupplementalGroupsPolicy::Strict } else { cri::SupplementalGroupsPolicy::Merge }.into(),
        no_new_privs: of.no_new_privileges,
        masked_paths: of.masked_paths.clone(),
        readonly_paths: of.read_only_paths.clone(),
        seccomp: Some(cri::SecurityProfile { profile_type: profile.into(), localhost_ref }),
        apparmor: of.apparmor.as_ref().map(apparmor),
        apparmor_profile: of.apparmor.as_ref().map(apparmor_by_name).unwrap_or_default(),
        ..Default::default()
    }
}

fn apparmor(profile: &AppArmor) -> cri::SecurityProfile {
    let (profile_type, localhost_ref) = match profile {
        AppArmor::RuntimeDefault => (cri::ProfileType::RuntimeDefault, String::new()),
        AppArmor::Unconfined => (cri::ProfileType::Unconfined, String::new()),
        AppArmor::Localhost(name) => (cri::ProfileType::Localhost, name.clone()),
    };
    cri::SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

/// For runtimes that read only the field of before.
fn apparmor_by_name(profile: &AppArmor) -> String {
    match profile {
        AppArmor::RuntimeDefault => "runtime/default".into(),
        AppArmor::Unconfined => "unconfined".into(),
        AppArmor::Localhost(name) => format!("localhost/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_user_is_a_number_or_a_name_and_a_group_never_stands_alone() {
        let of = |user: Option<i64>, group: Option<i64>, image: &str| {
            let s = security(&Security { run_as_user: user, run_as_group: group, run_as_username: image.into(), ..Security::default() }, cri::NamespaceOption::default());
            (s.run_as_user.map(|v| v.value), s.run_as_username, s.run_as_group.map(|v| v.value))
        };
        assert_eq!(of(Some(7), None, "web"), (Some(7), String::new(), None), "the pod's wins");
        assert_eq!(of(None, None, "1000:1000"), (Some(1000), String::new(), None));
        assert_eq!(of(None, Some(5), "web"), (None, "web".into(), Some(5)));
        assert_eq!(of(None, Some(5), ""), (Some(0), String::new(), Some(5)));
        assert_eq!(of(None, None, ""), (None, String::new(), None), "the image decides");
    }

    #[test]
    fn swap_is_told_with_memory_on_v1_and_by_its_file_on_v2() {
        let told = |version, limit, swap| {
            let r = resources(&Resources { memory_limit_bytes: limit, swap_bytes: swap, ..Resources::default() }, version);
            (r.memory_swap_limit_in_bytes, r.unified.get(SWAP_MAX).cloned().unwrap_or_default())
        };
        for (version, limit, swap, sum, file) in [
            (Some(Version::V1), Some(64), Some(0), 64, ""),
            (Some(Version::V1), Some(64), Some(32), 96, ""),
            (Some(Version::V1), None, Some(0), 0, ""),
            (Some(Version::V1), Some(64), None, 0, ""),
            (Some(Version::V2), Some(64), Some(0), 0, "0"),
            (Some(Version::V2), None, Some(32), 0, "32"),
            (Some(Version::V2), None, Some(-1), 0, "max"),
            (Some(Version::V2), Some(64), None, 0, ""),
            (None, Some(64), Some(0), 0, ""),
        ] {
            assert_eq!(told(version, limit, swap), (sum, file.to_owned()), "{version:?} {limit:?} {swap:?}");
        }
    }

    #[test]
    fn a_device_that_the_cri_cannot_tell_of_is_refused_by_name() {
        let plain = Device { host_path: "/dev/x".into(), container_path: "/dev/y".into(), permissions: "rw".into(), ..Device::default() };
        assert_eq!(device(&plain).expect("told").host_path, "/dev/x");
        let refusal = device(&Device { uid: Some(5), ..plain }).expect_err("no place for it").to_string();
        assert!(refusal.contains("/dev/y") && refusal.contains("CDI"), "{refusal}");
    }
}
