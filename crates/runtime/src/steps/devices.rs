//! /dev: a tmpfs with the devices every container has, terminals, shared memory, message queues.

use super::Plan;
use super::root::mount_filesystem;
use crate::api::Device;
use crate::wire::{Failure, at};
use keles_linux::mount::{self, Attributes, FsOption};
use keles_linux::rooted::RootDir;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chmodat, makedev, mknodat, symlinkat};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Name, major, minor.
pub const DEFAULT: &[(&str, u32, u32)] = &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: &[(&str, &str)] = &[("/proc/self/fd", "fd"), ("/proc/self/fd/0", "stdin"), ("/proc/self/fd/1", "stdout"), ("/proc/self/fd/2", "stderr"), ("pts/ptmx", "ptmx")];
/// Folders of the host's /dev that are mounts of their own and not devices to hand over.
const NOT_DEVICES: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];

pub fn mount_dev(root: &RootDir, plan: &Plan<'_>, shm: &OwnedFd) -> Result<(), Failure> {
    let nosuid = Attributes::MOUNT_ATTR_NOSUID;
    let quiet = nosuid | Attributes::MOUNT_ATTR_NODEV | Attributes::MOUNT_ATTR_NOEXEC;
    mount_filesystem(root, "/dev", "tmpfs", &[FsOption::Text("mode", "755"), FsOption::Text("size", "65536k")], nosuid | Attributes::MOUNT_ATTR_STRICTATIME)?;
    mount_filesystem(
        root,
        "/dev/pts",
        "devpts",
        &[FsOption::Text("ptmxmode", "0666"), FsOption::Text("mode", "0620"), FsOption::Text("gid", "5")],
        nosuid | Attributes::MOUNT_ATTR_NOEXEC,
    )?;
    mount_filesystem(root, "/dev/mqueue", "mqueue", &[], quiet)?;
    mount_shm(root, shm)?;
    let dev = open_dev(root)?;
    for (name, major, minor) in DEFAULT {
        if plan.users.is_some() {
            bind(root, &Path::new("/dev").join(name)).map_err(|e| Failure::new("make device", format!("{name}: {e}")))?;
            continue;
        }
        make_device(&dev, name.as_ref(), FileType::CharacterDevice, 0o666, makedev(*major, *minor)).map_err(|e| Failure::new("make device", format!("{name}: {e}")))?;
    }
    make_links(&dev)?;
    add_host_devices(root, &dev, plan)
}

/// A node with just these rights: the umask does not count.
fn make_device(folder: &OwnedFd, name: &OsStr, kind: FileType, mode: u32, device: u64) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    mknodat(folder, name, kind, mode, device)?;
    chmodat(folder, name, mode, AtFlags::empty())
}

pub fn open_dev(root: &RootDir) -> Result<OwnedFd, Failure> {
    root.resolve(Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).map_err(at("open /dev"))
}

/// Those that are there stay.
pub fn make_links(dev: &OwnedFd) -> Result<(), Failure> {
    let core: &[(&str, &str)] = if Path::new("/proc/kcore").exists() { &[("/proc/kcore", "core")] } else { &[] };
    for (target, name) in LINKS.iter().chain(core) {
        match symlinkat(*target, dev, *name) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(Failure::new("link device", format!("{name}: {e}"))),
        }
    }
    Ok(())
}

/// In a user namespace nobody may make nodes: the host's own is bound.
pub fn bind(root: &RootDir, path: &Path) -> std::io::Result<()> {
    bind_as(root, path, path)
}

fn bind_as(root: &RootDir, host: &Path, inside: &Path) -> std::io::Result<()> {
    let tree = mount::clone_tree(CWD, host, false)?;
    mount::attach(tree.as_fd(), root.make_file(inside)?.as_fd())
}

/// The pod's shared memory, or the host's.
pub fn open_shm(pods: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure> {
    match pods {
        Some(pods) => mount::clone_tree(pods, Path::new(""), false),
        None => mount::clone_tree(CWD, Path::new("/dev/shm"), false),
    }
    .map_err(at("open shared memory"))
}

fn mount_shm(root: &RootDir, tree: &OwnedFd) -> Result<(), Failure> {
    let target = root.make_folder(Path::new("/dev/shm")).map_err(at("make /dev/shm"))?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(at("mount /dev/shm"))
}

/// A device node to make.
struct Node<'a> {
    device: &'a Device,
    host_path: PathBuf,
    container_path: PathBuf,
    meta: Metadata,
}

