//! A bundle's devices: nodes in /dev, and which of them the container's groups may use.

use crate::steps::devices::{self, DEFAULT};
use crate::wire::Failure;
use keles_linux::rooted::RootDir;
use keles_oci::runtime::{Device, Spec};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmodat, chownat, makedev, mknodat, openat};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Nodes of the default devices and the bundle's, the links that programs expect. With `/dev` bound from elsewhere all of it is there.
pub fn make(root: &RootDir, spec: &Spec, in_user_namespace: bool) -> Result<(), Failure> {
    if spec.mounts.iter().any(|m| m.destination == Path::new("/dev") && (m.kind == "bind" || m.options.iter().any(|o| o == "bind" || o == "rbind"))) {
        return Ok(());
    }
    drop(root.make_folder(Path::new("/dev")).map_err(|e| Failure::new("make /dev", e))?);
    let given = |path: &str| spec.linux.devices.iter().any(|d| d.path == Path::new(path));
    let default = DEFAULT.iter().map(|(name, major, minor)| Device {
        kind: "c".into(),
        path: format!("/dev/{name}").into(),
        major: i64::from(*major),
        minor: i64::from(*minor),
        file_mode: Some(0o666),
        ..Device::default()
    });
    for d in default.filter(|d| !given(&d.path.to_string_lossy())).chain(spec.linux.devices.iter().cloned()) {
        make_one(root, &d, in_user_namespace).map_err(|e| Failure::new("make device", format!("{}: {e}", d.path.display())))?;
    }
    devices::make_links(&devices::open_dev(root)?)
}

fn make_one(root: &RootDir, d: &Device, in_user_namespace: bool) -> io::Result<()> {
    if in_user_namespace && d.kind != "p" {
        return devices::bind(root, &d.path);
    }
    let kind = match d.kind.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(io::Error::other(format!("type {other:?} is not one of c, b, u, p"))),
    };
    let (Some(parent), Some(name)) = (d.path.parent(), d.path.file_name()) else { return Err(io::Error::other("not a file's path")) };
    let folder: OwnedFd = root.make_folder(parent)?;
    let device = if kind == FileType::Fifo { 0 } else { makedev(number(d.major)?, number(d.minor)?) };
    let mode = Mode::from_raw_mode(d.file_mode.unwrap_or(0o666) & 0o7777);
    match mknodat(&folder, name, kind, mode, device) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return check_existing(&folder, name, kind, device),
        Err(e) => return Err(e.into()),
    }
    // The caller's umask does not count.
    chmodat(&folder, name, mode, AtFlags::empty())?;
    if d.uid.unwrap_or(0) != 0 || d.gid.unwrap_or(0) != 0 {
        let (uid, gid) = (rustix::fs::Uid::from_raw(d.uid.unwrap_or(0)), rustix::fs::Gid::from_raw(d.gid.unwrap_or(0)));
        chownat(&folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// What the image has at a device's place must be that device.
fn check_existing(folder: &OwnedFd, name: &std::ffi::OsStr, kind: FileType, device: u64) -> io::Result<()> {
    let stat = rustix::fs::fstat(openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)?;
    let same = FileType::from_raw_mode(stat.st_mode) == kind && (kind == FileType::Fifo || stat.st_rdev == device);
    if same { Ok(()) } else { Err(io::Error::other("something else is there")) }
}

fn number(n: i64) -> io::Result<u32> {
    u32::try_from(n).map_err(|_| io::Error::other(format!("{n} is no device number")))
}

/// What containers may always use, after the bundle's own rules: (allow, rule).
pub fn rules(spec: &Spec) -> Result<Vec<(bool, String)>, Failure> {
    let text = |n: Option<i64>| n.filter(|n| *n >= 0).map_or("*".into(), |n| n.to_string());
    let mut all = Vec::new();
    for r in &spec.linux.resources.devices {
        let kind = match r.kind.as_str() {
            "" | "a" => "a",
            k @ ("c" | "b") => k,
            "u" => "c",
            other => return Err(Failure::new("device rules", format!("type {other:?} is not known"))),
        };
        let access = if r.access.is_empty() { "rwm" } else { &r.access };
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Failure::new("device rules", format!("access {access:?} is not of r, w, m")));
        }
        all.push((r.allow, format!("{kind} {}:{} {access}", text(r.major), text(r.minor))));
    }
    if !all.is_empty() {
        all.extend(devices::rules(false, &[]).into_iter().map(|r| (true, r)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundles_rules_come_first_and_what_all_may_use_last() {
        let mut spec = Spec::parse(keles_oci::runtime_default::default_spec(None).to_string().as_bytes()).expect("our own");
        let all = rules(&spec).expect("valid");
        assert_eq!(all[0], (false, "a *:* rwm".into()));
        assert!(all[1..].iter().all(|(allow, _)| *allow) && all.iter().any(|(_, r)| r == "c 1:3 rwm"));
        spec.linux.resources.devices.clear();
        assert_eq!(rules(&spec).expect("valid"), [], "a bundle without rules leaves devices alone");
        spec.linux.resources.devices.push(keles_oci::runtime::DeviceRule { kind: "x".into(), ..Default::default() });
        assert!(rules(&spec).is_err());
    }
}
