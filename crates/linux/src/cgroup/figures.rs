//! Everything the kernel counts of a group, read when asked: processor time, memory, swap, processes, block devices, pressure and limits.
//!
//! Entry point: [`Group::figures`]. What a host's kernel or version does not tell is absent, never zero. Processor time of v1 and v2 is told in
//! nanoseconds, memory in bytes. Sources: the kernel's cgroup-v1 and cgroup-v2 pages, Documentation/accounting/psi.rst.

use super::{Group, Version, read_number};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// v1's way to say that there is no limit: the largest number of pages, in bytes.
const V1_NO_LIMIT: u64 = 1 << 60;
/// The unit of v1's cpuacct.stat on every Linux this runs on, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub processes: Option<u64>,
    pub processes_limit: Option<u64>,
    /// By device, in the kernel's order.
    pub io: Vec<Io>,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    pub usage_ns: u64,
    pub user_ns: Option<u64>,
    pub system_ns: Option<u64>,
    /// Enforcement periods that passed, those that were throttled, and for how long.
    pub periods: Option<u64>,
    pub throttled_periods: Option<u64>,
    pub throttled_ns: Option<u64>,
    /// In v1's words; v2's weight is turned back.
    pub shares: Option<u64>,
    /// Absent: no limit.
    pub quota_us: Option<u64>,
    pub period_us: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage_bytes: u64,
    /// Usage without file pages that the kernel would give up first.
    pub working_set_bytes: u64,
    /// Highest usage so far.
    pub peak_bytes: Option<u64>,
    pub anonymous_bytes: Option<u64>,
    pub file_bytes: Option<u64>,
    pub mapped_file_bytes: Option<u64>,
    pub kernel_bytes: Option<u64>,
    pub active_file_bytes: Option<u64>,
    pub inactive_file_bytes: Option<u64>,
    pub swap_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    /// How often the limit was hit.
    pub limit_hits: Option<u64>,
    pub oom_kills: Option<u64>,
    /// Absent: no limit.
    pub limit_bytes: Option<u64>,
    /// Of swap alone. Absent: no limit, or no swap accounting.
    pub swap_limit_bytes: Option<u64>,
    pub low_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub major: u64,
    pub minor: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// Stall time of some and of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub some: Stall,
    /// Absent for processors of the whole machine on older kernels.
    pub full: Option<Stall>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    pub total_us: u64,
    /// Shares of the last 10, 60 and 300 seconds in hundredths of a percent.
    pub avg10: u32,
    pub avg60: u32,
    pub avg300: u32,
}

type Keys = BTreeMap<String, u64>;

/// `key value` a line.
fn keys(path: &Path) -> Option<Keys> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().filter_map(|l| l.split_once(' ')).filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?))).collect())
}

/// A limit of v2: a number, or `max` for none.
fn limit_v2(path: &Path) -> Option<u64> {
    read_number(path)
}

fn limit_v1(path: &Path) -> Option<u64> {
    read_number(path).filter(|n| *n < V1_NO_LIMIT)
}

impl Pressure {
    /// A file of pressure: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full …`. Of a whole machine they lie in /proc/pressure.
    pub fn read(path: &Path) -> Option<Pressure> {
        Pressure::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Pressure> {
        let line = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).map(Stall::parse);
        Some(Pressure { some: line("some")?, full: line("full") })
    }
}

