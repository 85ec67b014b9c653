//! What the machine as a whole has and uses: processors, memory, swap, network, processes, pressure.
//!
//! Entry point: [`Machine::read`]. Processor time and memory come from the tops of the control group trees, and from /proc where these do not
//! count (the top of v2 knows no memory). Sources: proc(5), cgroups(7).

use keles_linux::cgroup::{Cpu, Figures, Layout, Memory, Pressure};
use keles_runtime::api::Interface;
use keles_runtime::usage;
use std::path::Path;

/// Kernel's unit of the times in /proc/stat on every Linux this runs on, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub figures: Figures,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub swap_free_bytes: u64,
    /// When it booted, in seconds since 1970.
    pub booted_unix_seconds: i64,
    pub interfaces: Vec<Interface>,
    /// The one of the default route.
    pub default_interface: Option<String>,
    pub pid_max: Option<u64>,
    pub processes: Option<u64>,
    pub cores: u64,
    pub physical_cores: u64,
    pub sockets: u64,
}

/// The most processes and threads that a machine can have at once.
pub fn pid_max(proc: &Path) -> Option<u64> {
    let number = |name: &str| std::fs::read_to_string(proc.join(name)).ok()?.trim().parse().ok();
    [number("sys/kernel/pid_max"), number("sys/kernel/threads-max")].into_iter().flatten().min()
}

impl Machine {
    /// Of this machine. Reads files: not for an async thread.
    pub fn read() -> Self {
        let top = Layout::discover().map(|layout| layout.top().figures()).unwrap_or_default();
        Self::of(Path::new("/proc"), top)
    }

    fn of(proc: &Path, top: Figures) -> Self {
        let read = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let meminfo = read("meminfo");
        let kib = |key: &str| meminfo.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024;
        let stat = read("stat");
        let mut figures = top;
        figures.cpu = figures.cpu.filter(|cpu| cpu.usage_ns > 0).or_else(|| cpu_of(&stat));
        figures.memory = figures.memory.or_else(|| {
            let usage_bytes = kib("MemTotal").saturating_sub(kib("MemFree"));
            let working_set_bytes = usage_bytes.saturating_sub(kib("Inactive(file)"));
            (usage_bytes > 0).then(|| Memory { usage_bytes, working_set_bytes, anonymous_bytes: Some(kib("AnonPages")), ..Memory::default() })
        });
        let pressure = |name: &str| Pressure::read(&proc.join("pressure").join(name));
        figures.cpu_pressure = pressure("cpu").or(figures.cpu_pressure);
        figures.memory_pressure = pressure("memory").or(figures.memory_pressure);
        figures.io_pressure = pressure("io").or(figures.io_pressure);
        let cpuinfo = read("cpuinfo");
        let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count().max(1) as u64;
        let distinct = |keys: &[&str]| {
            let values = |key: &str| cpuinfo.lines().filter(|l| l.starts_with(key)).filter_map(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned()).collect::<Vec<_>>();
            let columns: Vec<Vec<String>> = keys.iter().map(|key| values(key)).collect();
            let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
            (0..rows).map(|row| columns.iter().map(|column| column[row].clone()).collect::<Vec<_>>()).collect::<std::collections::HashSet<_>>().len() as u64
        };
        Self {
            figures,
            memory_bytes: kib("MemTotal"),
            swap_bytes: kib("SwapTotal"),
            swap_free_bytes: kib("SwapFree"),
            booted_unix_seconds: stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0),
            interfaces: usage::interfaces(&read("net/dev")),
            default_interface: read("net/route").lines().skip(1).find_map(|l| {
                let words: Vec<&str> = l.split_whitespace().collect();
                (words.get(1) == Some(&"00000000")).then(|| words[0].to_owned())
            }),
            pid_max: pid_max(proc),
            // Running over all, as the kernel counts scheduling entities.
            processes: read("loadavg").split_whitespace().nth(3).and_then(|w| w.split_once('/')?.1.parse().ok()),
            cores,
            physical_cores: distinct(&["physical id", "core id"]).max(1),
            sockets: distinct(&["physical id"]).max(1),
        }
    }
}

/// All that was not idle or waiting.
fn cpu_of(stat: &str) -> Option<Cpu> {
    let line = stat.lines().find(|l| l.starts_with("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    let at = |i: usize| ticks.get(i).copied().unwrap_or(0) * TICK_NS;
    let (user, system) = (at(0) + at(1), at(2) + at(5) + at(6));
    Some(Cpu { usage_ns: user + system + at(7), user_ns: Some(user), system_ns: Some(system), ..Cpu::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_tells_what_the_top_of_a_v2_tree_does_not() {
        let dir = tempfile::tempdir().expect("tempdir");
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below")).and_then(|()| std::fs::write(path, text)).expect("written");
        };
        put("meminfo", "MemTotal:       1000 kB\nMemFree:         400 kB\nAnonPages:  50 kB\nInactive(file):  100 kB\nSwapTotal: 20 kB\nSwapFree: 5 kB\n");
        put("stat", "cpu  10 0 5 100 3 1 1 0 0 0\ncpu0 1 1\nbtime 1700000000\n");
        put("loadavg", "0.1 0.2 0.3 2/345 99\n");
        put("sys/kernel/pid_max", "32768\n");
        put("sys/kernel/threads-max", "9000\n");
        put("net/dev", "x\ny\n  lo: 1 1\neth0: 7 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n");
        put("net/route", "Iface Destination Gateway\neth0 0002000A 00000000\neth1 00000000 0102000A\n");
        put("cpuinfo", "processor : 0\nphysical id : 0\ncore id : 0\n\nprocessor : 1\nphysical id : 0\ncore id : 0\n");
        put("pressure/io", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4\n");
        let m = Machine::of(dir.path(), Figures::default());
        let memory = m.figures.memory.expect("memory");
        assert_eq!((memory.usage_bytes, memory.working_set_bytes, m.memory_bytes), (600 << 10, 500 << 10, 1000 << 10));
        assert_eq!(m.figures.cpu.map(|cpu| cpu.usage_ns), Some(17 * TICK_NS));
        assert_eq!((m.swap_bytes, m.swap_free_bytes, m.booted_unix_seconds), (20 << 10, 5 << 10, 1_700_000_000));
        assert_eq!((m.processes, m.pid_max), (Some(345), Some(9000)));
        assert_eq!((m.interfaces.len(), m.default_interface.as_deref()), (1, Some("eth1")));
        assert_eq!((m.cores, m.physical_cores, m.sockets), (2, 1, 1));
        assert_eq!(m.figures.io_pressure.map(|p| p.some.total_us), Some(5));
    }
}
