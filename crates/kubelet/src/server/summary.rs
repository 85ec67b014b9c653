//! `/stats/summary`: the node, its pods and their containers as upstream's stats/v1alpha1.
//!
//! Entry point: [`summary`]. Figures are absent where the host does not tell them, never zero. Deliberately absent: accelerators. Source: k8s.io/kubelet/pkg/apis/stats/v1alpha1, KEP-4205 (pressure).

use super::Api;
use crate::figures::disk::{self, Filesystem};
use crate::figures::{ContainerFigures, PodFigures, Snapshot};
use crate::pod_worker::View;
use jiff::Timestamp;
use keles_linux::cgroup::{Figures, Pressure, Stall};
use keles_rules::volume_binding::claim_name;
use keles_runtime::api::{DiskUsage, Interface};
use keles_volumes::csi::VolumeData;
use keles_volumes::csi::wire::{NodeGetVolumeStatsResponse, Unit, VolumeUsage};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Pressure is told in nanoseconds, the kernel counts microseconds.
const NS_PER_US: u64 = 1000;

pub async fn summary(api: &Api, only_cpu_and_memory: bool) -> Value {
    let snapshot = Snapshot::take(&api.agent, &api.pods).await;
    let s = Summary { api, at: snapshot.at, whole: !only_cpu_and_memory };
    let mut pods = Vec::new();
    for pod in &snapshot.pods {
        pods.push(s.pod(pod).await);
    }
    let node = s.node(&snapshot).await;
    api.rates.keep(snapshot.at);
    json!({"node": node, "pods": pods})
}

/// The volumes of claims that pods have, each once, as the summary shows them.
pub async fn claims(api: &Api) -> BTreeMap<(String, String), Value> {
    let s = Summary { api, at: Timestamp::now(), whole: true };
    let mut all = BTreeMap::new();
    for view in api.pods.views() {
        let volumes = view.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        if volumes.into_iter().all(|volume| claim_name(&view.pod, volume).is_none()) {
            continue;
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (namespace, uid) = (text(&view.pod.metadata.namespace), text(&view.pod.metadata.uid));
        for volume in s.volumes(&view, &namespace, &uid).await.0 {
            if let Some(claim) = volume["pvcRef"]["name"].as_str().map(str::to_owned) {
                all.insert((namespace.clone(), claim), volume);
            }
        }
    }
    all
}

struct Summary<'a> {
    api: &'a Api,
    at: Timestamp,
    /// Disks, networks and the rest too.
    whole: bool,
}

