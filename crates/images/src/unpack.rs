//! A layer's tar becomes files in overlayfs's form: whiteouts as 0:0 character devices, opaque folders by an extended attribute.
//!
//! Entry point: [`unpack`]. The tar is hostile. Every path is taken apart, `..` is refused, and each parent is opened by openat2 with
//! RESOLVE_BENEATH, so that the kernel refuses links that lead out (CVE-2018-15664 and its kin); the last component is never followed.

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use tar::EntryType;

/// Entries a layer may have.
const ENTRIES_LIMIT: u64 = 5_000_000;
/// Bytes of files a layer may have.
const FILES_LIMIT_BYTES: u64 = 256 << 30;
const COPY_BYTES: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_META: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const XATTR_PREFIX: &str = "SCHILY.xattr.";

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("entry {entry:?} leads out of the layer; the image is not to be trusted")]
    Escape { entry: String },
    #[error("entry {entry:?} cannot be written: {reason}")]
    Write { entry: String, reason: io::Error },
    #[error("the data is not a readable tar: {0}")]
    Read(io::Error),
    #[error("entry {entry:?} is of type {kind:?}, which layers do not have")]
    Kind { entry: String, kind: u8 },
    #[error("the layer has more than {limit} {what}")]
    TooLarge { limit: u64, what: &'static str },
}

/// How much one layer may become: a small archive can stand for any amount of files and bytes.
#[derive(Clone, Copy)]
struct Limits {
    entries: u64,
    bytes: u64,
}

/// Unpacks into an empty folder; the bytes of all files.
pub fn unpack(tar: impl Read, root: &Path) -> Result<u64, UnpackError> {
    unpack_within(tar, root, Limits { entries: ENTRIES_LIMIT, bytes: FILES_LIMIT_BYTES })
}

fn unpack_within(tar: impl Read, root: &Path, limits: Limits) -> Result<u64, UnpackError> {
    let open = || rustix::fs::open(root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root_fd = open().map_err(|e| UnpackError::Write { entry: root.display().to_string(), reason: e.into() })?;
    let mut unpacker = Unpacker { root: Rc::new(root_fd), parent: None, folders: Vec::new(), bytes: 0, limit_bytes: limits.bytes, buffer: vec![0; COPY_BYTES] };
    let mut archive = tar::Archive::new(tar);
    let mut entries = 0;
    for entry in archive.entries().map_err(UnpackError::Read)? {
        entries += 1;
        if entries > limits.entries {
            return Err(UnpackError::TooLarge { limit: limits.entries, what: "entries" });
        }
        unpacker.entry(&mut entry.map_err(UnpackError::Read)?)?;
    }
    unpacker.date_folders();
    Ok(unpacker.bytes)
}

struct Unpacker {
    root: Rc<OwnedFd>,
    /// The parent of the last entry: most entries are siblings.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Folders get their times at the end, since filling them changes these.
    folders: Vec<(Vec<u8>, Timespec)>,
    bytes: u64,
    limit_bytes: u64,
    buffer: Vec<u8>,
}

/// What a tar says of an entry besides its content.
struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    modified: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

/// Where an entry goes.
struct Target {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
    /// For messages.
    shown: String,
}

impl Target {
    fn failed(&self) -> impl Fn(Errno) -> UnpackError + '_ {
        |e| UnpackError::Write { entry: self.shown.clone(), reason: e.into() }
    }
}

fn timestamps(modified: Timespec) -> Timestamps {
    Timestamps { last_access: modified, last_modification: modified }
}

