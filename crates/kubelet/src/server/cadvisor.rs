//! `/metrics/cadvisor`: what groups use and may use, under cAdvisor's names and labels.
//!
//! Rows: the machine (`id="/"`), all pods together, each pod (with its network) and each running container. Families whose figures this host does
//! not tell are not shown. Deliberately absent: figures by processor, by NUMA node and of referenced memory.
//! Source: cadvisor docs/storage/prometheus.md, kubernetes pkg/kubelet/server/server.go (labels).

use super::Api;
use crate::figures::Snapshot;
use crate::figures::disk::{self, Filesystem};
use keles_linux::cgroup::Figures;
use keles_observe::metrics::{Described, Exposition, Format, Lines, Shape, unmarked};
use keles_runtime::api::{DiskUsage, Interface, ProcessUsage};
use keles_runtime::cadvisor;

const NS_PER_SECOND: f64 = 1e9;
/// The order in which cAdvisor's families have them.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// A group, as its labels name it.
struct Shown<'a> {
    labels: [String; 6],
    figures: &'a Figures,
    interfaces: &'a [Interface],
    started_unix_ns: Option<i64>,
    /// What it wrote to the node's disk, where that is counted.
    written: Option<DiskUsage>,
    /// Of a container alone.
    processes: Option<ProcessUsage>,
}

const CPU: Described = about(cadvisor::CPU);
const FAULTS: Described = about(cadvisor::FAULTS);
const STARTED: Described = about(cadvisor::STARTED);
const SEEN: Described = about(cadvisor::SEEN);

const fn about((name, help): cadvisor::About) -> Described {
    unmarked(name, help)
}

const FS_USAGE: Described = unmarked("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.");
const FS_LIMIT: Described = unmarked("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.");
const FS_INODES: Described = unmarked("container_fs_inodes_total", "Number of Inodes");
const FS_INODES_FREE: Described = unmarked("container_fs_inodes_free", "Number of available Inodes");

type MachineRow = (Described, fn(&crate::figures::machine::Machine) -> u64);
const MACHINE: &[MachineRow] = &[
    (unmarked("machine_cpu_cores", "Number of logical CPU cores."), |m| m.cores),
    (unmarked("machine_cpu_physical_cores", "Number of physical CPU cores."), |m| m.physical_cores),
    (unmarked("machine_cpu_sockets", "Number of CPU sockets."), |m| m.sockets),
    (unmarked("machine_memory_bytes", "Amount of memory installed on the machine."), |m| m.memory_bytes),
    (unmarked("machine_swap_bytes", "Amount of swap memory available on the machine."), |m| m.swap_bytes),
];
const SCRAPE_FAULT: Described = unmarked("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise");
const MACHINE_FAULT: Described = unmarked("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.");
const VERSION: Described =
    unmarked("cadvisor_version_info", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.");

pub async fn metrics(api: &Api, format: Format) -> String {
    let snapshot = Snapshot::take(&api.agent, &api.pods).await;
    let shown = shown(api, &snapshot).await;
    let disk = disk::filesystem(&api.agent.config.data_dir).map(|fs| (fs, disk_device(&api.agent.config.data_dir)));
    text(&snapshot, &shown, disk, &api.agent.facts.info, format)
}

/// Every group with its labels.
async fn shown<'a>(api: &Api, s: &'a Snapshot) -> Vec<Shown<'a>> {
    let labels = |container: &str, group: &str, image: &str, name: &str, namespace: &str, pod: &str| {
        let id = if group == "/" { "/".to_owned() } else { format!("/{group}") };
        [container.to_owned(), id, image.to_owned(), name.to_owned(), namespace.to_owned(), pod.to_owned()]
    };
    let booted = Some(s.machine.booted_unix_seconds.saturating_mul(1_000_000_000));
    let mut all = vec![Shown {
        labels: labels("", "/", "", "", "", ""),
        figures: &s.machine.figures,
        interfaces: &s.machine.interfaces,
        started_unix_ns: booted,
        written: None,
        processes: None,
    }];
    if let Some(pods) = &s.all_pods {
        all.push(Shown { labels: labels("", &pods.cgroup, "", "", "", ""), figures: &pods.figures, interfaces: &[], started_unix_ns: None, written: None, processes: None });
    }
    for pod in &s.pods {
        let started = pod.view.status.start_time.as_ref().and_then(|time| i64::try_from(time.0.as_nanosecond()).ok());
        all.push(Shown {
            labels: labels("", &pod.stats.cgroup, "", "", &pod.namespace, &pod.name),
            figures: &pod.stats.figures,
            interfaces: &pod.stats.interfaces,
            started_unix_ns: started,
            written: None,
            processes: None,
        });
        for c in &pod.containers {
            all.push(Shown {
                labels: labels(&c.record.name, &c.stats.cgroup, &c.record.image, &c.record.id, &pod.namespace, &pod.name),
                figures: &c.stats.figures,
                interfaces: &[],
                started_unix_ns: Some(c.started_at_unix_ns()),
                written: api.written(&c.record.id).await,
                processes: api.agent.runtime.processes(&c.record.id).await.ok(),
            });
        }
    }
    all
}

