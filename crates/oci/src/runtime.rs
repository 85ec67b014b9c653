//! `config.json` of a bundle: the OCI runtime specification's types, as far as Linux containers have them.
//!
//! Entry point: [`Spec::parse`]. Absent and `null` are the same, as in Go. Fields of other systems (windows, solaris, vm, zos) are not read.
//! Source: opencontainers/runtime-spec `config.md`, `config-linux.md`, version 1.3.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The newest version of the specification that is understood.
pub const VERSION: &str = "1.3.0";

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $kind,)* }
    )*};
}

words! {
    Spec {
        oci_version: String,
        process: Option<Process>,
        root: Option<Root>,
        hostname: String,
        domainname: String,
        mounts: Vec<Mount>,
        hooks: Hooks,
        annotations: BTreeMap<String, String>,
        linux: Linux,
    }
    Root { path: PathBuf, readonly: bool, }
    Process {
        terminal: bool,
        console_size: Option<ConsoleSize>,
        user: User,
        args: Vec<String>,
        env: Vec<String>,
        cwd: String,
        /// Absent: none at all.
        capabilities: Option<Capabilities>,
        rlimits: Vec<Rlimit>,
        no_new_privileges: bool,
        apparmor_profile: String,
        oom_score_adj: Option<i32>,
        scheduler: Option<Scheduler>,
        selinux_label: String,
        io_priority: Option<IoPriority>,
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<Value>,
    }
    ConsoleSize { height: u16, width: u16, }
    User { uid: u32, gid: u32, umask: Option<u32>, additional_gids: Vec<u32>, }
    Capabilities { bounding: Vec<String>, effective: Vec<String>, inheritable: Vec<String>, permitted: Vec<String>, ambient: Vec<String>, }
    Rlimit { #[serde(rename = "type")] kind: String, hard: u64, soft: u64, }
    Scheduler { policy: String, nice: i32, priority: i32, flags: Vec<String>, runtime: u64, deadline: u64, period: u64, }
    IoPriority { class: String, priority: i32, }
    Mount {
        destination: PathBuf,
        #[serde(rename = "type")]
        kind: String,
        source: String,
        options: Vec<String>,
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
    }
    IdMapping {
        #[serde(rename = "containerID")]
        container_id: u32,
        #[serde(rename = "hostID")]
        host_id: u32,
        size: u32,
    }
    Hooks {
        prestart: Vec<Hook>,
        create_runtime: Vec<Hook>,
        create_container: Vec<Hook>,
        start_container: Vec<Hook>,
        poststart: Vec<Hook>,
        poststop: Vec<Hook>,
    }
    Hook {
        path: PathBuf,
        args: Vec<String>,
        env: Vec<String>,
        /// In seconds.
        timeout: Option<i64>,
    }
    Linux {
        uid_mappings: Vec<IdMapping>,
        gid_mappings: Vec<IdMapping>,
        sysctl: BTreeMap<String, String>,
        resources: Resources,
        cgroups_path: String,
        namespaces: Vec<Namespace>,
        devices: Vec<Device>,
        net_devices: BTreeMap<String, Value>,
        seccomp: Option<Value>,
        rootfs_propagation: String,
        masked_paths: Vec<PathBuf>,
        readonly_paths: Vec<PathBuf>,
        mount_label: String,
        intel_rdt: Option<Value>,
        memory_policy: Option<Value>,
        personality: Option<Personality>,
        time_offsets: BTreeMap<String, TimeOffset>,
    }
    Namespace { #[serde(rename = "type")] kind: String, path: Option<PathBuf>, }
    Device {
        #[serde(rename = "type")]
        kind: String,
        path: PathBuf,
        major: i64,
        minor: i64,
        file_mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
    }
    Personality { domain: String, flags: Vec<String>, }
    TimeOffset { secs: i64, nanosecs: u32, }
    Resources {
        devices: Vec<DeviceRule>,
        memory: Memory,
        cpu: Cpu,
        pids: Option<Pids>,
        #[serde(rename = "blockIO")]
        block_io: BlockIo,
        hugepage_limits: Vec<HugepageLimit>,
        network: Network,
        rdma: BTreeMap<String, Rdma>,
        unified: BTreeMap<String, String>,
    }
    DeviceRule { allow: bool, #[serde(rename = "type")] kind: String, major: Option<i64>, minor: Option<i64>, access: String, }
    Memory {
        limit: Option<i64>,
        reservation: Option<i64>,
        swap: Option<i64>,
        kernel: Option<i64>,
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        swappiness: Option<u64>,
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        use_hierarchy: Option<bool>,
        check_before_update: Option<bool>,
    }
    Cpu {
        shares: Option<u64>,
        quota: Option<i64>,
        burst: Option<u64>,
        period: Option<u64>,
        realtime_runtime: Option<i64>,
        realtime_period: Option<u64>,
        cpus: String,
        mems: String,
        idle: Option<i64>,
    }
    Pids { limit: i64, }
    BlockIo {
        weight: Option<u16>,
        leaf_weight: Option<u16>,
        weight_device: Vec<WeightDevice>,
        throttle_read_bps_device: Vec<ThrottleDevice>,
        throttle_write_bps_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
    WeightDevice { major: i64, minor: i64, weight: Option<u16>, leaf_weight: Option<u16>, }
    ThrottleDevice { major: i64, minor: i64, rate: u64, }
    HugepageLimit { page_size: String, limit: u64, }
    Network {
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        priorities: Vec<InterfacePriority>,
    }
    InterfacePriority { name: String, priority: u32, }
    Rdma { hca_handles: Option<u32>, hca_objects: Option<u32>, }
}

/// What a hook reads on its standard input, and what `state` prints of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// `creating`, `created`, `running`, `paused` or `stopped`.
    pub status: String,
    #[serde(default)]
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Spec {
    /// # Errors
    /// Text that is not JSON, or a field of another type.
    pub fn parse(text: &[u8]) -> serde_json::Result<Spec> {
        parse(text)
    }
}

/// Any of these types from JSON in which `null` stands for absent.
pub fn parse<T: serde::de::DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(text)?;
    drop_nulls(&mut value);
    serde_json::from_value(value)
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, v| !v.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_are_the_same_anywhere() {
        let spec =
            Spec::parse(br#"{"ociVersion":"1.0.2","process":{"args":null,"capabilities":null,"user":{"uid":1,"additionalGids":null}},"mounts":null,"linux":null,"hooks":null}"#);
        let process = spec.expect("valid").process.expect("given");
        assert_eq!((process.user.uid, process.args.len(), process.capabilities), (1, 0, None));
    }

    #[test]
    fn the_specifications_unusual_spellings_are_read() {
        let text = br#"{"linux":{"uidMappings":[{"containerID":1,"hostID":2,"size":3}],"resources":{"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":5}]},
            "memory":{"kernelTCP":7,"disableOOMKiller":true},"network":{"classID":9}}}}"#;
        let linux = Spec::parse(text).expect("valid").linux;
        assert_eq!(linux.uid_mappings, [IdMapping { container_id: 1, host_id: 2, size: 3 }]);
        assert_eq!(linux.resources.block_io.throttle_read_iops_device[0].rate, 5);
        assert_eq!((linux.resources.memory.kernel_tcp, linux.resources.memory.disable_oom_killer, linux.resources.network.class_id), (Some(7), Some(true), Some(9)));
    }
}
