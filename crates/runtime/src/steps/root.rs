//! The root folder: an overlay over the image's layers, /proc and /sys.

use crate::wire::{Bundle, Failure, at};
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::RootDir;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const QUIET: Attributes = Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV).union(Attributes::MOUNT_ATTR_NOEXEC);

/// The overlay over the image's layers, attached nowhere yet. With a user namespace the layers show their files with its ids; the upper folder
/// holds ids of the host, as the engine has made its owner.
pub fn overlay(bundle: &Bundle, folder: &Path, users: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    let empty = folder.join("empty");
    let mut layers: Vec<PathBuf> = bundle.config.layers.clone();
    if layers.is_empty() {
        std::fs::create_dir_all(&empty).map_err(at("make empty layer"))?;
        layers.push(empty);
    }
    if let Some(users) = users {
        map_layers(&layers, users)?;
    }
    mount::overlay(&layers, &folder.join("upper"), &folder.join("work")).map_err(at("mount overlay root"))
}

/// Shows each layer at its own place with mapped ids, in this process's mount namespace: an overlay takes no detached mounts before Linux 6.15,
/// and its layers are known as in use by their paths.
fn map_layers(layers: &[PathBuf], users: BorrowedFd<'_>) -> Result<(), Failure> {
    let one = |layer: &PathBuf| {
        let tree = mount::clone_tree(rustix::fs::CWD, layer, false)?;
        mount::map_ids(tree.as_fd(), false, users)?;
        mount::attach(tree.as_fd(), RootDir::open(layer)?.as_fd())
    };
    layers.iter().try_for_each(|layer| one(layer).map_err(|e| Failure::new("map ids of image layer", format!("{}: {e}", layer.display()))))
}

/// Attaches the root at the container's `rootfs` folder, in this process's mount namespace only.
pub fn attach(tree: OwnedFd, folder: &Path) -> Result<RootDir, Failure> {
    let place = match RootDir::open(&folder.join("rootfs")) {
        // Ids of a user namespace may not reach it; nothing else looks for it there.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => RootDir::open(Path::new("/")),
        r => r,
    };
    mount::attach(tree.as_fd(), place.map_err(at("open rootfs folder"))?.as_fd()).map_err(at("attach overlay root"))?;
    Ok(RootDir::of(tree))
}

/// A filesystem of `kind` at `path` inside the root.
pub fn mount_filesystem(root: &RootDir, path: &str, kind: &str, options: &[FsOption<'_>], attributes: Attributes) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure::new("mount", format!("{kind} at {path}: {e}"));
    let tree = mount::filesystem(kind, options, attributes).map_err(failed)?;
    let target = root.make_folder(Path::new(path)).map_err(failed)?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(failed)
}

pub fn mount_proc(root: &RootDir) -> Result<(), Failure> {
    mount_filesystem(root, "/proc", "proc", &[], QUIET)
}

pub fn mount_sys(root: &RootDir, privileged: bool) -> Result<(), Failure> {
    let read_only = if privileged { Attributes::empty() } else { Attributes::MOUNT_ATTR_RDONLY };
    mount_filesystem(root, "/sys", "sysfs", &[], QUIET | read_only)
}

/// After pivot: the root mount itself, not what is mounted below it.
pub fn make_read_only() -> Result<(), Failure> {
    let root = RootDir::open(Path::new("/")).map_err(at("open root"))?;
    mount::set_attributes(root.as_fd(), false, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep).map_err(at("make root read-only"))
}
