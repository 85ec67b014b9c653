//! The binary as a shell sees it: what it refuses, in words that name the remedy, before anything is started.

use std::path::Path;
use std::process::Command;

/// Exit code and standard error.
fn keles(args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_keles")).args(args).output().expect("the binary starts");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("config.yaml");
    std::fs::write(&path, text).expect("written");
    path.display().to_string()
}

#[test]
fn a_role_or_flag_that_is_not_there_is_refused_with_those_that_are() {
    let (code, said) = keles(&["severs"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("unrecognized subcommand 'severs'") && said.contains("'server'"), "{said}");
    let (code, said) = keles(&["server", "--data-dri=/nowhere"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("--data-dir"), "{said}");
}

#[test]
fn a_kubelet_configuration_is_refused_by_its_field_and_for_other_roles() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = file(dir.path(), "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: systemd\nreadOnlyPort: 10255\n");
    let (code, said) = keles(&["kubelet", "--kubeconfig=/nowhere", &format!("--config={path}")]);
    assert_eq!((code, said), (Some(1), format!("keles: {path}: readOnlyPort: 10255 is not built, only 0 is (docs/STATUS.md)\n")));
    let (code, said) = keles(&["server", "--config", &path]);
    assert_eq!(code, Some(1));
    assert!(said.contains("is for `keles kubelet`"), "{said}");
}

#[test]
fn a_taken_kubelet_configuration_says_what_has_no_effect() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = file(dir.path(), "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\ncgroupDriver: systemd\n");
    let kubeconfig = dir.path().join("none").display().to_string();
    let (code, said) = keles(&["kubelet", "--kubeconfig", &kubeconfig, "--config", &path]);
    assert_eq!(code, Some(1));
    assert!(said.starts_with(&format!("keles: {path}: no effect here: cgroupDriver (docs/STATUS.md)\n")) && said.contains(&kubeconfig), "{said}");
}
