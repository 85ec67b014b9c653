//! What control groups tell, under cAdvisor's names: the families that the node agent's `/metrics/cadvisor` and the CRI's pod metrics share.
//!
//! Source: cadvisor docs/storage/prometheus.md. Absent figures are those that this host does not tell.

use crate::api::{Interface, ProcessUsage};
use keles_linux::cgroup::{Figures, Io, Pressure, Stall};

const NS_PER_SECOND: f64 = 1e9;
const US_PER_SECOND: f64 = 1e6;

/// A family of one value a group.
pub struct Row {
    pub name: &'static str,
    pub help: &'static str,
    /// It only grows.
    pub is_counter: bool,
    pub value: fn(&Figures) -> Option<f64>,
}

/// Name and help of a family that has more labels than the others.
pub type About = (&'static str, &'static str);

macro_rules! of {
    (cpu.$field:ident / $unit:expr) => {
        |f| f.cpu.as_ref().and_then(|cpu| cpu.$field).map(|v| v as f64 / $unit)
    };
    (memory.$field:ident) => {
        |f| f.memory.as_ref().and_then(|memory| memory.$field).map(|v| v as f64)
    };
}
const fn counter(name: &'static str, help: &'static str, value: fn(&Figures) -> Option<f64>) -> Row {
    Row { name, help, is_counter: true, value }
}
const fn gauge(name: &'static str, help: &'static str, value: fn(&Figures) -> Option<f64>) -> Row {
    Row { name, help, is_counter: false, value }
}
/// Some or all tasks waited.
fn waited(pressure: &Option<Pressure>, all: bool) -> Option<f64> {
    let pressure = pressure.as_ref()?;
    let stall: Stall = if all { pressure.full? } else { pressure.some };
    Some(stall.total_us as f64 / US_PER_SECOND)
}

/// Of a container's processes.
pub const PROCESSES: &[(About, fn(&ProcessUsage) -> u64)] = &[
    (("container_processes", "Number of processes running inside the container."), |p| p.processes),
    (("container_file_descriptors", "Number of open file descriptors for the container."), |p| p.file_descriptors),
    (("container_sockets", "Number of open sockets for the container."), |p| p.sockets),
];
/// With the label `ulimit`.
pub const ULIMIT: About = ("container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice");
pub const OPEN_FILES: &str = "max_open_files";

pub const ROWS: &[Row] = &[
    counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", of!(cpu.user_ns / NS_PER_SECOND)),
    counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", of!(cpu.system_ns / NS_PER_SECOND)),
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |f| limited(f, |cpu| cpu.periods)),
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |f| limited(f, |cpu| cpu.throttled_periods)),
    counter("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", |f| {
        limited(f, |cpu| cpu.throttled_ns).map(|ns| ns / NS_PER_SECOND)
    }),
    gauge("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", |f| {
        f.memory.as_ref().map(|memory| memory.usage_bytes as f64)
    }),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |f| f.memory.as_ref().map(|memory| memory.working_set_bytes as f64)),
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", of!(memory.peak_bytes)),
    gauge("container_memory_rss", "Size of RSS in bytes.", of!(memory.anonymous_bytes)),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", of!(memory.file_bytes)),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", of!(memory.mapped_file_bytes)),
    gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", of!(memory.kernel_bytes)),
    gauge("container_memory_swap", "Container swap usage in bytes.", of!(memory.swap_bytes)),
    gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", of!(memory.active_file_bytes)),
    gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", of!(memory.inactive_file_bytes)),
    counter("container_memory_failcnt", "Number of memory usage hits limits", of!(memory.limit_hits)),
    counter("container_oom_events_total", "Count of out of memory events observed for the container", of!(memory.oom_kills)),
    gauge("container_threads", "Number of threads running inside the container", |f| f.processes.map(|n| n as f64)),
    gauge("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", |f| {
        f.processes.map(|_| f.processes_limit.unwrap_or(0) as f64)
    }),
    gauge("container_spec_cpu_shares", "CPU share of the container.", of!(cpu.shares / 1.0)),
    gauge("container_spec_cpu_period", "CPU period of the container.", of!(cpu.period_us / 1.0)),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", of!(cpu.quota_us / 1.0)),
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", |f| f.memory.as_ref().map(|memory| memory.limit_bytes.unwrap_or(0) as f64)),
    gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |f| f.memory.as_ref().map(|memory| memory.swap_limit_bytes.unwrap_or(0) as f64)),
    gauge("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", |f| f.memory.as_ref().map(|memory| memory.low_bytes.unwrap_or(0) as f64)),
    counter("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", |f| waited(&f.cpu_pressure, false)),
    counter("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", |f| {
        waited(&f.cpu_pressure, true)
    }),
    counter("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", |f| {
        waited(&f.memory_pressure, false)
    }),
    counter("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", |f| {
        waited(&f.memory_pressure, true)
    }),
    counter("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", |f| waited(&f.io_pressure, false)),
    counter("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", |f| {
        waited(&f.io_pressure, true)
    }),
];

/// Of groups with a quota alone, as cAdvisor has it.
fn limited(f: &Figures, value: fn(&keles_linux::cgroup::Cpu) -> Option<u64>) -> Option<f64> {
    f.cpu.as_ref().filter(|cpu| cpu.quota_us.is_some()).and_then(value).map(|n| n as f64)
}

pub const CPU: About = ("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.");
pub const FAULTS: About = ("container_memory_failures_total", "Cumulative count of memory allocation failures.");
pub const STARTED: About = ("container_start_time_seconds", "Start time of the container since unix epoch in seconds.");
pub const SEEN: About = ("container_last_seen", "Last time a container was seen by the exporter");

/// By `interface`.
pub type NetworkRow = (About, fn(&Interface) -> u64);
pub const NETWORK: &[NetworkRow] = &[
    (("container_network_receive_bytes_total", "Cumulative count of bytes received"), |i| i.rx_bytes),
    (("container_network_receive_packets_total", "Cumulative count of packets received"), |i| i.rx_packets),
    (("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving"), |i| i.rx_errors),
    (("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving"), |i| i.rx_dropped),
    (("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted"), |i| i.tx_bytes),
    (("container_network_transmit_packets_total", "Cumulative count of packets transmitted"), |i| i.tx_packets),
    (("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting"), |i| i.tx_errors),
    (("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting"), |i| i.tx_dropped),
];

/// By `device`.
pub type IoRow = (About, fn(&Io) -> u64);
pub const IO: &[IoRow] = &[
    (("container_fs_reads_bytes_total", "Cumulative count of bytes read"), |io| io.read_bytes),
    (("container_fs_writes_bytes_total", "Cumulative count of bytes written"), |io| io.written_bytes),
    (("container_fs_reads_total", "Cumulative count of reads completed"), |io| io.reads),
    (("container_fs_writes_total", "Cumulative count of writes completed"), |io| io.writes),
];

/// `/dev/sda`, or the numbers where the kernel does not name it.
pub fn block_device(io: &Io) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{}:{}", io.major, io.minor)).ok();
    match link.as_deref().and_then(|l| l.file_name()?.to_str()) {
        Some(name) => format!("/dev/{name}"),
        None => format!("{}:{}", io.major, io.minor),
    }
}
