//! create → start → kill → delete, what is refused in which state, pause, list, what is left when something fails.

use crate::world::World;
use serde_json::{Value, json};

#[test]
fn a_container_goes_through_its_states_and_the_wrong_command_is_refused_in_each() {
    let w = World::new();
    w.shell("echo begun; exec sleep 1000", |_| {});
    w.on("state").refused("does not exist");
    w.on("start").refused("does not exist");
    w.begin(&["create", "--pid-file", "pid"]).fine();
    let state = w.state();
    let pid: i32 = std::fs::read_to_string(w.path("pid")).unwrap().parse().unwrap();
    assert_eq!((state["status"].as_str(), state["pid"].as_i64(), state["id"].as_str()), (Some("created"), Some(i64::from(pid)), Some(w.id.as_str())));
    assert_eq!(state["bundle"], json!(w.dir.path().canonicalize().unwrap()));
    assert_eq!(w.output(), "", "nothing of the container's runs before start");
    w.begin(&["create"]).refused("already exists");
    assert_eq!(w.status(), "created", "a second create leaves the first alone");
    w.on("resume").refused("container is created");
    w.on("start").fine();
    w.wait_for("the command's output", || w.output().contains("begun"));
    assert_eq!(w.status(), "running");
    w.on("start").refused("already running");
    w.on("delete").refused("that is not stopped: running");
    w.call(&["kill", &w.id, "NONSENSE"]).refused("unknown signal");
    w.call(&["kill", &w.id, "KILL"]).fine();
    w.wait_for("the end", || w.status() == "stopped");
    assert_eq!(w.state()["pid"], json!(0));
    w.on("start").refused("has stopped");
    w.call(&["kill", &w.id, "TERM"]).refused("not running");
    w.call(&["exec", &w.id, "true"]).refused("stopped");
    w.on("delete").fine();
    w.on("state").refused("does not exist");
    w.on("delete").refused("does not exist");
    w.call(&["delete", "--force", &w.id]).fine();
}

