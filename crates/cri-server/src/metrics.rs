//! Metrics of sandboxes and containers under cAdvisor's names, which the agent shows as its own `/metrics/cadvisor`.

use crate::{Cri, faults, record};
use keles_cri::{
    ContainerMetrics, ListMetricDescriptorsRequest, ListMetricDescriptorsResponse, ListPodSandboxMetricsRequest, ListPodSandboxMetricsResponse, Metric, MetricDescriptor,
    MetricType, PodSandboxMetrics, UInt64Value,
};
use keles_grpc::Status;
use keles_runtime::api::{ContainerState, ContainerStatus, PodRuntime, ProcessUsage, SandboxStatus, Stats};
use keles_runtime::cadvisor::{self, About};

const NS_PER_SECOND: i64 = 1_000_000_000;
/// Of every family; some have one more behind them.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

fn described((name, help): About, more: &[&str]) -> MetricDescriptor {
    MetricDescriptor { name: name.into(), help: help.into(), label_keys: LABELS.iter().chain(more).map(|key| (*key).to_owned()).collect() }
}

/// A value with its labels, in the order of the descriptor's keys.
fn metric((name, _): About, is_counter: bool, labels: &[String], more: &[&str], value: u64) -> Metric {
    let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
    let label_values = labels.iter().cloned().chain(more.iter().map(|value| (*value).to_owned())).collect();
    Metric { name: name.into(), timestamp: 0, metric_type: kind as i32, label_values, value: Some(UInt64Value { value }) }
}

fn descriptors() -> Vec<MetricDescriptor> {
    let mut all: Vec<MetricDescriptor> = cadvisor::ROWS.iter().map(|row| described((row.name, row.help), &[])).collect();
    all.extend(cadvisor::PROCESSES.iter().map(|(about, _)| described(*about, &[])));
    all.push(described(cadvisor::ULIMIT, &["ulimit"]));
    all.push(described(cadvisor::STARTED, &[]));
    all.push(described(cadvisor::CPU, &["cpu"]));
    all.push(described(cadvisor::FAULTS, &["failure_type", "scope"]));
    all.extend(cadvisor::NETWORK.iter().map(|(about, _)| described(*about, &["interface"])));
    all.extend(cadvisor::IO.iter().map(|(about, _)| described(*about, &["device"])));
    all
}

/// Values are whole numbers in this service, so seconds lose their fractions.
fn of_stats(stats: &Stats, labels: &[String], started_unix_ns: i64) -> Vec<Metric> {
    let figures = &stats.figures;
    let mut all: Vec<Metric> =
        cadvisor::ROWS.iter().filter_map(|row| (row.value)(figures).map(|value| metric((row.name, row.help), row.is_counter, labels, &[], value as u64))).collect();
    if started_unix_ns > 0 {
        all.push(metric(cadvisor::STARTED, false, labels, &[], (started_unix_ns / NS_PER_SECOND) as u64));
    }
    if let Some(cpu) = &figures.cpu {
        all.push(metric(cadvisor::CPU, true, labels, &["total"], cpu.usage_ns / NS_PER_SECOND as u64));
    }
    if let Some(memory) = &figures.memory {
        let faults = [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)];
        all.extend(faults.into_iter().filter_map(|(kind, n)| n.map(|n| metric(cadvisor::FAULTS, true, labels, &[kind, "hierarchy"], n))));
    }
    for (about, value) in cadvisor::NETWORK {
        all.extend(stats.interfaces.iter().map(|i| metric(*about, true, labels, &[&i.name], value(i))));
    }
    for (about, value) in cadvisor::IO {
        all.extend(figures.io.iter().map(|io| metric(*about, true, labels, &[&cadvisor::block_device(io)], value(io))));
    }
    all
}

fn of_processes(held: &ProcessUsage, labels: &[String]) -> Vec<Metric> {
    let limit = held.file_descriptors_limit.map(|limit| metric(cadvisor::ULIMIT, false, labels, &[cadvisor::OPEN_FILES], limit));
    cadvisor::PROCESSES.iter().map(|(about, value)| metric(*about, false, labels, &[], value(held))).chain(limit).collect()
}

impl Cri {
    pub async fn list_metric_descriptors(&self, _: ListMetricDescriptorsRequest) -> Result<ListMetricDescriptorsResponse, Status> {
        Ok(ListMetricDescriptorsResponse { descriptors: descriptors() })
    }

