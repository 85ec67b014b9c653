//! The root folder: an overlay over the image's layers, /proc and /sys.

use crate::wire::{Bundle, Failure, at};
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::RootDir;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

const QUIET: Attributes = Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV).union(Attributes::MOUNT_ATTR_NOEXEC);

/// Mounts the overlay at the container's `rootfs` folder, in this process's mount namespace only.
pub fn mount(bundle: &Bundle, folder: &Path) -> Result<RootDir, Failure> {
    let empty = folder.join("empty");
    let mut layers: Vec<PathBuf> = bundle.config.layers.clone();
    if layers.is_empty() {
        std::fs::create_dir_all(&empty).map_err(at("make empty layer"))?;
        layers.push(empty);
    }
    let tree = mount::overlay(&layers, &folder.join("upper"), &folder.join("work")).map_err(at("mount overlay root"))?;
    let at_folder = folder.join("rootfs");
    let target = RootDir::open(&at_folder).map_err(at("open rootfs folder"))?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(at("attach overlay root"))?;
    // Opened again: the descriptor from before is the folder underneath.
    RootDir::open(&at_folder).map_err(at("open root"))
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