impl Stall {
    fn parse(line: &str) -> Stall {
        let text = |key: &str| line.split_whitespace().find_map(|w| w.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default();
        let hundredths = |key: &str| text(key).parse::<f64>().map_or(0, |v| (v * 100.0).round() as u32);
        Stall { total_us: text("total").parse().unwrap_or(0), avg10: hundredths("avg10"), avg60: hundredths("avg60"), avg300: hundredths("avg300") }
    }
}

impl Group {
    pub fn figures(&self) -> Figures {
        let (processes, processes_limit) = match self.file("pids", "pids.current") {
            Some((_, file)) => (read_number(&file), read_number(&file.with_file_name("pids.max"))),
            None => (None, None),
        };
        let pressure = |name: &str| self.layout.v2().and_then(|h| Pressure::read(&self.folder(h).join(name)));
        Figures {
            cpu: self.cpu(),
            memory: self.memory(),
            processes,
            processes_limit,
            io: self.io(),
            cpu_pressure: pressure("cpu.pressure"),
            memory_pressure: pressure("memory.pressure"),
            io_pressure: pressure("io.pressure"),
        }
    }

    fn cpu(&self) -> Option<Cpu> {
        match self.file("cpu", "cpu.stat")? {
            (Version::V1, stat) => self.cpu_v1(&stat),
            (Version::V2, stat) => cpu_v2(&stat),
        }
    }

    fn cpu_v1(&self, stat: &Path) -> Option<Cpu> {
        let (_, usage) = self.file("cpuacct", "cpuacct.usage")?;
        let (times, stats) = (keys(&usage.with_file_name("cpuacct.stat")).unwrap_or_default(), keys(stat).unwrap_or_default());
        let ticks = |key: &str| times.get(key).map(|t| t * TICK_NS);
        Some(Cpu {
            usage_ns: read_number(&usage)?,
            user_ns: ticks("user"),
            system_ns: ticks("system"),
            periods: stats.get("nr_periods").copied(),
            throttled_periods: stats.get("nr_throttled").copied(),
            throttled_ns: stats.get("throttled_time").copied(),
            shares: read_number(&stat.with_file_name("cpu.shares")),
            quota_us: read_number(&stat.with_file_name("cpu.cfs_quota_us")).filter(|q| *q > 0),
            period_us: read_number(&stat.with_file_name("cpu.cfs_period_us")),
        })
    }

    fn memory(&self) -> Option<Memory> {
        match self.file("memory", "memory.stat")? {
            (Version::V1, stat) => memory_v1(&stat),
            (Version::V2, stat) => memory_v2(&stat),
        }
    }

