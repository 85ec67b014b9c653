//! Figures of containers and sandboxes, from their control groups when asked.

use crate::{Cri, events, faults, image, record, status};
use keles_cri::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, ContainerStatsRequest, ContainerStatsResponse, CpuUsage, IoUsage, LinuxPodSandboxStats, ListContainerStatsRequest,
    ListContainerStatsResponse, ListPodSandboxStatsRequest, ListPodSandboxStatsResponse, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes, PodSandboxStats,
    PodSandboxStatsFilter, PodSandboxStatsRequest, PodSandboxStatsResponse, ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};
use keles_grpc::Status;
use keles_linux::cgroup::{Pressure, Stall};
use keles_runtime::api::{ContainerState, ContainerStatus, Interface, PodRuntime, SandboxStatus, Stats};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Readings nearer than this say nothing of the rate between them.
const WINDOW_MIN: Duration = Duration::from_millis(500);
/// The interface of a pod that its address is on.
const DEFAULT_INTERFACE: &str = "eth0";

/// Last readings of processor time by id, for rates.
#[derive(Default)]
pub struct Rates {
    last: Mutex<HashMap<String, Reading>>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    usage_ns: u64,
    nano_cores: Option<u64>,
}

impl Rates {
    /// Core-nanoseconds a second since the last reading; absent with the first.
    fn of(&self, id: &str, usage_ns: u64, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let old = last.get(id).copied();
        let Some(old) = old else {
            last.insert(id.to_owned(), Reading { at: now, usage_ns, nano_cores: None });
            return None;
        };
        let window = now.saturating_duration_since(old.at);
        if window < WINDOW_MIN {
            return old.nano_cores;
        }
        let rate = (u128::from(usage_ns.saturating_sub(old.usage_ns)) * 1_000_000_000 / window.as_nanos()) as u64;
        last.insert(id.to_owned(), Reading { at: now, usage_ns, nano_cores: Some(rate) });
        Some(rate)
    }

    pub fn forget(&self, id: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn pressure(pressure: &Option<Pressure>) -> Option<PsiStats> {
    let of = |stall: &Stall| PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: f64::from(stall.avg10) / 100.0,
        avg60: f64::from(stall.avg60) / 100.0,
        avg300: f64::from(stall.avg300) / 100.0,
    };
    pressure.as_ref().map(|p| PsiStats { full: p.full.as_ref().map(of), some: Some(of(&p.some)) })
}

fn cpu(stats: &Stats, rate: Option<u64>, at: i64) -> Option<CpuUsage> {
    let cpu = stats.figures.cpu.as_ref()?;
    Some(CpuUsage { timestamp: at, usage_core_nano_seconds: value(cpu.usage_ns), usage_nano_cores: rate.and_then(value), psi: pressure(&stats.figures.cpu_pressure) })
}

fn memory(stats: &Stats, at: i64) -> Option<MemoryUsage> {
    let memory = stats.figures.memory.as_ref()?;
    Some(MemoryUsage {
        timestamp: at,
        working_set_bytes: value(memory.working_set_bytes),
        available_bytes: memory.limit_bytes.and_then(|limit| value(limit.saturating_sub(memory.working_set_bytes))),
        usage_bytes: value(memory.usage_bytes),
        rss_bytes: memory.anonymous_bytes.and_then(value),
        page_faults: memory.page_faults.and_then(value),
        major_page_faults: memory.major_page_faults.and_then(value),
        psi: pressure(&stats.figures.memory_pressure),
    })
}

fn swap(stats: &Stats, at: i64) -> Option<SwapUsage> {
    let memory = stats.figures.memory.as_ref()?;
    let used = memory.swap_bytes?;
    Some(SwapUsage { timestamp: at, swap_available_bytes: memory.swap_limit_bytes.and_then(|limit| value(limit.saturating_sub(used))), swap_usage_bytes: value(used) })
}

fn io(stats: &Stats, at: i64) -> Option<IoUsage> {
    stats.figures.io_pressure.is_some().then(|| IoUsage { timestamp: at, psi: pressure(&stats.figures.io_pressure) })
}

fn network(stats: &Stats, at: i64) -> Option<NetworkUsage> {
    let of = |i: &Interface| NetworkInterfaceUsage {
        name: i.name.clone(),
        rx_bytes: value(i.rx_bytes),
        rx_errors: value(i.rx_errors),
        tx_bytes: value(i.tx_bytes),
        tx_errors: value(i.tx_errors),
    };
    let (default, others): (Vec<&Interface>, Vec<&Interface>) = stats.interfaces.iter().partition(|i| i.name == DEFAULT_INTERFACE);
    let default_interface = default.first().map(|i| of(i));
    (!stats.interfaces.is_empty()).then(|| NetworkUsage { timestamp: at, default_interface, interfaces: others.into_iter().map(of).collect() })
}

impl Cri {
    pub async fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Status> {
        let container = self.container(&request.container_id).await?;
        Ok(ContainerStatsResponse { stats: Some(self.figures_of(&container).await?) })
    }

