//! subPath: a part of a volume for one container, resolved so that no symlink can lead out of the volume (CVE-2017-1002101, CVE-2021-25741).
//!
//! Entry points: [`make`], then [`bind`]. The part is opened beneath the volume's root by the kernel (`openat2`, RESOLVE_BENEATH) and that open file is bind
//! mounted at a place of our own, so that what was checked is what is mounted.

use crate::{Result, VolumeError};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// What the reference kubelet's umask takes from the folders on the way.
const UMASK: u32 = 0o022;

/// Where the part is mounted: `<pod dir>/volume-subpaths/<volume>/<container>/<index>`.
pub fn place(pod_dir: &Path, volume: &str, container: &str, index: usize) -> PathBuf {
    pod_dir.join("volume-subpaths").join(volume).join(container).join(index.to_string())
}

/// Makes `volume_root/sub_path` a folder if nothing is there, with the permissions of the volume itself, so that whoever may write to the volume
/// may write to it. Volumes made of API objects are no exception: a key that is not there shows as an empty folder.
pub fn make(volume_root: &Path, sub_path: &str) -> Result<()> {
    let (root, relative) = open_root(volume_root, sub_path)?;
    let made = match open_beneath(&root, relative) {
        Err(Errno::NOENT) => make_dirs(&root, relative),
        other => other.map(drop),
    };
    made.map_err(|error| VolumeError::io("make subPath", &volume_root.join(sub_path))(error.into()))
}

/// Bind mounts `volume_root/sub_path`, which must exist, at `place` and returns it.
pub fn bind(volume_root: &Path, sub_path: &str, place: &Path) -> Result<PathBuf> {
    let (root, relative) = open_root(volume_root, sub_path)?;
    let part = open_beneath(&root, relative).map_err(|error| VolumeError::io("resolve subPath", &volume_root.join(sub_path))(error.into()))?;
    let is_dir = fstat(&part).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    prepare_place(place, is_dir)?;
    let source = format!("/proc/self/fd/{}", part.as_raw_fd());
    mount_bind(source.as_str(), place).map_err(|error| VolumeError::io("bind mount at", place)(error.into()))?;
    Ok(place.to_path_buf())
}

fn open_root<'a>(volume_root: &Path, sub_path: &'a str) -> Result<(OwnedFd, &'a Path)> {
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(VolumeError::BadPath(sub_path.into()));
    }
    let root = File::open(volume_root).map_err(VolumeError::io("open", volume_root))?;
    Ok((root.into(), relative))
}

fn open_beneath(root: &OwnedFd, relative: &Path) -> std::result::Result<OwnedFd, Errno> {
    openat2(root, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
}

/// Makes the missing folders one by one, never through a symlink.
fn make_dirs(root: &OwnedFd, relative: &Path) -> std::result::Result<(), Errno> {
    let permissions = fstat(root)?.st_mode & 0o777;
    let mut dir = root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        let made = match mkdirat(&dir, name, Mode::from_raw_mode(permissions)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        dir = openat(&dir, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        if made {
            // Explicit, for our own umask must not show; the last folder, which the container sees, gets all of it.
            let is_last = relative.components().next_back() == Some(part);
            fchmod(&dir, Mode::from_raw_mode(if is_last { permissions } else { permissions & !UMASK }))?;
        }
    }
    Ok(())
}

fn prepare_place(place: &Path, is_dir: bool) -> Result<()> {
    // A former container of the same name left its mount here.
    crate::tmpfs::unmount_below(place)?;
    let parent = place.parent().expect("a place has the container's folder above it");
    std::fs::create_dir_all(parent).map_err(VolumeError::io("create", parent))?;
    if place.is_dir() != is_dir {
        let _ = std::fs::remove_file(place);
        let _ = std::fs::remove_dir(place);
    }
    if is_dir { std::fs::create_dir_all(place).map_err(VolumeError::io("create", place)) } else { File::create(place).map(drop).map_err(VolumeError::io("create", place)) }
}