/// The device that a folder's filesystem lies on, as the kernel's mounts name it.
fn disk_device(path: &std::path::Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Ok(info) = std::fs::metadata(path) else { return String::new() };
    let number = format!("{}:{}", rustix::fs::major(info.dev()), rustix::fs::minor(info.dev()));
    let line = mounts.lines().find(|l| l.split(' ').nth(2) == Some(&number));
    line.and_then(|l| l.split_once(" - ")?.1.split(' ').nth(1)).unwrap_or_default().to_owned()
}

fn text(s: &Snapshot, all: &[Shown<'_>], disk: Option<(Filesystem, String)>, info: &k8s_openapi::api::core::v1::NodeSystemInfo, format: Format) -> String {
    let mut out = Exposition::new(format);
    let at = s.at.as_millisecond();
    // A value a group, or none.
    let each = |out: &mut Exposition, about: &Described, shape: Shape, value: &dyn Fn(&Shown<'_>) -> Option<f64>| {
        out.family(about, shape, |w| all.iter().for_each(|g| put(w, shape, at, &LABELS, &g.labels, value(g))));
    };
    for row in cadvisor::ROWS {
        let shape = if row.is_counter { Shape::Counter } else { Shape::Gauge };
        each(&mut out, &unmarked(row.name, row.help), shape, &|g| (row.value)(g.figures));
    }
    each(&mut out, &STARTED, Shape::Gauge, &|g| g.started_unix_ns.map(|ns| (ns as f64 / NS_PER_SECOND).floor()));
    each(&mut out, &SEEN, Shape::Gauge, &|_| Some(s.at.as_second() as f64));
    for (family, value) in cadvisor::PROCESSES {
        each(&mut out, &about(*family), Shape::Gauge, &|g| g.processes.as_ref().map(|held| value(held) as f64));
    }
    out.family(&about(cadvisor::ULIMIT), Shape::Gauge, |w| {
        for g in all {
            let soft = g.processes.and_then(|held| held.file_descriptors_limit).map(|limit| limit as f64);
            put(w, Shape::Gauge, at, &with(6, "ulimit"), &with_value(&g.labels, 6, cadvisor::OPEN_FILES), soft);
        }
    });
    out.family(&CPU, Shape::Counter, |w| {
        for g in all {
            let value = g.figures.cpu.as_ref().map(|cpu| cpu.usage_ns as f64 / NS_PER_SECOND);
            put(w, Shape::Counter, at, &with(1, "cpu"), &with_value(&g.labels, 1, "total"), value);
        }
    });
    out.family(&FAULTS, Shape::Counter, |w| {
        let labels = ["container", "failure_type", "id", "image", "name", "namespace", "pod", "scope"];
        for g in all {
            let Some(memory) = &g.figures.memory else { continue };
            for (kind, value) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
                let [container, id, image, name, namespace, pod] = &g.labels;
                let values = [container.as_str(), kind, id, image, name, namespace, pod, "hierarchy"];
                put(w, Shape::Counter, at, &labels, &values, value.map(|n| n as f64));
            }
        }
    });
    for (family, value) in cadvisor::NETWORK {
        out.family(&about(*family), Shape::Counter, |w| {
            for g in all {
                g.interfaces.iter().for_each(|i| put(w, Shape::Counter, at, &with(3, "interface"), &with_value(&g.labels, 3, &i.name), Some(value(i) as f64)));
            }
        });
    }
    for (family, value) in cadvisor::IO {
        out.family(&about(*family), Shape::Counter, |w| {
            for g in all {
                g.figures.io.iter().for_each(|io| put(w, Shape::Counter, at, &with(1, "device"), &with_value(&g.labels, 1, &cadvisor::block_device(io)), Some(value(io) as f64)));
            }
        });
    }
    if let Some((fs, device)) = &disk {
        let mut family = |about: &Described, value: &dyn Fn(&Shown<'_>) -> Option<u64>| {
            out.family(about, Shape::Gauge, |w| {
                all.iter().for_each(|g| put(w, Shape::Gauge, at, &with(1, "device"), &with_value(&g.labels, 1, device), value(g).map(|n| n as f64)));
            });
        };
        let of = |machine: u64| move |g: &Shown<'_>| (g.labels[1] == "/" || g.written.is_some()).then_some(machine);
        family(&FS_USAGE, &|g| if g.labels[1] == "/" { Some(fs.used_bytes) } else { g.written.map(|used| used.bytes) });
        family(&FS_LIMIT, &of(fs.capacity_bytes));
        family(&FS_INODES, &of(fs.inodes));
        family(&FS_INODES_FREE, &of(fs.inodes_free));
    }
    let machine = [info.boot_id.as_str(), info.machine_id.as_str(), info.system_uuid.as_str()];
    for (about, value) in MACHINE {
        out.family(about, Shape::Gauge, |w| w.gauge(&["boot_id", "machine_id", "system_uuid"], &machine, value(&s.machine) as f64));
    }
    out.family(&SCRAPE_FAULT, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], 0.0));
    out.family(&MACHINE_FAULT, Shape::Gauge, |w| w.gauge::<&str>(&[], &[], f64::from(u8::from(s.machine.figures.cpu.is_none()))));
    out.family(&VERSION, Shape::Gauge, |w| {
        w.gauge(&["cadvisorRevision", "cadvisorVersion", "dockerVersion", "kernelVersion", "osVersion"], &["", "", "", info.kernel_version.as_str(), info.os_image.as_str()], 1.0);
    });
    out.finish()
}

