use crate::world::{LIMIT, World};
use keles_runtime::api::*;
use keles_runtime::{Engine, EngineOptions};
use std::io::{BufRead, Write};
use std::process::{Command, Stdio};

#[tokio::test]
async fn a_new_engine_adopts_running_containers_and_learns_what_ended_meanwhile() {
    let mut w = World::new().await;
    let sandbox = w.sandbox().await;
    w.engine.set_network(&sandbox, vec!["10.0.0.7".into()]).await.unwrap();
    let stays = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    let ends = w.start(&sandbox, ContainerConfig { log_path: "e/0.log".into(), ..w.shell("while ! test -e /go; do sleep 0.01; done; exit 8") }).await;
    let pid = w.engine.container_status(&ends).await.unwrap().pid.unwrap();
    let created = w.engine.create_container(&sandbox, w.command(&["/bin/true"])).await.unwrap();
    let options = w.options.clone();
    // No engine for a while: the container ends unseen by any server.
    let stand_in = Engine::open(elsewhere(&w)).await.unwrap();
    let old = std::mem::replace(&mut w.engine, stand_in);
    drop(old);
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    wait_gone(pid).await;
    w.engine = Engine::open(options).await.unwrap();
    let sandboxes = w.engine.list_sandboxes().await.unwrap();
    assert_eq!((sandboxes.len(), sandboxes[0].ready, sandboxes[0].ips.as_slice()), (1, true, &["10.0.0.7".to_owned()][..]));
    assert_eq!(w.exited(&ends).await.exit_code, 8);
    assert_eq!(w.engine.container_status(&stays).await.unwrap().state, ContainerState::Running);
    assert_eq!(w.engine.container_status(&created).await.unwrap().state, ContainerState::Created);
    assert_eq!(w.exec(&stays, "echo alive").await.stdout, b"alive\n");
    w.engine.start_container(&created).await.unwrap();
    assert_eq!(w.exited(&created).await.exit_code, 0);
    w.finish().await;
}

#[tokio::test]
async fn two_engines_cannot_share_a_folder() {
    let w = World::new().await;
    let Err(e) = Engine::open(w.options.clone()).await else { panic!("a second engine opened") };
    assert!(e.to_string().contains("another server uses"), "{e}");
    w.finish().await;
}

/// An engine over other folders, to stand in while there is none.
fn elsewhere(w: &World) -> EngineOptions {
    EngineOptions { state_dir: w.dir.path().join("state2"), run_dir: w.dir.path().join("run2"), ..w.options.clone() }
}

async fn wait_gone(pid: i32) {
    let gone = async {
        while std::path::Path::new(&format!("/proc/{pid}")).exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
}

#[tokio::test]
async fn a_killed_shim_is_told_as_unknown_and_leaves_nothing() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    let pid = w.engine.container_status(&id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).unwrap(), rustix::process::Signal::KILL).unwrap();
    let status = w.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    wait_gone(pid).await;
    assert!(!w.engine.list_sandboxes().await.unwrap()[0].ready);
    w.finish().await;
}

/// What a child server does for the next test: run a pod, say so, and go on until it is killed.
#[tokio::test]
async fn child_server() {
    let Ok(text) = std::env::var("KELES_RUNTIME_TEST_CHILD") else { return };
    let (root, step) = text.split_once('|').unwrap();
    let root = std::path::Path::new(root);
    let mut options = EngineOptions::new(root.join("state"), root.join("run"), std::env::var("KELES_RUNTIME_TEST_CGROUP").unwrap());
    options.shim_exe = env!("CARGO_BIN_EXE_keles-shim").into();
    let engine = Engine::open(options).await.unwrap();
    let say = |word: String| {
        println!("{word}");
        std::io::stdout().flush().unwrap();
    };
    let config = SandboxConfig {
        uid: "u-1".into(),
        hostname: "p".into(),
        log_directory: root.join("logs"),
        cgroup: "burstable/podu-1".into(),
        pid: NamespaceMode::Container,
        ..SandboxConfig::default()
    };
    let container = ContainerConfig { layers: vec![root.join("image")], args: vec!["/bin/sleep".into(), "1000".into()], log_path: "c/0.log".into(), ..ContainerConfig::default() };
    match step {
        "running" => {
            let s = engine.run_sandbox(config).await.unwrap().id;
            let id = engine.create_container(&s, container).await.unwrap();
            engine.start_container(&id).await.unwrap();
            say(format!("ready {id}"));
            std::future::pending::<()>().await;
        }
        _ => {
            say("ready -".into());
            loop {
                let s = engine.run_sandbox(config.clone()).await.unwrap().id;
                let id = engine.create_container(&s, container.clone()).await.unwrap();
                engine.start_container(&id).await.unwrap();
                engine.remove_sandbox(&s).await.unwrap();
            }
        }
    }
}

fn spawn_child_server(w: &World, step: &str) -> (std::process::Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "recovery::child_server", "--nocapture"])
        .env("KELES_RUNTIME_TEST_CHILD", format!("{}|{step}", w.dir.path().display()))
        .env("KELES_RUNTIME_TEST_CGROUP", &w.options.cgroup_root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.map_while(|l| l.ok()).find_map(|l| l.split_once("ready ").map(|(_, id)| id.to_owned())).unwrap();
    (child, ready)
}

#[tokio::test]
async fn containers_survive_kill_9_of_the_server() {
    let mut w = World::new().await;
    let options = w.options.clone();
    w.engine = Engine::open(elsewhere(&w)).await.unwrap();
    let (mut server, id) = spawn_child_server(&w, "running");
    server.kill().unwrap();
    server.wait().unwrap();
    w.engine = Engine::open(options).await.unwrap();
    assert_eq!(w.engine.container_status(&id).await.unwrap().state, ContainerState::Running);
    assert_eq!(w.exec(&id, "echo alive").await.stdout, b"alive\n");
    w.engine.stop_container(&id, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(w.exited(&id).await.exit_code, 137);
    w.finish().await;
}

#[tokio::test]
async fn kill_9_at_any_step_leaves_nothing_that_the_next_open_does_not_clean() {
    let mut w = World::new().await;
    let options = w.options.clone();
    w.engine = Engine::open(elsewhere(&w)).await.unwrap();
    for round in 0..12u64 {
        let (mut server, _) = spawn_child_server(&w, "churn");
        // Different moments of the make-and-remove loop, which takes some tens of milliseconds a turn.
        tokio::time::sleep(std::time::Duration::from_millis(round * 7 + 1)).await;
        server.kill().unwrap();
        server.wait().unwrap();
        let engine = Engine::open(options.clone()).await.unwrap();
        for s in engine.list_sandboxes().await.unwrap() {
            engine.remove_sandbox(&s.id).await.unwrap();
        }
        assert_eq!(w.leftovers(), Vec::<String>::new(), "round {round}");
        assert_eq!(std::fs::read_dir(options.state_dir.join("containers")).unwrap().count(), 0, "round {round}");
    }
    w.engine = Engine::open(options).await.unwrap();
    w.finish().await;
}
