//! Counters of network interfaces, disk usage of folders, and what processes hold open, as the kernel tells them when asked.
//!
//! Entry points: [`interfaces`], [`disk`], [`processes`].

use crate::api::{DiskUsage, Interface, ProcessUsage};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A file's blocks are of this size, whatever the filesystem's (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// Folders deeper than this are not looked into: each level is a frame of the stack.
const DEPTH_MAX: usize = 512;

/// Reads `/proc/net/dev` or another namespace's; the loopback is left out.
pub fn interfaces(text: &str) -> Vec<Interface> {
    let line = |l: &str| {
        let (name, counters) = l.split_once(':')?;
        let n: Vec<u64> = counters.split_whitespace().map(|w| w.parse().unwrap_or(0)).collect();
        let at = |i: usize| n.get(i).copied().unwrap_or(0);
        let own = Interface {
            name: name.trim().to_owned(),
            rx_bytes: at(0),
            rx_packets: at(1),
            rx_errors: at(2),
            rx_dropped: at(3),
            tx_bytes: at(8),
            tx_packets: at(9),
            tx_errors: at(10),
            tx_dropped: at(11),
        };
        (own.name != "lo").then_some(own)
    };
    text.lines().filter_map(line).collect()
}

/// Disk below and including `path`; links are not followed, a file of several names counts once, other filesystems do not count.
pub fn disk(path: &Path) -> DiskUsage {
    let mut total = DiskUsage::default();
    let Ok(info) = path.symlink_metadata() else { return total };
    add(path, info.dev(), &mut HashSet::new(), &mut total, 0);
    total
}

/// Of these processes, the first of them first; those that ended meanwhile count as processes only.
pub fn processes(proc: &Path, pids: &[i32]) -> ProcessUsage {
    let mut total = ProcessUsage { processes: pids.len() as u64, ..ProcessUsage::default() };
    for pid in pids {
        for descriptor in std::fs::read_dir(proc.join(pid.to_string()).join("fd")).into_iter().flatten().flatten() {
            total.file_descriptors += 1;
            total.sockets += u64::from(std::fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")));
        }
    }
    let limits = pids.first().and_then(|first| std::fs::read_to_string(proc.join(first.to_string()).join("limits")).ok());
    let soft = limits.as_deref().and_then(|text| text.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok());
    total.file_descriptors_limit = soft;
    total
}

fn add(path: &Path, device: u64, seen: &mut HashSet<u64>, total: &mut DiskUsage, depth: usize) {
    let Ok(info) = path.symlink_metadata() else { return };
    if info.dev() != device || (info.nlink() > 1 && !info.is_dir() && !seen.insert(info.ino())) {
        return;
    }
    total.bytes += info.blocks() * BLOCK_BYTES;
    total.inodes += 1;
    if info.is_dir() && depth < DEPTH_MAX {
        std::fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| add(&entry.path(), device, seen, total, depth + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_and_sockets_of_processes_are_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        for (pid, targets) in [(7, &["/dev/null", "socket:[1]", "socket:[2]"][..]), (9, &["pipe:[3]"])] {
            let fds = dir.path().join(pid.to_string()).join("fd");
            std::fs::create_dir_all(&fds).expect("made");
            for (number, target) in targets.iter().enumerate() {
                std::os::unix::fs::symlink(target, fds.join(number.to_string())).expect("linked");
            }
        }
        let limits = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 4096                 files\n";
        std::fs::write(dir.path().join("7/limits"), limits).expect("written");
        let expected = ProcessUsage { processes: 3, file_descriptors: 4, sockets: 2, file_descriptors_limit: Some(1024) };
        assert_eq!(processes(dir.path(), &[7, 9, 11]), expected, "11 has ended");
        assert_eq!(processes(dir.path(), &[]), ProcessUsage::default());
    }

    #[test]
    fn interfaces_are_read_without_the_loopback() {
        let text = "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop fifo frame compressed multicast|bytes\n    \
            lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0:1500 10 1 2 0 0 0 0 900 9 3 4 0 0 0 0\n";
        let all = interfaces(text);
        assert_eq!(all.len(), 1);
        let e = &all[0];
        assert_eq!((e.name.as_str(), e.rx_bytes, e.rx_packets, e.rx_errors, e.rx_dropped), ("eth0", 1500, 10, 1, 2));
        assert_eq!((e.tx_bytes, e.tx_packets, e.tx_errors, e.tx_dropped), (900, 9, 3, 4));
    }

    #[test]
    fn a_file_of_two_names_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/a"), vec![1; 64 << 10]).unwrap();
        let one = disk(dir.path());
        std::fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("c")).unwrap();
        let two = disk(dir.path());
        assert!(one.bytes >= 64 << 10 && two.bytes < one.bytes + (32 << 10), "{one:?} {two:?}");
        assert_eq!((one.inodes, two.inodes), (3, 4), "the folder, d and a; then the link itself");
        assert_eq!(disk(&dir.path().join("missing")), DiskUsage::default());
    }
}