fn put<V: AsRef<str>>(w: &mut Lines<'_>, shape: Shape, at: i64, labels: &[&str], values: &[V], v: Option<f64>) {
    let Some(v) = v else { return };
    match shape {
        Shape::Counter => w.at(at).counter(labels, values, v),
        _ => w.at(at).gauge(labels, values, v),
    }
}

/// The labels with one more, at its place in the alphabet.
fn with(at: usize, label: &'static str) -> Vec<&'static str> {
    let mut all = LABELS.to_vec();
    all.insert(at, label);
    all
}

fn with_value(labels: &[String; 6], at: usize, value: &str) -> Vec<String> {
    let mut all = labels.to_vec();
    all.insert(at, value.to_owned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::machine::Machine;
    use keles_linux::cgroup::{Cpu, Memory, Pressure, Stall};

    #[test]
    fn a_container_is_shown_under_cadvisors_names_and_labels() {
        let figures = Figures {
            cpu: Some(Cpu { usage_ns: 1_500_000_000, quota_us: Some(5), periods: Some(3), ..Cpu::default() }),
            memory: Some(Memory { usage_bytes: 10, working_set_bytes: 7, limit_bytes: Some(64), page_faults: Some(2), ..Memory::default() }),
            memory_pressure: Some(Pressure { some: Stall { total_us: 2_500_000, ..Stall::default() }, full: None }),
            ..Figures::default()
        };
        let labels = ["c", "/keles/pod1/x", "img", "x", "ns", "p"].map(str::to_owned);
        let interfaces = [Interface { name: "eth0".into(), rx_bytes: 9, ..Interface::default() }];
        let held = ProcessUsage { processes: 2, file_descriptors: 8, sockets: 1, file_descriptors_limit: Some(1024) };
        let written = Some(DiskUsage { bytes: 4096, inodes: 1 });
        let shown = [Shown { labels, figures: &figures, interfaces: &interfaces, started_unix_ns: Some(1_700_000_000_900_000_000), written, processes: Some(held) }];
        let at = jiff::Timestamp::from_second(1_700_000_100).expect("a time");
        let snapshot = Snapshot { at, machine: Machine { memory_bytes: 1024, cores: 2, ..Machine::default() }, all_pods: None, pods: Vec::new() };
        let disk = Some((Filesystem { capacity_bytes: 1 << 20, ..Filesystem::default() }, "/dev/vda".to_owned()));
        let said = text(&snapshot, &shown, disk, &Default::default(), Format::Text);
        let rest = "id=\"/keles/pod1/x\",image=\"img\",name=\"x\",namespace=\"ns\",pod=\"p\"}";
        for line in [
            format!("container_cpu_usage_seconds_total{{container=\"c\",cpu=\"total\",{rest} 1.5 1700000100000"),
            format!("container_memory_working_set_bytes{{container=\"c\",{rest} 7 1700000100000"),
            format!("container_spec_memory_limit_bytes{{container=\"c\",{rest} 64 1700000100000"),
            format!("container_cpu_cfs_periods_total{{container=\"c\",{rest} 3 1700000100000"),
            format!("container_pressure_memory_waiting_seconds_total{{container=\"c\",{rest} 2.5 1700000100000"),
            format!("container_start_time_seconds{{container=\"c\",{rest} 1.7e+09 1700000100000"),
            format!("container_fs_usage_bytes{{container=\"c\",device=\"/dev/vda\",{rest} 4096 1700000100000"),
            "container_network_receive_bytes_total{container=\"c\",id=\"/keles/pod1/x\",image=\"img\",interface=\"eth0\",name=\"x\",namespace=\"ns\",pod=\"p\"} 9 1700000100000".to_owned(),
            "container_memory_failures_total{container=\"c\",failure_type=\"pgfault\",id=\"/keles/pod1/x\",image=\"img\",name=\"x\",namespace=\"ns\",pod=\"p\",scope=\"hierarchy\"} 2 1700000100000".to_owned(),
            format!("container_sockets{{container=\"c\",{rest} 1 1700000100000"),
            "container_ulimits_soft{container=\"c\",id=\"/keles/pod1/x\",image=\"img\",name=\"x\",namespace=\"ns\",pod=\"p\",ulimit=\"max_open_files\"} 1024 1700000100000".to_owned(),
            "machine_memory_bytes{boot_id=\"\",machine_id=\"\",system_uuid=\"\"} 1024".to_owned(),
            "# TYPE container_cpu_usage_seconds_total counter".to_owned(),
        ] {
            assert!(said.lines().any(|l| l == line), "{line} is missing in\n{said}");
        }
        for absent in ["container_memory_rss", "container_pressure_cpu_waiting_seconds_total", "container_pressure_memory_stalled_seconds_total"] {
            assert!(!said.contains(absent), "{absent} is not known here");
        }
    }
}
