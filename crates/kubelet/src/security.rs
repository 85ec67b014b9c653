//! Security contexts of pod and container joined into what the runtime is told.

use crate::image_store::NodeImage;
use k8s_openapi::api::core::v1::{AppArmorProfile, Container, ContainerUser, LinuxContainerUser, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};
use keles_runtime::api::{AppArmor, Seccomp, Security};
use keles_runtime::process;
use std::path::Path;

/// The texts users see in CreateContainerConfigError.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RootUser { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RootImage { pod: String, container: String },
    #[error("container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})")]
    UnknownUser { user: String, pod: String, container: String },
    #[error("localhost seccomp profile must be set if type is Localhost")]
    NoLocalhostProfile,
}

/// Joins the two contexts; `seccomp_default` is for containers that name no profile, `profiles` holds Localhost ones.
pub fn join(pod: &Pod, container: &Container, image: &NodeImage, seccomp_default: &Seccomp, profiles: &Path) -> Result<Security, SecurityError> {
    let spec = pod.spec.as_ref().expect("the API server admits no pod without a spec");
    let (of_pod, own) = contexts(spec, container);
    let run_as_user = own.run_as_user.or(of_pod.run_as_user);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        check_non_root(pod, container, run_as_user, &image.user)?;
    }
    let privileged = own.privileged == Some(true);
    let bare = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let paths = |list: &[&str]| if bare { Vec::new() } else { list.iter().map(|path| (*path).to_string()).collect() };
    let mut supplemental_groups = of_pod.supplemental_groups.clone().unwrap_or_default();
    supplemental_groups.extend(of_pod.fs_group);
    Ok(Security {
        privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        read_only_root: own.read_only_root_filesystem == Some(true),
        seccomp: seccomp(privileged, own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), seccomp_default, profiles)?,
        apparmor: app_armor(pod, container),
        run_as_user,
        run_as_group: own.run_as_group.or(of_pod.run_as_group),
        run_as_username: image.user.clone(),
        supplemental_groups,
        strict_groups: of_pod.supplemental_groups_policy.as_deref() == Some("Strict"),
        masked_paths: paths(&process::MASKED_PATHS),
        read_only_paths: paths(&process::READ_ONLY_PATHS),
    })
}

fn contexts(spec: &PodSpec, container: &Container) -> (PodSecurityContext, SecurityContext) {
    (spec.security_context.clone().unwrap_or_default(), container.security_context.clone().unwrap_or_default())
}

/// Before fields said it: annotation of a container's name -> `runtime/default`, `localhost/NAME` or `unconfined`.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// The container's AppArmor profile: its own, else that of its annotation (static pods may have nothing else), else the pod's.
pub fn app_armor(pod: &Pod, container: &Container) -> Option<AppArmor> {
    let field = |profile: &AppArmorProfile| match profile.type_.as_str() {
        "RuntimeDefault" => AppArmor::RuntimeDefault,
        "Localhost" => AppArmor::Localhost(profile.localhost_profile.clone().unwrap_or_default()),
        _ => AppArmor::Unconfined,
    };
    let own = container.security_context.as_ref().and_then(|security| security.app_armor_profile.as_ref());
    let noted = || pod.metadata.annotations.as_ref()?.get(&format!("{ANNOTATION}{}", container.name)).and_then(|text| annotated(text));
    let of_pod = || pod.spec.as_ref()?.security_context.as_ref()?.app_armor_profile.as_ref().map(field);
    own.map(field).or_else(noted).or_else(of_pod)
}

fn annotated(text: &str) -> Option<AppArmor> {
    match text {
        "runtime/default" => Some(AppArmor::RuntimeDefault),
        "unconfined" => Some(AppArmor::Unconfined),
        other => other.strip_prefix("localhost/").map(|name| AppArmor::Localhost(name.into())),
    }
}

fn seccomp(privileged: bool, profile: Option<&SeccompProfile>, default: &Seccomp, profiles: &Path) -> Result<Seccomp, SecurityError> {
    if privileged {
        return Ok(Seccomp::Unconfined);
    }
    Ok(match profile.map(|profile| profile.type_.as_str()) {
        None => default.clone(),
        Some("RuntimeDefault") => Seccomp::RuntimeDefault,
        Some("Localhost") => {
            let name = profile.and_then(|profile| profile.localhost_profile.as_deref()).ok_or(SecurityError::NoLocalhostProfile)?;
            Seccomp::Localhost(profiles.join(name))
        }
        Some(_) => Seccomp::Unconfined,
    })
}

