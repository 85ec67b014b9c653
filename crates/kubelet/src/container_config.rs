//! From a container's spec, its image and its pod's volumes to what the runtime is asked for.
//!
//! Entry point: [`build`]. Errors are the texts of CreateContainerConfigError.

use crate::config::KubeletConfig;
use crate::expansion::expand;
use crate::image_store::NodeImage;
use crate::{naming, resources, security};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use keles_runtime::api::{ContainerConfig, Device, Handler, Mount, Propagation, Seccomp};
use keles_runtime::process;
use keles_volumes::{Mounted, sub_path};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the message a container leaves is on the node; remembered with the container, so that it is found after a restart of the agent.
pub const MESSAGE_FILE: &str = "keles.io/termination-message-file";
pub const MESSAGE_POLICY: &str = "keles.io/termination-message-policy";
pub const LABEL_POD_NAME: &str = "io.kubernetes.pod.name";
pub const LABEL_POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const LABEL_POD_UID: &str = "io.kubernetes.pod.uid";
pub const LABEL_CONTAINER: &str = "io.kubernetes.container.name";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0}")]
    Security(#[from] security::SecurityError),
    #[error("failed to prepare subPath for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPath { mount: String, container: String },
    #[error("failed to create subPath directory for volumeMount \"{mount}\" of container \"{container}\"")]
    SubPathFolder { mount: String, container: String },
    #[error("error SubPath `{0}` must not be an absolute path")]
    AbsoluteSubPath(String),
    #[error("unable to provision SubPath `{0}`: must not contain '..'")]
    SubPathLeaves(String),
    #[error("missing value for {0}")]
    NoValue(String),
    #[error("volume {0} of the container's volumeMount is not in the pod")]
    NoVolume(String),
    #[error("volume {0} of the container's volumeDevices is not in the pod, or is no device")]
    NoDevice(String),
    #[error("recursiveReadOnly of volumeMount \"{mount}\" is Enabled, which the handler {handler:?} of the node's container runtime cannot do; use IfPossible")]
    RecursiveReadOnly { mount: String, handler: String },
    #[error("no command specified")]
    NoCommand,
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: std::io::Error },
}

impl ConfigError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { what, path, source }
    }
}

pub struct Input<'a> {
    pub config: &'a KubeletConfig,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub image: &'a NodeImage,
    /// Without the image's own variables.
    pub env: Vec<(String, String)>,
    pub mounted: &'a BTreeMap<String, Mounted>,
    pub pod_ips: &'a [String],
    pub attempt: u32,
    pub node_memory_bytes: i64,
    /// The container whose processes this one is to see, by the runtime's id (`targetContainerName`).
    pub pid_target: Option<String>,
    /// What the runtime can do for this pod.
    pub handler: &'a Handler,
}

pub fn build(input: &Input<'_>) -> Result<ContainerConfig, ConfigError> {
    let (pod, container, image) = (input.pod, input.container, input.image);
    let spec = pod.spec.as_ref().expect("the API server admits no pod without a spec");
    let env = join_env(input);
    let lookup = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let default = if input.config.seccomp_default { Seccomp::RuntimeDefault } else { Seccomp::Unconfined };
    let security = security::join(pod, container, image, &default, &input.config.seccomp_dir())?;
    let (command, args) = if image.by_runtime { asked(container, &lookup) } else { (Vec::new(), argv(container, image, &lookup)?) };
    let (message_mount, annotations) = termination_message(input)?;
    let mut mounts = volume_mounts(input, &lookup)?;
    mounts.extend(network_files(input)?.into_iter().filter(|mount| !is_mounted(container, &mount.target)));
    mounts.extend(message_mount);
    let lifecycle_signal = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let working_dir = container.working_dir.clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| image.working_dir.clone());
    let default_dir = if image.by_runtime { "" } else { "/" };
    Ok(ContainerConfig {
        name: container.name.clone(),
        attempt: input.attempt,
        layers: image.layers.clone(),
        image: container.image.clone().unwrap_or_default(),
        image_id: image_id(image),
        command,
        args,
        working_dir: if working_dir.is_empty() { default_dir.into() } else { working_dir },
        env,
        mounts,
        devices: block_devices(input)?,
        log_path: log_path(&container.name, input.attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: resources::of_container(spec, container, input.node_memory_bytes, &input.config.enforced),
        security,
        labels: labels(pod, &container.name),
        annotations,
        pid_target: input.pid_target.clone(),
        stop_signal: lifecycle_signal.or(image.stop_signal.as_deref()).and_then(process::signal_number),
    })
}

