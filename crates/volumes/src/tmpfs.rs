//! tmpfs mounts and the removal of whatever is mounted below a pod's folder.

use crate::{Result, VolumeError};
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, MountFlags, UnmountFlags, fsconfig_set_flag, fsopen, mount, unmount};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What lies there never reaches a disk, whatever the node's swap.
const NO_SWAP: &str = "noswap";
/// Longer than a child stays between fork and exec.
const FORKING: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Whether the kernel keeps a tmpfs out of swap (Linux 6.4, outside user namespaces). It is asked once, of a mount that is never made.
pub fn is_noswap_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| fsconfig_set_flag(context.as_fd(), NO_SWAP)).is_ok())
}

/// Mounts a tmpfs at `dir` unless one is there already, out of swap where the kernel can. `size_bytes` absent: the kernel's default (half of memory).
pub fn ensure(dir: &Path, size_bytes: Option<i64>) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(VolumeError::io("create", dir))?;
    if is_mounted(dir)? {
        return Ok(());
    }
    let size = size_bytes.filter(|size| *size > 0).map(|size| format!("size={size}"));
    let options: Vec<String> = size.into_iter().chain(is_noswap_supported().then(|| NO_SWAP.to_owned())).collect();
    let options = std::ffi::CString::new(options.join(",")).expect("digits and names hold no NUL");
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), options.as_c_str()).map_err(|error| VolumeError::io("mount tmpfs at", dir)(error.into()))
}

/// Asks the kernel of this one folder: its table of mounts is long on a full node, and running pods' volumes are looked at every minute.
pub fn is_mounted(dir: &Path) -> Result<bool> {
    if let Ok(found) = statx(CWD, dir, AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC, StatxFlags::empty())
        && found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // A kernel before 5.8, a folder that is not there, or a server behind it that forgot it.
    Ok(mounts_below(dir)?.iter().any(|mounted| Some(mounted) == dir.canonicalize().ok().as_ref()))
}

/// Unmounts everything at or below `dir`, deepest first, lazily so that a straggler cannot hold the pod's removal up.
pub fn unmount_below(dir: &Path) -> Result<()> {
    unmount_all(dir, UnmountFlags::DETACH)
}

/// The same, but what is in use is an error. Blocks until what is not written yet is, and for a moment over what is busy: a child that another
/// thread has just forked holds all that this process had open until it is its program, and nothing tells when that is.
pub(crate) fn unmount_wholly(dir: &Path) -> Result<()> {
    unmount_all(dir, UnmountFlags::empty())
}

fn unmount_all(dir: &Path, how: UnmountFlags) -> Result<()> {
    let patience = Instant::now() + FORKING;
    for target in mounts_below(dir)?.into_iter().rev() {
        loop {
            match unmount(&target, how) {
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => break,
                Err(Errno::BUSY) if Instant::now() < patience => std::thread::sleep(LOOK_INTERVAL),
                Err(error) => return Err(VolumeError::io("unmount", &target)(error.into())),
            }
        }
    }
    Ok(())
}

/// Mount points at or below `dir` in the order they were mounted.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    // The table has no symlinks in it.
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(VolumeError::io("read", table))?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)));
    Ok(points.filter(|point| point.starts_with(&dir)).collect())
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out + rest
}
