//! The mounts that the agent lists: volumes, /etc/hosts, termination log.

use crate::api::{Mount, Propagation as Wanted};
use crate::wire::{Failure, at};
use keles_linux::mount::{self, Attributes, Propagation};
use keles_linux::rooted::{self, RootDir};
use rustix::fs::CWD;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A source opened on the host, not yet attached.
pub struct Source<'a> {
    mount: &'a Mount,
    tree: OwnedFd,
    is_folder: bool,
}

/// Opens all sources, parents before children, as CRI implementations order them.
pub fn open_sources(mounts: &[Mount]) -> Result<Vec<Source<'_>>, Failure> {
    let mut ordered: Vec<&Mount> = mounts.iter().collect();
    ordered.sort_by_key(|m| m.target.components().count());
    ordered.into_iter().map(open_source).collect()
}

fn open_source(m: &Mount) -> Result<Source<'_>, Failure> {
    let failed = |e: std::io::Error| Failure::new("open mount source", format!("{}: {e}", m.source.display()));
    let is_folder = match rooted::is_folder(&m.source) {
        // A hostPath without a type is made as a folder when absent.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(&m.source).map_err(failed)?;
            true
        }
        r => r.map_err(failed)?,
    };
    if m.propagation == Wanted::Bidirectional {
        require_shared(&m.source)?;
    }
    let tree = mount::clone_tree(CWD, &m.source, true).map_err(failed)?;
    Ok(Source { mount: m, tree, is_folder })
}

fn require_shared(source: &Path) -> Result<(), Failure> {
    let real = std::fs::canonicalize(source).map_err(at("resolve mount source"))?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").map_err(at("read mountinfo"))?;
    if mount::is_on_shared_mount(&real, &mountinfo) {
        return Ok(());
    }
    Err(Failure::new("mount", format!("path {:?} is mounted on a mount that is not shared; run mount --make-rshared on it", source.display())))
}

/// Attaches them inside the root; links of the image in a target resolve inside it.
pub fn attach(root: &RootDir, sources: Vec<Source<'_>>) -> Result<(), Failure> {
    sources.iter().try_for_each(|s| attach_one(root, s).map_err(|e| Failure::new("mount", format!("{} to {}: {e}", s.mount.source.display(), s.mount.target.display()))))
}

fn attach_one(root: &RootDir, s: &Source<'_>) -> std::io::Result<()> {
    let propagation = match s.mount.propagation {
        Wanted::Private => Propagation::Private,
        Wanted::HostToContainer => Propagation::Slave,
        Wanted::Bidirectional => Propagation::Shared,
    };
    mount::set_attributes(s.tree.as_fd(), true, Attributes::empty(), propagation)?;
    if s.mount.read_only {
        // Of everything below the source too, where the source is a plain bind; peers of the host keep their own flags.
        mount::set_attributes(s.tree.as_fd(), s.mount.propagation == Wanted::Private, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep)?;
    }
    let target = root.make_target(&s.mount.target, s.is_folder)?;
    mount::attach(s.tree.as_fd(), target.as_fd())
}
