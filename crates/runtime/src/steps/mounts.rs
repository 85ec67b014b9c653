//! The mounts that the agent lists: volumes, /etc/hosts, termination log.

use crate::api::{Mount, Propagation as Wanted};
use crate::wire::{Failure, at};
use keles_linux::mount::{self, Attributes, Propagation};
use keles_linux::rooted::{self, RootDir};
use rustix::fs::CWD;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
const OVERLAY_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// A source opened on the host, not yet attached.
pub struct Source<'a> {
    mount: &'a Mount,
    tree: OwnedFd,
    is_folder: bool,
}

/// Opens all sources, parents before children, as CRI implementations order them. With a user namespace each shows its files with the
/// namespace's ids: what is 0 on disk is 0 inside.
pub fn open_sources<'a>(mounts: &'a [Mount], users: Option<BorrowedFd<'_>>) -> Result<Vec<Source<'a>>, Failure> {
    let mut ordered: Vec<&Mount> = mounts.iter().collect();
    ordered.sort_by_key(|m| m.target.components().count());
    ordered.into_iter().map(|m| open_source(m, users)).collect()
}

fn open_source<'a>(m: &'a Mount, users: Option<BorrowedFd<'_>>) -> Result<Source<'a>, Failure> {
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
    set_attributes(m, &tree).map_err(failed)?;
    if let Some(users) = users {
        map_ids(m, &tree, users)?;
    }
    Ok(Source { mount: m, tree, is_folder })
}

fn set_attributes(m: &Mount, tree: &OwnedFd) -> std::io::Result<()> {
    let propagation = match m.propagation {
        Wanted::Private => Propagation::Private,
        Wanted::HostToContainer => Propagation::Slave,
        Wanted::Bidirectional => Propagation::Shared,
    };
    mount::set_attributes(tree.as_fd(), true, Attributes::empty(), propagation)?;
    if m.read_only {
        mount::set_attributes(tree.as_fd(), m.recursive_read_only, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep)?;
    }
    Ok(())
}

/// Of the mount itself, as other runtimes do: what is mounted below keeps the host's ids.
fn map_ids(m: &Mount, tree: &OwnedFd, users: BorrowedFd<'_>) -> Result<(), Failure> {
    match mount::map_ids(tree.as_fd(), false, users) {
        // An image's layers put together cannot be mapped; nothing can be written to them anyhow.
        Err(_) if m.read_only && rustix::fs::fstatfs(tree).is_ok_and(|s| s.f_type == OVERLAY_MAGIC) => Ok(()),
        r => r.map_err(|e| Failure::new("map ids of mount", format!("{}: {e}; its filesystem may not know id-mapped mounts, which hostUsers: false needs", m.source.display()))),
    }
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
    let target = root.make_target(&s.mount.target, s.is_folder)?;
    mount::attach(s.tree.as_fd(), target.as_fd())
}
