//! Bundles made by one runtime run under the other.

use crate::world::{World, installed};
use keles_testkit::containerd::Containerd;
use serde_json::{Value, json};
use std::cell::Cell;

const OTHERS: [&str; 2] = ["runc", "crun"];
const SCRIPT: &str = "hostname; id -u; pwd; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/self/status; ls /dev; cat /proc/sys/kernel/hostname; touch /x 2>&1; ulimit -n; readlink /dev/fd; test -w /proc/sysrq-trigger || echo masked";

fn adapt(w: &World, mut spec: Value) -> Value {
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["sh", "-c", SCRIPT]);
    spec["linux"]["cgroupsPath"] = json!(format!("/{}", w.id));
    spec
}

fn written_by(runtime: &World) -> Value {
    let _ = std::fs::remove_file(runtime.path("config.json"));
    runtime.call(&["spec"]).fine();
    serde_json::from_slice(&std::fs::read(runtime.path("config.json")).unwrap()).unwrap()
}

fn run_bundle(runtime: &World, bundle: &World) -> String {
    let folder = bundle.dir.path().display().to_string();
    let ended = runtime.call(&["run", "--bundle", &folder, &runtime.id]);
    assert_eq!(ended.code, 0, "{:?}: {ended:?}", runtime.runtime);
    ended.out
}

#[test]
fn bundles_of_runc_and_crun_run_under_ours_and_do_the_same() {
    for other in OTHERS.into_iter().filter(|o| installed(o)) {
        let w = World::new();
        let theirs = w.with(other);
        let spec = adapt(&theirs, written_by(&theirs));
        std::fs::write(w.path("config.json"), spec.to_string()).unwrap();
        let expected = run_bundle(&theirs, &w);
        std::fs::write(w.path("config.json"), adapt(&w, spec).to_string()).unwrap();
        let ours = World { dir: tempfile::tempdir().unwrap(), id: w.id.clone(), runtime: w.runtime.clone() };
        let got = run_bundle(&ours, &w);
        // The kernel's own file of memory's, and which core folder there is, differ with what each links.
        let lines = |t: &str| t.lines().filter(|l| *l != "core" && *l != "console").map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&got), lines(&expected), "{other}");
    }
}

#[test]
fn the_bundle_of_ours_runs_under_runc_and_crun() {
    for other in OTHERS.into_iter().filter(|o| installed(o)) {
        let w = World::new();
        let spec = written_by(&w);
        let theirs = w.with(other);
        std::fs::write(w.path("config.json"), adapt(&theirs, spec).to_string()).unwrap();
        let out = run_bundle(&theirs, &w);
        assert!(out.starts_with("keles\n0\n/\n"), "{out}");
    }
}

#[test]
fn spec_does_not_write_over_a_file() {
    let w = World::new();
    w.call(&["spec"]).fine();
    w.call(&["spec"]).refused("config.json");
    std::fs::remove_file(w.path("config.json")).unwrap();
    w.call(&["spec", "--rootless"]).fine();
}

/// What the client ended with and said.
fn said(out: std::io::Result<std::process::Output>) -> (i32, String) {
    let out = out.unwrap();
    (out.status.code().unwrap_or(-1), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn containerd_uses_ours_in_place_of_runc() {
    if !installed("containerd") || !installed("ctr") {
        return;
    }
    let (w, containerd) = (World::new(), Containerd::start().unwrap());
    let ctr = |args: &[&str]| said(containerd.ctr(args));
    w.wait_for("containerd", || ctr(&["version"]).0 == 0);
    let (ours, root) = (w.runtime[0].clone(), w.rootfs().display().to_string());
    let run = |flags: &[&str], id: &str, command: &[&str]| {
        let common = ["--runc-binary", &ours, "--env", "PATH=/bin", "--rootfs", &root, id];
        ctr(&[&["run"], flags, &common[..], command].concat())
    };
    let (id, other) = (format!("{}-a", w.id), format!("{}-b", w.id));
    // On a busy machine ctr closes the pipes of what ended before it had opened them, whatever the runtime: then the output is missing.
    let tries = Cell::new(0);
    let try_id = |word: &str| {
        tries.set(tries.get() + 1);
        format!("{word}{}", tries.get())
    };
    w.wait_for("the output of a container", || run(&["--rm"], &try_id(&id), &["sh", "-c", "echo in; exit 3"]) == (3, "in\n".into()));
    let (code, said) = run(&["--rm"], &id, &["no-such-command"]);
    assert!(code != 0 && said.contains("executable file not found in $PATH"), "the runtime's own words reach the caller: {said}");
    // Its refusal leaves containerd's record of the container, under any runtime.
    let _ = ctr(&["containers", "rm", &id]);
    assert_eq!(run(&["-d"], &other, &["sleep", "1000"]), (0, String::new()));
    w.wait_for("the output of a command", || ctr(&["tasks", "exec", "--exec-id", &try_id("e"), &other, "sh", "-c", "echo exec; exit 5"]) == (5, "exec\n".into()));
    assert_eq!(ctr(&["tasks", "pause", &other]).0, 0);
    assert!(ctr(&["tasks", "ls"]).1.contains("PAUSED"));
    assert_eq!(ctr(&["tasks", "resume", &other]).0, 0);
    assert!(ctr(&["tasks", "metrics", &other]).1.contains("pids.current"));
    assert_eq!(ctr(&["tasks", "kill", "--signal", "KILL", &other]).0, 0);
    w.wait_for("the end", || ctr(&["tasks", "ls"]).1.contains("STOPPED"));
    let _ = ctr(&["tasks", "rm", &other]);
    assert_eq!(ctr(&["containers", "rm", &other]).0, 0);
}