#[test]
fn run_gives_the_commands_output_and_exit_code_and_leaves_nothing() {
    let w = World::new();
    w.shell("echo out; echo err >&2; exit 7", |_| {});
    let ended = w.run();
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(w.call(&["list", "-q"]).fine(), "");
    w.bundle(&["sh", "-c", "kill -9 $$"], |s| s["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "pid"));
    assert_eq!(w.run().code, 137);
}

#[test]
fn a_created_container_is_deleted_without_force_and_its_folder_name_is_free_again() {
    let w = World::new();
    w.shell("true", |_| {});
    for _ in 0..2 {
        w.begin(&["create"]).fine();
        w.on("delete").fine();
    }
}

#[test]
fn a_command_that_is_not_there_fails_at_create_with_the_words_users_know_and_leaves_nothing() {
    let w = World::new();
    w.bundle(&["/no/such"], |_| {});
    let ended = w.begin(&["--log", "log", "--log-format", "json", "create"]);
    assert!(ended.err.contains("no such file or directory"), "{ended:?}");
    let last: Value = serde_json::from_str(std::fs::read_to_string(w.path("log")).unwrap().lines().last().unwrap()).unwrap();
    assert!(last["level"] == "error" && last["msg"].as_str().unwrap().contains("no such file"), "{last}");
    w.bundle(&["nothing-in-path"], |_| {});
    w.begin(&["create"]).refused("executable file not found in $PATH");
    assert_eq!((w.call(&["list", "-q"]).fine(), w.groups().len()), (String::new(), 0));
}

#[test]
fn what_cannot_be_executed_after_all_fails_start_not_silently() {
    let w = World::new();
    std::fs::write(w.rootfs().join("bin/broken"), "\x7fELF no program").unwrap();
    std::fs::set_permissions(w.rootfs().join("bin/broken"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    w.bundle(&["/bin/broken"], |_| {});
    w.begin(&["create"]).fine();
    w.on("start").refused("exec format error");
    w.wait_for("the end", || w.status() == "stopped");
}

#[test]
fn a_paused_container_does_not_run_until_resumed() {
    let w = World::new();
    w.shell("while true; do echo x; usleep 1000; done", |_| {});
    w.begin(&["run", "-d"]).fine();
    w.wait_for("output", || !w.output().is_empty());
    w.on("pause").fine();
    assert_eq!(w.status(), "paused");
    w.on("pause").refused("container is paused");
    w.call(&["exec", &w.id, "true"]).refused("paused");
    let frozen = w.output().len();
    // The kernel says that all are frozen: a second look cannot differ.
    assert_eq!(w.output().len(), frozen);
    w.on("resume").fine();
    w.wait_for("more output", || w.output().len() > frozen);
    w.on("pause").fine();
    w.call(&["kill", &w.id, "9"]).fine();
    w.wait_for("the end of a frozen container", || w.status() == "stopped");
}

#[test]
fn list_ps_stats_and_features_tell_what_is() {
    let w = World::new();
    w.bundle(&["sleep", "1000"], |s| s["annotations"] = json!({"a": "b"}));
    w.begin(&["run", "-d"]).fine();
    let all: Value = serde_json::from_str(&w.call(&["list", "--format", "json"]).fine()).unwrap();
    assert_eq!((all[0]["id"].as_str(), all[0]["status"].as_str(), all[0]["annotations"]["a"].as_str()), (Some(w.id.as_str()), Some("running"), Some("b")));
    assert!(w.call(&["list"]).fine().contains("running"));
    let pids: Vec<i32> = serde_json::from_str(&w.call(&["ps", "--format", "json", &w.id]).fine()).unwrap();
    assert_eq!(json!(pids), json!([w.state()["pid"]]));
    let table = w.on("ps").fine();
    assert!(table.lines().count() == 2 && table.contains("sleep 1000"), "{table}");
    let stats: Value = serde_json::from_str(&w.call(&["events", "--stats", &w.id]).fine()).unwrap();
    assert!(stats["type"] == "stats" && stats["data"]["pids"]["current"] == 1 && stats["data"]["memory"]["usage"]["usage"].as_u64() > Some(0), "{stats}");
    let features: Value = serde_json::from_str(&w.call(&["features"]).fine()).unwrap();
    assert!(features["mountOptions"].as_array().unwrap().contains(&json!("rro")) && features["linux"]["seccomp"]["actions"].as_array().unwrap().len() == 8);
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let w = World::new();
    w.shell("true", |_| {});
    w.call(&["--systemd-cgroup", "run", &w.id]).refused("--systemd-cgroup");
    w.call(&["checkpoint", &w.id]).refused("checkpoint and restore are not supported");
    w.call(&["restore", "--image-path", "/x", &w.id]).refused("checkpoint and restore are not supported");
    w.shell("true", |s| s["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"}));
    w.run().refused("memoryPolicy");
    w.shell("true", |s| s["process"]["terminal"] = json!(true));
    w.begin(&["create"]).refused("--console-socket");
    w.call(&["run", "../x"]).refused("invalid id");
}

#[test]
fn two_creates_of_one_name_at_once_make_one_container() {
    let w = World::new();
    w.bundle(&["sleep", "1000"], |_| {});
    let spawn = || w.command(&["run", "-d", &w.id]).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut both = [spawn(), spawn()];
    let won = both.iter_mut().map(|c| c.wait().unwrap()).filter(|s| s.success()).count();
    assert_eq!((won, w.status().as_str()), (1, "running"));
}

#[test]
fn delete_takes_away_what_a_killed_create_left() {
    let w = World::new();
    let mark = w.path("in-hook").display().to_string();
    w.shell("true", |s| {
        s["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", format!("touch {mark}; exec sleep 1000")], "env": ["PATH=/bin:/usr/bin"]}]})
    });
    let mut create = w.command(&["create", &w.id]).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).spawn().unwrap();
    w.wait_for("the hook", || w.path("in-hook").exists());
    let hook = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", create.id())).unwrap();
    create.kill().unwrap();
    create.wait().unwrap();
    assert!(!w.groups().is_empty());
    w.on("delete").fine();
    assert_eq!(w.groups().len(), 0);
    // The hook is the host's own process, not the container's.
    for pid in hook.split_whitespace().filter(|p| std::fs::read(format!("/proc/{p}/cmdline")).is_ok_and(|c| c == b"sleep\x001000\x00")) {
        let _ = std::process::Command::new("kill").args(["-9", pid]).status();
    }
}
