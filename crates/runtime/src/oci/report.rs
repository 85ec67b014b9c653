//! What is printed: `state`, `list`, `ps`, `events`, `features`.

use super::state::{Container, Store};
use super::{namespaces, options};
use crate::wire::{Failure, at};
use keles_linux::cgroup::{Group, Layout, Version};
use keles_linux::{capabilities, seccomp};
use serde_json::{Value, json};

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("plain JSON")
}

/// The specification's fields first, then what other runtimes tell too.
fn state_value(container: &Container) -> Value {
    let status = container.status().word();
    let mut value = serde_json::to_value(container.state(status)).expect("plain JSON");
    value["rootfs"] = json!(container.saved.rootfs);
    value["created"] = json!(container.saved.created);
    value["owner"] = json!("");
    value
}

pub fn state(container: &Container) -> String {
    pretty(&state_value(container))
}

pub fn list(store: &Store, as_json: bool, quiet: bool) -> String {
    let all = store.all();
    if quiet {
        return all.iter().map(|c| c.saved.id.clone()).collect::<Vec<_>>().join("\n");
    }
    if as_json {
        return if all.is_empty() { "null".into() } else { Value::from(all.iter().map(state_value).collect::<Vec<_>>()).to_string() };
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(all.iter().map(|c| {
        let (status, s) = (c.status().word(), &c.saved);
        let pid = if status == "stopped" { 0 } else { s.init_process_pid };
        let owner = if s.owner == "0" { "root".into() } else { format!("#{}", s.owner) };
        [s.id.clone(), pid.to_string(), status.to_owned(), s.bundle.display().to_string(), s.created.to_string(), owner]
    }));
    table(&rows)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    const GAP: usize = 4;
    let width = |column: usize| rows.iter().map(|r| r[column].len()).max().unwrap_or(0) + GAP;
    let line = |r: &[String; N]| r.iter().enumerate().map(|(i, cell)| if i + 1 == N { cell.clone() } else { format!("{cell:<w$}", w = width(i)) }).collect::<String>();
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// `ps`: numbers as JSON, or the host's `ps` cut down to the container's.
pub fn processes(container: &Container, as_json: bool, arguments: &[String]) -> Result<String, Failure> {
    let pids = container.group()?.members();
    if as_json {
        return Ok(Value::from(pids).to_string());
    }
    let default = ["-ef".to_owned()];
    let out = std::process::Command::new("ps").args(if arguments.is_empty() { &default } else { arguments }).output().map_err(at("run ps"))?;
    let text = String::from_utf8_lossy(&out.stdout);
    let mut lines = text.lines();
    let head = lines.next().ok_or_else(|| Failure::new("run ps", String::from_utf8_lossy(&out.stderr)))?;
    let column = head.split_whitespace().position(|w| w == "PID").ok_or_else(|| Failure::new("run ps", "its output has no PID column"))?;
    let ours = |line: &&str| line.split_whitespace().nth(column).and_then(|p| p.parse().ok()).is_some_and(|p: i32| pids.contains(&p));
    Ok(std::iter::once(head).chain(lines.filter(ours)).collect::<Vec<_>>().join("\n"))
}

/// One event of `events`.
pub fn event(container: &Container, kind: &str, data: Option<Value>) -> String {
    let mut value = json!({"type": kind, "id": container.saved.id});
    if let Some(data) = data {
        value["data"] = data;
    }
    value.to_string()
}

pub fn stats(group: &Group, layout: &Layout) -> Value {
    let number = |controller: &str, file: &str| group.get(controller, file).and_then(|t| t.trim().parse::<u64>().ok());
    let keys = |controller: &str, file: &str| -> serde_json::Map<String, Value> {
        let text = group.get(controller, file).unwrap_or_default();
        text.lines().filter_map(|l| l.split_once(' ')).filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse::<u64>().ok()?.into()))).collect()
    };
    let v2 = layout.version_of("memory") == Some(Version::V2);
    let figures = group.figures();
    let cpu = keys("cpu", "cpu.stat");
    let key = |map: &serde_json::Map<String, Value>, name: &str| map.get(name).and_then(Value::as_u64).unwrap_or(0);
    let memory_stat = keys("memory", "memory.stat");
    let (limit, max, failed) = if v2 { ("memory.max", "memory.peak", "memory.events") } else { ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt") };
    let (pid_limit, pids) = (number("pids", "pids.max"), number("pids", "pids.current"));
    json!({
        "cpu": {
            "usage": {"total": figures.cpu.map_or(0, |cpu| cpu.usage_ns), "kernel": number("cpuacct", "cpuacct.usage_sys").unwrap_or(key(&cpu, "system_usec") * 1000), "user": number("cpuacct", "cpuacct.usage_user").unwrap_or(key(&cpu, "user_usec") * 1000)},
            "throttling": {"periods": key(&cpu, "nr_periods"), "throttledPeriods": key(&cpu, "nr_throttled"), "throttledTime": cpu.get("throttled_time").and_then(Value::as_u64).unwrap_or(key(&cpu, "throttled_usec") * 1000)},
        },
        "memory": {
            "usage": {"limit": number("memory", limit).unwrap_or(u64::MAX), "usage": figures.memory.map_or(0, |memory| memory.usage_bytes), "max": number("memory", max).unwrap_or(0), "failcnt": number("memory", failed).unwrap_or(0)},
            "cache": key(&memory_stat, if v2 { "file" } else { "cache" }),
            "raw": memory_stat,
        },
        "pids": {"current": pids.unwrap_or(0), "limit": pid_limit.unwrap_or(0)},
        "blkio": {},
        "hugetlb": {},
    })
}

/// What this runtime can do, in the specification's `features` document.
pub fn features() -> String {
    let versions: Vec<Version> = Layout::discover().map(|l| l.hierarchies.iter().map(|h| h.version).collect()).unwrap_or_default();
    let capabilities: Vec<String> = capabilities::NAMES.iter().map(|n| format!("CAP_{n}")).collect();
    pretty(&json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": keles_oci::runtime::VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::names(),
        "linux": {
            "namespaces": namespaces::names(),
            "capabilities": capabilities,
            "cgroup": {"v1": versions.contains(&Version::V1) || versions.is_empty(), "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"],
                "operators": ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"],
                "archs": seccomp::architectures(),
                "knownFlags": seccomp::flag_names(),
                "supportedFlags": seccomp::flag_names(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
    }))
}