/// RFC 3339 in whole seconds, as the API keeps times.
fn time(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// An object of what is known.
fn known<const N: usize>(at: Timestamp, fields: [(&str, Option<Value>); N]) -> Value {
    let mut object = Map::from_iter([("time".to_owned(), Value::from(time(at)))]);
    object.extend(fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    object.into()
}

fn stall(s: &Stall) -> Value {
    let percent = |hundredths: u32| f64::from(hundredths) / 100.0;
    json!({"total": s.total_us * NS_PER_US, "avg10": percent(s.avg10), "avg60": percent(s.avg60), "avg300": percent(s.avg300)})
}

fn pressure(p: &Pressure) -> Value {
    json!({"full": stall(&p.full.unwrap_or_default()), "some": stall(&p.some)})
}

impl Summary<'_> {
    /// `limit`: what memory the group may have at most.
    fn cpu_and_memory(&self, into: &mut Value, figures: &Figures, group: &str, began: Timestamp, limit: Option<u64>) {
        if let Some(cpu) = &figures.cpu {
            let rate = self.api.rates.of(group, cpu.usage_ns, self.at, began);
            let fields = [("usageNanoCores", rate.map(Value::from)), ("usageCoreNanoSeconds", Some(cpu.usage_ns.into())), ("psi", figures.cpu_pressure.as_ref().map(pressure))];
            into["cpu"] = known(self.at, fields);
        }
        if let Some(memory) = &figures.memory {
            let limit = limit.or(memory.limit_bytes);
            let fields = [
                ("availableBytes", limit.map(|limit| limit.saturating_sub(memory.working_set_bytes).into())),
                ("usageBytes", Some(memory.usage_bytes.into())),
                ("workingSetBytes", Some(memory.working_set_bytes.into())),
                ("rssBytes", memory.anonymous_bytes.map(Value::from)),
                ("pageFaults", memory.page_faults.map(Value::from)),
                ("majorPageFaults", memory.major_page_faults.map(Value::from)),
                ("psi", figures.memory_pressure.as_ref().map(pressure)),
            ];
            into["memory"] = known(self.at, fields);
        }
        if !self.whole {
            return;
        }
        if let Some(used) = figures.memory.as_ref().and_then(|memory| memory.swap_bytes) {
            let free = figures.memory.as_ref().and_then(|memory| memory.swap_limit_bytes).map(|limit| limit.saturating_sub(used));
            into["swap"] = known(self.at, [("swapAvailableBytes", free.map(Value::from)), ("swapUsageBytes", Some(used.into()))]);
        }
        if let Some(io) = &figures.io_pressure {
            into["io"] = known(self.at, [("psi", Some(pressure(io)))]);
        }
    }

    /// `used`: of this alone; absent for the whole filesystem.
    fn disk(&self, fs: Option<Filesystem>, used: Option<DiskUsage>) -> Value {
        let of = |value: fn(&Filesystem) -> u64| fs.as_ref().map(|fs| value(fs).into());
        let fields = [
            ("availableBytes", of(|fs| fs.available_bytes)),
            ("capacityBytes", of(|fs| fs.capacity_bytes)),
            ("usedBytes", used.map(|used| used.bytes.into()).or_else(|| of(|fs| fs.used_bytes))),
            ("inodesFree", of(|fs| fs.inodes_free)),
            ("inodes", of(|fs| fs.inodes)),
            ("inodesUsed", used.map(|used| used.inodes.into()).or_else(|| of(Filesystem::inodes_used))),
        ];
        known(self.at, fields)
    }

    fn network(&self, interfaces: &[Interface], default: Option<&str>) -> Option<Value> {
        let one = |i: &Interface| json!({"name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors, "txBytes": i.tx_bytes, "txErrors": i.tx_errors});
        let main = interfaces.iter().find(|i| default.is_none_or(|name| i.name == name)).or(interfaces.first())?;
        let mut network = one(main);
        network["time"] = time(self.at).into();
        network["interfaces"] = interfaces.iter().map(one).collect();
        Some(network)
    }

    async fn node(&self, snapshot: &Snapshot) -> Value {
        let (machine, config) = (&snapshot.machine, &self.api.agent.config);
        let booted = Timestamp::from_second(machine.booted_unix_seconds).unwrap_or(self.at);
        let mut node = json!({"nodeName": config.node_name, "startTime": time(booted), "systemContainers": self.system_containers(snapshot)});
        self.cpu_and_memory(&mut node, &machine.figures, "/", booted, Some(machine.memory_bytes));
        if !self.whole {
            return node;
        }
        node["swap"] = known(
            self.at,
            [("swapAvailableBytes", Some(machine.swap_free_bytes.into())), ("swapUsageBytes", Some((machine.swap_bytes.saturating_sub(machine.swap_free_bytes)).into()))],
        );
        if let Some(network) = self.network(&machine.interfaces, machine.default_interface.as_deref()) {
            node["network"] = network;
        }
        let fs = disk::filesystem(&config.data_dir);
        node["fs"] = self.disk(fs, None);
        let of_images = disk::filesystem(&self.api.agent.images_dir);
        let mut images = self.disk(of_images, None);
        if let Some(bytes) = self.images_bytes().await {
            images["usedBytes"] = bytes.into();
        }
        node["runtime"] = json!({"imageFs": images, "containerFs": self.disk(of_images, None)});
        node["rlimit"] = known(self.at, [("maxpid", machine.pid_max.map(Value::from)), ("curproc", machine.processes.map(Value::from))]);
        node
    }

    /// As the image store counts them.
    async fn images_bytes(&self) -> Option<u64> {
        let images = self.api.agent.images.list().await.ok()?;
        Some(images.iter().map(|image| image.size_bytes).sum())
    }

    fn system_containers(&self, snapshot: &Snapshot) -> Value {
        let mut all = Vec::new();
        let booted = Timestamp::from_second(snapshot.machine.booted_unix_seconds).unwrap_or(self.at);
        if let Some(stats) = &snapshot.all_pods {
            let mut pods = json!({"name": "pods", "startTime": time(booted)});
            self.cpu_and_memory(&mut pods, &stats.figures, &stats.cgroup, booted, Some(snapshot.machine.memory_bytes));
            all.push(pods);
        }
        all.into()
    }

    async fn pod(&self, pod: &PodFigures) -> Value {
        let status = &pod.view.status;
        let began = status.start_time.as_ref().map_or(self.at, |time| time.0);
        let mut containers = Vec::new();
        let (mut written, mut inodes) = (0, 0);
        for container in &pod.containers {
            let (value, used) = self.container(pod, container).await;
            containers.push(value);
            written += used.bytes;
            inodes += used.inodes;
        }
        let mut value = json!({"podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}, "startTime": time(began), "containers": containers});
        self.cpu_and_memory(&mut value, &pod.stats.figures, &pod.stats.cgroup, began, None);
        if !self.whole {
            return value;
        }
        if let Some(network) = self.network(&pod.stats.interfaces, None) {
            value["network"] = network;
        }
        let (volumes, local) = self.volumes(&pod.view, &pod.namespace, &pod.uid).await;
        if !volumes.is_empty() {
            value["volume"] = volumes.into();
        }
        let used = DiskUsage { bytes: written + local.bytes, inodes: inodes + local.inodes };
        value["ephemeral-storage"] = self.disk(disk::filesystem(&self.api.agent.config.data_dir), Some(used));
        if let Some(count) = pod.stats.figures.processes {
            value["process_stats"] = json!({"process_count": count});
        }
        value
    }

    /// With what it uses of the node's disk: its own files and its logs.
    async fn container(&self, pod: &PodFigures, container: &ContainerFigures) -> (Value, DiskUsage) {
        let began = Timestamp::from_nanosecond(i128::from(container.started_at_unix_ns())).unwrap_or(self.at);
        let mut value = json!({"name": container.record.name, "startTime": time(began)});
        self.cpu_and_memory(&mut value, &container.stats.figures, &container.stats.cgroup, began, None);
        if !self.whole {
            return (value, DiskUsage::default());
        }
        let config = &self.api.agent.config;
        let fs = disk::filesystem(&config.data_dir);
        let root = self.api.written(&container.record.id).await.unwrap_or_default();
        let logs = config.log_dir(&pod.namespace, &pod.name, &pod.uid).join(&container.record.name);
        let logs = self.api.walked.usage(&logs.display().to_string(), disk::folder(logs.clone())).await.unwrap_or_default();
        value["rootfs"] = self.disk(disk::filesystem(&self.api.agent.images_dir), Some(root));
        value["logs"] = self.disk(fs, Some(logs));
        (value, DiskUsage { bytes: root.bytes + logs.bytes, inodes: root.inodes + logs.inodes })
    }

    /// The pod's volumes that lie below its folder, and what of them is on the node's disk.
    async fn volumes(&self, view: &View, namespace: &str, uid: &str) -> (Vec<Value>, DiskUsage) {
        let folder = self.api.agent.config.pod_dir(uid).join("volumes");
        let (mut all, mut local) = (Vec::new(), DiskUsage::default());
        let own = device(&self.api.agent.config.root_dir);
        for (data, said) in self.api.agent.csi.stats(uid).await {
            if let Some(said) = said {
                all.push(self.of_driver(namespace, &data, &said));
            }
        }
        for (name, path) in volume_folders(&folder) {
            let Some(used) = self.api.walked.usage(&path.display().to_string(), disk::folder(path.clone())).await else { continue };
            let mut value = self.disk(disk::filesystem(&path), Some(used));
            // A persistent volume's folder has its own name; the pod knows it by another.
            let name = view.volumes.get(&path).cloned().unwrap_or(name);
            let volume = view.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).find(|volume| volume.name == name);
            let claim = volume.and_then(|volume| claim_name(&view.pod, volume));
            value["name"] = name.into();
            if let Some((claim, _)) = claim {
                value["pvcRef"] = json!({"name": claim, "namespace": namespace});
            } else if volume.is_some() && device(&path) == own {
                local.bytes += used.bytes;
                local.inodes += used.inodes;
            }
            all.push(value);
        }
        (all, local)
    }
}

impl Summary<'_> {
    /// A volume's figures as its driver has them (`NodeGetVolumeStats`).
    fn of_driver(&self, namespace: &str, data: &VolumeData, said: &NodeGetVolumeStatsResponse) -> Value {
        let of = |unit: Unit| said.usage.iter().find(|usage| usage.unit == unit as i32);
        let (bytes, inodes) = (of(Unit::Bytes), of(Unit::Inodes));
        let figure = |of: Option<&VolumeUsage>, f: fn(&VolumeUsage) -> i64| of.map(|usage| f(usage).into());
        let fields = [
            ("availableBytes", figure(bytes, |usage| usage.available)),
            ("capacityBytes", figure(bytes, |usage| usage.total)),
            ("usedBytes", figure(bytes, |usage| usage.used)),
            ("inodesFree", figure(inodes, |usage| usage.available)),
            ("inodes", figure(inodes, |usage| usage.total)),
            ("inodesUsed", figure(inodes, |usage| usage.used)),
        ];
        let mut value = known(self.at, fields);
        value["name"] = data.pod_volume.clone().into();
        if !data.claim.is_empty() {
            value["pvcRef"] = json!({"name": data.claim, "namespace": namespace});
        }
        if let Some(condition) = &said.volume_condition {
            value["volumeHealthStats"] = json!({"abnormal": condition.abnormal});
        }
        value
    }
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|info| info.dev())
}

/// `volumes/<plugin>/<name>`, by name.
fn volume_folders(folder: &Path) -> Vec<(String, std::path::PathBuf)> {
    let below = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>();
    // What drivers have they are asked for; their folders hold the agent's own notes beside the volume.
    let plugins = below(folder).into_iter().filter(|plugin| plugin.file_name().is_none_or(|name| name != "kubernetes.io~csi"));
    let mut all: Vec<_> = plugins.collect::<Vec<_>>().iter().flat_map(|plugin| below(plugin)).filter_map(|path| Some((path.file_name()?.to_str()?.to_owned(), path))).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let at = Timestamp::from_millisecond(1_700_000_000_900).expect("a time");
        assert_eq!(known(at, [("a", Some(1.into())), ("b", None)]), json!({"time": "2023-11-14T22:13:20Z", "a": 1}));
    }

    #[test]
    fn pressure_is_told_in_nanoseconds_and_percent() {
        let p = Pressure { some: Stall { total_us: 7, avg10: 125, avg60: 0, avg300: 1 }, full: None };
        assert_eq!(pressure(&p)["some"], json!({"total": 7000, "avg10": 1.25, "avg60": 0.0, "avg300": 0.01}));
        assert_eq!(pressure(&p)["full"]["total"], 0);
    }

    #[test]
    fn volumes_are_found_by_plugin_and_name() {
        let dir = tempfile::tempdir().expect("tempdir");
        for path in ["kubernetes.io~secret/s", "kubernetes.io~empty-dir/e", "kubernetes.io~csi/pv/mount"] {
            std::fs::create_dir_all(dir.path().join(path)).expect("made");
        }
        std::fs::write(dir.path().join("kubernetes.io~secret/file"), "").expect("written");
        let names: Vec<String> = volume_folders(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["e", "s"]);
    }
}
