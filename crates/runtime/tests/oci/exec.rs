//! More processes in a container: identity, capabilities, terminal; terminals over the console socket.

use crate::world::World;
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

fn running(change: impl FnOnce(&mut serde_json::Value)) -> World {
    let w = World::new();
    w.bundle(&["sleep", "1000"], change);
    w.begin(&["run", "-d"]).fine();
    w
}

#[test]
fn a_process_joins_the_containers_namespaces_groups_and_rules() {
    let w = running(|s| s["hostname"] = json!("inside"));
    let exec = |args: &[&str]| w.call(&[&["exec", w.id.as_str()], args].concat());
    assert_eq!(exec(&["hostname"]).fine(), "inside\n");
    let ps = exec(&["sh", "-c", "cat /proc/1/comm; ls /proc | grep -c '^[0-9]*$'"]).fine();
    assert!(ps.starts_with("sleep\n"), "{ps}");
    let first = w.state()["pid"].as_i64().unwrap();
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let theirs = std::fs::read_link(format!("/proc/{first}/ns/{kind}")).unwrap();
        assert_eq!(exec(&["readlink", &format!("/proc/self/ns/{kind}")]).fine().trim(), theirs.to_str().unwrap());
    }
    let caps = exec(&["grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status"]).fine();
    assert!(caps.contains("0000000020000420") && caps.contains("NoNewPrivs:\t1"), "{caps}");
    assert_eq!((exec(&["sh", "-c", "exit 9"]).code, exec(&["sh", "-c", "kill -15 $$"]).code), (9, 143));
    exec(&["no-such-command"]).refused("executable file not found in $PATH");
}

#[test]
fn flags_change_the_process_and_a_process_file_replaces_it() {
    let w = running(|_| {});
    let script = "id -u; id -g; id -G; pwd; echo $A; grep CapBnd /proc/self/status; umask";
    let out = w.call(&["exec", "-u", "101:102", "-g", "7", "--cwd", "/tmp", "-e", "A=b c", "--cap", "CAP_NET_RAW", &w.id, "sh", "-c", script]).fine();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..5], ["101", "102", "102 7", "/tmp", "b c"]);
    assert!(lines[5].contains("20002420"), "{out}");
    let process = json!({"user": {"uid": 101, "gid": 102, "umask": 63}, "args": ["sh", "-c", "id -u; umask; grep -E 'CapAmb|CapInh' /proc/self/status; echo $HOME"], "env": ["PATH=/bin"], "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}});
    std::fs::write(w.path("process.json"), process.to_string()).unwrap();
    let out = w.call(&["exec", "--process", "process.json", &w.id]).fine();
    assert_eq!(out, "101\n0077\nCapInh:\t0000000000000020\nCapAmb:\t0000000000000020\n/srv\n");
    w.call(&["exec", "--cgroup", "x", &w.id, "true"]).refused("--cgroup");
}

#[test]
fn a_detached_process_goes_on_and_its_number_is_in_the_file() {
    let w = running(|_| {});
    let status =
        w.command(&["exec", "-d", "--pid-file", "pid", &w.id, "sleep", "500"]).stdin(std::process::Stdio::null()).stdout(File::create(w.path("o")).unwrap()).status().unwrap();
    assert!(status.success());
    let pid = std::fs::read_to_string(w.path("pid")).unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(line, "sleep\0500\0");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(groups.contains(&w.id), "{groups}");
    w.call(&["kill", "--all", &w.id, "KILL"]).fine();
    w.wait_for("all to end", || w.status() == "stopped" && !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists());
}

/// Takes the terminal that a runtime sends, with its name.
fn terminal_of(listener: &UnixListener) -> (File, String) {
    let (socket, _) = listener.accept().unwrap();
    let mut name = [0; 256];
    let (n, fds) = keles_linux::fdpass::receive(&socket, &mut name).unwrap();
    (File::from(fds.into_iter().next().expect("a terminal")), String::from_utf8_lossy(&name[..n]).into_owned())
}

fn read_until(terminal: &mut File, wanted: &str) -> String {
    let mut all = String::new();
    let mut buffer = [0; 1024];
    while !all.contains(wanted) {
        match terminal.read(&mut buffer) {
            Ok(n) if n > 0 => all.push_str(&String::from_utf8_lossy(&buffer[..n])),
            _ => break,
        }
    }
    all
}

#[test]
fn a_terminal_comes_over_the_console_socket_with_its_size_and_as_the_console() {
    let w = World::new();
    let path = w.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    w.shell("tty; stty size; ls -l /dev/console; test -c /dev/console && echo is-device; read line; echo got:$line", |s| {
        s["process"]["terminal"] = json!(true);
        s["process"]["consoleSize"] = json!({"height": 31, "width": 97});
    });
    w.begin(&["create", "--console-socket", path.to_str().unwrap()]).fine();
    let (mut terminal, name) = terminal_of(&listener);
    assert!(name.starts_with("/dev/"), "{name}");
    w.on("start").fine();
    let seen = read_until(&mut terminal, "is-device");
    assert!(seen.contains("/dev/pts/0") && seen.contains("31 97"), "{seen:?}");
    terminal.write_all(b"hello\n").unwrap();
    assert!(read_until(&mut terminal, "got:hello").contains("got:hello"));
    w.wait_for("the end", || w.status() == "stopped");
}

#[test]
fn an_exec_has_a_terminal_of_its_own() {
    let w = running(|_| {});
    let path = w.path("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let args = ["exec", "-t", "-d", "--console-socket", path.to_str().unwrap(), &w.id, "sh", "-c", "tty; echo in-$((1+1))"];
    let status = w.command(&args).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success());
    let (mut terminal, _) = terminal_of(&listener);
    let seen = read_until(&mut terminal, "in-2");
    assert!(seen.contains("/dev/pts/0"), "{seen:?}");
}

#[test]
fn run_in_the_foreground_passes_the_terminal_through() {
    let w = World::new();
    w.shell("tty; echo in-$((1+1))", |s| s["process"]["terminal"] = json!(true));
    let ended = w.run();
    assert!(ended.code == 0 && ended.out.contains("/dev/pts/0") && ended.out.contains("in-2"), "{ended:?}");
}
