//! Parts of /proc and /sys hidden or made read-only. After pivot: paths are the container's own.

use crate::api::Security;
use crate::wire::Failure;
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::{self, RootDir};
use rustix::fs::{CWD, OFlags};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

pub fn apply(security: &Security) -> Result<(), Failure> {
    if security.privileged {
        return Ok(());
    }
    let root = RootDir::open(Path::new("/")).map_err(|e| Failure::new("open root", e))?;
    let missing_is_fine = |path: &String, r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r.map_err(|e| Failure::new("mask", format!("{path}: {e}"))),
    };
    security.read_only_paths.iter().try_for_each(|p| missing_is_fine(p, read_only(&root, Path::new(p))))?;
    security.masked_paths.iter().try_for_each(|p| missing_is_fine(p, mask(&root, Path::new(p))))
}

fn read_only(root: &RootDir, path: &Path) -> io::Result<()> {
    let target = root.resolve(path, OFlags::PATH)?;
    let tree = mount::clone_tree(target.as_fd(), Path::new(""), true)?;
    mount::set_attributes(tree.as_fd(), true, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

fn mask(root: &RootDir, path: &Path) -> io::Result<()> {
    let target = root.resolve(path, OFlags::PATH)?;
    let tree = if rooted::is_folder(path)? {
        mount::filesystem("tmpfs", &[FsOption::Text("size", "0")], Attributes::MOUNT_ATTR_RDONLY)?
    } else {
        mount::clone_tree(CWD, Path::new("/dev/null"), false)?
    };
    mount::attach(tree.as_fd(), target.as_fd())
}
