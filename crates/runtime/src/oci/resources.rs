//! A bundle's `resources` as control files to write, in the order in which the kernel takes them.
//!
//! Entry point: [`writes`], pure. Source: runtime-spec `config-linux.md` "Control groups", kernel cgroup-v1 and cgroup-v2 pages.

use crate::wire::Failure;
use keles_linux::cgroup::{CgroupError, Group, Layout, Version};
use keles_oci::runtime::{Resources, ThrottleDevice};
use std::io;

/// One control file of a controller.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// What the host lacks is left out: the figure narrows something that is off there.
    pub optional: bool,
}

fn must(controller: &'static str, file: &str, value: impl ToString) -> Write {
    Write { controller, file: file.to_owned(), value: value.to_string(), optional: false }
}

fn may(controller: &'static str, file: &str, value: impl ToString) -> Write {
    Write { optional: true, ..must(controller, file, value) }
}

/// Controllers beyond those all containers use, by their names of both versions.
pub fn controllers(r: &Resources) -> Vec<&'static str> {
    let mut all = Vec::new();
    if !r.cpu.cpus.is_empty() || !r.cpu.mems.is_empty() {
        all.push("cpuset");
    }
    if r.block_io != Default::default() {
        all.extend(["blkio", "io"]);
    }
    if !r.hugepage_limits.is_empty() {
        all.push("hugetlb");
    }
    if r.network.class_id.is_some() {
        all.push("net_cls");
    }
    if !r.network.priorities.is_empty() {
        all.push("net_prio");
    }
    if !r.rdma.is_empty() {
        all.push("rdma");
    }
    all
}

fn unlimited(n: i64) -> String {
    if n < 0 { "max".into() } else { n.to_string() }
}

pub fn writes(r: &Resources, layout: &Layout) -> Result<Vec<Write>, Failure> {
    let v2 = |controller: &str| layout.version_of(controller) == Some(Version::V2);
    let mut all = Vec::new();
    cpu(r, v2("cpu"), &mut all);
    if !r.cpu.cpus.is_empty() {
        all.push(must("cpuset", "cpuset.cpus", &r.cpu.cpus));
    }
    if !r.cpu.mems.is_empty() {
        all.push(must("cpuset", "cpuset.mems", &r.cpu.mems));
    }
    memory(r, v2("memory"), &mut all)?;
    if let Some(p) = &r.pids {
        all.push(must("pids", "pids.max", if p.limit > 0 { p.limit.to_string() } else { "max".into() }));
    }
    block_io(r, v2("io"), &mut all);
    for h in &r.hugepage_limits {
        all.push(must("hugetlb", &format!("hugetlb.{}.{}", h.page_size, if v2("hugetlb") { "max" } else { "limit_in_bytes" }), h.limit));
    }
    if let Some(id) = r.network.class_id {
        all.push(must("net_cls", "net_cls.classid", id));
    }
    all.extend(r.network.priorities.iter().map(|p| must("net_prio", "net_prio.ifpriomap", format!("{} {}", p.name, p.priority))));
    for (device, limit) in &r.rdma {
        let word = |name: &str, n: Option<u32>| n.map(|n| format!(" {name}={n}")).unwrap_or_default();
        all.push(must("rdma", "rdma.max", format!("{device}{}{}", word("hca_handle", limit.hca_handles), word("hca_object", limit.hca_objects))));
    }
    Ok(all)
}

fn cpu(r: &Resources, v2: bool, all: &mut Vec<Write>) {
    let c = &r.cpu;
    if let Some(shares) = c.shares.filter(|s| *s > 0) {
        all.push(if v2 { must("cpu", "cpu.weight", keles_linux::cgroup::weight_of_shares(shares)) } else { must("cpu", "cpu.shares", shares) });
    }
    if let Some(idle) = c.idle {
        all.push(must("cpu", "cpu.idle", idle));
    }
    let (quota, period) = (c.quota.filter(|q| *q != 0), c.period.filter(|p| *p != 0));
    if v2 {
        if quota.is_some() || period.is_some() {
            let quota = quota.filter(|q| *q > 0).map_or("max".into(), |q| q.to_string());
            all.push(must("cpu", "cpu.max", period.map_or(quota.clone(), |p| format!("{quota} {p}"))));
        }
        all.extend(c.burst.map(|b| may("cpu", "cpu.max.burst", b)));
        return;
    }
    all.extend(period.map(|p| must("cpu", "cpu.cfs_period_us", p)));
    all.extend(quota.map(|q| must("cpu", "cpu.cfs_quota_us", q)));
    all.extend(c.burst.map(|b| may("cpu", "cpu.cfs_burst_us", b)));
    all.extend(c.realtime_period.filter(|p| *p != 0).map(|p| must("cpu", "cpu.rt_period_us", p)));
    all.extend(c.realtime_runtime.filter(|p| *p != 0).map(|p| must("cpu", "cpu.rt_runtime_us", p)));
}

