//! A full node: 500 pods at once, what they cost when nothing happens, and how long a command in one of them takes.

use crate::pods::{Node, at_once, node, remove_all};
use crate::process::Meter;
use crate::{Error, quantile};
use kube::api::AttachParams;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const PODS: usize = 500;
/// Whole minutes: the agent looks at the volumes of each pod once a minute.
const IDLE: Duration = Duration::from_secs(120);
const EXECS: usize = 50;

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let mut n = node(&keles).await?;
    let figures = measured(&mut n).await;
    // Also after a failure: pods outlive the server.
    remove_all(&n.pods).await?;
    figures
}

async fn measured(n: &mut Node) -> Result<String, Error> {
    let burst = at_once(n, PODS).await?;
    let (shims, private_kib) = shims(&n.server.data());
    // What the burst left to do is done first: statuses, events, endpoints.
    let mut cpu = Meter::settled(&n.server).await;
    tokio::time::sleep(IDLE).await;
    let idle = cpu.lap() / IDLE.as_secs_f64();
    let mut samples = Vec::new();
    for i in 0..EXECS {
        let begin = Instant::now();
        let mut process = n.pods.exec(&format!("many-{i}"), ["true"], &AttachParams::default().stdout(true).stderr(true)).await?;
        process.take_status().ok_or("asked once")?.await.ok_or("no status")?;
        samples.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    samples.sort_by(f64::total_cmp);
    let resident = n.server.resident_mib();
    Ok(format!(
        "{PODS} at once all running in {burst:.1} s; {:.0} KiB of private memory for each of {shims} shims; server idle {:.2} % of a core, {resident:.0} MiB resident; exec round trip p50 {:.1} ms, p99 {:.1} ms",
        private_kib as f64 / shims.max(1) as f64,
        idle * 100.0,
        quantile(&samples, 0.5),
        quantile(&samples, 0.99)
    ))
}

/// How many shims there are, and the memory that is theirs alone, KiB in all.
fn shims(data: &Path) -> (usize, u64) {
    let data = data.display().to_string();
    let read = |p: PathBuf| std::fs::read(p).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let private = |rollup: String| rollup.lines().filter(|l| l.starts_with("Private_")).filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path());
    let of_ours = all.filter(|p| Some(read(p.join("cmdline"))).is_some_and(|c| c.contains("\0shim\0") && c.contains(&data)));
    of_ours.map(|p| private(read(p.join("smaps_rollup")))).fold((0, 0), |(n, sum), kib| (n + 1, sum + kib))
}
