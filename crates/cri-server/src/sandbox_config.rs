//! From a client's `PodSandboxConfig` to what the runtime is asked for.

use crate::faults::{invalid, refused};
use crate::record;
use keles_cri::{IdMapping, NamespaceMode as Asked, NamespaceOption, PodSandboxConfig, RunPodSandboxRequest, UserNamespace};
use keles_grpc::Status;
use keles_runtime::api::{NamespaceMode, SandboxConfig, UserRange};

/// Handlers that are the ordinary runtime, which is the only one.
pub const HANDLERS: [&str; 3] = ["", "keles", "runc"];

/// `group` names the sandbox's own group below the parent; `default_parent` is for configs without one.
pub fn translate(request: &RunPodSandboxRequest, default_parent: &str, group: &str) -> Result<SandboxConfig, Status> {
    let config = request.config.as_ref().ok_or_else(|| invalid("config of the sandbox is missing"))?;
    if !HANDLERS.contains(&request.runtime_handler.as_str()) {
        return Err(invalid(format!("no runtime for runtime_handler {:?} is configured; there are {HANDLERS:?}", request.runtime_handler)));
    }
    let metadata = config.metadata.as_ref().filter(|m| !m.name.is_empty()).ok_or_else(|| invalid("metadata.name of the sandbox is missing"))?;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(invalid("linux.security_context.run_as_group needs run_as_user"));
    }
    let options = security.namespace_options.unwrap_or_default();
    let network = namespace("network", options.network(), &[Asked::Pod, Asked::Node])?;
    if config.hostname.is_empty() && network == NamespaceMode::Pod {
        return Err(invalid("hostname may be empty with the host's network only"));
    }
    let parent = linux.cgroup_parent.trim_matches('/');
    Ok(SandboxConfig {
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        attempt: metadata.attempt,
        hostname: if network == NamespaceMode::Node { String::new() } else { config.hostname.clone() },
        log_directory: config.log_directory.clone().into(),
        labels: config.labels.clone(),
        annotations: record::annotations(request),
        network,
        ipc: namespace("ipc", options.ipc(), &[Asked::Pod, Asked::Node])?,
        pid: namespace("pid", options.pid(), &[Asked::Pod, Asked::Container, Asked::Node])?,
        // A group of its own: the parent is the client's, which makes, limits and removes it.
        cgroup: format!("{}/{group}", if parent.is_empty() { default_parent } else { parent }),
        users: users(&options)?,
        sysctls: linux.sysctls.into_iter().map(|(name, value)| (name.replace('/', "."), value)).collect(),
        ..SandboxConfig::default()
    })
}

fn namespace(which: &str, asked: Asked, possible: &[Asked]) -> Result<NamespaceMode, Status> {
    if !possible.contains(&asked) {
        return Err(invalid(format!("namespace_options.{which} of a sandbox cannot be {asked:?}")));
    }
    Ok(match asked {
        Asked::Pod => NamespaceMode::Pod,
        Asked::Node => NamespaceMode::Node,
        Asked::Container | Asked::Target => NamespaceMode::Container,
    })
}

/// One range for users and groups, from 0 on, as the agent gives it (KEP-127).
fn users(options: &NamespaceOption) -> Result<Option<UserRange>, Status> {
    let Some(asked) = options.userns_options.as_ref().filter(|asked| asked.mode() != Asked::Node) else { return Ok(None) };
    if asked.mode() != Asked::Pod {
        return Err(invalid(format!("namespace_options.userns_options.mode cannot be {:?}", asked.mode())));
    }
    if asked.uids.is_empty() && asked.gids.is_empty() {
        return Ok(None);
    }
    range(asked).map(Some).ok_or_else(|| refused("namespace_options.userns_options", "uids and gids must be the same one range that begins at container_id 0"))
}

pub fn range(asked: &UserNamespace) -> Option<UserRange> {
    let [IdMapping { host_id, container_id: 0, length }] = asked.uids.as_slice() else { return None };
    (asked.uids == asked.gids).then_some(UserRange { first: *host_id, length: *length })
}

/// The name that containers are told.
pub fn hostname(config: &PodSandboxConfig) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_cri::{LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxMetadata};

    fn request(change: impl FnOnce(&mut PodSandboxConfig, &mut NamespaceOption)) -> RunPodSandboxRequest {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 1 };
        let mut config = PodSandboxConfig { metadata: Some(metadata), hostname: "h".into(), ..PodSandboxConfig::default() };
        let mut options = NamespaceOption { pid: Asked::Container as i32, ..NamespaceOption::default() };
        change(&mut config, &mut options);
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..LinuxSandboxSecurityContext::default() };
        config.linux.get_or_insert_with(LinuxPodSandboxConfig::default).security_context = Some(security);
        RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
    }

    fn translated(request: &RunPodSandboxRequest) -> Result<SandboxConfig, String> {
        translate(request, "default", "cri-1").map_err(|status| status.message)
    }

    #[test]
    fn a_sandbox_has_a_group_of_its_own_below_the_clients() {
        let with = |parent: &str| {
            let linux = LinuxPodSandboxConfig { cgroup_parent: parent.into(), ..LinuxPodSandboxConfig::default() };
            translated(&request(|config, _| config.linux = Some(linux))).expect("good").cgroup
        };
        assert_eq!((with("/kubepods/podx/").as_str(), with("").as_str()), ("kubepods/podx/cri-1", "default/cri-1"));
    }

    #[test]
    fn namespaces_are_those_asked_for_and_impossible_ones_are_named() {
        let good = translated(&request(|_, options| options.ipc = Asked::Node as i32)).expect("good");
        assert_eq!((good.network, good.ipc, good.pid), (NamespaceMode::Pod, NamespaceMode::Node, NamespaceMode::Container));
        let bad = translated(&request(|_, options| options.network = Asked::Container as i32)).expect_err("refused");
        assert_eq!(bad, "namespace_options.network of a sandbox cannot be Container");
        let nameless = translated(&request(|config, _| config.hostname.clear())).expect_err("refused");
        assert!(nameless.starts_with("hostname may be empty"), "{nameless}");
        assert_eq!(translated(&request(|_, options| options.network = Asked::Node as i32)).expect("good").hostname, "");
    }

    #[test]
    fn a_user_namespace_has_one_range() {
        let mapping = IdMapping { host_id: 65536, container_id: 0, length: 65536 };
        let with = |gids: Vec<IdMapping>| {
            let users = UserNamespace { mode: Asked::Pod as i32, uids: vec![mapping.clone()], gids };
            translated(&request(|_, options| options.userns_options = Some(users))).map(|config| config.users)
        };
        assert_eq!(with(vec![mapping.clone()]), Ok(Some(UserRange { first: 65536, length: 65536 })));
        assert!(with(vec![]).expect_err("refused").starts_with("namespace_options.userns_options"));
    }

    #[test]
    fn an_unknown_handler_is_refused() {
        let asked = RunPodSandboxRequest { runtime_handler: "kata".into(), ..request(|_, _| ()) };
        assert!(translated(&asked).expect_err("refused").contains("\"kata\""));
    }
}
