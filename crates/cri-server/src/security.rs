//! From a container's `LinuxContainerSecurityContext` to what the runtime is asked for.

use crate::faults::{invalid, refused};
use keles_cri::{LinuxContainerSecurityContext, ProfileType, SecurityProfile, SelinuxOption, SupplementalGroupsPolicy};
use keles_grpc::Status;
use keles_runtime::api::{AppArmor, Seccomp, Security};
use keles_runtime::process;
use std::path::Path;

/// What of this host decides: whether it has label security at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    pub selinux: bool,
    pub apparmor: bool,
}

impl Host {
    pub fn look() -> Host {
        Host { selinux: Path::new("/sys/fs/selinux/enforce").exists(), apparmor: keles_runtime::apparmor::Host::of(Path::new("/")).is_enabled() }
    }
}

/// `image_user` is whom the image names.
pub fn translate(asked: Option<&LinuxContainerSecurityContext>, image_user: &str, host: Host) -> Result<Security, Status> {
    let Some(s) = asked else {
        return Ok(Security {
            run_as_username: image_user.to_owned(),
            seccomp: Seccomp::Unconfined,
            masked_paths: process::MASKED_PATHS.map(str::to_owned).to_vec(),
            read_only_paths: process::READ_ONLY_PATHS.map(str::to_owned).to_vec(),
            ..Security::default()
        });
    };
    if s.run_as_group.is_some() && s.run_as_user.is_none() && s.run_as_username.is_empty() {
        return Err(invalid("linux.security_context.run_as_group needs run_as_user or run_as_username"));
    }
    selinux(s.selinux_options.as_ref(), host)?;
    let capabilities = s.capabilities.clone().unwrap_or_default();
    // Those that are added are ambient too, so the two lists are one.
    let mut add = capabilities.add_capabilities;
    add.extend(capabilities.add_ambient_capabilities.into_iter().filter(|name| !name.is_empty()));
    add.dedup();
    Ok(Security {
        privileged: s.privileged,
        add_capabilities: add,
        drop_capabilities: capabilities.drop_capabilities,
        no_new_privileges: s.no_new_privs,
        read_only_root: s.readonly_rootfs,
        seccomp: if s.privileged { Seccomp::Unconfined } else { seccomp(s)? },
        apparmor: apparmor(s, host)?,
        run_as_user: s.run_as_user.as_ref().map(|user| user.value),
        run_as_group: s.run_as_group.as_ref().map(|group| group.value),
        run_as_username: if s.run_as_username.is_empty() { image_user.to_owned() } else { s.run_as_username.clone() },
        supplemental_groups: s.supplemental_groups.clone(),
        strict_groups: s.supplemental_groups_policy() == SupplementalGroupsPolicy::Strict,
        // As they are given: a client that asks for none (procMount Unmasked) gets none.
        masked_paths: if s.privileged { Vec::new() } else { s.masked_paths.clone() },
        read_only_paths: if s.privileged { Vec::new() } else { s.readonly_paths.clone() },
    })
}

/// Labels mean nothing on a host without SELinux, where upstream's runtimes pass them over too.
fn selinux(options: Option<&SelinuxOption>, host: Host) -> Result<(), Status> {
    let named = options.is_some_and(|options| *options != SelinuxOption::default());
    if named && host.selinux { Err(refused("linux.security_context.selinux_options", "processes cannot be labelled")) } else { Ok(()) }
}

/// What is asked where the host has AppArmor; whether the profile is loaded the runtime says.
fn apparmor(s: &LinuxContainerSecurityContext, host: Host) -> Result<Option<AppArmor>, Status> {
    let field = "linux.security_context.apparmor";
    let (kind, name) = match &s.apparmor {
        Some(profile) => (profile.profile_type(), profile.localhost_ref.clone()),
        None => match s.apparmor_profile.as_str() {
            "" => return Ok(None),
            "unconfined" => (ProfileType::Unconfined, String::new()),
            "runtime/default" => (ProfileType::RuntimeDefault, String::new()),
            named => (ProfileType::Localhost, named.trim_start_matches("localhost/").to_owned()),
        },
    };
    match kind {
        ProfileType::Unconfined => Ok(Some(AppArmor::Unconfined)),
        // There is none to load on a host without AppArmor.
        ProfileType::RuntimeDefault => Ok(host.apparmor.then_some(AppArmor::RuntimeDefault)),
        ProfileType::Localhost if host.apparmor => Ok(Some(AppArmor::Localhost(name.trim_start_matches("localhost/").to_owned()))),
        ProfileType::Localhost => Err(refused(field, format!("profile {name:?} cannot be applied: AppArmor is not enabled on the host"))),
    }
}

