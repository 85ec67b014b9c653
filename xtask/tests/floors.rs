//! Dependencies point down only: the table of floors, held against `cargo metadata`. A new edge is the change to examine most.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;

/// Floor of each crate, see docs/ARCHITECTURE.md. A crate may depend only on lower floors.
const FLOORS: &[(&str, &[&str])] = &[
    ("0", &["api", "oci"]),
    ("5", &["patch", "cel", "rules", "grpc"]),
    ("10", &["linux", "observe", "supervise", "testkit", "cri"]),
    ("20", &["store", "client", "serve", "pki", "images", "runtime"]),
    ("22", &["registry", "cri-client"]),
    ("25", &["reconcile", "custom"]),
    ("30", &["kinds", "auth", "scheduler", "controllers", "volumes", "network", "proxy", "dns", "streaming"]),
    ("40", &["apiserver", "kubelet", "cri-server"]),
    ("50", &["keles"]),
];

fn floor_of(package: &str) -> Option<u32> {
    let name = package.strip_prefix("keles-")?;
    FLOORS.iter().find(|(_, crates)| crates.contains(&name)).map(|(floor, _)| floor.parse().expect("floors are numbers"))
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO")).args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).output().expect("cargo runs the test, so it is there");
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("cargo metadata: {e}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// Package name → (path of its folder, names of its dependencies, development ones included).
fn packages() -> BTreeMap<String, (String, Vec<String>)> {
    let text = |v: &Value| v.as_str().expect("a string of cargo metadata").to_owned();
    let all = metadata();
    let deps = |p: &Value| p["dependencies"].as_array().into_iter().flatten().map(|d| text(&d["name"])).collect();
    all["packages"].as_array().expect("packages").iter().map(|p| (text(&p["name"]), (text(&p["manifest_path"]), deps(p)))).collect()
}

#[test]
fn a_crate_depends_only_on_lower_floors() {
    let mut wrong = Vec::new();
    for (package, (_, dependencies)) in packages() {
        let Some(floor) = floor_of(&package) else { continue };
        for d in dependencies.iter().filter(|d| d.starts_with("keles-") && **d != "keles-testkit") {
            match floor_of(d) {
                Some(below) if below < floor => {}
                Some(other) => wrong.push(format!("{package} (floor {floor}) depends on {d} (floor {other})")),
                None => wrong.push(format!("{package} depends on {d}, which has no floor")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_has_a_floor_and_every_floor_its_crates() {
    let in_workspace: Vec<String> = packages().into_iter().filter(|(_, (path, _))| path.contains("/crates/")).map(|(name, _)| name).collect();
    let without: Vec<_> = in_workspace.iter().filter(|n| floor_of(n).is_none()).collect();
    assert!(without.is_empty(), "crates without a floor: {without:?}");
    let gone: Vec<_> = FLOORS.iter().flat_map(|(_, c)| *c).filter(|c| !in_workspace.contains(&format!("keles-{c}"))).collect();
    assert!(gone.is_empty(), "floors name crates that are gone: {gone:?}");
}

#[test]
fn only_linux_may_hold_unsafe_code() {
    for (package, (manifest, _)) in packages() {
        let text = std::fs::read_to_string(&manifest).expect("cargo named it");
        let lints = text.contains("[lints]\nworkspace = true");
        assert!(lints || package == "keles-linux", "{manifest} does not take the workspace's lints, which deny unsafe code");
    }
}
