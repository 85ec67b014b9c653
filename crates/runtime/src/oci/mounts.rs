//! A bundle's mounts: sources opened before the container's first process is made, each attached by it inside the root.
//!
//! Targets are resolved inside the root by descriptor, so no link of the image leads out of it; nothing is mounted by name.

use super::namespaces;
use super::options::{self, Change, Options};
use crate::steps::{cgroup_view, root};
use crate::wire::Failure;
use keles_linux::cgroup::{Group, Layout, Version};
use keles_linux::mount::{self, Attributes, FsOption, Propagation};
use keles_linux::rooted::{self, RootDir};
use keles_oci::runtime::{Mount, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mount with its source open, if it has one.
pub struct Prepared {
    mount: Mount,
    options: Options,
    source: Option<(OwnedFd, bool)>,
}

fn failed(m: &Mount) -> impl Fn(io::Error) -> Failure {
    let what = format!("{} {} at {}", m.kind, m.source, m.destination.display());
    move |e| Failure::new("mount", format!("{what}: {e}"))
}

/// Opens the sources of binds as the host sees them; `folder` is where relative ones start.
pub fn prepare(spec: &Spec, folder: &Path) -> Result<Vec<Prepared>, Failure> {
    spec.mounts.iter().map(|m| prepare_one(spec, m, folder).map_err(|e| Failure { message: e.message, ..e })).collect()
}

fn prepare_one(spec: &Spec, m: &Mount, folder: &Path) -> Result<Prepared, Failure> {
    let options = options::parse(&m.kind, &m.options);
    let mut source = None;
    if options.bind && !options.remount {
        let path = folder.join(&m.source);
        let is_folder = rooted::is_folder(&path).map_err(failed(m))?;
        let tree = mount::clone_tree(CWD, &path, options.recursive).map_err(failed(m))?;
        map_ids(spec, m, &options, &tree)?;
        source = Some((tree, is_folder));
    }
    Ok(Prepared { mount: m.clone(), options, source })
}

fn map_ids(spec: &Spec, m: &Mount, options: &Options, tree: &OwnedFd) -> Result<(), Failure> {
    let below = match (options.map_ids, m.uid_mappings.is_empty() && m.gid_mappings.is_empty()) {
        (None, true) => return Ok(()),
        (below, _) => below.unwrap_or(false),
    };
    let own = !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty();
    let (uids, gids) = if own { (&m.uid_mappings, &m.gid_mappings) } else { (&spec.linux.uid_mappings, &spec.linux.gid_mappings) };
    if uids.is_empty() || gids.is_empty() {
        return Err(failed(m)(io::Error::other("an id-mapped mount needs uidMappings and gidMappings, of its own or of the container")));
    }
    let namespace = namespaces::id_mapping(uids, gids)?;
    mount::map_ids(tree.as_fd(), below, namespace.as_fd()).map_err(failed(m))
}

/// What the container's first process knows when it mounts.
pub struct View<'a> {
    pub root: &'a RootDir,
    pub group: &'a Group,
    pub layout: &'a Layout,
    /// Its groups are all that its cgroup namespace shows.
    pub cgroup_namespace: bool,
    /// The group's folders, for a container without a cgroup namespace: opened where they can be seen.
    pub own_groups: &'a [(PathBuf, OwnedFd)],
}

impl Prepared {
    pub fn attach(&self, view: &View<'_>) -> Result<(), Failure> {
        match (&self.source, self.mount.kind.as_str()) {
            (Some((tree, is_folder)), _) => self.attach_bind(view, tree, *is_folder).map_err(failed(&self.mount)),
            (None, "cgroup") => self.attach_cgroups(view),
            (None, _) if self.options.remount => {
                let target = view.root.resolve(&self.mount.destination, OFlags::PATH).map_err(failed(&self.mount))?;
                self.change(&target).map_err(failed(&self.mount))
            }
            _ => self.attach_filesystem(view).map_err(failed(&self.mount)),
        }
    }