    async fn figures_of(&self, container: &ContainerStatus) -> Result<ContainerStats, Status> {
        let stats = self.engine.stats(&container.id).await.map_err(faults::of_runtime)?;
        let written = self.engine.written(&container.id).await.map_err(faults::of_runtime)?;
        let (at, said) = (events::now_unix_ns(), record::of_container(container));
        let rate = self.rates.of(&container.id, stats.cpu_usage_ns, Instant::now());
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes { id: container.id.clone(), metadata: said.metadata, labels: said.labels, annotations: said.annotations }),
            cpu: cpu(&stats, rate, at),
            memory: memory(&stats, at),
            writable_layer: Some(image::filesystem(&self.images_dir, written)),
            swap: swap(&stats, at),
            io: io(&stats, at),
        })
    }

    pub async fn list_container_stats(&self, request: ListContainerStatsRequest) -> Result<ListContainerStatsResponse, Status> {
        Ok(ListContainerStatsResponse { stats: self.running_figures(request.filter).await? })
    }

    /// Of running containers.
    pub async fn running_figures(&self, filter: Option<ContainerStatsFilter>) -> Result<Vec<ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.engine.list_containers().await.map_err(faults::of_runtime)?;
        let mut figures = Vec::new();
        for container in all.iter().filter(|c| c.state == ContainerState::Running && c.id.starts_with(&filter.id) && c.sandbox_id.starts_with(&filter.pod_sandbox_id)) {
            if !status::has_labels(&record::of_container(container).labels, &filter.label_selector) {
                continue;
            }
            // One that is removed meanwhile has none.
            figures.extend(faults::unless_absent(self.figures_of(container).await)?);
        }
        Ok(figures)
    }

    pub async fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Status> {
        let sandbox = self.sandbox(&request.pod_sandbox_id).await?;
        Ok(PodSandboxStatsResponse { stats: Some(self.sandbox_figures(&sandbox).await?) })
    }

    async fn sandbox_figures(&self, sandbox: &SandboxStatus) -> Result<PodSandboxStats, Status> {
        let stats = self.engine.stats(&sandbox.id).await.map_err(faults::of_runtime)?;
        let (at, said) = (events::now_unix_ns(), record::of_sandbox(sandbox).config.unwrap_or_default());
        let rate = self.rates.of(&sandbox.id, stats.cpu_usage_ns, Instant::now());
        let linux = LinuxPodSandboxStats {
            cpu: cpu(&stats, rate, at),
            memory: memory(&stats, at),
            network: network(&stats, at),
            process: stats.figures.processes.map(|n| ProcessUsage { timestamp: at, process_count: value(n) }),
            containers: self.running_figures(Some(ContainerStatsFilter { pod_sandbox_id: sandbox.id.clone(), ..Default::default() })).await?,
            io: io(&stats, at),
        };
        let attributes = PodSandboxAttributes { id: sandbox.id.clone(), metadata: said.metadata, labels: said.labels, annotations: said.annotations };
        Ok(PodSandboxStats { attributes: Some(attributes), linux: Some(linux) })
    }

    pub async fn list_pod_sandbox_stats(&self, request: ListPodSandboxStatsRequest) -> Result<ListPodSandboxStatsResponse, Status> {
        Ok(ListPodSandboxStatsResponse { stats: self.ready_figures(request.filter).await? })
    }

    /// Of ready sandboxes.
    pub async fn ready_figures(&self, filter: Option<PodSandboxStatsFilter>) -> Result<Vec<PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.engine.list_sandboxes().await.map_err(faults::of_runtime)?;
        let mut figures = Vec::new();
        for sandbox in all.iter().filter(|s| s.ready && s.id.starts_with(&filter.id)) {
            if status::has_labels(&status::sandbox_item(sandbox).labels, &filter.label_selector) {
                figures.extend(faults::unless_absent(self.sandbox_figures(sandbox).await)?);
            }
        }
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_linux::cgroup::{Figures, Memory};

    #[test]
    fn a_rate_needs_two_readings_that_are_not_too_near() {
        let (rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.of("a", 0, start), None);
        assert_eq!(rates.of("a", 5, start + Duration::from_millis(1)), None);
        assert_eq!(rates.of("a", 1_000_000_000, start + Duration::from_secs(2)), Some(500_000_000));
        assert_eq!(rates.of("a", 2_000_000_000, start + Duration::from_millis(2001)), Some(500_000_000));
        rates.forget("a");
        assert_eq!(rates.of("a", 1, start + Duration::from_secs(9)), None);
    }

    #[test]
    fn what_the_host_does_not_tell_is_absent() {
        let stats = Stats::new(
            "g".into(),
            Figures { memory: Some(Memory { usage_bytes: 9, working_set_bytes: 4, limit_bytes: Some(10), ..Memory::default() }), ..Figures::default() },
            vec![],
        );
        let shown = memory(&stats, 7).expect("told");
        assert_eq!((shown.available_bytes, shown.usage_bytes, shown.rss_bytes), (value(6), value(9), None));
        assert_eq!((cpu(&stats, None, 7), swap(&stats, 7), io(&stats, 7), network(&stats, 7)), (None, None, None, None));
    }
}