/// `<container>/<restart>.log`, below the pod's log folder.
pub fn log_path(container: &str, attempt: u32) -> PathBuf {
    Path::new(container).join(format!("{attempt}.log"))
}

/// What the API shows as imageID: a digest that can be pulled again where known, else the config's. A runtime with images of its own finds them by id, and
/// says itself what is shown.
fn image_id(image: &NodeImage) -> String {
    if image.by_runtime {
        return image.id.clone();
    }
    image.digests.first().cloned().unwrap_or_else(|| image.id.clone())
}

pub fn labels(pod: &Pod, container: &str) -> BTreeMap<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut labels = BTreeMap::from([
        (LABEL_POD_NAME.to_string(), text(&pod.metadata.name)),
        (LABEL_POD_NAMESPACE.to_string(), text(&pod.metadata.namespace)),
        (LABEL_POD_UID.to_string(), text(&pod.metadata.uid)),
    ]);
    if !container.is_empty() {
        labels.insert(LABEL_CONTAINER.into(), container.into());
    }
    labels
}

/// The image's variables, the host name, then the container's, which win. A runtime that applies the image's config adds all but the last itself.
fn join_env(input: &Input<'_>) -> Vec<(String, String)> {
    if input.image.by_runtime {
        return process::joined(&input.image.env, &input.env);
    }
    // The name the kernel is told, as the runtimes have it: the whole one with setHostnameAsFQDN.
    let hostname = naming::kernel_hostname(input.pod, &input.config.cluster_dns.domain).unwrap_or_default();
    let on_host = input.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let hostname = if on_host { &input.config.node_name } else { &hostname };
    process::environment(hostname, input.container.tty == Some(true), &input.image.env, &input.env)
}

fn argv(container: &Container, image: &NodeImage, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>, ConfigError> {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|word| expand(word, lookup)).collect() };
    process::argv(&image.entrypoint, &image.cmd, &expanded(&container.command), &expanded(&container.args)).ok_or(ConfigError::NoCommand)
}

/// The same left to a runtime that knows the image: what is empty is the image's.
fn asked(container: &Container, lookup: &dyn Fn(&str) -> Option<String>) -> (Vec<String>, Vec<String>) {
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> { list.iter().flatten().map(|word| expand(word, lookup)).collect() };
    (expanded(&container.command), expanded(&container.args))
}

fn absolute(path: &str) -> PathBuf {
    Path::new("/").join(path)
}

fn is_mounted(container: &Container, target: &Path) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| absolute(&mount.mount_path) == target)
}

fn volume_mounts(input: &Input<'_>, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Mount>, ConfigError> {
    let pod_dir = input.config.pod_dir(input.pod.metadata.uid.as_deref().unwrap_or_default());
    let mounts = input.container.volume_mounts.iter().flatten().enumerate();
    mounts.map(|(index, mount)| volume_mount(input, &pod_dir, index, mount, lookup)).collect()
}

fn volume_mount(input: &Input<'_>, pod_dir: &Path, index: usize, mount: &VolumeMount, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Mount, ConfigError> {
    let volume = input.mounted.get(&mount.name).ok_or_else(|| ConfigError::NoVolume(mount.name.clone()))?;
    let part = part_of(mount, lookup)?;
    let source = if part.is_empty() {
        volume.path.clone()
    } else {
        // The cause may tell of the node's files, so only the log has it.
        let hidden = |error: &dyn std::fmt::Display| {
            tracing::warn!(%error, mount = mount.name, "subPath could not be prepared");
            (mount.name.clone(), input.container.name.clone())
        };
        sub_path::make(&volume.path, &part).map_err(|error| {
            let (mount, container) = hidden(&error);
            ConfigError::SubPathFolder { mount, container }
        })?;
        let place = sub_path::place(pod_dir, &mount.name, &input.container.name, index);
        sub_path::bind(&volume.path, &part, &place).map_err(|error| {
            let (mount, container) = hidden(&error);
            ConfigError::SubPath { mount, container }
        })?
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::Private,
    };
    let read_only = volume.read_only || mount.read_only == Some(true);
    let can = input.handler.recursive_read_only_mounts;
    if !can && mount.recursive_read_only.as_deref() == Some("Enabled") {
        return Err(ConfigError::RecursiveReadOnly { mount: mount.name.clone(), handler: input.handler.name.clone() });
    }
    Ok(Mount { source, target: absolute(&mount.mount_path), read_only, recursive_read_only: can && is_recursively_read_only(mount), propagation })
}

