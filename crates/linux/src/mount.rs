//! Mounts as descriptors: make a filesystem, clone a tree, set its attributes, attach it to an already opened target.
//!
//! Nothing here walks a path inside a container's image: targets come from [`crate::rooted`], so that a link in an image
//! cannot lead a mount to the host. Source: fsopen(2), open_tree(2), move_mount(2), mount_setattr(2), Linux 5.12.

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount_change, move_mount, open_tree,
};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use rustix::mount::MountAttrFlags as Attributes;

/// fsconfig refuses longer values.
const MAX_OPTION_BYTES: usize = 250;

/// struct mount_attr of linux/mount.h.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Leaves it as it is.
    Keep,
    Private,
    Slave,
    Shared,
    Unbindable,
}

/// One option of a filesystem: a flag or `key=value`.
#[derive(Clone, Debug)]
pub enum FsOption<'a> {
    Flag(&'a str),
    Text(&'a str, &'a str),
}

/// A new filesystem, attached nowhere yet. /proc/mounts names it by its kind unless an option `source` says otherwise, as mount(8) users expect.
pub fn filesystem(kind: &str, options: &[FsOption<'_>], attributes: Attributes) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made = (|| {
        if !options.iter().any(|o| matches!(o, FsOption::Text("source", _))) {
            fsconfig_set_string(context.as_fd(), "source", kind)?;
        }
        for o in options {
            match o {
                FsOption::Flag(name) => fsconfig_set_flag(context.as_fd(), *name)?,
                FsOption::Text(key, value) => fsconfig_set_string(context.as_fd(), *key, *value)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    made.map_err(|e: rustix::io::Errno| explain(&context, e))
}

/// The kernel's own words about a refused filesystem, when it left some.
fn explain(context: &OwnedFd, e: rustix::io::Errno) -> io::Error {
    let plain = io::Error::from(e);
    let mut said = [0; 512];
    let n = context.try_clone().map(std::fs::File::from).and_then(|mut f| f.read(&mut said)).unwrap_or(0);
    match std::str::from_utf8(&said[..n]) {
        Ok(text) if !text.is_empty() => io::Error::new(plain.kind(), format!("{plain} ({})", text.trim())),
        _ => plain,
    }
}

/// An overlay over `layers` (topmost first). Long paths go through /proc/self/fd, so any number and length of layers fits.
pub fn overlay(layers: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    let mut open_layers = Vec::new();
    let mut names = Vec::new();
    for path in layers.iter().map(PathBuf::as_path).chain([upper, work]) {
        let text = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not UTF-8", path.display())))?;
        if text.len() < MAX_OPTION_BYTES {
            names.push(text.to_owned());
            continue;
        }
        let fd = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        names.push(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        open_layers.push(fd);
    }
    let (work, upper) = (names.pop().expect("work was pushed last"), names.pop().expect("upper was pushed before work"));
    let mut options: Vec<FsOption<'_>> = names.iter().map(|n| FsOption::Text("lowerdir+", n)).collect();
    // A container's root is never mounted twice, so its writes need not reach the disk before it ends.
    options.extend([FsOption::Text("upperdir", &upper), FsOption::Text("workdir", &work), FsOption::Flag("volatile")]);
    match filesystem("overlay", &options, Attributes::empty()) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) || e.kind() == io::ErrorKind::InvalidInput => overlay_by_string(layers, &upper, &work, e),
        r => r,
    }
}

/// Before Linux 6.7 there is no `lowerdir+`: one option of short /proc/self/fd names, which mount(2)'s page has room for.
fn overlay_by_string(layers: &[PathBuf], upper: &str, work: &str, first: io::Error) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, open};
    let fds = layers.iter().map(|l| open(l, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())).collect::<Result<Vec<_>, _>>()?;
    let lower = fds.iter().map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd())).collect::<Vec<_>>().join(":");
    let data = std::ffi::CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work},volatile"))?;
    rustix::mount::mount("overlay", upper, "overlay", rustix::mount::MountFlags::empty(), data.as_c_str()).map_err(|_| first)?;
    let tree = clone_tree(rustix::fs::CWD, Path::new(upper), false)?;
    rustix::mount::unmount(upper, rustix::mount::UnmountFlags::DETACH)?;
    Ok(tree)
}

/// A copy of what is mounted at `path` (as `mount --bind` would show), attached nowhere yet.
pub fn clone_tree(folder: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(folder, path, flags)?)
}

/// Sets (never clears) attributes and propagation of a mount by descriptor, with `recursive` of everything below it too.
pub fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, set: Attributes, propagation: Propagation) -> io::Result<()> {
    change(mount, recursive, set, Attributes::empty(), propagation, None)
}

