//! Pods that say which operating system they are for, and what Windows knows of security.

use super::containers;
use crate::field::{Field, invalid_each};
use keles_api::{Problems, names};

const NOT_ON_WINDOWS: &str = "cannot be set for a windows pod";
const CREDENTIAL_SPEC_MAX_KIB: usize = 64;
const USER_DOMAIN_MAX_BYTES: usize = 256;
const USER_MAX_BYTES: usize = 104;
const NETBIOS_MAX_CHARS: usize = 15;
/// What a Windows pod may not say of itself as a whole, in its security context and beside it.
const POD_CONTEXT: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const CONTAINER_CONTEXT: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// A pod for Linux says nothing of Windows.
pub fn linux_pod(spec: &Field, p: &mut Problems) {
    let contexts = std::iter::once(spec.get("securityContext")).chain(containers::all(spec).into_iter().map(|c| c.get("securityContext")));
    for context in contexts.filter(|c| c.has("windowsOptions")) {
        p.forbidden(&context.at("windowsOptions"), "windows options cannot be set for a linux pod");
    }
}

/// A pod for Windows says nothing of Linux.
pub fn windows_pod(spec: &Field, p: &mut Problems) {
    let context = spec.get("securityContext");
    for name in POD_CONTEXT.iter().filter(|n| context.has(n)) {
        p.forbidden(&context.at(name), NOT_ON_WINDOWS);
    }
    if !context.list("sysctls").is_empty() {
        p.forbidden(&context.at("sysctls"), NOT_ON_WINDOWS);
    }
    for name in ["hostUsers", "shareProcessNamespace"].iter().filter(|n| spec.has(n)) {
        p.forbidden(&spec.at(name), NOT_ON_WINDOWS);
    }
    for name in ["hostPID", "hostIPC"].iter().filter(|n| spec.bool(n)) {
        p.forbidden(&spec.at(name), NOT_ON_WINDOWS);
    }
    for c in containers::all(spec) {
        let context = c.get("securityContext");
        for name in CONTAINER_CONTEXT.iter().filter(|n| context.has(n)) {
            p.forbidden(&context.at(name), NOT_ON_WINDOWS);
        }
    }
}

/// `windowsOptions` of a pod or of a container.
pub fn options(context: &Field, p: &mut Problems) {
    let o = context.get("windowsOptions");
    if let Some(name) = o.opt_str("gmsaCredentialSpecName") {
        invalid_each(p, &o.at("gmsaCredentialSpecName"), name, names::dns_subdomain(name, false));
    }
    if let Some(text) = o.opt_str("gmsaCredentialSpec") {
        let at = o.at("gmsaCredentialSpec");
        if text.is_empty() {
            p.invalid(&at, text, "gmsaCredentialSpec cannot be an empty string");
        } else if text.len() > CREDENTIAL_SPEC_MAX_KIB * 1024 {
            p.invalid(&at, text, format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_MAX_KIB} KiB"));
        }
    }
    if let Some(user) = o.opt_str("runAsUserName") {
        user_problems(user).into_iter().for_each(|m| p.invalid(&o.at("runAsUserName"), user, m));
    }
}

/// `DOMAIN\\user`, the domain optional.
fn user_problems(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".into()],
    };
    let mut found = Vec::new();
    let mut say = |bad: bool, text: String| {
        if bad {
            found.push(text);
        }
    };
    say(domain.is_some_and(|d| d.len() >= USER_DOMAIN_MAX_BYTES), format!("runAsUserName's Domain length must be under {USER_DOMAIN_MAX_BYTES} characters"));
    say(domain.is_some_and(|d| !is_netbios(d) && !is_dns(d)), "runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
    say(user.is_empty(), "runAsUserName's User cannot be empty".into());
    say(user.len() > USER_MAX_BYTES, format!("runAsUserName's User length must not be longer than {USER_MAX_BYTES} characters"));
    say(!user.is_empty() && user.chars().all(|c| c == '.' || c == ' '), "runAsUserName's User cannot contain only periods or spaces".into());
    say(
        user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']),
        r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.into(),
    );
    found
}

fn is_netbios(domain: &str) -> bool {
    let bad = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=NETBIOS_MAX_CHARS).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(bad)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|l| names::dns_label(&l.to_ascii_lowercase(), false).is_empty())
}

/// All containers of a Windows pod run on the host itself, or none; and then in its network.
pub fn host_process(spec: &Field, p: &mut Problems) {
    let of_pod = spec.get("securityContext").get("windowsOptions").opt_bool("hostProcess");
    let all = containers::all(spec);
    let mut on_host = 0;
    for c in &all {
        let options = c.get("securityContext").get("windowsOptions");
        let own = options.opt_bool("hostProcess");
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            p.invalid(&options.at("hostProcess"), own, format!("pod hostProcess value must be identical if both are specified, was {pod}"));
        }
        on_host += usize::from(own.or(of_pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != all.len() {
        p.invalid(spec.path(), "", "If pod contains any hostProcess containers then all containers must be HostProcess containers");
    }
    if !spec.bool("hostNetwork") {
        p.invalid(&spec.at("hostNetwork"), false, "hostNetwork must be true if pod contains any hostProcess containers");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_api::Object;
    use serde_json::json;

    #[test]
    fn a_user_of_windows_has_at_most_one_domain() {
        assert!(user_problems("Container\\Admin").is_empty());
        assert!(user_problems("ContainerAdministrator").is_empty());
        assert_eq!(user_problems("a\\b\\c"), ["runAsUserName cannot contain more than one backslash"]);
        assert_eq!(user_problems(". ."), ["runAsUserName's User cannot contain only periods or spaces"]);
    }

    #[test]
    fn a_linux_pod_says_nothing_of_windows_and_the_other_way_round() {
        let o = Object(json!({"spec": {"hostPID": true, "securityContext": {"runAsUser": 1, "windowsOptions": {}}, "containers": [{"securityContext": {"privileged": true}}]}}));
        let spec = Field::root(&o).get("spec");
        let (mut linux, mut windows) = (Problems::new(), Problems::new());
        linux_pod(&spec, &mut linux);
        windows_pod(&spec, &mut windows);
        assert_eq!((linux.len(), windows.len()), (1, 3));
    }
}
