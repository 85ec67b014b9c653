use crate::world::{LIMIT, World};
use keles_runtime::api::*;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_container_runs_logs_and_ends_with_its_exit_code() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let mut events = w.engine.events();
    let id = w.start(&sandbox, w.shell("echo out; echo err >&2; printf last; exit 3")).await;
    let status = w.exited(&id).await;
    assert_eq!((status.exit_code, status.signal, status.reason.as_str()), (3, 0, "Error"));
    assert!(status.started_at_unix_ns > 0 && status.finished_at_unix_ns >= status.started_at_unix_ns);
    let mut lines: Vec<String> = std::fs::read_to_string(w.log_path()).unwrap().lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect();
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P last"]);
    let mut seen = Vec::new();
    while let Ok(e) = events.try_recv() {
        assert_eq!((e.pod_uid.as_str(), e.container_id.as_str()), ("u-1", id.as_str()));
        seen.push(e.state);
    }
    assert_eq!(seen, [ContainerState::Created, ContainerState::Running, ContainerState::Exited]);
    w.finish().await;
}

#[tokio::test]
async fn success_is_completed_and_a_signal_is_128_plus_its_number() {
    let w = World::new().await;
    let (ok, _) = w.output_in(w.pod(), w.command(&["/bin/true"])).await;
    assert_eq!((ok.exit_code, ok.reason.as_str()), (0, "Completed"));
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    w.engine.stop_container(&id, Duration::ZERO).await.unwrap();
    let killed = w.exited(&id).await;
    assert_eq!((killed.exit_code, killed.signal, killed.reason.as_str()), (137, 9, "Error"));
    w.finish().await;
}

#[tokio::test]
async fn stop_sends_the_stop_signal_then_kills_after_grace() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let polite = w.start(&sandbox, ContainerConfig { stop_signal: Some(10), ..w.shell("trap 'exit 7' USR1; echo up; while true; do sleep 0.01; done") }).await;
    wait_for_log(&w, "up").await;
    w.engine.stop_container(&polite, LIMIT).await.unwrap();
    assert_eq!(w.exited(&polite).await.exit_code, 7);
    let deaf = w.start(&sandbox, ContainerConfig { log_path: "d/0.log".into(), ..w.shell("trap '' TERM; sleep 1000") }).await;
    let begin = Instant::now();
    w.engine.stop_container(&deaf, Duration::from_millis(300)).await.unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(w.exited(&deaf).await.exit_code, 137);
    w.engine.stop_container(&deaf, LIMIT).await.unwrap();
    w.finish().await;
}

pub async fn wait_for_log(w: &World, word: &str) {
    let end = Instant::now() + LIMIT;
    while !w.log_text().contains(word) {
        assert!(Instant::now() < end, "no {word:?} in the log");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_command_that_cannot_run_is_a_start_error_in_runcs_words() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    for (command, message) in [
        ("nope", r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/etc/not-executable", r#"exec: "/etc/not-executable": permission denied"#),
        ("/etc", r#"exec: "/etc": is a directory"#),
    ] {
        let id = w.engine.create_container(&sandbox, w.command(&[command])).await.unwrap();
        let Err(RuntimeError::Start { message: told, exit_code }) = w.engine.start_container(&id).await else { panic!("{command} started") };
        assert_eq!(exit_code, 128);
        assert!(told.ends_with(message), "{told}");
        let status = w.exited(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str(), status.state), (128, "StartError", ContainerState::Exited));
        assert!(status.message.ends_with(message), "{}", status.message);
    }
    w.finish().await;
}

#[tokio::test]
async fn a_container_over_its_memory_is_oom_killed() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let config = w.shell("dd if=/dev/zero of=/dev/null bs=200M count=1");
    let id = w
        .start(
            &sandbox,
            ContainerConfig {
                resources: Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() },
                args: vec!["/bin/dd".into(), "if=/dev/zero".into(), "of=/dev/null".into(), "bs=200M".into(), "count=1".into()],
                ..config
            },
        )
        .await;
    let status = w.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    // A child's end is the container's, as with memory.oom.group: the first process does not live on.
    let resources = Resources { memory_limit_bytes: Some(16 << 20), ..Resources::default() };
    let child = ContainerConfig { resources, log_path: "child/0.log".into(), ..w.shell("dd if=/dev/zero of=/dev/null bs=200M count=1; sleep 1000") };
    let child = w.start(&sandbox, child).await;
    let status = w.exited(&child).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    w.finish().await;
}

#[tokio::test]
async fn limits_are_seen_in_the_cgroups_and_change_while_it_runs() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit_bytes: Some(64 << 20),
        pids_limit: Some(50),
        oom_score_adj: Some(900),
        ..Resources::default()
    };
    let id = w.start(&sandbox, ContainerConfig { resources, ..w.command(&["/bin/sleep", "1000"]) }).await;
    let pid = w.engine.container_status(&id).await.unwrap().pid.unwrap();
    assert_eq!(std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(), "900");
    let of = |controller: &str, file: &str| {
        let all = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let path = all.lines().find_map(|l| l.split_once(&format!(":{controller}:"))).unwrap().1.to_owned();
        std::fs::read_to_string(format!("/sys/fs/cgroup/{controller}{path}/{file}")).unwrap().trim().to_owned()
    };
    // This project's machines have v1 controllers; limits of v2 are covered in `linux::cgroup` over recorded files.
    assert_eq!([of("cpu", "cpu.shares"), of("cpu", "cpu.cfs_quota_us"), of("memory", "memory.limit_in_bytes"), of("pids", "pids.max")], ["512", "50000", "67108864", "50"]);
    w.engine.update_resources(&id, Resources { memory_limit_bytes: Some(96 << 20), ..Resources::default() }).await.unwrap();
    assert_eq!(of("memory", "memory.limit_in_bytes"), "100663296");
    let stats = w.engine.stats(&id).await.unwrap();
    assert!(stats.pids == 1 && stats.memory_usage_bytes > 0, "{stats:?}");
    assert!(w.engine.stats(&sandbox).await.unwrap().memory_usage_bytes >= stats.memory_usage_bytes);
    w.finish().await;
}

