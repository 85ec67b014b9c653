//! Figures: of the control groups, which tell all that the agent shows, and of the runtime what they do not.

use crate::call::USUAL;
use crate::{Inner, held};
use keles_cri as cri;
use keles_runtime::api::{DiskUsage, Figures, Interface, NamespaceMode, Result, RuntimeError, Stats};
use keles_runtime::usage;

impl Inner {
    /// A container's group lies in its pod's under its id, which is where a runtime with cgroupfs as its driver puts it. Where it does not, the
    /// runtime's own figures are told, which are fewer.
    pub(crate) async fn stats(&self, id: &str) -> Result<Stats> {
        if id.is_empty() {
            let path = self.groups.path("");
            let figures = self.groups.figures(&path).await.ok_or_else(|| RuntimeError::NotFound { what: "cgroup", id: path.clone() })?;
            return Ok(Stats::new(path, figures, Vec::new()));
        }
        let place = held(&self.places).get(id).cloned();
        match place {
            Some(sandbox) => self.of_container(id, &sandbox).await,
            None => match self.known(id).await? {
                Some(known) => {
                    let path = self.groups.path(&known.config.cgroup);
                    let interfaces = if known.config.network == NamespaceMode::Pod { self.interfaces(&path, id).await } else { Vec::new() };
                    let figures = self.groups.figures(&path).await.ok_or_else(|| RuntimeError::NotFound { what: "cgroup", id: path.clone() })?;
                    Ok(Stats::new(path, figures, interfaces))
                }
                // A container of an earlier run that was not listed yet.
                None => {
                    self.containers().await?;
                    let sandbox = held(&self.places).get(id).cloned().ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })?;
                    self.of_container(id, &sandbox).await
                }
            },
        }
    }

    async fn of_container(&self, id: &str, sandbox: &str) -> Result<Stats> {
        let known = self.known(sandbox).await?.ok_or_else(|| RuntimeError::NotFound { what: "sandbox", id: sandbox.to_owned() })?;
        let path = format!("{}/{id}", self.groups.path(&known.config.cgroup));
        if let Some(figures) = self.groups.figures(&path).await {
            return Ok(Stats::new(path, figures, Vec::new()));
        }
        let told = self.told(id).await?;
        let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
        let (cpu, memory) = (told.cpu.unwrap_or_default(), told.memory.unwrap_or_default());
        Ok(Stats {
            cpu_usage_ns: value(cpu.usage_core_nano_seconds),
            memory_usage_bytes: value(memory.usage_bytes),
            memory_working_set_bytes: value(memory.working_set_bytes),
            pids: 0,
            cgroup: String::new(),
            figures: Figures::default(),
            interfaces: Vec::new(),
        })
    }

    async fn told(&self, id: &str) -> Result<cri::ContainerStats> {
        let request = cri::ContainerStatsRequest { container_id: id.to_owned() };
        let answer: cri::ContainerStatsResponse = self.caller.container(cri::CONTAINER_STATS, "read figures", id, &request, USUAL).await?;
        answer.stats.ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.to_owned() })
    }

    pub(crate) async fn written(&self, id: &str) -> Result<DiskUsage> {
        let layer = self.told(id).await?.writable_layer.unwrap_or_default();
        let value = |value: Option<cri::UInt64Value>| value.map_or(0, |value| value.value);
        Ok(DiskUsage { bytes: value(layer.used_bytes), inodes: value(layer.inodes_used) })
    }

    /// As the process that holds the sandbox's namespaces sees them; it is in a group of the sandbox's id.
    async fn interfaces(&self, pod: &str, sandbox: &str) -> Vec<Interface> {
        let Some(pid) = self.groups.first_member(&format!("{pod}/{sandbox}")).await else { return Vec::new() };
        let path = format!("/proc/{pid}/net/dev");
        crate::blocking(move || std::fs::read_to_string(path).map(|text| usage::interfaces(&text)).unwrap_or_default()).await
    }
}