fn memory(r: &Resources, v2: bool, all: &mut Vec<Write>) -> Result<(), Failure> {
    let m = &r.memory;
    let (limit, swap) = (m.limit.filter(|l| *l != 0), m.swap.filter(|s| *s != 0));
    if let (Some(l), Some(s)) = (limit, swap)
        && s > 0
        && (l < 0 || s < l)
    {
        return Err(Failure::new("memory limits", format!("swap {s} (memory and swap together) must not be less than the limit {l}")));
    }
    if v2 {
        all.extend(limit.map(|l| must("memory", "memory.max", unlimited(l))));
        if let Some(s) = swap {
            // There swap is a figure of its own.
            let only = if s < 0 { s } else { s - limit.filter(|l| *l > 0).unwrap_or(0) };
            all.push(may("memory", "memory.swap.max", unlimited(only)));
        }
        all.extend(m.reservation.filter(|n| *n != 0).map(|n| must("memory", "memory.low", unlimited(n))));
        return Ok(());
    }
    // memory <= memory+swap must hold at each step: the sum is written first and last, the first may be refused.
    if let Some(both) = swap.or(limit.filter(|l| *l < 0)) {
        all.push(may("memory", "memory.memsw.limit_in_bytes", both));
    }
    all.extend(limit.map(|l| must("memory", "memory.limit_in_bytes", l)));
    if let Some(both) = swap {
        all.push(may("memory", "memory.memsw.limit_in_bytes", both));
    }
    all.extend(m.reservation.filter(|n| *n != 0).map(|n| must("memory", "memory.soft_limit_in_bytes", n)));
    all.extend(m.kernel_tcp.filter(|n| *n != 0).map(|n| must("memory", "memory.kmem.tcp.limit_in_bytes", n)));
    all.extend(m.swappiness.map(|n| must("memory", "memory.swappiness", n)));
    if m.disable_oom_killer == Some(true) {
        all.push(must("memory", "memory.oom_control", 1));
    }
    Ok(())
}

fn block_io(r: &Resources, v2: bool, all: &mut Vec<Write>) {
    let b = &r.block_io;
    let weight = b.weight.filter(|w| *w != 0);
    if v2 {
        // 10..1000 onto 1..10000, as other runtimes do.
        all.extend(weight.map(|w| must("io", "io.weight", 1 + (u64::from(w).saturating_sub(10)) * 9999 / 990)));
    } else {
        all.extend(weight.map(|w| must("blkio", "blkio.bfq.weight", w)));
        all.extend(b.leaf_weight.filter(|w| *w != 0).map(|w| must("blkio", "blkio.leaf_weight", w)));
    }
    for d in &b.weight_device {
        let at = |w: u16| format!("{}:{} {w}", d.major, d.minor);
        all.extend(d.weight.filter(|w| *w != 0).map(|w| if v2 { must("io", "io.bfq.weight", at(w)) } else { must("blkio", "blkio.bfq.weight_device", at(w)) }));
        all.extend(d.leaf_weight.filter(|w| *w != 0 && !v2).map(|w| must("blkio", "blkio.leaf_weight_device", at(w))));
    }
    let mut throttle = |devices: &[ThrottleDevice], v1_file: &str, v2_word: &str| {
        for d in devices {
            let to = format!("{}:{}", d.major, d.minor);
            all.push(if v2 {
                must("io", "io.max", format!("{to} {v2_word}={}", if d.rate == 0 { "max".into() } else { d.rate.to_string() }))
            } else {
                must("blkio", v1_file, format!("{to} {}", d.rate))
            });
        }
    };
    throttle(&b.throttle_read_bps_device, "blkio.throttle.read_bps_device", "rbps");
    throttle(&b.throttle_write_bps_device, "blkio.throttle.write_bps_device", "wbps");
    throttle(&b.throttle_read_iops_device, "blkio.throttle.read_iops_device", "riops");
    throttle(&b.throttle_write_iops_device, "blkio.throttle.write_iops_device", "wiops");
}

