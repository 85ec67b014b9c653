//! How long a pod takes: sandbox, container create to running, exec, stop. Root; `cargo run --release --example start_time`.
//! SHIM_EXE names another program to be the shim, such as `keles`.
//! Prints the median of each step in milliseconds and a shim's private memory.

use keles_runtime::api::*;
use keles_runtime::{Engine, EngineOptions};
use std::time::{Duration, Instant};

const ROUNDS: usize = 50;

fn main() {
    let args: Vec<_> = std::env::args_os().collect();
    if args.get(1).is_some_and(|a| a == "shim") {
        keles_runtime::shim_main(args.into_iter().skip(2));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(measure()).expect("containers run here");
}

async fn measure() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::temp_dir().join(format!("kst{}", std::process::id()));
    let image = dir.join("image");
    for d in ["bin", "etc", "proc", "dev", "sys"] {
        std::fs::create_dir_all(image.join(d))?;
    }
    std::fs::copy("/bin/busybox", image.join("bin/sleep"))?;
    std::fs::copy("/bin/busybox", image.join("bin/true"))?;
    let name = format!("keles-start-time-{}", std::process::id());
    let mut options = EngineOptions::new(dir.join("state"), dir.join("run"), &name);
    if let Some(exe) = std::env::var_os("SHIM_EXE") {
        options.shim_exe = exe.into();
    }
    let engine = Engine::open(options).await?;
    let mut times: [Vec<Duration>; 5] = Default::default();
    let mut private = 0;
    for round in 0..ROUNDS {
        let sandbox = SandboxConfig {
            uid: format!("u{round}"),
            hostname: "p".into(),
            log_directory: dir.join("logs"),
            cgroup: format!("podu{round}"),
            pid: NamespaceMode::Container,
            ..SandboxConfig::default()
        };
        let container = ContainerConfig { layers: vec![image.clone()], args: vec!["/bin/sleep".into(), "1000".into()], log_path: "c/0.log".into(), ..ContainerConfig::default() };
        let begin = Instant::now();
        let s = engine.run_sandbox(sandbox).await?.id;
        times[0].push(begin.elapsed());
        let begin = Instant::now();
        let id = engine.create_container(&s, container).await?;
        times[1].push(begin.elapsed());
        let begin = Instant::now();
        engine.start_container(&id).await?;
        times[2].push(begin.elapsed());
        let begin = Instant::now();
        engine.exec_sync(&id, vec!["/bin/true".into()], Duration::ZERO).await?;
        times[3].push(begin.elapsed());
        private = private.max(shim_private_kib(engine.container_status(&id).await?.pid)?);
        let begin = Instant::now();
        engine.remove_sandbox(&s).await?;
        times[4].push(begin.elapsed());
    }
    for (name, t) in ["sandbox", "create", "start", "exec", "stop and remove"].iter().zip(&mut times) {
        t.sort();
        println!("{name}: median {:.2} ms, p95 {:.2} ms", t[ROUNDS / 2].as_secs_f64() * 1e3, t[ROUNDS * 95 / 100].as_secs_f64() * 1e3);
    }
    println!("shim private memory: {private} KiB");
    drop(engine);
    keles_linux::cgroup::Layout::discover()?.group(&name)?.destroy()?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

/// Of the container's parent.
fn shim_private_kib(pid: Option<i32>) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.unwrap_or_default()))?;
    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap_or("self");
    let rollup = std::fs::read_to_string(format!("/proc/{parent}/smaps_rollup"))?;
    let sum = |l: &str| l.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    Ok(rollup.lines().filter(|l| l.starts_with("Private_Dirty")).map(sum).sum())
}