    fn io(&self) -> Vec<Io> {
        if let Some((Version::V2, file)) = self.file("io", "io.stat") {
            return io_v2(&fs::read_to_string(file).unwrap_or_default());
        }
        // A layout does not place containers in blkio; the tree may have the group all the same.
        match self.file("blkio", "blkio.throttle.io_service_bytes") {
            Some((Version::V1, file)) => {
                let read = |name: &str| fs::read_to_string(file.with_file_name(name)).unwrap_or_default();
                io_v1(&read("blkio.throttle.io_service_bytes"), &read("blkio.throttle.io_serviced"))
            }
            _ => self.layout.v2().map(|h| io_v2(&fs::read_to_string(self.folder(h).join("io.stat")).unwrap_or_default())).unwrap_or_default(),
        }
    }
}

fn cpu_v2(stat: &Path) -> Option<Cpu> {
    let stats = keys(stat)?;
    let us = |key: &str| stats.get(key).map(|us| us * 1000);
    let max = fs::read_to_string(stat.with_file_name("cpu.max")).unwrap_or_default();
    let mut max = max.split_whitespace().map(|w| w.parse::<u64>().ok());
    Some(Cpu {
        usage_ns: us("usage_usec")?,
        user_ns: us("user_usec"),
        system_ns: us("system_usec"),
        periods: stats.get("nr_periods").copied(),
        throttled_periods: stats.get("nr_throttled").copied(),
        throttled_ns: us("throttled_usec"),
        shares: read_number(&stat.with_file_name("cpu.weight")).map(shares_of_weight),
        quota_us: max.next().flatten(),
        period_us: max.next().flatten(),
    })
}

fn memory_v1(stat: &Path) -> Option<Memory> {
    let (stats, near) = (keys(stat)?, |name: &str| stat.with_file_name(name));
    let get = |key: &str| stats.get(&format!("total_{key}")).or_else(|| stats.get(key)).copied();
    let usage_bytes = read_number(&near("memory.usage_in_bytes"))?;
    let limit_bytes = limit_v1(&near("memory.limit_in_bytes"));
    let both = limit_v1(&near("memory.memsw.limit_in_bytes"));
    Some(Memory {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(get("inactive_file").unwrap_or(0)),
        peak_bytes: read_number(&near("memory.max_usage_in_bytes")),
        anonymous_bytes: get("rss"),
        file_bytes: get("cache"),
        mapped_file_bytes: get("mapped_file"),
        kernel_bytes: read_number(&near("memory.kmem.usage_in_bytes")),
        active_file_bytes: get("active_file"),
        inactive_file_bytes: get("inactive_file"),
        swap_bytes: get("swap"),
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        limit_hits: read_number(&near("memory.failcnt")),
        oom_kills: keys(&near("memory.oom_control")).and_then(|k| k.get("oom_kill").copied()),
        limit_bytes,
        swap_limit_bytes: both.zip(limit_bytes).map(|(both, memory)| both.saturating_sub(memory)),
        low_bytes: limit_v1(&near("memory.soft_limit_in_bytes")),
    })
}

fn memory_v2(stat: &Path) -> Option<Memory> {
    let (stats, near) = (keys(stat)?, |name: &str| stat.with_file_name(name));
    let get = |key: &str| stats.get(key).copied();
    let events = keys(&near("memory.events")).unwrap_or_default();
    // The top of the tree has no memory.current.
    let usage_bytes = read_number(&near("memory.current"))?;
    Some(Memory {
        usage_bytes,
        working_set_bytes: usage_bytes.saturating_sub(get("inactive_file").unwrap_or(0)),
        peak_bytes: read_number(&near("memory.peak")),
        anonymous_bytes: get("anon"),
        file_bytes: get("file"),
        mapped_file_bytes: get("file_mapped"),
        kernel_bytes: get("kernel").or_else(|| get("slab")),
        active_file_bytes: get("active_file"),
        inactive_file_bytes: get("inactive_file"),
        swap_bytes: read_number(&near("memory.swap.current")),
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        limit_hits: events.get("max").copied(),
        oom_kills: events.get("oom_kill").copied(),
        limit_bytes: limit_v2(&near("memory.max")),
        swap_limit_bytes: limit_v2(&near("memory.swap.max")),
        low_bytes: limit_v2(&near("memory.low")).filter(|n| *n > 0),
    })
}

/// `8:0 Read 4096`, a line an operation and device.
fn io_v1(bytes: &str, operations: &str) -> Vec<Io> {
    let mut all: Vec<Io> = Vec::new();
    let mut take = |text: &str, put: fn(&mut Io, &str, u64)| {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, operation, n] = words[..] else { continue };
            let Some((device, n)) = device_of(device).zip(n.parse().ok()) else { continue };
            put(entry(&mut all, device), operation, n);
        }
    };
    take(bytes, |io, operation, n| match operation {
        "Read" => io.read_bytes = n,
        "Write" => io.written_bytes = n,
        _ => {}
    });
    take(operations, |io, operation, n| match operation {
        "Read" => io.reads = n,
        "Write" => io.writes = n,
        _ => {}
    });
    all
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`, a line a device.
fn io_v2(text: &str) -> Vec<Io> {
    let line = |l: &str| {
        let mut words = l.split_whitespace();
        let (major, minor) = device_of(words.next()?)?;
        let values: BTreeMap<&str, u64> = words.filter_map(|w| w.split_once('=')).filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect();
        let get = |key: &str| values.get(key).copied().unwrap_or(0);
        Some(Io { major, minor, read_bytes: get("rbytes"), written_bytes: get("wbytes"), reads: get("rios"), writes: get("wios") })
    };
    text.lines().filter_map(line).collect()
}

fn device_of(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn entry(all: &mut Vec<Io>, (major, minor): (u64, u64)) -> &mut Io {
    let at = all.iter().position(|io| (io.major, io.minor) == (major, minor)).unwrap_or_else(|| {
        all.push(Io { major, minor, ..Io::default() });
        all.len() - 1
    });
    &mut all[at]
}

/// v1's shares for a weight of v2: 1..10000 onto 2..262144 (KEP-2254, turned round).
fn shares_of_weight(weight: u64) -> u64 {
    2 + (weight.clamp(1, 10_000) - 1) * 262_142 / 9999
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Hierarchy, Layout};

    /// A tree of files as a kernel shows it: path below the mount, content.
    fn recorded(version: Version, controllers: &[&str], files: &[(&str, &str)]) -> (tempfile::TempDir, Group) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("g")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("g").join(name), text).unwrap();
        }
        let h = Hierarchy { mount: dir.path().into(), version, controllers: controllers.iter().map(|c| (*c).to_owned()).collect() };
        let group = Layout { hierarchies: vec![h] }.group("g").unwrap();
        (dir, group)
    }

    const PSI: &str = "some avg10=1.25 avg60=0.50 avg300=0.01 total=4242\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=17\n";

    #[test]
    fn a_tree_of_v2_gives_every_figure() {
        let (_dir, group) = recorded(
            Version::V2,
            &["cpu", "memory", "pids", "io"],
            &[
                ("cpu.stat", "usage_usec 3000\nuser_usec 2000\nsystem_usec 1000\nnr_periods 7\nnr_throttled 2\nthrottled_usec 40\n"),
                ("cpu.max", "50000 100000\n"),
                ("cpu.weight", "39\n"),
                ("memory.current", "1000\n"),
                ("memory.peak", "2000\n"),
                ("memory.max", "4096\n"),
                ("memory.swap.current", "5\n"),
                ("memory.swap.max", "max\n"),
                ("memory.low", "0\n"),
                ("memory.stat", "anon 400\nfile 500\nkernel 60\nfile_mapped 30\nactive_file 200\ninactive_file 300\npgfault 11\npgmajfault 3\n"),
                ("memory.events", "low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n"),
                ("pids.current", "3\n"),
                ("pids.max", "max\n"),
                ("io.stat", "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:1 rbytes=1 wbytes=0 rios=1 wios=0\n"),
                ("cpu.pressure", PSI),
                ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
            ],
        );
        let f = group.figures();
        let cpu = f.cpu.expect("processors");
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns), (3_000_000, Some(2_000_000), Some(1_000_000)));
        assert_eq!((cpu.periods, cpu.throttled_periods, cpu.throttled_ns), (Some(7), Some(2), Some(40_000)));
        assert_eq!((cpu.quota_us, cpu.period_us, cpu.shares), (Some(50_000), Some(100_000), Some(998)));
        let memory = f.memory.expect("memory");
        assert_eq!((memory.usage_bytes, memory.working_set_bytes, memory.peak_bytes), (1000, 700, Some(2000)));
        assert_eq!((memory.anonymous_bytes, memory.file_bytes, memory.kernel_bytes, memory.mapped_file_bytes), (Some(400), Some(500), Some(60), Some(30)));
        assert_eq!((memory.swap_bytes, memory.limit_bytes, memory.swap_limit_bytes, memory.low_bytes), (Some(5), Some(4096), None, None));
        assert_eq!((memory.page_faults, memory.major_page_faults, memory.limit_hits, memory.oom_kills), (Some(11), Some(3), Some(9), Some(1)));
        assert_eq!((f.processes, f.processes_limit), (Some(3), None));
        assert_eq!(f.io[0], Io { major: 8, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 });
        assert_eq!(f.io.len(), 2);
        let pressure = f.cpu_pressure.expect("pressure");
        assert_eq!(pressure.some, Stall { total_us: 4242, avg10: 125, avg60: 50, avg300: 1 });
        assert_eq!((pressure.full.map(|s| s.total_us), f.memory_pressure.and_then(|p| p.full), f.io_pressure), (Some(17), None, None));
    }

    #[test]
    fn a_tree_of_v1_gives_the_same_from_its_own_files() {
        let (_dir, group) = recorded(
            Version::V1,
            &["cpu", "cpuacct", "memory", "pids", "blkio"],
            &[
                ("cpuacct.usage", "3000000\n"),
                ("cpuacct.stat", "user 200\nsystem 100\n"),
                ("cpu.stat", "nr_periods 7\nnr_throttled 2\nthrottled_time 40000\n"),
                ("cpu.shares", "1024\n"),
                ("cpu.cfs_quota_us", "-1\n"),
                ("cpu.cfs_period_us", "100000\n"),
                ("memory.usage_in_bytes", "1000\n"),
                ("memory.max_usage_in_bytes", "2000\n"),
                ("memory.limit_in_bytes", "4096\n"),
                ("memory.memsw.limit_in_bytes", "4096\n"),
                ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
                ("memory.failcnt", "9\n"),
                ("memory.kmem.usage_in_bytes", "60\n"),
                ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
                (
                    "memory.stat",
                    "cache 1\nrss 2\ntotal_cache 500\ntotal_rss 400\ntotal_mapped_file 30\ntotal_active_file 200\ntotal_inactive_file 300\ntotal_pgfault 11\ntotal_pgmajfault 3\n",
                ),
                ("pids.current", "3\n"),
                ("pids.max", "100\n"),
                ("blkio.throttle.io_service_bytes", "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n"),
                ("blkio.throttle.io_serviced", "8:0 Read 1\n8:0 Write 2\nTotal 3\n"),
            ],
        );
        let f = group.figures();
        let cpu = f.cpu.expect("processors");
        assert_eq!((cpu.usage_ns, cpu.user_ns, cpu.system_ns, cpu.throttled_ns), (3_000_000, Some(2_000_000_000), Some(1_000_000_000), Some(40_000)));
        assert_eq!((cpu.quota_us, cpu.period_us, cpu.shares), (None, Some(100_000), Some(1024)));
        let memory = f.memory.expect("memory");
        assert_eq!((memory.usage_bytes, memory.working_set_bytes, memory.anonymous_bytes, memory.file_bytes), (1000, 700, Some(400), Some(500)));
        assert_eq!((memory.limit_bytes, memory.swap_limit_bytes, memory.low_bytes, memory.swap_bytes), (Some(4096), Some(0), None, None));
        assert_eq!((memory.limit_hits, memory.oom_kills, f.processes_limit), (Some(9), Some(1), Some(100)));
        assert_eq!(f.io, [Io { major: 8, minor: 0, read_bytes: 4096, written_bytes: 8192, reads: 1, writes: 2 }]);
        assert_eq!(f.cpu_pressure, None, "v1 knows no pressure");
    }

    #[test]
    fn what_is_not_there_is_absent() {
        let (_dir, group) = recorded(Version::V2, &["cpu", "memory", "pids"], &[]);
        assert_eq!(group.figures(), Figures::default());
        // The top of a v2 tree: times, but no memory.current.
        let (_dir, top) = recorded(Version::V2, &["cpu", "memory"], &[("cpu.stat", "usage_usec 5\n"), ("memory.stat", "anon 1\n")]);
        let f = top.figures();
        assert_eq!((f.cpu.map(|c| c.usage_ns), f.memory), (Some(5000), None));
    }

    /// This machine's own trees.
    #[test]
    fn the_top_of_this_machine_counts_processor_time() {
        let top = Layout::discover().unwrap().top().figures();
        assert!(top.cpu.expect("some processor time has passed").usage_ns > 0);
    }
}
