//! Bundles made by one runtime run under the other.

use crate::world::{World, installed};
use serde_json::{Value, json};

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