fn check_non_root(pod: &Pod, container: &Container, run_as_user: Option<i64>, image_user: &str) -> Result<(), SecurityError> {
    let (pod, container) = (crate::pod_ref(pod), container.name.clone());
    if let Some(user) = run_as_user {
        return if user == 0 { Err(SecurityError::RootUser { pod, container }) } else { Ok(()) };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(0) => Err(SecurityError::RootImage { pod, container }),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(SecurityError::RootImage { pod, container }),
        Err(_) => Err(SecurityError::UnknownUser { user: user.into(), pod, container }),
    }
}

/// The identity shown in the container's status, where the specs alone decide it; an image's user is known to the runtime only.
pub fn effective_user(spec: &PodSpec, container: &Container) -> Option<ContainerUser> {
    let (of_pod, own) = contexts(spec, container);
    let uid = own.run_as_user.or(of_pod.run_as_user)?;
    let gid = own.run_as_group.or(of_pod.run_as_group)?;
    let mut groups = vec![gid];
    groups.extend(of_pod.supplemental_groups.unwrap_or_default());
    groups.extend(of_pod.fs_group);
    groups.dedup();
    Some(ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups: Some(groups) }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(of_pod: serde_json::Value, own: serde_json::Value) -> Pod {
        let spec = json!({"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]});
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).expect("a pod")
    }

    fn joined(of_pod: serde_json::Value, own: serde_json::Value, user: &str) -> Result<Security, SecurityError> {
        let pod = pod(of_pod, own);
        let image = NodeImage { user: user.into(), ..Default::default() };
        let container = pod.spec.as_ref().expect("spec").containers[0].clone();
        join(&pod, &container, &image, &Seccomp::Unconfined, Path::new("/profiles"))
    }

    #[test]
    fn run_as_non_root_says_why_it_refuses() {
        for (user, text) in [
            ("", "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"),
            ("web", "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: \"p_n(u)\", container: c)"),
        ] {
            assert_eq!(joined(json!({"runAsNonRoot": true}), json!({}), user).expect_err("refused").to_string(), text);
        }
        let text = "container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)";
        assert_eq!(joined(json!({"runAsNonRoot": true}), json!({"runAsUser": 0}), "").expect_err("refused").to_string(), text);
        joined(json!({"runAsNonRoot": true}), json!({}), "1000").expect("a numeric user is not root");
    }

    #[test]
    fn the_container_wins_over_the_pod_and_groups_join() {
        let security = joined(json!({"runAsUser": 1, "runAsGroup": 2, "supplementalGroups": [3], "fsGroup": 4}), json!({"runAsUser": 9, "allowPrivilegeEscalation": false}), "")
            .expect("joined");
        assert_eq!((security.run_as_user, security.run_as_group, security.supplemental_groups), (Some(9), Some(2), vec![3, 4]));
        assert!(!security.strict_groups);
        let strict = joined(json!({"supplementalGroupsPolicy": "Strict"}), json!({}), "").expect("joined");
        assert!(strict.strict_groups);
        assert!(security.no_new_privileges && security.masked_paths.contains(&"/proc/kcore".to_string()));
    }

    #[test]
    fn the_containers_apparmor_profile_wins_over_its_annotation_and_that_over_the_pods() {
        let of = |of_pod: serde_json::Value, own: serde_json::Value, note: Option<&str>| {
            let mut pod = pod(json!({"appArmorProfile": of_pod}), json!({"appArmorProfile": own}));
            pod.metadata.annotations = note.map(|note| [(format!("{ANNOTATION}c"), note.to_owned())].into());
            app_armor(&pod, &pod.spec.as_ref().expect("spec").containers[0])
        };
        let (default, none) = (json!({"type": "RuntimeDefault"}), serde_json::Value::Null);
        let own = json!({"type": "Localhost", "localhostProfile": "mine"});
        assert_eq!(of(default.clone(), own, Some("unconfined")), Some(AppArmor::Localhost("mine".into())));
        assert_eq!(of(default.clone(), none.clone(), Some("localhost/noted")), Some(AppArmor::Localhost("noted".into())));
        assert_eq!(of(none.clone(), none.clone(), Some("runtime/default")), Some(AppArmor::RuntimeDefault));
        assert_eq!((of(default, none.clone(), None), of(none.clone(), none, None)), (Some(AppArmor::RuntimeDefault), None));
    }

    #[test]
    fn privileged_means_nothing_masked_and_no_seccomp() {
        let security = joined(json!({"seccompProfile": {"type": "RuntimeDefault"}}), json!({"privileged": true}), "").expect("joined");
        assert_eq!((security.seccomp, security.masked_paths.len(), security.read_only_paths.len()), (Seccomp::Unconfined, 0, 0));
    }
}
