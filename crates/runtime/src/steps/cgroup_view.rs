//! /sys/fs/cgroup inside a container: its own groups, seen through its cgroup namespace; read-only unless privileged.

use super::root::mount_filesystem;
use crate::wire::{Failure, at};
use keles_linux::cgroup::{Layout, Version};
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::RootDir;
use std::os::fd::AsFd;
use std::path::Path;

const QUIET: Attributes = Attributes::MOUNT_ATTR_NOSUID.union(Attributes::MOUNT_ATTR_NODEV).union(Attributes::MOUNT_ATTR_NOEXEC);

pub fn mount(root: &RootDir, layout: &Layout, privileged: bool) -> Result<(), Failure> {
    mount_at(root, Path::new("/sys/fs/cgroup"), layout, !privileged)
}

pub fn mount_at(root: &RootDir, place: &Path, layout: &Layout, read_only: bool) -> Result<(), Failure> {
    let attributes = if read_only { QUIET | Attributes::MOUNT_ATTR_RDONLY } else { QUIET };
    let place = place.to_string_lossy();
    let v1: Vec<_> = layout.hierarchies.iter().filter(|h| h.version == Version::V1).collect();
    if v1.is_empty() {
        return mount_filesystem(root, &place, "cgroup2", &[], attributes);
    }
    mount_filesystem(root, &place, "tmpfs", &[FsOption::Text("mode", "755"), FsOption::Text("size", "64k")], QUIET)?;
    for h in v1 {
        let name = h.mount.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_else(|| h.controllers.join(","));
        // A tree is found by all of its controllers, also those we do not use: they are its folder's name.
        let options: Vec<FsOption<'_>> = name.split(',').map(FsOption::Flag).collect();
        mount_filesystem(root, &format!("{place}/{name}"), "cgroup", &options, attributes)?;
    }
    if read_only {
        let top = root.resolve(Path::new(&*place), rustix::fs::OFlags::PATH).map_err(at("open /sys/fs/cgroup"))?;
        mount::set_attributes(top.as_fd(), false, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep).map_err(at("make /sys/fs/cgroup read-only"))?;
    }
    Ok(())
}
