//! From full rights to the container's: bounding set, identity, capabilities, no_new_privs, seccomp.

use super::user::User;
use crate::api::{Seccomp, Security};
use crate::wire::{Failure, at};
use keles_linux::capabilities::{self, Set};
use keles_linux::seccomp::Profile;
use keles_linux::{process, seccomp, seccomp_default};

/// Reads a profile of the host; to be called before the root changes.
pub fn load_profile(security: &Security) -> Result<Option<Profile>, Failure> {
    let Seccomp::Localhost(path) = &security.seccomp else { return Ok(None) };
    let failed = |e: &dyn std::fmt::Display| Failure::new("load seccomp profile", format!("{}: {e}", path.display()));
    let text = std::fs::read(path).map_err(|e| failed(&e))?;
    Profile::from_json(&text).map(Some).map_err(|e| failed(&e))
}

/// A filter to install, with its flags.
pub type Filter = (Vec<seccomp::Instruction>, u32);

/// What a process is left with.
pub struct Privileges {
    pub capabilities: capabilities::Sets,
    pub no_new_privileges: bool,
    pub filter: Option<Filter>,
    /// uid, gid, further groups.
    pub user: (u32, u32, Vec<u32>),
}

pub fn drop_to(security: &Security, localhost: Option<&Profile>, user: &User) -> Result<(), Failure> {
    let set = capability_set(security)?;
    let filter = seccomp_program(security, localhost, set)?;
    let capabilities = capabilities::Sets::plain(set);
    let privileges = Privileges { capabilities, no_new_privileges: security.no_new_privileges, filter, user: (user.uid, user.gid, user.groups.clone()) };
    privileges.take(|| Ok(()))
}

impl Privileges {
    /// Leaves the calling process with these. `last` runs as the new identity, before the filter: what it does need not be allowed by it.
    pub fn take(&self, last: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let (uid, gid, groups) = &self.user;
        capabilities::limit_bounding(self.capabilities.bounding).map_err(at("limit capabilities"))?;
        process::become_user(*uid, *gid, groups).map_err(at("become user"))?;
        // Without no_new_privs a filter needs CAP_SYS_ADMIN: kept until then, where there is one.
        let keeps = self.filter.is_some() && !self.no_new_privileges;
        let kept = if keeps { Set::available().map_err(at("read capabilities"))?.0 & capabilities::SYS_ADMIN.0 } else { 0 };
        let with = |s: Set| Set(s.0 | kept);
        let c = self.capabilities;
        capabilities::apply_sets(&capabilities::Sets { effective: with(c.effective), permitted: with(c.permitted), ..c }).map_err(at("set capabilities"))?;
        last()?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(at("set no_new_privs"))?;
        }
        self.install_filter()?;
        if kept != 0 {
            capabilities::apply_sets(&c).map_err(at("set capabilities"))?;
        }
        Ok(())
    }

    fn install_filter(&self) -> Result<(), Failure> {
        self.filter.as_ref().map_or(Ok(()), |(program, flags)| seccomp::install(program, *flags).map_err(at("install seccomp filter")))
    }
}

/// A profile as what the kernel takes.
pub fn compile(profile: &Profile) -> Result<Filter, Failure> {
    let flags = profile.install_flags().map_err(at("compile seccomp profile"))?;
    Ok((profile.compile().map_err(at("compile seccomp profile"))?, flags))
}

fn capability_set(security: &Security) -> Result<Set, Failure> {
    let available = Set::available().map_err(at("read capabilities"))?;
    let wanted =
        if security.privileged { Set::all() } else { Set::default_of_containers().changed(&security.add_capabilities, &security.drop_capabilities).map_err(at("capabilities"))? };
    // A server that itself lacks some cannot give them.
    Ok(Set(wanted.0 & available.0))
}

fn seccomp_program(security: &Security, localhost: Option<&Profile>, set: Set) -> Result<Option<Filter>, Failure> {
    match (&security.seccomp, localhost) {
        _ if security.privileged => Ok(None),
        (Seccomp::Unconfined, _) => Ok(None),
        (Seccomp::RuntimeDefault, _) => compile(&seccomp_default::profile(set)).map(Some),
        (Seccomp::Localhost(_), Some(profile)) => compile(profile).map(Some),
        (Seccomp::Localhost(path), None) => Err(Failure::new("load seccomp profile", format!("{} was not read", path.display()))),
    }
}
