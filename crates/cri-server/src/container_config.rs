//! From a client's `ContainerConfig`, its image and its sandbox to what the runtime is asked for.

use crate::faults::{invalid, refused};
use crate::files::Shared;
use crate::security::{self, Host};
use crate::{record, resources, sandbox_config};
use keles_cri::{ContainerConfig as Asked, MountPropagation, NamespaceMode as AskedMode, PodSandboxConfig};
use keles_grpc::Status;
use keles_images::Image;
use keles_runtime::api::{ContainerConfig, Device, Mount, NamespaceMode, Propagation, SandboxStatus};
use keles_runtime::{cdi, process};
use std::path::{Path, PathBuf};

/// Where the log of a container goes whose client wants none.
const NO_LOG: &str = "/dev/null";

pub struct Input<'a> {
    pub asked: &'a Asked,
    pub sandbox: &'a SandboxStatus,
    /// What the client said of the sandbox.
    pub said: &'a PodSandboxConfig,
    pub image: &'a Image,
    /// Files of the sandbox, for containers that bring none of their own.
    pub shared: Vec<Shared>,
    /// Where the files of image mounts are, in the order of the mounts that name an image.
    pub image_volumes: Vec<PathBuf>,
    pub host: Host,
}

pub fn translate(input: Input<'_>) -> Result<ContainerConfig, Status> {
    let (asked, image) = (input.asked, input.image);
    let metadata = asked.metadata.as_ref().filter(|m| !m.name.is_empty()).ok_or_else(|| invalid("metadata.name of the container is missing"))?;
    let linux = asked.linux.clone().unwrap_or_default();
    let context = linux.security_context.as_ref();
    if context.is_some_and(|context| context.privileged) && !is_privileged(input.said) {
        return Err(invalid("linux.security_context.privileged: the sandbox was not made for privileged containers"));
    }
    let envs: Vec<(String, String)> = asked.envs.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect();
    let args = process::argv(&image.config.entrypoint, &image.config.cmd, &asked.command, &asked.args);
    let working_dir = [&asked.working_dir, &image.config.working_dir].into_iter().find(|dir| !dir.is_empty());
    let security = security::translate(context, &image.config.user, input.host)?;
    let pid_target = pid_target(&input)?;
    let resources = linux.resources.as_ref().map(resources::of_linux).transpose()?.unwrap_or_default();
    let mut config = ContainerConfig {
        name: metadata.name.clone(),
        attempt: metadata.attempt,
        layers: image.layers.clone(),
        // By a digest that can be pulled again where there is one; the client's own name is in the annotation.
        image: image.digests.first().unwrap_or(&image.id).clone(),
        image_id: image.id.clone(),
        command: Vec::new(),
        args: args.ok_or_else(|| invalid("no command specified: neither the config nor the image names one"))?,
        env: process::environment(&sandbox_config::hostname(input.said), asked.tty, &image.config.env, &envs),
        working_dir: working_dir.cloned().unwrap_or_else(|| "/".into()),
        mounts: mounts(&input, security.read_only_root)?,
        devices: asked.devices.iter().map(device).collect(),
        log_path: if asked.log_path.is_empty() || input.said.log_directory.is_empty() { NO_LOG.into() } else { asked.log_path.clone().into() },
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        tty: asked.tty,
        resources,
        security,
        labels: asked.labels.clone(),
        annotations: record::annotations(asked),
        pid_target,
        stop_signal: asked.stop_signal().number().or_else(|| process::signal_number(&image.config.stop_signal)),
    };
    let names: Vec<String> = asked.cdi_devices.iter().map(|device| device.name.clone()).collect();
    cdi::inject(&names, &cdi::FOLDERS.map(Path::new), &mut config).map_err(|error| invalid(format!("CDI_devices: {error}")))?;
    Ok(config)
}

fn is_privileged(said: &PodSandboxConfig) -> bool {
    said.linux.as_ref().and_then(|linux| linux.security_context.as_ref()).is_some_and(|security| security.privileged)
}

fn device(asked: &keles_cri::Device) -> Device {
    Device { host_path: asked.host_path.clone().into(), container_path: asked.container_path.clone().into(), permissions: asked.permissions.clone(), ..Device::default() }
}

