//! From full rights to the container's: seccomp, no_new_privs, bounding set, identity, capabilities.

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

pub fn drop_to(security: &Security, localhost: Option<&Profile>, user: &User) -> Result<(), Failure> {
    let set = capability_set(security)?;
    let program = seccomp_program(security, localhost, set)?;
    // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes first; with it, as late as possible.
    if let (Some(p), false) = (&program, security.no_new_privileges) {
        seccomp::install(p).map_err(at("install seccomp filter"))?;
    }
    capabilities::limit_bounding(set).map_err(at("limit capabilities"))?;
    process::become_user(user.uid, user.gid, &user.groups).map_err(at("become user"))?;
    capabilities::apply(set).map_err(at("set capabilities"))?;
    if security.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(at("set no_new_privs"))?;
        if let Some(p) = &program {
            seccomp::install(p).map_err(at("install seccomp filter"))?;
        }
    }
    Ok(())
}

fn capability_set(security: &Security) -> Result<Set, Failure> {
    let available = Set::available().map_err(at("read capabilities"))?;
    let wanted =
        if security.privileged { Set::all() } else { Set::default_of_containers().changed(&security.add_capabilities, &security.drop_capabilities).map_err(at("capabilities"))? };
    // A server that itself lacks some cannot give them.
    Ok(Set(wanted.0 & available.0))
}

fn seccomp_program(security: &Security, localhost: Option<&Profile>, set: Set) -> Result<Option<Vec<seccomp::Instruction>>, Failure> {
    let compiled = match (&security.seccomp, localhost) {
        _ if security.privileged => return Ok(None),
        (Seccomp::Unconfined, _) => return Ok(None),
        (Seccomp::RuntimeDefault, _) => seccomp_default::profile(set).compile(),
        (Seccomp::Localhost(_), Some(profile)) => profile.compile(),
        (Seccomp::Localhost(path), None) => return Err(Failure::new("load seccomp profile", format!("{} was not read", path.display()))),
    };
    compiled.map(Some).map_err(at("compile seccomp profile"))
}