#[tokio::test]
async fn stopping_a_sandbox_ends_everything_and_leaves_it_listed() {
    let w = World::new().await;
    let mut pod = w.pod();
    pod.pid = NamespaceMode::Pod;
    let sandbox = w.engine.run_sandbox(pod).await.unwrap();
    assert!(sandbox.netns.as_ref().unwrap().exists());
    let id = w.start(&sandbox.id, w.shell("(trap '' TERM HUP; sleep 1000) & sleep 1000")).await;
    w.engine.stop_sandbox(&sandbox.id).await.unwrap();
    w.engine.stop_sandbox(&sandbox.id).await.unwrap();
    assert_eq!(w.leftovers(), Vec::<String>::new());
    assert_eq!(w.exited(&id).await.exit_code, 137);
    assert!(!w.engine.list_sandboxes().await.unwrap()[0].ready);
    assert!(w.engine.create_container(&sandbox.id, w.command(&["/bin/true"])).await.is_err());
    w.finish().await;
}

#[tokio::test]
async fn a_second_sandbox_of_a_pod_lives_on_when_the_first_goes() {
    let w = World::new().await;
    let first = w.sandbox().await;
    let second = w.sandbox().await;
    let id = w.start(&second, w.command(&["/bin/sleep", "1000"])).await;
    w.engine.remove_sandbox(&first).await.unwrap();
    assert_eq!(w.engine.container_status(&id).await.unwrap().state, ContainerState::Running);
    assert_eq!(w.exec(&id, "echo alive").await.stdout, b"alive\n");
    w.finish().await;
}

#[tokio::test]
async fn unknown_things_are_not_found_or_already_gone() {
    let w = World::new().await;
    assert!(matches!(w.engine.container_status("nope").await, Err(RuntimeError::NotFound { .. })));
    assert!(matches!(w.engine.start_container("nope").await, Err(RuntimeError::NotFound { .. })));
    w.engine.stop_container("nope", LIMIT).await.unwrap();
    w.engine.remove_container("nope").await.unwrap();
    w.engine.stop_sandbox("nope").await.unwrap();
    w.engine.remove_sandbox("nope").await.unwrap();
    w.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_set_up_leaves_nothing() {
    let w = World::new().await;
    let mut pod = w.pod();
    pod.sysctls.insert("net.no.such.name".into(), "1".into());
    let error = w.engine.run_sandbox(pod).await.unwrap_err().to_string();
    assert!(error.contains("net.no.such.name"), "{error}");
    w.finish().await;
}

#[tokio::test]
async fn a_rotated_log_continues_in_a_new_file() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.shell("echo one; while ! test -e /go; do sleep 0.01; done; echo two")).await;
    wait_for_log(&w, "one").await;
    std::fs::rename(w.log_path(), w.dir.path().join("logs/c/0.log.1")).unwrap();
    w.engine.reopen_log(&id).await.unwrap();
    w.exec(&id, "touch /go").await;
    w.exited(&id).await;
    assert_eq!(w.log_text(), "two\n");
    w.finish().await;
}

#[tokio::test]
async fn starting_twice_is_refused_and_harms_nothing() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    assert!(w.engine.start_container(&id).await.is_err());
    assert_eq!(w.engine.container_status(&id).await.unwrap().state, ContainerState::Running);
    assert_eq!(w.exec(&id, "echo alive").await.stdout, b"alive\n");
    w.finish().await;
}

#[tokio::test]
async fn many_pods_at_once_start_and_go() {
    let w = World::new().await;
    let mut all = tokio::task::JoinSet::new();
    for i in 0..20 {
        let pod = SandboxConfig { uid: format!("u-{i}"), cgroup: format!("burstable/podu-{i}"), ..w.pod() };
        let config = ContainerConfig { log_path: format!("{i}/0.log").into(), ..w.shell("exit 4") };
        let engine = w.engine.clone();
        all.spawn(async move {
            let mut events = engine.events();
            let sandbox = engine.run_sandbox(pod).await.unwrap().id;
            let id = engine.create_container(&sandbox, config).await.unwrap();
            engine.start_container(&id).await.unwrap();
            while engine.container_status(&id).await.unwrap().state != ContainerState::Exited {
                let _ = events.recv().await;
            }
            assert_eq!(engine.container_status(&id).await.unwrap().exit_code, 4);
            engine.remove_sandbox(&sandbox).await.unwrap();
        });
    }
    tokio::time::timeout(LIMIT, all.join_all()).await.expect("all pods end in time");
    w.finish().await;
}