/// Containers have the namespaces of their sandbox; one alone may see the processes of another.
fn pid_target(input: &Input<'_>) -> Result<Option<String>, Status> {
    let Some(options) = input.asked.linux.as_ref().and_then(|linux| linux.security_context.as_ref()).and_then(|security| security.namespace_options.as_ref()) else {
        return Ok(None);
    };
    let sandbox = &input.sandbox.config;
    let same = |which: &str, asked: AskedMode, has: NamespaceMode| {
        let fits = match asked {
            AskedMode::Pod => has == NamespaceMode::Pod,
            AskedMode::Node => has == NamespaceMode::Node,
            AskedMode::Container => has == NamespaceMode::Container,
            AskedMode::Target => false,
        };
        if fits { Ok(()) } else { Err(invalid(format!("namespace_options.{which} is {asked:?}, the sandbox has {has:?}; ask for the same"))) }
    };
    same("network", options.network(), sandbox.network)?;
    same("ipc", options.ipc(), sandbox.ipc)?;
    if options.pid() != AskedMode::Target {
        return same("pid", options.pid(), sandbox.pid).map(|()| None);
    }
    if options.target_id.is_empty() {
        return Err(invalid("namespace_options.target_id is missing, pid is TARGET"));
    }
    // With one namespace for the pod, or the host's, the target is seen anyway.
    Ok((sandbox.pid == NamespaceMode::Container).then(|| options.target_id.clone()))
}

