//! The machine's figures.

use super::machine::{Figure, Figures};
use super::signals::Signal;
use std::path::Path;

/// All signals that can be read. Volumes lie below `data_dir`, images and what containers write below `images_dir`. Reads files: not for an async thread.
pub fn figures(data_dir: &Path, images_dir: &Path) -> Figures {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut all = Figures::new();
    all.extend(memory(&read("/proc/meminfo")).map(|figure| (Signal::MemoryAvailable, figure)));
    all.extend(pids(&read("/proc/sys/kernel/pid_max"), &read("/proc/sys/kernel/threads-max"), &read("/proc/loadavg")).map(|figure| (Signal::PidAvailable, figure)));
    let volumes: [(Signal, Signal); 1] = [(Signal::NodeFsAvailable, Signal::NodeFsInodesFree)];
    let images = [(Signal::ImageFsAvailable, Signal::ImageFsInodesFree), (Signal::ContainerFsAvailable, Signal::ContainerFsInodesFree)];
    for (dir, signals) in [(data_dir, volumes.as_slice()), (images_dir, images.as_slice())] {
        let Some((bytes, inodes)) = disk(dir) else { continue };
        for (available, inodes_free) in signals {
            all.insert(*available, bytes);
            // A filesystem without a fixed number of inodes (btrfs) says 0.
            if inodes.capacity > 0 {
                all.insert(*inodes_free, inodes);
            }
        }
    }
    all
}

/// What is not in the working set: free, or file pages not used lately.
fn memory(meminfo: &str) -> Option<Figure> {
    let figure = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<i64>().ok()? * 1024)
    };
    Some(Figure { available: figure("MemFree")? + figure("Inactive(file)")?, capacity: figure("MemTotal")? })
}

fn pids(pid_max: &str, threads_max: &str, loadavg: &str) -> Option<Figure> {
    let capacity: i64 = pid_max.trim().parse::<i64>().ok()?.min(threads_max.trim().parse().ok()?);
    let running: i64 = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Figure { available: capacity - running, capacity })
}

/// Bytes and inodes. The capacity is what can be used at all: blocks that the filesystem keeps for root are neither free nor in use.
pub fn disk(path: &Path) -> Option<(Figure, Figure)> {
    let fs = crate::figures::disk::filesystem(path)?;
    let bytes = Figure { available: fs.available_bytes as i64, capacity: (fs.used_bytes + fs.available_bytes) as i64 };
    Some((bytes, Figure { available: fs.inodes_free as i64, capacity: fs.inodes as i64 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_kernels_words() {
        let meminfo = "MemTotal:        4000 kB\nMemFree:          500 kB\nMemAvailable:    2000 kB\nInactive(file):   300 kB\n";
        assert_eq!(memory(meminfo), Some(Figure { available: 800 << 10, capacity: 4000 << 10 }));
        assert_eq!(pids("32768\n", "1000\n", "0.1 0.2 0.3 2/250 4242\n"), Some(Figure { available: 750, capacity: 1000 }));
        assert_eq!((memory(""), pids("", "", "")), (None, None));
    }

    #[test]
    fn this_machine_has_figures_for_every_signal_but_perhaps_inodes() {
        let all = figures(Path::new("/tmp"), Path::new("/"));
        for signal in [Signal::MemoryAvailable, Signal::NodeFsAvailable, Signal::ImageFsAvailable, Signal::PidAvailable] {
            let figure = all[&signal];
            assert!(0 < figure.available && figure.available <= figure.capacity, "{signal:?}: {figure:?}");
        }
    }
}