    fn attach_bind(&self, view: &View<'_>, tree: &OwnedFd, is_folder: bool) -> io::Result<()> {
        refuse_under_proc(view.root, &self.mount.destination, is_folder)?;
        // As the root's: private to the host unless the options say more.
        if self.options.propagation.is_empty() {
            mount::set_attributes(tree.as_fd(), true, Attributes::empty(), Propagation::Private)?;
        }
        let target = view.root.make_target(&self.mount.destination, is_folder)?;
        mount::attach(tree.as_fd(), target.as_fd())?;
        self.change(tree)
    }

    /// Flags and propagation of what is attached.
    fn change(&self, tree: &OwnedFd) -> io::Result<()> {
        apply(tree, false, self.options.set)?;
        apply(tree, true, self.options.set_below)?;
        self.propagate(tree)
    }

    fn propagate(&self, tree: &OwnedFd) -> io::Result<()> {
        self.options.propagation.iter().try_for_each(|(kind, below)| mount::set_attributes(tree.as_fd(), *below, Attributes::empty(), *kind))
    }

    fn attach_filesystem(&self, view: &View<'_>) -> io::Result<()> {
        let m = &self.mount;
        let must_be_found_there = matches!(m.kind.as_str(), "proc" | "sysfs");
        // Copied into while it can still be written.
        let late = if self.options.copy_up { Attributes::MOUNT_ATTR_RDONLY } else { Attributes::empty() };
        let tree = mount::filesystem(&m.kind, &filesystem_options(m, &self.options), self.options.set.set - late)?;
        let target = if must_be_found_there { view.root.make_plain_folder(&m.destination)? } else { view.root.make_folder(&m.destination)? };
        if self.options.copy_up {
            copy_folder(&reopen(&target)?, &reopen(&tree)?)?;
            apply(&tree, false, Change { set: self.options.set.set & late, clear: Attributes::empty() })?;
        } else if m.kind == "tmpfs" && !m.options.iter().any(|o| o.starts_with("mode=")) {
            // The folder underneath gives its mode, as with other runtimes.
            let mode = rustix::fs::fstat(&target)?.st_mode & 0o7777;
            rustix::fs::fchmod(reopen(&tree)?, Mode::from_raw_mode(mode)).or_else(|e| if e == rustix::io::Errno::ROFS { Ok(()) } else { Err(e) })?;
        }
        mount::attach(tree.as_fd(), target.as_fd())?;
        self.propagate(&tree)
    }

    /// /sys/fs/cgroup: through a cgroup namespace as its own root, else only the container's own folders of the host's trees.
    fn attach_cgroups(&self, view: &View<'_>) -> Result<(), Failure> {
        let read_only = self.options.set.set.contains(Attributes::MOUNT_ATTR_RDONLY);
        if view.cgroup_namespace {
            return cgroup_view::mount_at(view.root, &self.mount.destination, view.layout, read_only);
        }
        let io_failed = failed(&self.mount);
        let only_v2 = view.group.folders().iter().all(|(_, version, _)| *version == Version::V2);
        let set = self.options.set.set;
        let place = |path: &Path, tree: &OwnedFd| -> io::Result<()> {
            mount::set_attributes(tree.as_fd(), true, set, Propagation::Private)?;
            mount::attach(tree.as_fd(), view.root.make_folder(path)?.as_fd())
        };
        if only_v2 {
            return view.own_groups.iter().take(1).try_for_each(|(_, tree)| place(&self.mount.destination, tree)).map_err(io_failed);
        }
        let top = self.mount.destination.to_string_lossy().into_owned();
        root::mount_filesystem(view.root, &top, "tmpfs", &[FsOption::Text("mode", "755"), FsOption::Text("size", "64k")], set - Attributes::MOUNT_ATTR_RDONLY)?;
        for (mounted_at, tree) in view.own_groups {
            place(&self.mount.destination.join(mounted_at.file_name().unwrap_or_default()), tree).map_err(&io_failed)?;
        }
        let top = view.root.resolve(&self.mount.destination, OFlags::PATH).map_err(&io_failed)?;
        apply(&top, false, self.options.set).map_err(io_failed)
    }
}