fn mounts(input: &Input<'_>, read_only_root: bool) -> Result<Vec<Mount>, Status> {
    let mut volumes = input.image_volumes.iter();
    let mut all = Vec::new();
    for asked in &input.asked.mounts {
        let target = Path::new("/").join(&asked.container_path);
        if asked.selinux_relabel && input.host.selinux {
            return Err(refused("mounts.selinux_relabel", format!("{} cannot be labelled", asked.container_path)));
        }
        let users = input.sandbox.config.users;
        let foreign = |mappings: &[keles_cri::IdMapping]| {
            !mappings.is_empty() && users.is_none_or(|u| !matches!(mappings, [m] if m.container_id == 0 && m.host_id == u.first && m.length == u.length))
        };
        if foreign(&asked.uid_mappings) || foreign(&asked.gid_mappings) {
            return Err(refused("mounts.uidMappings", format!("{} must have the ids of the sandbox's user namespace", asked.container_path)));
        }
        if asked.recursive_read_only && !(asked.readonly && asked.propagation() == MountPropagation::Private) {
            return Err(invalid(format!("mounts.recursive_read_only of {} needs readonly and no propagation", asked.container_path)));
        }
        if asked.image.is_some() {
            let source = volumes.next().ok_or_else(|| invalid("mounts.image: its files are missing"))?.clone();
            all.push(Mount { source, target, read_only: true, ..Mount::default() });
            continue;
        }
        if asked.host_path.is_empty() {
            return Err(invalid(format!("mounts.host_path of {} is missing", asked.container_path)));
        }
        let propagation = match asked.propagation() {
            MountPropagation::Private => Propagation::Private,
            MountPropagation::HostToContainer => Propagation::HostToContainer,
            MountPropagation::Bidirectional => Propagation::Bidirectional,
        };
        all.push(Mount { source: asked.host_path.clone().into(), target, read_only: asked.readonly, recursive_read_only: asked.recursive_read_only, propagation });
    }
    for file in &input.shared {
        let target = PathBuf::from(file.target);
        if !all.iter().any(|mount| mount.target == target) {
            all.push(Mount { source: file.source.clone(), target, read_only: read_only_root, ..Mount::default() });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_cri::{ContainerMetadata, KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext, NamespaceOption, Signal};
    use keles_runtime::api::SandboxConfig;

    const HOST: Host = Host { selinux: false, apparmor: false };

    fn sandbox() -> SandboxStatus {
        let config = SandboxConfig { pid: NamespaceMode::Container, ..SandboxConfig::default() };
        SandboxStatus { id: "s".into(), config, ready: true, created_at_unix_ns: 1, netns: None, ips: Vec::new() }
    }

    fn translated(change: impl FnOnce(&mut Asked)) -> Result<ContainerConfig, String> {
        let mut asked = Asked { metadata: Some(ContainerMetadata { name: "c".into(), attempt: 2 }), ..Asked::default() };
        change(&mut asked);
        let config = keles_images::ImageConfig { entrypoint: vec!["/entry".into()], env: vec!["A=image".into()], stop_signal: "SIGUSR1".into(), ..Default::default() };
        let image = Image { id: "sha256:1".into(), tags: vec![], digests: vec![], size_bytes: 1, created: String::new(), config, layers: vec![] };
        let said = PodSandboxConfig { hostname: "h".into(), log_directory: "/logs".into(), ..PodSandboxConfig::default() };
        let shared = vec![Shared { source: "/s/hosts".into(), target: "/etc/hosts" }];
        let sandbox = sandbox();
        translate(Input { asked: &asked, sandbox: &sandbox, said: &said, image: &image, shared, image_volumes: vec![], host: HOST }).map_err(|status| status.message)
    }

    #[test]
    fn the_images_command_variables_and_signal_stand_unless_the_config_has_its_own() {
        let plain = translated(|_| ()).expect("good");
        assert_eq!((plain.args, plain.stop_signal, plain.log_path), (vec!["/entry".to_owned()], Some(10), PathBuf::from(NO_LOG)));
        assert!(plain.env.contains(&("A".into(), "image".into())) && plain.env.contains(&("HOSTNAME".into(), "h".into())));
        let own = translated(|asked| {
            asked.command = vec!["/own".into()];
            asked.envs = vec![KeyValue { key: "A".into(), value: "own".into() }];
            asked.stop_signal = Signal::Sigint as i32;
            asked.log_path = "c/2.log".into();
        });
        let own = own.expect("good");
        assert_eq!((own.args, own.stop_signal, own.log_path), (vec!["/own".to_owned()], Some(2), PathBuf::from("c/2.log")));
        assert!(own.env.contains(&("A".into(), "own".into())));
    }

    #[test]
    fn files_of_the_sandbox_are_seen_unless_the_client_mounts_its_own() {
        let plain = translated(|_| ()).expect("good").mounts;
        assert_eq!(plain.iter().map(|mount| mount.source.clone()).collect::<Vec<_>>(), [PathBuf::from("/s/hosts")]);
        let own = translated(|asked| asked.mounts = vec![keles_cri::Mount { container_path: "/etc/hosts".into(), host_path: "/mine".into(), ..Default::default() }]);
        assert_eq!(own.expect("good").mounts.iter().map(|mount| mount.source.clone()).collect::<Vec<_>>(), [PathBuf::from("/mine")]);
    }

    #[test]
    fn namespaces_must_be_the_sandboxs_but_for_a_targets() {
        let with = |options: NamespaceOption| {
            let security = LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() };
            translated(|asked| asked.linux = Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }))
        };
        let target = NamespaceOption { pid: AskedMode::Target as i32, target_id: "x".into(), ..Default::default() };
        assert_eq!(with(target).expect("good").pid_target.as_deref(), Some("x"));
        let pod = with(NamespaceOption::default()).expect_err("refused");
        assert_eq!(pod, "namespace_options.pid is Pod, the sandbox has Container; ask for the same");
    }

    #[test]
    fn what_cannot_be_is_refused_by_the_fields_name() {
        let mount = |change: fn(&mut keles_cri::Mount)| {
            let mut mount = keles_cri::Mount { container_path: "/v".into(), host_path: "/h".into(), ..Default::default() };
            change(&mut mount);
            translated(|asked| asked.mounts = vec![mount]).err().unwrap_or_default()
        };
        assert!(mount(|m| m.recursive_read_only = true).starts_with("mounts.recursive_read_only of /v"));
        assert!(mount(|m| m.host_path.clear()).starts_with("mounts.host_path of /v"));
        assert!(mount(|m| m.uid_mappings = vec![keles_cri::IdMapping { host_id: 1, container_id: 0, length: 1 }]).starts_with("mounts.uidMappings"));
        let privileged = LinuxContainerSecurityContext { privileged: true, ..Default::default() };
        let refusal = translated(|asked| asked.linux = Some(LinuxContainerConfig { security_context: Some(privileged), ..Default::default() })).expect_err("refused");
        assert!(refusal.contains("privileged"), "{refusal}");
    }
}