/// KEP-3857; the API server lets `recursiveReadOnly` ask for it only where the mount is read-only and does not propagate. Where the runtime can do it,
/// `IfPossible` is `Enabled`.
pub fn is_recursively_read_only(mount: &VolumeMount) -> bool {
    mount.read_only == Some(true) && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// Volumes that are devices (`volumeDevices`).
fn block_devices(input: &Input<'_>) -> Result<Vec<Device>, ConfigError> {
    let device = |device: &k8s_openapi::api::core::v1::VolumeDevice| {
        let volume = input.mounted.get(&device.name).filter(|volume| volume.is_device).ok_or_else(|| ConfigError::NoDevice(device.name.clone()))?;
        let permissions = if volume.read_only { "r" } else { "rwm" }.into();
        Ok(Device { host_path: volume.path.clone(), container_path: absolute(&device.device_path), permissions, ..Device::default() })
    };
    input.container.volume_devices.iter().flatten().map(device).collect()
}

/// The part of the volume that a mount shows; empty for all of it. A subPathExpr needs a value for each of its variables.
fn part_of(mount: &VolumeMount, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let part = match (mount.sub_path_expr.as_deref(), mount.sub_path.as_deref()) {
        (Some(expression), _) if !expression.is_empty() => {
            let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
            let found = |name: &str| {
                let value = lookup(name).filter(|value| !value.is_empty());
                if value.is_none() {
                    missing.borrow_mut().insert(name.to_string());
                }
                value
            };
            let part = expand(expression, &found);
            let missing: Vec<String> = missing.into_inner().into_iter().collect();
            if !missing.is_empty() {
                return Err(ConfigError::NoValue(missing.join(", ")));
            }
            part
        }
        (_, part) => part.unwrap_or_default().to_string(),
    };
    if part.starts_with('/') {
        return Err(ConfigError::AbsoluteSubPath(part));
    }
    if part.split('/').any(|step| step == "..") {
        return Err(ConfigError::SubPathLeaves(part));
    }
    Ok(part)
}

/// /etc/hosts, /etc/resolv.conf and /etc/hostname, written in the pod's folder and shared by its containers.
fn network_files(input: &Input<'_>) -> Result<Vec<Mount>, ConfigError> {
    let pod = input.pod;
    let dns = &input.config.cluster_dns;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let on_host = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let hostname = match on_host {
        true => input.config.node_name.clone(),
        false => naming::kernel_hostname(pod, &dns.domain).unwrap_or_default(),
    };
    let files = [
        ("etc-hosts", "/etc/hosts", naming::hosts_file(pod, input.pod_ips, &dns.domain, &if on_host { read("/etc/hosts") } else { String::new() })),
        ("resolv.conf", "/etc/resolv.conf", naming::resolv_conf(pod, dns, &input.config.node_resolver())),
        ("hostname", "/etc/hostname", format!("{hostname}\n")),
    ];
    let dir = input.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    std::fs::create_dir_all(&dir).map_err(ConfigError::io("create", &dir))?;
    let read_only = input.container.security_context.as_ref().and_then(|security| security.read_only_root_filesystem) == Some(true);
    files
        .into_iter()
        .map(|(name, target, text)| {
            let source = dir.join(name);
            // A running container may have written to it; the content is the pod's from its first start on.
            if !source.exists() {
                write_file(&source, &text, 0o644)?;
            }
            Ok(Mount { source, target: target.into(), read_only, ..Mount::default() })
        })
        .collect()
}

fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), ConfigError> {
    std::fs::write(path, text).map_err(ConfigError::io("write", path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(ConfigError::io("chmod", path))
}

/// A file of its own for each attempt, writable by any user.
fn termination_message(input: &Input<'_>) -> Result<(Option<Mount>, BTreeMap<String, String>), ConfigError> {
    let path = input.container.termination_message_path.as_deref().unwrap_or("/dev/termination-log");
    if path.is_empty() {
        return Ok((None, BTreeMap::new()));
    }
    let dir = input.config.pod_dir(input.pod.metadata.uid.as_deref().unwrap_or_default()).join("containers").join(&input.container.name);
    std::fs::create_dir_all(&dir).map_err(ConfigError::io("create", &dir))?;
    let source = dir.join(format!("message-{}", input.attempt));
    write_file(&source, "", 0o666)?;
    let policy = input.container.termination_message_policy.clone().unwrap_or_else(|| "File".into());
    let annotations = BTreeMap::from([(MESSAGE_FILE.to_string(), source.display().to_string()), (MESSAGE_POLICY.to_string(), policy)]);
    Ok((Some(Mount { source, target: absolute(path), ..Mount::default() }), annotations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn input_for(container: serde_json::Value, check: impl FnOnce(Result<ContainerConfig, ConfigError>)) {
        let image = NodeImage { entrypoint: vec!["/entry".into()], cmd: vec!["cmd".into()], env: vec!["VERSION=v1".into(), "A=image".into()], ..Default::default() };
        input_with(container, &image, check);
    }

    fn input_with(container: serde_json::Value, image: &NodeImage, check: impl FnOnce(Result<ContainerConfig, ConfigError>)) {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = KubeletConfig::new("node", "192.0.2.1".parse().expect("ip"), dir.path());
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [container]}})).expect("a pod");
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let env = vec![("A".to_string(), "own".to_string())];
        let input = Input {
            config: &config,
            pod: &pod,
            container,
            image,
            env,
            mounted: &BTreeMap::new(),
            pod_ips: &[],
            attempt: 2,
            node_memory_bytes: 1,
            pid_target: None,
            handler: &Handler::default(),
        };
        check(build(&input));
    }

    fn args_of(container: serde_json::Value) -> Vec<String> {
        let mut args = Vec::new();
        input_for(container, |built| args = built.expect("built").args);
        args
    }

    #[test]
    fn command_and_args_replace_entrypoint_and_cmd() {
        assert_eq!(args_of(json!({"name": "c"})), ["/entry", "cmd"]);
        assert_eq!(args_of(json!({"name": "c", "args": ["x"]})), ["/entry", "x"]);
        assert_eq!(args_of(json!({"name": "c", "command": ["y"]})), ["y"]);
        assert_eq!(args_of(json!({"name": "c", "command": ["y"], "args": ["$(A)", "$$(A)", "$(Z)"]})), ["y", "own", "$(A)", "$(Z)"]);
    }

    #[test]
    fn a_runtime_that_applies_the_image_is_told_only_what_the_pod_asks_for() {
        let of = |container: serde_json::Value| {
            let mut asked = None;
            let image = NodeImage { id: "sha256:1".into(), by_runtime: true, ..Default::default() };
            input_with(container, &image, |built| asked = built.ok());
            asked.expect("built")
        };
        let plain = of(json!({"name": "c", "args": ["$(A)"]}));
        assert_eq!((plain.command, plain.args, plain.working_dir.as_str(), plain.image_id.as_str()), (vec![], vec!["own".to_string()], "", "sha256:1"));
        assert_eq!(plain.env, [("A".to_string(), "own".to_string())], "what the image and the runtime add is theirs");
        let own = of(json!({"name": "c", "command": ["y"], "workingDir": "/w"}));
        assert_eq!((own.command, own.args, own.working_dir.as_str()), (vec!["y".to_string()], vec![], "/w"));
    }

    #[test]
    fn what_a_runtime_cannot_make_recursively_read_only_is_refused_unless_it_need_not() {
        let mount = |recursive: &str, can: bool| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
                {"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": recursive}]}]}}))
            .expect("a pod");
            let config = KubeletConfig::new("node", "192.0.2.1".parse().expect("ip"), "/data");
            let handler = Handler { recursive_read_only_mounts: can, ..Handler::default() };
            let input = Input {
                config: &config,
                pod: &pod,
                container: &pod.spec.as_ref().expect("spec").containers[0],
                image: &NodeImage::default(),
                env: Vec::new(),
                mounted: &BTreeMap::from([("v".to_owned(), Mounted::files("v", "/d".into(), false))]),
                pod_ips: &[],
                attempt: 0,
                node_memory_bytes: 1,
                pid_target: None,
                handler: &handler,
            };
            volume_mounts(&input, &|_| None).map(|mounts| mounts[0].recursive_read_only)
        };
        assert!(mount("Enabled", true).expect("can"));
        assert!(!mount("IfPossible", false).expect("need not"));
        assert!(matches!(mount("Enabled", false), Err(ConfigError::RecursiveReadOnly { .. })));
    }

    #[test]
    fn the_containers_env_wins_over_the_images() {
        input_for(json!({"name": "c"}), |built| {
            let env: BTreeMap<String, String> = built.expect("built").env.into_iter().collect();
            for (name, value) in [("A", "own"), ("VERSION", "v1"), ("HOSTNAME", "p"), ("PATH", process::DEFAULT_PATH)] {
                assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
            }
        });
    }

    #[test]
    fn hosts_resolver_hostname_and_message_are_mounted() {
        input_for(json!({"name": "c", "terminationMessagePath": "/tmp/m"}), |built| {
            let built = built.expect("built");
            let targets: Vec<_> = built.mounts.iter().map(|mount| mount.target.display().to_string()).collect();
            assert_eq!(targets, ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/tmp/m"]);
            assert_eq!(built.log_path, Path::new("c/2.log"));
        });
    }

    #[test]
    fn a_mount_of_an_unknown_volume_is_refused() {
        input_for(json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}), |built| {
            assert!(matches!(built, Err(ConfigError::NoVolume(name)) if name == "v"));
        });
    }

    #[test]
    fn a_volume_that_is_a_device_is_given_at_its_path_and_read_only_where_the_volume_is() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "c", "volumeDevices": [{"name": "v", "devicePath": "/dev/x"}, {"name": "r", "devicePath": "/dev/y"}]}, {"name": "f", "volumeDevices": [{"name": "files", "devicePath": "/dev/x"}]}]}})).expect("a pod");
        let volume = |path: &str, read_only, is_device| Mounted { is_device, ..Mounted::files("v", path.into(), read_only) };
        let mounted = BTreeMap::from([("v".to_owned(), volume("/d", false, true)), ("r".to_owned(), volume("/e", true, true)), ("files".to_owned(), volume("/f", false, false))]);
        let config = KubeletConfig::new("node", "192.0.2.1".parse().expect("ip"), "/data");
        let image = NodeImage::default();
        let devices = |index: usize| {
            let container = &pod.spec.as_ref().expect("spec").containers[index];
            block_devices(&Input {
                config: &config,
                pod: &pod,
                container,
                image: &image,
                env: Vec::new(),
                mounted: &mounted,
                pod_ips: &[],
                attempt: 0,
                node_memory_bytes: 1,
                pid_target: None,
                handler: &Handler::default(),
            })
        };
        let given: Vec<(String, String, String)> =
            devices(0).expect("devices").into_iter().map(|d| (d.host_path.display().to_string(), d.container_path.display().to_string(), d.permissions)).collect();
        assert_eq!(given, [("/d".into(), "/dev/x".into(), "rwm".into()), ("/e".into(), "/dev/y".into(), "r".into())]);
        assert!(matches!(devices(1), Err(ConfigError::NoDevice(name)) if name == "files"));
    }

    #[test]
    fn a_sub_path_expression_needs_its_values_and_stays_in_the_volume() {
        let part = |field: &str, text: &str| {
            let mount: VolumeMount = serde_json::from_value(json!({"name": "v", "mountPath": "/v", field: text})).expect("a mount");
            let values = |name: &str| [("A", "a"), ("ROOT", "/x"), ("UP", ".."), ("EMPTY", "")].iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string());
            part_of(&mount, &values).map_err(|error| error.to_string())
        };
        assert_eq!(part("subPathExpr", "$(A)/b").as_deref(), Ok("a/b"));
        for (text, expected) in [
            ("$(NONE)/$(EMPTY)", "missing value for EMPTY, NONE"),
            ("$(ROOT)", "error SubPath `/x` must not be an absolute path"),
            ("a/$(UP)", "unable to provision SubPath `a/..`: must not contain '..'"),
        ] {
            assert_eq!(part("subPathExpr", text), Err(expected.to_string()));
        }
        assert_eq!(part("subPath", "$(A)").as_deref(), Ok("$(A)"), "a plain subPath is taken as it stands");
    }

    #[test]
    fn the_host_name_in_the_environment_is_the_kernels() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = KubeletConfig::new("node", "192.0.2.1".parse().expect("ip"), dir.path());
        let spec = json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true, "containers": [{"name": "c", "command": ["x"]}]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).expect("a pod");
        let container = &pod.spec.as_ref().expect("spec").containers[0];
        let image = NodeImage::default();
        let input = Input {
            config: &config,
            pod: &pod,
            container,
            image: &image,
            env: Vec::new(),
            mounted: &BTreeMap::new(),
            pod_ips: &[],
            attempt: 0,
            node_memory_bytes: 1,
            pid_target: None,
            handler: &Handler::default(),
        };
        let env = build(&input).expect("built").env;
        assert!(env.contains(&("HOSTNAME".into(), "h.s.n.svc.cluster.local".into())), "{env:?}");
    }
}