fn apply(tree: &OwnedFd, below: bool, change: Change) -> io::Result<()> {
    if change.is_empty() { Ok(()) } else { mount::change_attributes(tree.as_fd(), below, change.set, change.clear) }
}

fn filesystem_options<'a>(m: &'a Mount, options: &'a Options) -> Vec<FsOption<'a>> {
    let mut all: Vec<FsOption<'_>> = options.data.iter().map(|o| o.split_once('=').map_or(FsOption::Flag(o), |(k, v)| FsOption::Text(k, v))).collect();
    if !m.source.is_empty() {
        all.push(FsOption::Text("source", &m.source));
        // Of a disk itself, whose journal must not be replayed either.
        if m.source.starts_with('/') && options.set.set.contains(Attributes::MOUNT_ATTR_RDONLY) {
            all.push(FsOption::Flag("ro"));
        }
    }
    all
}

/// The group's folders as trees to attach.
pub fn open_own_groups(group: &Group) -> Result<Vec<(PathBuf, OwnedFd)>, Failure> {
    let open = |folder: &Path| mount::clone_tree(CWD, folder, false).map_err(|e| Failure::new("open cgroup", format!("{}: {e}", folder.display())));
    group.folders().into_iter().map(|(mounted_at, _, folder)| Ok((mounted_at, open(&folder)?))).collect()
}

/// What may be mounted over files of /proc: the figures that lxcfs and its like give a container. All else could make this process or the
/// container's believe what is not so (CVE-2019-16884).
const OVER_PROC: &[&str] = &["cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"];

fn refuse_under_proc(root: &RootDir, destination: &Path, is_folder: bool) -> io::Result<()> {
    // Where the path truly leads, links of the image followed; 0x9fa0 is PROC_SUPER_MAGIC.
    let Ok(at) = root.resolve(destination, OFlags::PATH) else { return Ok(()) };
    let is_proc = rustix::fs::fstatfs(&at).is_ok_and(|s| s.f_type == 0x9fa0);
    let allowed = destination.strip_prefix("/proc").is_ok_and(|rest| (rest.as_os_str().is_empty() && is_folder) || OVER_PROC.iter().any(|a| rest == Path::new(a)));
    if is_proc && !allowed { Err(io::Error::other("it is inside /proc, where only a few figures may be covered")) } else { Ok(()) }
}

fn reopen(folder: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Copies what a folder holds into another: `tmpcopyup`.
fn copy_folder(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        copy_entry(from, to, name)?;
    }
    set_owner(to, &stat)
}

fn set_owner(to: &OwnedFd, stat: &rustix::fs::Stat) -> io::Result<()> {
    rustix::fs::fchown(to, Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))?;
    Ok(rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?)
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &std::ffi::CStr) -> io::Result<()> {
    use rustix::fs::{mkdirat, mknodat, openat, readlinkat, statat, symlinkat};
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let (mode, open) = (Mode::from_raw_mode(stat.st_mode & 0o7777), OFlags::NOFOLLOW | OFlags::CLOEXEC);
    match kind {
        FileType::Directory => {
            mkdirat(to, name, mode)?;
            let folder = OFlags::RDONLY | OFlags::DIRECTORY | open;
            copy_folder(&openat(from, name, folder, Mode::empty())?, &openat(to, name, folder, Mode::empty())?)
        }
        FileType::RegularFile => {
            let mut source = std::fs::File::from(openat(from, name, OFlags::RDONLY | open, Mode::empty())?);
            let target = openat(to, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | open, mode)?;
            io::copy(&mut source, &mut std::fs::File::from(target.try_clone()?))?;
            set_owner(&target, &stat)
        }
        FileType::Symlink => {
            symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
            Ok(rustix::fs::chownat(to, name, Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        kind => Ok(mknodat(to, name, kind, mode, stat.st_rdev)?),
    }
}