/// The components of a path beneath the root; `None` when it leads out.
fn components(path: &[u8]) -> Option<Vec<&[u8]>> {
    let parts: Vec<&[u8]> = path.split(|b| *b == b'/').filter(|c| !c.is_empty() && *c != b".").collect();
    let good = parts.iter().all(|c| *c != b".." && !c.contains(&0));
    good.then_some(parts)
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink) {
            return Ok(());
        }
        let path = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&path).into_owned();
        let parts = components(&path).ok_or_else(|| UnpackError::Escape { entry: shown.clone() })?;
        let meta = read_meta(entry)?;
        let Some((name, above)) = parts.split_last() else {
            return self.root_entry(&meta, &shown);
        };
        let parent = self.open_parent(above, &shown)?;
        let target = Target { parent, name: name.to_vec(), path: parts.join(&b'/'), shown };
        if name.starts_with(WHITEOUT) {
            return self.whiteout(&target);
        }
        match kind {
            // Old tars mark a folder by a trailing slash only.
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => self.folder(&target, &meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.file(&target, &meta, entry),
            EntryType::Directory => self.folder(&target, &meta),
            EntryType::Symlink => self.symlink(&target, &meta, &link_name(entry, &target)?),
            EntryType::Link => self.hardlink(&target, &link_name(entry, &target)?),
            EntryType::Char => self.node(&target, &meta, FileType::CharacterDevice, device(entry)?),
            EntryType::Block => self.node(&target, &meta, FileType::BlockDevice, device(entry)?),
            EntryType::Fifo => self.node(&target, &meta, FileType::Fifo, 0),
            other => Err(UnpackError::Kind { entry: target.shown, kind: other.as_byte() }),
        }
    }

    fn root_entry(&mut self, meta: &Meta, shown: &str) -> Result<(), UnpackError> {
        let failed = |e: Errno| UnpackError::Write { entry: shown.to_string(), reason: e.into() };
        apply(&self.root, meta).map_err(failed)?;
        self.folders.push((b".".to_vec(), meta.modified));
        Ok(())
    }

    /// Opens the folder beneath the root that `parts` name, making what is missing.
    fn open_parent(&mut self, parts: &[&[u8]], shown: &str) -> Result<Rc<OwnedFd>, UnpackError> {
        if parts.is_empty() {
            return Ok(self.root.clone());
        }
        let path = parts.join(&b'/');
        if let Some((cached, fd)) = &self.parent
            && *cached == path
        {
            return Ok(fd.clone());
        }
        let fd = match self.open_beneath(&path) {
            Err(Errno::NOENT) => self.make_parents(parts),
            other => other,
        };
        let fd = Rc::new(fd.map_err(|e| match e {
            Errno::XDEV | Errno::LOOP => UnpackError::Escape { entry: shown.to_string() },
            e => UnpackError::Write { entry: shown.to_string(), reason: e.into() },
        })?);
        self.parent = Some((path, fd.clone()));
        Ok(fd)
    }

    fn open_beneath(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.root, path, how, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
                // The kernel's word for "something was renamed meanwhile".
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }

    fn make_parents(&self, parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
        let mut above = self.open_beneath(b".")?;
        for depth in 1..=parts.len() {
            let path = parts[..depth].join(&b'/');
            above = match self.open_beneath(&path) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&above, parts[depth - 1], Mode::from_raw_mode(0o755))?;
                    self.open_beneath(&path)?
                }
                other => other?,
            };
        }
        Ok(above)
    }

    /// What is there under the target's name, not followed.
    fn existing(target: &Target) -> Result<Option<rustix::fs::Stat>, UnpackError> {
        match rustix::fs::statat(&target.parent, &*target.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(target.failed()(e)),
        }
    }

    /// A later entry of the same name replaces the earlier one.
    fn clear(&mut self, target: &Target) -> Result<(), UnpackError> {
        if let Some(stat) = Self::existing(target)? {
            if is_folder(&stat) {
                self.parent = None;
            }
            remove_tree(&target.parent, &target.name, is_folder(&stat)).map_err(target.failed())?;
        }
        Ok(())
    }

    fn whiteout(&mut self, target: &Target) -> Result<(), UnpackError> {
        if target.name == OPAQUE {
            return make_opaque(&target.parent).map_err(target.failed());
        }
        if target.name.starts_with(AUFS_META) {
            return Ok(());
        }
        let hidden = Target { parent: target.parent.clone(), name: target.name[WHITEOUT.len()..].to_vec(), path: Vec::new(), shown: target.shown.clone() };
        if matches!(&*hidden.name, b"" | b"." | b"..") {
            return Err(UnpackError::Escape { entry: target.shown.clone() });
        }
        match Self::existing(&hidden)? {
            None => rustix::fs::mknodat(&hidden.parent, &*hidden.name, FileType::CharacterDevice, Mode::empty(), 0).map_err(hidden.failed()),
            // The layer brings the name itself: the whiteout is for what lies below, which a file hides anyway and a folder must be told to.
            Some(stat) if is_folder(&stat) => {
                let fd = rustix::fs::openat(&hidden.parent, &*hidden.name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
                fd.and_then(|fd| make_opaque(&fd)).map_err(hidden.failed())
            }
            Some(_) => Ok(()),
        }
    }

    fn folder(&mut self, target: &Target, meta: &Meta) -> Result<(), UnpackError> {
        let before = Self::existing(target)?;
        let whited_out = before.as_ref().is_some_and(is_whiteout);
        if !before.as_ref().is_some_and(is_folder) {
            self.clear(target)?;
            rustix::fs::mkdirat(&target.parent, &*target.name, Mode::from_raw_mode(0o700)).map_err(target.failed())?;
        }
        let fd = rustix::fs::openat(&target.parent, &*target.name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(target.failed())?;
        if whited_out {
            make_opaque(&fd).map_err(target.failed())?;
        }
        apply(&fd, meta).map_err(target.failed())?;
        self.folders.push((target.path.clone(), meta.modified));
        Ok(())
    }

    fn file(&mut self, target: &Target, meta: &Meta, content: &mut impl Read) -> Result<(), UnpackError> {
        self.clear(target)?;
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&target.parent, &*target.name, how, Mode::from_raw_mode(0o600)).map_err(target.failed())?;
        let mut file = File::from(fd);
        loop {
            let count = content.read(&mut self.buffer).map_err(UnpackError::Read)?;
            if count == 0 {
                break;
            }
            self.bytes += count as u64;
            if self.bytes > self.limit_bytes {
                return Err(UnpackError::TooLarge { limit: self.limit_bytes, what: "bytes" });
            }
            file.write_all(&self.buffer[..count]).map_err(|reason| UnpackError::Write { entry: target.shown.clone(), reason })?;
        }
        let fd = OwnedFd::from(file);
        apply(&fd, meta).and_then(|()| rustix::fs::futimens(&fd, &timestamps(meta.modified))).map_err(target.failed())
    }

    fn symlink(&mut self, target: &Target, meta: &Meta, to: &[u8]) -> Result<(), UnpackError> {
        self.clear(target)?;
        let make = || {
            rustix::fs::symlinkat(to, &target.parent, &*target.name)?;
            rustix::fs::chownat(&target.parent, &*target.name, Some(meta.uid), Some(meta.gid), AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(&target.parent, &*target.name, &timestamps(meta.modified), AtFlags::SYMLINK_NOFOLLOW)
        };
        make().map_err(target.failed())
    }

    /// The other name is a path in the layer, whatever it begins with.
    fn hardlink(&mut self, target: &Target, to: &[u8]) -> Result<(), UnpackError> {
        let escape = || UnpackError::Escape { entry: target.shown.clone() };
        let parts = components(to).ok_or_else(escape)?;
        let (name, above) = parts.split_last().ok_or_else(escape)?;
        if parts.join(&b'/') == target.path {
            return Ok(());
        }
        let fd = if above.is_empty() { self.root.clone() } else { self.open_existing(above, target)? };
        self.clear(target)?;
        rustix::fs::linkat(&fd, *name, &target.parent, &*target.name, AtFlags::empty()).map_err(target.failed())
    }

    fn open_existing(&self, parts: &[&[u8]], target: &Target) -> Result<Rc<OwnedFd>, UnpackError> {
        self.open_beneath(&parts.join(&b'/')).map(Rc::new).map_err(|e| match e {
            Errno::XDEV | Errno::LOOP => UnpackError::Escape { entry: target.shown.clone() },
            e => target.failed()(e),
        })
    }

    fn node(&mut self, target: &Target, meta: &Meta, kind: FileType, device: u64) -> Result<(), UnpackError> {
        self.clear(target)?;
        let make = || {
            rustix::fs::mknodat(&target.parent, &*target.name, kind, meta.mode, device)?;
            rustix::fs::chownat(&target.parent, &*target.name, Some(meta.uid), Some(meta.gid), AtFlags::SYMLINK_NOFOLLOW)?;
            // Not a link: it was made just now, and the folder is not reachable for others yet.
            rustix::fs::chmodat(&target.parent, &*target.name, meta.mode, AtFlags::empty())?;
            rustix::fs::utimensat(&target.parent, &*target.name, &timestamps(meta.modified), AtFlags::SYMLINK_NOFOLLOW)
        };
        make().map_err(target.failed())
    }

    fn date_folders(&self) {
        for (path, modified) in self.folders.iter().rev() {
            // A folder that a later entry replaced is gone or dated by that entry.
            if let Ok(fd) = self.open_beneath(path) {
                let _ = rustix::fs::futimens(fd, &timestamps(*modified));
            }
        }
    }
}

fn is_folder(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn make_opaque(folder: &OwnedFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(folder, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Owner first: changing it clears the setuid bit and file capabilities.
fn apply(fd: &OwnedFd, meta: &Meta) -> Result<(), Errno> {
    rustix::fs::fchown(fd, Some(meta.uid), Some(meta.gid))?;
    for (name, value) in &meta.xattrs {
        match rustix::fs::fsetxattr(fd, name.as_str(), value, XattrFlags::empty()) {
            // A file system or kernel without this namespace (selinux labels, user attributes on tmpfs).
            Err(Errno::NOTSUP) => {}
            other => other?,
        }
    }
    rustix::fs::fchmod(fd, meta.mode)
}

fn remove_tree(parent: &OwnedFd, name: &[u8], folder: bool) -> Result<(), Errno> {
    if !folder {
        return rustix::fs::unlinkat(parent, name, AtFlags::empty());
    }
    let fd = rustix::fs::openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for entry in rustix::fs::Dir::read_from(&fd)? {
        let entry = entry?;
        let child = entry.file_name().to_bytes();
        if matches!(child, b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(&fd, child, AtFlags::SYMLINK_NOFOLLOW)?;
        remove_tree(&fd, child, is_folder(&stat))?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn read_meta<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Meta, UnpackError> {
    let header = entry.header();
    // A blank field is 0, as Go's and GNU's readers take it.
    let blank = |field: &[u8]| field.iter().all(|b| matches!(b, 0 | b' '));
    let mut uid = if blank(&header.as_old().uid) { 0 } else { header.uid().map_err(UnpackError::Read)? };
    let mut gid = if blank(&header.as_old().gid) { 0 } else { header.gid().map_err(UnpackError::Read)? };
    let mode = Mode::from_raw_mode(header.mode().map_err(UnpackError::Read)? & 0o7777);
    let mut modified = Timespec { tv_sec: header.mtime().map_err(UnpackError::Read)? as i64, tv_nsec: 0 };
    let mut xattrs = Vec::new();
    if let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? {
        for extension in extensions {
            let extension = extension.map_err(UnpackError::Read)?;
            let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
            let text = std::str::from_utf8(value).unwrap_or_default();
            match key {
                "uid" => uid = text.parse().unwrap_or(uid),
                "gid" => gid = text.parse().unwrap_or(gid),
                "mtime" => modified = seconds(text).unwrap_or(modified),
                _ => xattrs.extend(key.strip_prefix(XATTR_PREFIX).filter(|n| is_image_xattr(n)).map(|n| (n.to_string(), value.to_vec()))),
            }
        }
    }
    Ok(Meta { uid: Uid::from_raw(uid as u32), gid: Gid::from_raw(gid as u32), mode, modified, xattrs })
}

/// Overlayfs takes orders from its own attributes (redirects to any path of a layer): no image may bring them.
fn is_image_xattr(name: &str) -> bool {
    !name.starts_with("trusted.") && !name.starts_with("user.overlay.") && !name.contains('\0')
}

/// `1700000000.25`, also negative.
fn seconds(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let nanos: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    Some(Timespec { tv_sec: whole.parse().ok()?, tv_nsec: nanos.parse().ok()? })
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, target: &Target) -> Result<Vec<u8>, UnpackError> {
    let name = entry.link_name_bytes().filter(|n| !n.is_empty() && !n.contains(&0));
    name.map(|n| n.into_owned()).ok_or_else(|| UnpackError::Escape { entry: target.shown.clone() })
}

fn device<R: Read>(entry: &tar::Entry<'_, R>) -> Result<u64, UnpackError> {
    let number = |n: io::Result<Option<u32>>| n.map_err(UnpackError::Read).map(Option::unwrap_or_default);
    Ok(rustix::fs::makedev(number(entry.header().device_major())?, number(entry.header().device_minor())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer of `files` files of `bytes` zeros each.
    fn layer(files: usize, bytes: usize) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for i in 0..files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("f{i}"), io::repeat(0).take(bytes as u64)).expect("in memory");
        }
        tar.into_inner().expect("in memory")
    }

    #[test]
    fn a_layer_that_swells_past_its_limits_is_refused_while_it_is_unpacked() {
        let limits = Limits { entries: 3, bytes: 1000 };
        let unpacked = |files, bytes| unpack_within(&*layer(files, bytes), tempfile::tempdir().expect("a folder").path(), limits);
        assert_eq!(unpacked(3, 300).expect("within both"), 900);
        assert!(matches!(unpacked(4, 1), Err(UnpackError::TooLarge { limit: 3, what: "entries" })));
        assert!(matches!(unpacked(2, 600), Err(UnpackError::TooLarge { limit: 1000, what: "bytes" })), "the sum of all files counts");
    }
}
