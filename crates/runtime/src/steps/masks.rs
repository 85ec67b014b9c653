//! Parts of /proc and /sys hidden or made read-only. After pivot: paths are the container's own.

use crate::wire::Failure;
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::{self, RootDir};
use rustix::fs::OFlags;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// What is not there needs no mask.
pub fn apply<P: AsRef<Path>>(read_only_paths: &[P], masked_paths: &[P]) -> Result<(), Failure> {
    if read_only_paths.is_empty() && masked_paths.is_empty() {
        return Ok(());
    }
    let root = RootDir::open(Path::new("/")).map_err(|e| Failure::new("open root", e))?;
    let missing_is_fine = |path: &P, r: io::Result<()>| match r {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        r => r.map_err(|e| Failure::new("mask", format!("{}: {e}", path.as_ref().display()))),
    };
    read_only_paths.iter().try_for_each(|p| missing_is_fine(p, read_only(&root, p.as_ref())))?;
    masked_paths.iter().try_for_each(|p| missing_is_fine(p, mask(&root, p.as_ref())))
}

fn read_only(root: &RootDir, path: &Path) -> io::Result<()> {
    let target = root.resolve(path, OFlags::PATH)?;
    let tree = mount::clone_tree(target.as_fd(), Path::new(""), true)?;
    mount::set_attributes(tree.as_fd(), true, Attributes::MOUNT_ATTR_RDONLY, Propagation::Keep)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

/// What was opened is what is asked and covered: renaming in between changes nothing.
fn mask(root: &RootDir, path: &Path) -> io::Result<()> {
    let target = root.resolve(path, OFlags::PATH)?;
    let tree = if rooted::is_open_folder(&target)? {
        mount::filesystem("tmpfs", &[FsOption::Text("size", "0")], Attributes::MOUNT_ATTR_RDONLY)?
    } else {
        mount::clone_tree(rooted::open_null_device()?.as_fd(), Path::new(""), false)?
    };
    mount::attach(tree.as_fd(), target.as_fd())
}
