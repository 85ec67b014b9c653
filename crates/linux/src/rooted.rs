//! Paths inside a container's root that cannot leave it: links in the image resolve against that root.
//!
//! Entry point: [`RootDir`]. Source: openat2(2) RESOLVE_IN_ROOT; CVE-2019-19921 and CVE-2021-30465 show what goes wrong else.

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2, readlinkat, statat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Links followed while making folders.
const MAX_LINKS: u32 = 40;
/// openat2 may ask to try again while the tree is being renamed.
const MAX_RETRIES: u32 = 64;

pub struct RootDir {
    fd: OwnedFd,
}

impl RootDir {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(RootDir { fd: open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())? })
    }
    /// A folder that is open already, such as the top of a tree of mounts.
    pub fn of(fd: OwnedFd) -> Self {
        RootDir { fd }
    }
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens `path` as seen from the root.
    pub fn resolve(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let mut tries = 0;
        loop {
            match openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
                Err(Errno::AGAIN) if tries < MAX_RETRIES => tries += 1,
                r => return Ok(r?),
            }
        }
    }

    /// The folder at `path`, made when absent, and an error when any part of the path is a link: what is mounted there must be found there
    /// (/proc and /sys, CVE-2019-19921).
    pub fn make_plain_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        drop(self.make_folder(path)?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat2(&self.fd, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} must be a folder, not a link", path.display()))),
            r => Ok(r?),
        }
    }

    /// The folder at `path`, made with its parents when absent.
    pub fn make_folder(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_folder_after(path, 0)
    }

    fn make_folder_after(&self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            r => return r,
        }
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let (parent, name) = split(path)?;
        let folder = self.make_folder_after(&parent, links)?;
        match mkdirat(&folder, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        match openat(&folder, &name, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(fd),
            Err(e) => self.make_folder_after(&self.through_link(&folder, &parent, &name, e)?, links + 1),
        }
    }

    /// Where a dangling link `name` in `parent` points, as a path from the root.
    fn through_link(&self, folder: &OwnedFd, parent: &Path, name: &Path, otherwise: Errno) -> io::Result<PathBuf> {
        let target = readlinkat(folder, name, Vec::new()).map_err(|_| otherwise)?;
        let target = PathBuf::from(std::ffi::OsString::from(target.to_string_lossy().into_owned()));
        Ok(if target.is_absolute() { target } else { parent.join(target) })
    }

    /// The file at `path` (any kind but a folder), made empty with its parents when absent.
    pub fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make_file_after(path, 0)
    }

    fn make_file_after(&self, path: &Path, links: u32) -> io::Result<OwnedFd> {
        match self.resolve(path, OFlags::PATH) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            r => return r,
        }
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let (parent, name) = split(path)?;
        let folder = self.make_folder(&parent)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        match openat(&folder, &name, flags, Mode::from_raw_mode(0o644)) {
            Ok(made) => {
                drop(made);
                Ok(openat(&folder, &name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
            }
            Err(e) => self.make_file_after(&self.through_link(&folder, &parent, &name, e)?, links + 1),
        }
    }

    /// A target for a mount of `source`: a folder for a folder, else a file.
    pub fn make_target(&self, path: &Path, source_is_folder: bool) -> io::Result<OwnedFd> {
        if source_is_folder { self.make_folder(path) } else { self.make_file(path) }
    }
}

fn split(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((if parent.as_os_str().is_empty() { "/".into() } else { parent.to_path_buf() }, name.into())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file in a folder", path.display()))),
    }
}

/// Whether what was opened is a folder.
pub fn is_open_folder(fd: impl AsFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// The null device of the root that this process sees, and an error when something else stands at its place (CVE-2025-31133).
pub fn open_null_device() -> io::Result<OwnedFd> {
    let fd = open("/dev/null", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(fd) } else { Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/null is not the null device")) }
}

/// Whether `path` on the host is a folder, following links.
pub fn is_folder(path: &Path) -> io::Result<bool> {
    let stat = statat(CWD, path, rustix::fs::AtFlags::empty())?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        let root = RootDir::open(&dir.path().join("root")).unwrap();
        (dir, root)
    }

    #[test]
    fn an_absolute_link_in_the_image_stays_inside_the_root() {
        let (dir, root) = root();
        symlink(dir.path(), dir.path().join("root/escape")).unwrap();
        root.make_folder(Path::new("/escape/made")).unwrap();
        assert!(!dir.path().join("made").exists(), "the folder was made on the host");
        assert!(dir.path().join("root").join(dir.path().strip_prefix("/").unwrap()).join("made").is_dir());
    }

    #[test]
    fn dots_cannot_climb_above_the_root() {
        let (dir, root) = root();
        symlink("../../../../../..", dir.path().join("root/up")).unwrap();
        root.make_file(Path::new("/up/file")).unwrap();
        assert!(dir.path().join("root/file").is_file());
    }

    #[test]
    fn a_dangling_link_leads_to_a_new_folder_as_var_run_does() {
        let (dir, root) = root();
        std::fs::create_dir(dir.path().join("root/var")).unwrap();
        symlink("/run", dir.path().join("root/var/run")).unwrap();
        root.make_folder(Path::new("/var/run/secrets/x")).unwrap();
        assert!(dir.path().join("root/run/secrets/x").is_dir());
    }

    #[test]
    fn a_link_to_itself_ends_in_an_error() {
        let (dir, root) = root();
        symlink("/loop", dir.path().join("root/loop")).unwrap();
        assert!(root.make_folder(Path::new("/loop/x")).is_err());
        assert!(root.make_file(Path::new("/loop")).is_err());
    }
}
