//! Volumes of files on a block device: the filesystem that is there is checked and mounted; where there is none, one is made.
//!
//! Entry point: [`mount`]. Invariants: only a device on which nothing at all is found is ever formatted, and never by two at once; a filesystem that
//! is mounted elsewhere is not checked. The host's tools do the work (blkid, mkfs, fsck, mount), as upstream's `SafeFormatAndMount` has them do it.

use crate::mount_tool::{self, FOLDERS};
use crate::{Result, VolumeError};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a volume has that does not say (upstream's default).
const DEFAULT_KIND: &str = "ext4";
/// blkid's: it found nothing.
const NOTHING_FOUND: i32 = 2;
/// fsck's bit: errors are left.
const UNCORRECTED: i32 = 4;

/// Of mkfs and fsck: large disks take hours.
const LONG: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// One device at a time: making a filesystem on two at once would be seldom, on one twice a loss.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub struct Ask<'a> {
    pub device: &'a str,
    /// The filesystem's type to make, and to mount; absent or empty: ext4.
    pub kind: Option<&'a str>,
    pub at: &'a Path,
    pub options: &'a [String],
    /// Nothing may be made on it.
    pub read_only: bool,
}

/// Mounts the device, the first time with a filesystem of its own. `at` is a folder.
pub async fn mount(ask: &Ask<'_>) -> Result<()> {
    let kind = ask.kind.filter(|kind| !kind.is_empty()).unwrap_or(DEFAULT_KIND);
    let (device, own, read_only) = (ask.device.to_owned(), kind.to_owned(), ask.read_only);
    // To its end even if nobody waits any more: half a repair may be a loss.
    let prepared = tokio::spawn(async move { prepare(&device, &own, read_only).await });
    prepared.await.map_err(|error| VolumeError::Field(format!("{}: {error}", ask.device)))??;
    let options = (!ask.options.is_empty()).then(|| ["-o".to_owned(), ask.options.join(",")]);
    let arguments = ["-t".to_owned(), kind.to_owned()].into_iter().chain(options.into_iter().flatten()).chain([ask.device.to_owned(), ask.at.display().to_string()]);
    let arguments: Vec<String> = arguments.collect();
    let ended = mount_tool::run("mount", &arguments).await?;
    if ended.is_success() { Ok(()) } else { Err(ended.failure("mount", &arguments)) }
}

async fn prepare(device: &str, kind: &str, read_only: bool) -> Result<()> {
    let _one = ONE_AT_A_TIME.lock().await;
    match found(device).await? {
        None if read_only => Err(VolumeError::Field(format!("cannot mount unformatted disk {device} as we are manipulating it in read-only mode"))),
        None => make(device, kind).await,
        Some(there) if there != kind => Err(VolumeError::Field(format!("failed to mount the volume as \"{kind}\", it already contains {there}"))),
        Some(_) if is_mounted(device)? => Ok(()),
        Some(_) => check(device).await,
    }
}

/// The type of what is on the device. Partitions, or what blkid cannot tell, are an error: they are somebody's.
async fn found(device: &str) -> Result<Option<String>> {
    needs("blkid", "util-linux")?;
    let arguments = ["-p", "-s", "TYPE", "-s", "PTTYPE", "-o", "export", device].map(str::to_owned);
    let ended = mount_tool::run("blkid", &arguments).await?;
    if ended.code == Some(NOTHING_FOUND) {
        return Ok(None);
    }
    if !ended.is_success() {
        return Err(ended.failure("blkid", &arguments));
    }
    let value = |key: &str| ended.said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned);
    match (value("TYPE"), value("PTTYPE")) {
        (Some(kind), None) => Ok(Some(kind)),
        (_, Some(table)) => Err(VolumeError::Field(format!("{device} has a partition table ({table}), it is not formatted"))),
        (None, None) => Err(ended.failure("blkid", &arguments)),
    }
}

async fn make(device: &str, kind: &str) -> Result<()> {
    let tool = format!("mkfs.{kind}");
    let package = match kind {
        "ext2" | "ext3" | "ext4" => "e2fsprogs",
        "xfs" => "xfsprogs",
        "btrfs" => "btrfs-progs",
        _ => "the package that has it",
    };
    needs(&tool, package)?;
    // No blocks kept for root; without a question whether a whole device is meant.
    let options: &[&str] = if matches!(kind, "ext3" | "ext4") { &["-F", "-m0"] } else { &[] };
    let arguments: Vec<String> = options.iter().copied().chain([device]).map(str::to_owned).collect();
    tracing::info!(device, kind, "the volume's device is empty: a filesystem is made on it");
    let ended = mount_tool::run_within(LONG, &tool, &arguments).await?;
    if ended.is_success() { Ok(()) } else { Err(ended.failure("mkfs", &arguments)) }
}

/// A host without fsck mounts unchecked, as upstream's does.
async fn check(device: &str) -> Result<()> {
    if needs("fsck", "util-linux").is_err() {
        tracing::warn!(device, "fsck is not on this node: the volume is mounted unchecked");
        return Ok(());
    }
    let arguments = ["-a".to_owned(), device.to_owned()];
    let ended = mount_tool::run_within(LONG, "fsck", &arguments).await?;
    match ended.code {
        Some(code) if code & UNCORRECTED != 0 => Err(VolumeError::Field(format!("'fsck' found errors on device {device} but could not correct them: {}", ended.said))),
        Some(0 | 1) => Ok(()),
        _ => {
            tracing::warn!(device, said = ended.said, "the volume's filesystem was not checked");
            Ok(())
        }
    }
}

fn needs(tool: &str, package: &str) -> Result<()> {
    match FOLDERS.iter().any(|folder| Path::new(folder).join(tool).exists()) {
        true => Ok(()),
        false => Err(VolumeError::NoTool { tool: tool.into(), package: package.into() }),
    }
}

/// Whether some mount of this namespace shows the device's filesystem.
fn is_mounted(device: &str) -> Result<bool> {
    let path = Path::new(device);
    let number = std::fs::metadata(path).map_err(VolumeError::io("stat", path))?.rdev();
    let wanted = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(VolumeError::io("read", table))?;
    Ok(text.lines().any(|line| line.split(' ').nth(2) == Some(wanted.as_str())))
}