impl Node<'_> {
    fn is_block(&self) -> bool {
        self.meta.file_type().is_block_device()
    }
}

/// A device is a node of the host; a folder stands for all nodes below it, as other runtimes have it.
fn nodes(device: &Device) -> std::io::Result<Vec<Node<'_>>> {
    let node = |host_path: PathBuf, container_path: PathBuf, meta| Node { device, host_path, container_path, meta };
    let meta = std::fs::metadata(&device.host_path)?;
    if !meta.is_dir() {
        let is_device = meta.file_type().is_char_device() || meta.file_type().is_block_device();
        return if is_device { Ok(vec![node(device.host_path.clone(), device.container_path.clone(), meta)]) } else { Err(std::io::Error::other("not a device node")) };
    }
    let mut paths = Vec::new();
    collect(&device.host_path, &mut paths);
    let below = |path: PathBuf| {
        let inside = path.strip_prefix(&device.host_path).map(|rest| device.container_path.join(rest)).unwrap_or_else(|_| path.clone());
        let meta = std::fs::metadata(&path)?;
        Ok(node(path, inside, meta))
    };
    paths.into_iter().map(below).collect()
}

/// All devices of the host for privileged containers, else those the container lists.
fn add_host_devices(root: &RootDir, dev: &OwnedFd, plan: &Plan<'_>) -> Result<(), Failure> {
    let mut devices = plan.bundle.config.devices.clone();
    if plan.bundle.config.security.privileged {
        let mut paths = Vec::new();
        collect(Path::new("/dev"), &mut paths);
        devices.extend(paths.into_iter().map(|path| Device { host_path: path.clone(), container_path: path, ..Device::default() }));
    }
    for device in &devices {
        let failed = |e: std::io::Error| Failure::new("make device", format!("{}: {e}", device.host_path.display()));
        for node in nodes(device).map_err(failed)? {
            make_node(root, dev, plan, &node).map_err(failed)?;
        }
    }
    Ok(())
}

fn make_node(root: &RootDir, dev: &OwnedFd, plan: &Plan<'_>, node: &Node<'_>) -> std::io::Result<()> {
    let (device, meta, path) = (node.device, &node.meta, &node.container_path);
    if plan.users.is_some() {
        return bind_as(root, &node.host_path, path);
    }
    let kind = if node.is_block() { FileType::BlockDevice } else { FileType::CharacterDevice };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let folder = if parent == Path::new("/dev") { dev.try_clone()? } else { root.make_folder(parent)? };
    let mode = device.mode.unwrap_or(meta.mode()) & 0o777;
    match make_device(&folder, name, kind, mode, meta.rdev()) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(e) => return Err(e.into()),
    }
    let (uid, gid) = (device.uid.unwrap_or(meta.uid()), device.gid.unwrap_or(meta.gid()));
    Ok(rustix::fs::chownat(&folder, name, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)), AtFlags::empty())?)
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && !NOT_DEVICES.iter().any(|n| entry.file_name() == *n) {
            collect(&entry.path(), out);
        } else if (kind.is_char_device() || kind.is_block_device()) && entry.file_name() != "console" && entry.file_name() != "ptmx" {
            out.push(entry.path());
        }
    }
}

/// v1 device rules of a container, in `devices.allow`'s words.
pub fn rules(privileged: bool, devices: &[Device]) -> Vec<String> {
    if privileged {
        return vec!["a *:* rwm".into()];
    }
    // Nodes may be made, only these may be opened; 5:1 console, 5:2 ptmx, 136 terminals.
    let mut rules: Vec<String> = ["c *:* m", "b *:* m", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"].map(String::from).into();
    rules.extend(DEFAULT.iter().map(|(_, major, minor)| format!("c {major}:{minor} rwm")));
    for device in devices {
        // One that cannot be looked at fails the start, which says so.
        for node in nodes(device).unwrap_or_default() {
            let kind = if node.is_block() { 'b' } else { 'c' };
            let permissions = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
            rules.push(format!("{kind} {}:{} {permissions}", rustix::fs::major(node.meta.rdev()), rustix::fs::minor(node.meta.rdev())));
        }
    }
    rules
}