    pub async fn list_pod_sandbox_metrics(&self, _: ListPodSandboxMetricsRequest) -> Result<ListPodSandboxMetricsResponse, Status> {
        Ok(ListPodSandboxMetricsResponse { pod_metrics: self.pod_metrics().await? })
    }

    /// Of ready sandboxes and their running containers.
    pub async fn pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>, Status> {
        let sandboxes = self.engine.list_sandboxes().await.map_err(faults::of_runtime)?;
        let mut all = Vec::new();
        for sandbox in sandboxes.iter().filter(|sandbox| sandbox.ready) {
            // One that is removed meanwhile has none.
            all.extend(faults::unless_absent(self.metrics_of(sandbox).await)?);
        }
        Ok(all)
    }

    async fn metrics_of(&self, sandbox: &SandboxStatus) -> Result<PodSandboxMetrics, Status> {
        let metadata = record::of_sandbox(sandbox).config.and_then(|config| config.metadata).unwrap_or_default();
        let labels = |container: &str, image: &str, name: &str, cgroup: &str| {
            [container.to_owned(), format!("/{cgroup}"), image.to_owned(), name.to_owned(), metadata.namespace.clone(), metadata.name.clone()]
        };
        let stats = self.engine.stats(&sandbox.id).await.map_err(faults::of_runtime)?;
        let mut found = PodSandboxMetrics {
            pod_sandbox_id: sandbox.id.clone(),
            metrics: of_stats(&stats, &labels("", "", &sandbox.id, &stats.cgroup), sandbox.created_at_unix_ns),
            container_metrics: Vec::new(),
        };
        let running = |container: &&ContainerStatus| container.state == ContainerState::Running;
        for container in self.containers_of(&sandbox.id).await?.iter().filter(running) {
            let Some(stats) = faults::unless_absent(self.engine.stats(&container.id).await.map_err(faults::of_runtime))? else { continue };
            let image = record::of_container(container).image.unwrap_or_default().image;
            let labels = labels(&container.name, &image, &container.id, &stats.cgroup);
            let mut metrics = of_stats(&stats, &labels, container.started_at_unix_ns);
            metrics.extend(self.engine.processes(&container.id).await.ok().iter().flat_map(|held| of_processes(held, &labels)));
            found.container_metrics.push(ContainerMetrics { container_id: container.id.clone(), metrics });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_linux::cgroup::{Cpu, Figures, Io, Memory};
    use keles_runtime::api::Interface;

    #[test]
    fn every_metric_has_a_descriptor_and_as_many_labels_as_it_says() {
        let figures = Figures {
            cpu: Some(Cpu { usage_ns: 3_500_000_000, user_ns: Some(1), ..Cpu::default() }),
            memory: Some(Memory { usage_bytes: 5, page_faults: Some(2), ..Memory::default() }),
            io: vec![Io::default()],
            processes: Some(1),
            ..Figures::default()
        };
        let stats = Stats::new("g".into(), figures, vec![Interface { name: "eth0".into(), rx_bytes: 9, ..Interface::default() }]);
        let labels = ["c", "/g", "i", "n", "ns", "p"].map(str::to_owned);
        let (described, mut all) = (descriptors(), of_stats(&stats, &labels, 7 * NS_PER_SECOND));
        let held = ProcessUsage { processes: 2, file_descriptors: 8, sockets: 1, file_descriptors_limit: Some(1024) };
        all.extend(of_processes(&held, &labels));
        for metric in &all {
            let about = described.iter().find(|d| d.name == metric.name).unwrap_or_else(|| panic!("{} is not described", metric.name));
            assert_eq!(about.label_keys.len(), metric.label_values.len(), "{}", metric.name);
        }
        let value = |name: &str| all.iter().find(|metric| metric.name == name).and_then(|metric| metric.value.as_ref()).map(|value| value.value);
        assert_eq!((value("container_cpu_usage_seconds_total"), value("container_start_time_seconds")), (Some(3), Some(7)));
        assert_eq!((value("container_processes"), value("container_sockets"), value("container_ulimits_soft")), (Some(2), Some(1), Some(1024)));
        assert_eq!((value("container_network_receive_bytes_total"), value("container_memory_usage_bytes")), (Some(9), Some(5)));
    }
}
