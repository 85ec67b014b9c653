//! Container create, start and delete of `keles oci`, runc and crun, one after another in the same run.
//!
//! Needs root and Debian's runc and crun (`make deps`). crun 1.8 refuses a host of both cgroup versions, so all three are called through
//! the same `nsenter` into a mount namespace that has no version 2 tree: what that costs is in each figure alike.

use crate::{Error, quantile};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 60;
const WARM_UP: usize = 3;

/// A sleeping process whose mount namespace the runtimes are called in.
struct Place(Child);

impl Place {
    fn new() -> Result<Self, Error> {
        let script = "mount --make-rprivate /; for m in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount $m; done; echo ready; exec sleep 100000";
        let mut child = Command::new("unshare").args(["--mount", "sh", "-c", script]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().ok_or("piped above")?), &mut line)?;
        if line.trim() == "ready" { Ok(Place(child)) } else { Err("no mount namespace could be made: run as root".into()) }
    }

    fn call(&self, runtime: &[String], args: &[&str]) -> Result<(), Error> {
        let namespace = format!("--mount=/proc/{}/ns/mnt", self.0.id());
        let status = Command::new("nsenter").arg(namespace).args(runtime).args(args).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(format!("{} {}: {status}", runtime.join(" "), args.join(" ")).into()) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What all three run alike: crun's own default bundle with busybox's `true`.
fn write_bundle(folder: &Path) -> Result<(), Error> {
    for d in ["bin", "proc", "sys", "dev"] {
        std::fs::create_dir_all(folder.join("rootfs").join(d))?;
    }
    std::fs::copy(keles_testkit::image::BUSYBOX, folder.join("rootfs/bin/busybox"))?;
    std::os::unix::fs::symlink("busybox", folder.join("rootfs/bin/true"))?;
    let made = Command::new("crun").arg("spec").current_dir(folder).status().map_err(|e| format!("crun: {e}; make deps installs it"))?;
    if !made.success() {
        return Err("crun spec failed".into());
    }
    let path = folder.join("config.json");
    let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["true"]);
    Ok(std::fs::write(&path, spec.to_string())?)
}

pub async fn run(keles: PathBuf) -> Result<String, Error> {
    let dir = tempfile::tempdir()?;
    write_bundle(dir.path())?;
    let (place, bundle) = (Place::new()?, dir.path().display().to_string());
    let runtimes = [("keles", vec![keles.display().to_string(), "oci".into()]), ("runc", vec!["runc".to_owned()]), ("crun", vec!["crun".to_owned()])];
    let mut samples = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..WARM_UP + ROUNDS {
        for (i, (name, command)) in runtimes.iter().enumerate() {
            let id = format!("koci-bench-{}-{round}", std::process::id());
            let root = ["--root".to_owned(), dir.path().join(name).display().to_string()];
            let runtime = [command.as_slice(), &root].concat();
            let begin = Instant::now();
            place.call(&runtime, &["create", "--bundle", &bundle, &id])?;
            place.call(&runtime, &["start", &id])?;
            place.call(&runtime, &["delete", "--force", &id])?;
            if round >= WARM_UP {
                samples[i].push(begin.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let figures = runtimes.iter().zip(&mut samples).map(|((name, _), s)| {
        s.sort_by(f64::total_cmp);
        format!("{name} p50 {:.1} ms, p90 {:.1} ms", quantile(s, 0.5), quantile(s, 0.9))
    });
    Ok(format!("create, start, delete over {ROUNDS} rounds: {}", figures.collect::<Vec<_>>().join("; ")))
}
