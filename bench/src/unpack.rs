//! An image of real files pulled and unpacked by `keles pull` and by containerd, in turns, from the same registry on loopback.
//!
//! Needs root and Debian's containerd (`make deps`). Wall time, and processor time of all that works on the client's side.

use crate::{Error, quantile};
use keles_testkit::containerd::Containerd;
use keles_testkit::registry::{Blobs, Registry};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// A layer each: many small files, some large ones.
const FOLDERS: [&str; 4] = ["usr/include", "usr/lib/python3.11", "usr/lib/gcc", "usr/share/perl"];
const START_LIMIT: Duration = Duration::from_secs(20);

/// Wall and processor seconds.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

fn layer(folder: &str) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let made = |flags: &str| Command::new("tar").args(["-C", "/", flags, "-", folder]).stderr(Stdio::null()).output().map(|o| o.stdout);
    let plain = made("-cf")?;
    let mut gzip = Command::new("gzip").arg("-6").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut stdin, bytes) = (gzip.stdin.take().ok_or("piped above")?, plain.clone());
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &bytes));
    let stored = gzip.wait_with_output()?.stdout;
    writing.join().map_err(|_| "the writer panicked")??;
    Ok((plain, stored))
}

/// Processor time of this process's ended children, or of another process with its own, seconds.
fn cpu_of(pid: &str) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    let of = |range: std::ops::Range<usize>| fields.get(range).map_or(0.0, |f| f.iter().sum::<f64>()) / TICKS_PER_SECOND;
    if pid == "self" { of(13..15) } else { of(11..15) }
}

fn with_containerd(image: &str) -> Result<Took, Error> {
    let daemon = Containerd::start()?;
    let begin = Instant::now();
    while !daemon.ctr(&["version"])?.status.success() {
        if begin.elapsed() > START_LIMIT {
            return Err("containerd does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = daemon.pid().to_string();
    let (before, clients, begin) = (cpu_of(&pid), cpu_of("self"), Instant::now());
    let pulled = daemon.ctr(&["images", "pull", "--plain-http", image])?;
    if !pulled.status.success() {
        return Err(format!("ctr images pull {image}: {}", String::from_utf8_lossy(&pulled.stderr)).into());
    }
    Ok(Took { wall: begin.elapsed().as_secs_f64(), cpu: cpu_of(&pid) - before + cpu_of("self") - clients })
}

fn with_keles(keles: &Path, dir: &Path, image: &str) -> Result<Took, Error> {
    let (clients, begin) = (cpu_of("self"), Instant::now());
    let pulled = Command::new(keles).arg("pull").arg("--data-dir").arg(dir).arg(image).stdin(Stdio::null()).stdout(Stdio::null()).output()?;
    if !pulled.status.success() {
        return Err(String::from_utf8_lossy(&pulled.stderr).into_owned().into());
    }
    Ok(Took { wall: begin.elapsed().as_secs_f64(), cpu: cpu_of("self") - clients })
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let layers = FOLDERS.iter().filter(|f| Path::new("/").join(f).is_dir()).map(|f| layer(f)).collect::<Result<Vec<_>, _>>()?;
    let (plain, stored) = layers.iter().fold((0, 0), |(p, s), (plain, stored)| (p + plain.len(), s + stored.len()));
    let registry = Registry::start().await;
    registry.serve("bench", "v1", &Blobs::new(&layers));
    let image = format!("{}/bench:v1", registry.host);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (image, keles) = (image.clone(), keles.clone());
        let round = move || -> Result<(Took, Took), Error> {
            let dir = tempfile::tempdir()?;
            Ok((with_keles(&keles, dir.path(), &image)?, with_containerd(&image)?))
        };
        let (a, b) = tokio::task::spawn_blocking(round).await??;
        ours.push(a);
        theirs.push(b);
    }
    let median = |all: &[Took], of: fn(&Took) -> f64| {
        let mut sorted: Vec<f64> = all.iter().map(of).collect();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, 0.5)
    };
    Ok(format!(
        "{} layers of {:.0} MB ({:.0} MB gzip) pulled and unpacked, median of {ROUNDS}: keles {:.2} s, {:.2} s of CPU; containerd {:.2} s, {:.2} s of CPU",
        layers.len(),
        plain as f64 / 1e6,
        stored as f64 / 1e6,
        median(&ours, |t| t.wall),
        median(&ours, |t| t.cpu),
        median(&theirs, |t| t.wall),
        median(&theirs, |t| t.cpu)
    ))
}