/// Writes all to the group.
pub fn apply(r: &Resources, group: &Group, layout: &Layout) -> Result<(), Failure> {
    for w in writes(r, layout)? {
        match group.set(w.controller, &w.file, &w.value) {
            Err(e) if w.optional && is_tolerable(&e) => {}
            r => r.map_err(|e| Failure::new("set resources", format!("{}={}: {}", w.file, w.value, explain(&e))))?,
        }
    }
    for (file, value) in &r.unified {
        group.set_unified(file, value).map_err(|e| Failure::new("set resources", format!("unified {file}={value}: {}", explain(&e))))?;
    }
    Ok(())
}

/// Not there, or refused for the order of two writes of which the later is made for sure.
fn is_tolerable(e: &CgroupError) -> bool {
    match e {
        CgroupError::NoController { .. } => true,
        CgroupError::Io { source, .. } => matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput),
        _ => false,
    }
}

fn explain(e: &CgroupError) -> String {
    match e {
        CgroupError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => "this host's kernel has no such control file".into(),
        e => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str, mountinfo: &str, offered: &str) -> Vec<String> {
        let r: Resources = keles_oci::runtime::parse(json.as_bytes()).expect("valid");
        let layout = Layout::from_mountinfo(mountinfo, |_| offered.into()).expect("mounted");
        writes(&r, &layout).expect("valid").into_iter().map(|w| format!("{} {}={}", w.controller, w.file, w.value)).collect()
    }
    const V1: &str = "1 1 0:1 / /c/cpu rw - cgroup cgroup rw,cpu\n2 1 0:2 / /c/memory rw - cgroup cgroup rw,memory\n3 1 0:3 / /c/pids rw - cgroup cgroup rw,pids\n";
    const V2: &str = "1 1 0:1 / /c rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn each_version_has_its_own_words() {
        let json = r#"{"cpu":{"shares":1024,"quota":50000,"period":100000},"memory":{"limit":1000,"swap":3000,"reservation":500},"pids":{"limit":7}}"#;
        assert_eq!(
            of(json, V1, ""),
            [
                "cpu cpu.shares=1024",
                "cpu cpu.cfs_period_us=100000",
                "cpu cpu.cfs_quota_us=50000",
                "memory memory.memsw.limit_in_bytes=3000",
                "memory memory.limit_in_bytes=1000",
                "memory memory.memsw.limit_in_bytes=3000",
                "memory memory.soft_limit_in_bytes=500",
                "pids pids.max=7"
            ]
        );
        let v2 = of(json, V2, "cpu memory pids");
        assert_eq!(v2, ["cpu cpu.weight=39", "cpu cpu.max=50000 100000", "memory memory.max=1000", "memory memory.swap.max=2000", "memory memory.low=500", "pids pids.max=7"]);
    }

    #[test]
    fn what_the_host_may_lack_is_still_asked_for() {
        let json = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":9}],"network":{"classID":3},"rdma":{"mlx":{"hcaHandles":2}},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}]}}"#;
        assert_eq!(
            of(json, V1, ""),
            ["blkio blkio.throttle.read_bps_device=8:0 5", "hugetlb hugetlb.2MB.limit_in_bytes=9", "net_cls net_cls.classid=3", "rdma rdma.max=mlx hca_handle=2"]
        );
        let r: Resources = keles_oci::runtime::parse(json.as_bytes()).expect("valid");
        assert_eq!(controllers(&r), ["blkio", "io", "hugetlb", "net_cls", "rdma"]);
    }

    #[test]
    fn swap_below_the_limit_is_an_error() {
        let r: Resources = keles_oci::runtime::parse(br#"{"memory":{"limit":10,"swap":5}}"#).expect("valid");
        assert!(writes(&r, &Layout::from_mountinfo(V1, |_| String::new()).expect("mounted")).is_err());
    }
}