/// Nothing said is Unconfined, as the service defines it.
fn seccomp(s: &LinuxContainerSecurityContext) -> Result<Seccomp, Status> {
    let of = |profile: &SecurityProfile| match profile.profile_type() {
        ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        ProfileType::Unconfined => Ok(Seccomp::Unconfined),
        ProfileType::Localhost => localhost(&profile.localhost_ref),
    };
    match (&s.seccomp, s.seccomp_profile_path.as_str()) {
        (Some(profile), _) => of(profile),
        (None, "" | "unconfined") => Ok(Seccomp::Unconfined),
        (None, "runtime/default" | "docker/default") => Ok(Seccomp::RuntimeDefault),
        (None, path) => localhost(path.strip_prefix("localhost/").unwrap_or(path)),
    }
}

fn localhost(path: &str) -> Result<Seccomp, Status> {
    if Path::new(path).is_absolute() {
        return Ok(Seccomp::Localhost(path.into()));
    }
    Err(invalid(format!("linux.security_context.seccomp: localhost_ref {path:?} must be an absolute path")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_cri::{Capability, Int64Value};

    const PLAIN: Host = Host { selinux: false, apparmor: false };

    fn translated(asked: LinuxContainerSecurityContext, host: Host) -> Result<Security, String> {
        translate(Some(&asked), "web", host).map_err(|status| status.message)
    }

    #[test]
    fn users_groups_and_capabilities_are_taken_over() {
        let capabilities = Capability { add_capabilities: vec!["NET_ADMIN".into()], drop_capabilities: vec!["ALL".into()], add_ambient_capabilities: vec!["SYS_TIME".into()] };
        let asked = LinuxContainerSecurityContext {
            capabilities: Some(capabilities),
            run_as_user: Some(Int64Value { value: 7 }),
            supplemental_groups: vec![9],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict as i32,
            ..Default::default()
        };
        let security = translated(asked, PLAIN).expect("good");
        assert_eq!((security.run_as_user, security.supplemental_groups, security.strict_groups), (Some(7), vec![9], true));
        assert_eq!((security.add_capabilities, security.drop_capabilities), (vec!["NET_ADMIN".into(), "SYS_TIME".into()], vec!["ALL".into()]));
        let group = LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 1 }), ..Default::default() };
        assert!(translated(group, PLAIN).expect_err("refused").contains("run_as_group"));
    }

    #[test]
    fn a_client_that_says_nothing_gets_hidden_paths_and_the_images_user() {
        let security = translate(None, "web", PLAIN).ok().expect("good");
        assert_eq!((security.run_as_username.as_str(), security.seccomp), ("web", Seccomp::Unconfined));
        assert!(security.masked_paths.contains(&"/proc/kcore".to_owned()));
    }

    #[test]
    fn profiles_are_found_in_both_forms() {
        let profile = |kind: ProfileType, path: &str| Some(SecurityProfile { profile_type: kind as i32, localhost_ref: path.into() });
        let with = |seccomp, path: &str| translated(LinuxContainerSecurityContext { seccomp, seccomp_profile_path: path.into(), ..Default::default() }, PLAIN).map(|s| s.seccomp);
        assert_eq!(with(profile(ProfileType::RuntimeDefault, ""), ""), Ok(Seccomp::RuntimeDefault));
        assert_eq!(with(profile(ProfileType::Localhost, "/p.json"), ""), Ok(Seccomp::Localhost("/p.json".into())));
        assert_eq!((with(None, ""), with(None, "localhost//p.json")), (Ok(Seccomp::Unconfined), Ok(Seccomp::Localhost("/p.json".into()))));
        assert!(with(profile(ProfileType::Localhost, "p.json"), "").is_err());
    }

    #[test]
    fn label_security_is_refused_where_the_host_has_it() {
        let label = LinuxContainerSecurityContext { selinux_options: Some(SelinuxOption { level: "s0".into(), ..Default::default() }), ..Default::default() };
        translated(label.clone(), PLAIN).expect("means nothing here");
        assert!(translated(label, Host { selinux: true, ..PLAIN }).expect_err("refused").contains("selinux_options"));
        let profile =
            |kind: ProfileType| LinuxContainerSecurityContext { apparmor: Some(SecurityProfile { profile_type: kind as i32, localhost_ref: "p".into() }), ..Default::default() };
        translated(profile(ProfileType::RuntimeDefault), PLAIN).expect("nothing to load");
        assert!(translated(profile(ProfileType::Localhost), PLAIN).expect_err("refused").contains("\"p\""));
        let has = Host { apparmor: true, ..PLAIN };
        let of = |context| translated(context, has).expect("taken").apparmor;
        assert_eq!(of(profile(ProfileType::RuntimeDefault)), Some(AppArmor::RuntimeDefault));
        assert_eq!(of(profile(ProfileType::Localhost)), Some(AppArmor::Localhost("p".into())));
        assert_eq!(of(LinuxContainerSecurityContext { apparmor_profile: "localhost/q".into(), ..Default::default() }), Some(AppArmor::Localhost("q".into())));
        assert_eq!(of(LinuxContainerSecurityContext::default()), None);
    }
}