/// Sets and clears attributes. Of the access times' three, setting or clearing one takes the others away, as they are one choice.
pub fn change_attributes(mount: BorrowedFd<'_>, recursive: bool, set: Attributes, clear: Attributes) -> io::Result<()> {
    change(mount, recursive, set, clear, Propagation::Keep, None)
}

/// Shows a detached tree's files with the ids that `user_namespace` maps them to.
pub fn map_ids(mount: BorrowedFd<'_>, recursive: bool, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    change(mount, recursive, Attributes::MOUNT_ATTR_IDMAP, Attributes::empty(), Propagation::Keep, Some(user_namespace))
}

fn change(mount: BorrowedFd<'_>, recursive: bool, set: Attributes, clear: Attributes, propagation: Propagation, user_namespace: Option<BorrowedFd<'_>>) -> io::Result<()> {
    const ACCESS_TIMES: u64 = 0x70; // MOUNT_ATTR__ATIME
    let propagation = match propagation {
        Propagation::Keep => 0,
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
        Propagation::Unbindable => libc::MS_UNBINDABLE,
    };
    let (set, mut clear) = (u64::from(set.bits()), u64::from(clear.bits()));
    if (set | clear) & ACCESS_TIMES != 0 {
        clear |= ACCESS_TIMES;
    }
    let attr = MountAttr { set, clear, propagation, userns_fd: user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64) };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` has the size passed and outlives the call.
    let r = unsafe { libc::syscall(libc::SYS_mount_setattr, mount.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>()) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a detached tree on top of an opened file or folder.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_mount(tree, "", target, "", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)?)
}

/// In a fresh mount namespace: nothing mounted here reaches the host any more; the host's later mounts still come.
pub fn stop_propagating_to_host() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}

/// Makes the mount at `root` this process's root and drops the old one.
pub fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Makes the mount at `root` this process's root without pivot_root, for hosts whose root is the initial ramfs. Weaker: the old root stays
/// mounted underneath.
pub fn move_to_root(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::mount::mount_move(".", "/")?;
    change_root(rustix::fs::CWD)
}

/// Only the root folder changes, for a container without a mount namespace.
pub fn change_root(root: BorrowedFd<'_>) -> io::Result<()> {
    if root.as_raw_fd() != rustix::fs::CWD.as_raw_fd() {
        rustix::process::fchdir(root)?;
    }
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// Keeps a namespace alive by a bind mount of `/proc/…/ns/…` onto `pin`.
pub fn pin_namespace(namespace: &Path, pin: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().create(true).append(true).open(pin)?;
    Ok(rustix::mount::mount_bind(namespace, pin)?)
}

/// Undoes [`pin_namespace`]; fine when there is nothing.
pub fn unpin_namespace(pin: &Path) -> io::Result<()> {
    match rustix::mount::unmount(pin, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match std::fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// A descriptor of an executable on a read-only mount of its own, so that no /proc/PID/exe of a process started from it can
/// be opened for writing from inside a container (CVE-2019-5736). Run it as `/proc/self/fd/N`.
pub fn read_only_executable(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(rustix::fs::CWD, path, false)?;
    set_attributes(tree.as_fd(), false, MountAttrFlags::MOUNT_ATTR_RDONLY, Propagation::Private)?;
    Ok(tree)
}

/// Whether the mount that holds `path` is shared with its peers, per mountinfo's optional fields.
pub fn is_on_shared_mount(path: &Path, mountinfo: &str) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in mountinfo.lines() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        let shared = line.split(" - ").next().is_some_and(|head| head.split(' ').skip(6).any(|f| f.starts_with("shared:")));
        if path.starts_with(point) && best.is_none_or(|(len, _)| point.len() >= len) {
            best = Some((point.len(), shared));
        }
    }
    best.is_some_and(|(_, shared)| shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root.
    #[test]
    fn a_program_that_nobody_runs_any_more_still_cannot_be_written_through_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::copy("/bin/true", &program).unwrap();
        let fd = read_only_executable(&program).unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert!(std::process::Command::new(&path).status().unwrap().success());
        let refused = std::fs::OpenOptions::new().append(true).open(&path).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        assert!(std::fs::OpenOptions::new().append(true).open(&program).is_ok(), "the server's own file stays replaceable");
    }

    #[test]
    fn sharedness_is_that_of_the_nearest_mount() {
        let mountinfo =
            "27 1 254:0 / / rw shared:1 - ext4 /dev/vda rw\n28 27 0:25 / /var/lib rw,relatime - tmpfs none ro\n29 27 0:26 / /var/lib/x rw master:3 shared:9 - tmpfs none rw\n";
        assert!(is_on_shared_mount(Path::new("/etc"), mountinfo));
        assert!(!is_on_shared_mount(Path::new("/var/lib/y"), mountinfo));
        assert!(is_on_shared_mount(Path::new("/var/lib/x/y"), mountinfo));
        assert!(!is_on_shared_mount(Path::new("/etc"), ""));
    }
}
