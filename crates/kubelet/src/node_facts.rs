//! What this machine is and has: read once at the start.

use crate::config::{KubeletConfig, Reserved};
use crate::eviction::Signal;
use crate::swap::NodeSwap;
use k8s_openapi::api::core::v1::{NodeSwapStatus, NodeSystemInfo};
use keles_volumes::quantity::Quantity;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct NodeFacts {
    pub cpus: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub huge_page_sizes: Vec<String>,
    pub max_pods: u32,
    /// The kernel enforces AppArmor.
    pub apparmor: bool,
    /// Not for pods.
    pub kept: Reserved,
    pub swap: NodeSwap,
    pub info: NodeSystemInfo,
}

impl NodeFacts {
    pub fn read(config: &KubeletConfig, runtime_version: &str) -> Self {
        let disk = rustix::fs::statvfs(&config.data_dir).map(|stat| (stat.f_blocks * stat.f_frsize) as i64).unwrap_or(0);
        let meminfo = read("/proc/meminfo");
        let (memory_bytes, swap_bytes) = (meminfo_bytes(&meminfo, "MemTotal"), meminfo_bytes(&meminfo, "SwapTotal"));
        let thresholds = Reserved {
            cpu_milli: 0,
            memory_bytes: config.eviction.reserved(Signal::MemoryAvailable, memory_bytes),
            disk_bytes: config.eviction.reserved(Signal::NodeFsAvailable, disk),
            processes: 0,
        };
        Self {
            cpus: cpus(),
            memory_bytes,
            disk_bytes: disk,
            kept: config.reserved.clone().plus(thresholds),
            huge_page_sizes: huge_page_sizes(),
            max_pods: config.max_pods,
            apparmor: keles_runtime::apparmor::Host::of(std::path::Path::new("/")).is_enabled(),
            swap: NodeSwap::read(config.swap.behavior, memory_bytes, swap_bytes),
            info: NodeSystemInfo { swap: swap_status(swap_bytes), ..info(runtime_version) },
        }
    }

    /// capacity as the Node object shows it.
    pub fn capacity(&self) -> BTreeMap<String, String> {
        let mut map = self.common();
        map.insert("memory".into(), format!("{}Ki", self.memory_bytes / 1024));
        map.insert("ephemeral-storage".into(), format!("{}Ki", self.disk_bytes / 1024));
        map
    }

    /// What pods may ask for.
    pub fn allocatable(&self) -> BTreeMap<String, String> {
        let mut map = self.common();
        map.insert("memory".into(), format!("{}Ki", (self.memory_bytes - self.kept.memory_bytes).max(0) / 1024));
        map.insert("ephemeral-storage".into(), (self.disk_bytes - self.kept.disk_bytes).max(0).to_string());
        let milli = (self.cpus * 1000 - self.kept.cpu_milli).max(0);
        map.insert("cpu".into(), if milli % 1000 == 0 { (milli / 1000).to_string() } else { format!("{milli}m") });
        map
    }

    fn common(&self) -> BTreeMap<String, String> {
        let mut map = BTreeMap::from([("cpu".to_string(), self.cpus.to_string()), ("pods".to_string(), self.max_pods.to_string())]);
        map.extend(self.huge_page_sizes.iter().map(|size| (format!("hugepages-{size}"), "0".to_string())));
        map
    }

    /// One allocatable figure.
    pub fn quantity(&self, name: &str) -> Quantity {
        self.allocatable().get(name).and_then(|text| Quantity::parse(text)).unwrap_or_default()
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn cpus() -> i64 {
    let listed = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    listed.max(1) as i64
}

fn meminfo_bytes(text: &str, name: &str) -> i64 {
    let amount = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    amount.and_then(|amount| amount.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// A node without swap says nothing of it, as upstream's.
fn swap_status(bytes: i64) -> Option<NodeSwapStatus> {
    (bytes != 0).then_some(NodeSwapStatus { capacity: Some(bytes) })
}

/// `2Mi`, `1Gi`.
fn huge_page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let kib: u64 = entry.file_name().to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(if kib % (1 << 20) == 0 {
            format!("{}Gi", kib >> 20)
        } else if kib % 1024 == 0 {
            format!("{}Mi", kib >> 10)
        } else {
            format!("{kib}Ki")
        })
    });
    let mut sizes: Vec<String> = sizes.collect();
    sizes.sort();
    sizes
}

fn info(runtime_version: &str) -> NodeSystemInfo {
    let machine_id = read("/etc/machine-id");
    let system_uuid = Some(read("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty());
    NodeSystemInfo {
        system_uuid: system_uuid.unwrap_or_else(|| machine_id.clone()),
        machine_id,
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        os_image: os_image(),
        container_runtime_version: runtime_version.into(),
        kubelet_version: crate::config::VERSION.into(),
        kube_proxy_version: String::new(),
        architecture: architecture().into(),
        operating_system: "linux".into(),
        ..Default::default()
    }
}

fn os_image() -> String {
    let text = read("/etc/os-release");
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_string()).unwrap_or_else(|| "Linux".into())
}

/// Go's names of architectures.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_tells_its_swap_where_it_has_some() {
        let text = "MemTotal:        4096 kB\nSwapCached:         8 kB\nSwapTotal:       2048 kB\n";
        assert_eq!((meminfo_bytes(text, "MemTotal"), meminfo_bytes(text, "SwapTotal"), meminfo_bytes("", "SwapTotal")), (4 << 20, 2 << 20, 0));
        assert_eq!(swap_status(2 << 20).and_then(|swap| swap.capacity), Some(2 << 20));
        assert_eq!(swap_status(0), None);
    }
}
