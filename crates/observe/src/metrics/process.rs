//! `process_*`: what the kernel says of this process.

use super::{Collect, Described, Exposition, Shape, Stability};
use std::sync::OnceLock;

/// Kernel's unit of the times in /proc/self/stat on every Linux this runs on.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// When the process began, in seconds since 1970; read once.
pub fn started_unix_seconds() -> f64 {
    static STARTED: OnceLock<f64> = OnceLock::new();
    *STARTED.get_or_init(|| {
        let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<f64>().ok()).unwrap_or(0.0);
        boot + Stat::read().at(19) as f64 / CLOCK_TICKS_PER_SECOND
    })
}

/// Fields of /proc/self/stat after the command's name.
struct Stat(Vec<u64>);

impl Stat {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The command's name may hold spaces: fields are counted after its closing parenthesis.
        Stat(stat.rsplit_once(')').map(|(_, f)| f.split_whitespace().map(|v| v.parse().unwrap_or(0)).collect()).unwrap_or_default())
    }
    fn at(&self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }
}

/// The family of figures.
pub struct Process;

impl Collect for Process {
    fn collect(&self, to: &mut Exposition) {
        let stat = Stat::read();
        let fds = std::fs::read_dir("/proc/self/fd").map(|d| d.count()).unwrap_or(0);
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let limit = |name: &str| limits.lines().find_map(|l| l.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(-1.0);
        for (name, shape, help, value) in [
            ("process_cpu_seconds_total", Shape::Counter, "User and system CPU time spent, in seconds.", (stat.at(11) + stat.at(12)) as f64 / CLOCK_TICKS_PER_SECOND),
            ("process_resident_memory_bytes", Shape::Gauge, "Resident memory, in bytes.", (stat.at(21) * PAGE_BYTES) as f64),
            ("process_virtual_memory_bytes", Shape::Gauge, "Virtual memory, in bytes.", stat.at(20) as f64),
            ("process_virtual_memory_max_bytes", Shape::Gauge, "Most virtual memory the process may have, in bytes; -1 without a limit.", limit("Max address space")),
            ("process_open_fds", Shape::Gauge, "Open file descriptors.", fds as f64),
            ("process_max_fds", Shape::Gauge, "Most file descriptors the process may open.", limit("Max open files")),
            ("process_threads", Shape::Gauge, "Threads.", stat.at(17) as f64),
            ("process_start_time_seconds", Shape::Gauge, "When the process began, in seconds since 1970.", started_unix_seconds()),
        ] {
            to.family(&Described { name, help, stability: Stability::Unmarked }, shape, |w| match shape {
                Shape::Counter => w.counter::<&str>(&[], &[], value),
                _ => w.gauge::<&str>(&[], &[], value),
            });
        }
    }
}
