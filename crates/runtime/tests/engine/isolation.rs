use crate::world::World;
use keles_runtime::api::*;
use std::os::unix::fs::symlink;

#[tokio::test]
async fn default_capabilities_no_new_privileges_and_users() {
    let w = World::new().await;
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t\\n' '  '";
    let text = w.output(w.shell(status)).await;
    assert_eq!(text, "CapInh: 0000000000000000 CapPrm: 00000000a80425fb CapEff: 00000000a80425fb CapBnd: 00000000a80425fb CapAmb: 0000000000000000 NoNewPrivs: 0 Seccomp: 0 ");
    let mut c = w.shell(status);
    c.security.no_new_privileges = true;
    c.security.drop_capabilities = vec!["ALL".into()];
    c.security.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    c.security.seccomp = Seccomp::RuntimeDefault;
    let text = w.output(c).await;
    assert_eq!(text, "CapInh: 0000000000000000 CapPrm: 0000000000000400 CapEff: 0000000000000400 CapBnd: 0000000000000400 CapAmb: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 ");
    let mut c = w.shell("id -u; id -g; id -G; echo $HOME; echo ok > /dev/stdout");
    c.security.run_as_user = Some(1234);
    c.security.run_as_group = Some(2345);
    c.security.supplemental_groups = vec![3456, 4567];
    assert_eq!(w.output(c).await, "1234\n2345\n2345 3456 4567\n/\nok\n");
    let mut c = w.shell("id -u; id -G; echo $HOME");
    c.security.run_as_username = "web".into();
    assert_eq!(w.output(c).await, "101\n102 7\n/srv\n");
    w.finish().await;
}

#[tokio::test]
async fn runtime_default_seccomp_refuses_and_allows() {
    let w = World::new().await;
    let mut c = w.shell("unshare -m true; echo $?; chroot / /bin/true; echo $?");
    c.security.seccomp = Seccomp::RuntimeDefault;
    c.security.add_capabilities = vec![];
    let text = w.output(c).await;
    assert!(text.contains("Operation not permitted") && text.ends_with("0\n"), "{text}");
    let profile = w.dir.path().join("profile.json");
    std::fs::write(&profile, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#).unwrap();
    let mut c = w.shell("mkdir /x");
    c.security.seccomp = Seccomp::Localhost(profile);
    assert!(w.output(c).await.contains("No space left on device"));
    let sandbox = w.sandbox().await;
    let mut c = w.shell("true");
    c.security.seccomp = Seccomp::Localhost("/no/such/profile".into());
    let id = w.engine.create_container(&sandbox, c).await.unwrap();
    assert!(w.engine.start_container(&id).await.unwrap_err().to_string().contains("/no/such/profile"), "a profile that cannot be read must not be ignored");
    w.finish().await;
}

#[tokio::test]
async fn kernel_paths_are_masked_and_read_only() {
    let w = World::new().await;
    let text = w.output(w.shell("wc -c < /proc/interrupts; echo x > /proc/sys/kernel/hostname; echo x > /sys/x; ls /dev; echo x > /sys/fs/cgroup/x")).await;
    let text = text.replace('\n', "|");
    assert!(text.contains("0|"), "{text}");
    assert!(text.contains("can't create /proc/sys/kernel/hostname: Read-only file system"), "{text}");
    assert!(text.contains("can't create /sys/x: Read-only file system"), "{text}");
    assert!(text.contains("fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero|"), "{text}");
    let mut c = w.shell("touch /x; echo $?; touch /dev/shm/x; echo $?");
    c.security.read_only_root = true;
    let text = w.output(c).await;
    assert!(text.contains("Read-only file system") && text.ends_with("0\n"), "{text}");
    w.finish().await;
}

#[tokio::test]
async fn disks_cannot_be_read_through_a_made_device_node() {
    let w = World::new().await;
    let text = w.output(w.shell("mknod /disk b 254 0 && head -c 1 /disk; echo $?; mknod /null2 c 1 3; echo x > /null2; echo $?")).await;
    assert!(text.contains("/disk: Operation not permitted"), "{text}");
    assert!(text.ends_with("0\n"), "{text}");
    w.finish().await;
}

#[tokio::test]
async fn a_privileged_container_has_everything() {
    let w = World::new().await;
    let mut c = w.shell("grep CapEff /proc/self/status; echo p > /proc/sys/kernel/hostname && echo written; ls /dev | wc -l; grep -c ' /sys sysfs rw' /proc/mounts");
    c.security.privileged = true;
    let text = w.output(c).await;
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let ours = ours.lines().find_map(|l| l.strip_prefix("CapPrm:\t")).unwrap();
    assert!(text.contains(ours) && text.contains("written") && text.ends_with("1\n"), "{text}");
    assert!(text.lines().nth(2).unwrap().trim().parse::<u32>().unwrap() > 14, "{text}");
    w.finish().await;
}

#[tokio::test]
async fn mounts_follow_links_of_the_image_inside_its_root_only() {
    let w = World::new().await;
    let outside = w.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, w.dir.path().join("image/escape")).unwrap();
    let source = w.dir.path().join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("f"), "volume").unwrap();
    let mount = |target: &str, read_only| Mount { source: source.clone(), target: target.into(), read_only, ..Mount::default() };
    let file = Mount { source: source.join("f"), target: "/etc/hosts".into(), read_only: false, propagation: Propagation::HostToContainer, ..Mount::default() };
    let made = Mount { source: w.dir.path().join("made-by-mount"), target: "/made".into(), ..Mount::default() };
    let mut c = w.shell("cat /escape/new/f /var/run/secrets/f /etc/hosts; echo x > /var/run/secrets/g; echo y > /escape/new/g; ls /made");
    c.mounts = vec![mount("/escape/new", false), mount("/var/run/secrets", true), file, made];
    let text = w.output(c).await;
    assert!(text.contains("volumevolumevolume"), "{text}");
    assert!(text.contains("can't create /var/run/secrets/g: Read-only file system"), "{text}");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "the mount reached the host through a link");
    assert_eq!(std::fs::read_to_string(source.join("g")).unwrap(), "y\n");
    assert!(w.dir.path().join("made-by-mount").is_dir());
    w.finish().await;
}

#[tokio::test]
async fn namespaces_of_the_pod_are_shared_and_the_hosts_only_when_asked() {
    let w = World::new().await;
    let mut pod = w.pod();
    pod.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "1000".into());
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; for n in net ipc pid; do readlink /proc/self/ns/$n; done; ip addr show lo | grep -c 127.0.0.1; ls -d /proc/[0-9]* | wc -l";
    let (_, text) = w.output_in(pod, w.shell(script)).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines[0], lines[1], lines[5]), ("p", "1000", "1"), "{text}");
    let host = |ns: &str| std::fs::read_link(format!("/proc/self/ns/{ns}")).unwrap().to_string_lossy().into_owned();
    for (line, ns) in lines[2..5].iter().zip(["net", "ipc", "pid"]) {
        assert_ne!(**line, host(ns), "{ns}");
    }
    assert!(lines[6].trim().parse::<u32>().unwrap() < 6, "it must not see other processes: {text}");
    let mut pod = w.pod();
    (pod.network, pod.ipc, pod.pid) = (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Node);
    let (_, text) = w.output_in(pod, w.shell("for n in net ipc pid uts; do readlink /proc/self/ns/$n; done")).await;
    assert_eq!(text.lines().collect::<Vec<_>>(), [host("net"), host("ipc"), host("pid"), host("uts")]);
    w.finish().await;
}

#[tokio::test]
async fn containers_begin_as_they_do_under_other_runtimes() {
    let w = World::new().await;
    let source = w.dir.path().join("made/by/mount");
    let script = "umask; touch /f; stat -c '%a %n' /f /work /work/folder /a /a/b /dev/null /dev/ptmx; grep SigIgn /proc/self/status; \
        cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
    let mut c = w.shell(script);
    c.working_dir = "/work/folder".into();
    c.mounts = vec![Mount { source: source.clone(), target: "/a/b/c".into(), ..Mount::default() }];
    let text = w.output(c).await;
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["0022", "644 /f", "755 /work", "755 /work/folder", "755 /a", "755 /a/b", "666 /dev/null", "777 /dev/ptmx", "SigIgn:\t0000000000000000", "0", "0\t2147483647"]
    );
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&source).unwrap()) & 0o777, 0o755);
    w.finish().await;
}

#[tokio::test]
async fn a_shared_process_namespace_has_an_init_and_both_containers() {
    let w = World::new().await;
    let mut pod = w.pod();
    pod.pid = NamespaceMode::Pod;
    let sandbox = w.engine.run_sandbox(pod).await.unwrap().id;
    let one = w.start(&sandbox, w.command(&["/bin/sleep", "1111"])).await;
    let two = w.start(&sandbox, ContainerConfig { log_path: "two/0.log".into(), ..w.shell("(sleep 2222 &) ; sleep 3333") }).await;
    // The shell of the second container starts its children some time after it runs itself.
    let seen = w
        .exec(
            &one,
            "n=0; until ps -o args | grep -q '^sleep 2222' && ps -o args | grep -q '^sleep 3333'; do n=$((n+1)); [ $n -lt 6000 ] || break; usleep 10000; done; ps -o pid,args",
        )
        .await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    for word in ["sleep 1111", "sleep 2222", "sleep 3333"] {
        assert!(seen.contains(word), "{seen}");
    }
    w.engine.stop_container(&two, std::time::Duration::ZERO).await.unwrap();
    let seen = w.exec(&one, "ps -o pid,args").await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("sleep 1111") && !seen.contains("sleep 2222"), "the whole container goes, the other stays: {seen}");
    w.finish().await;
}

#[tokio::test]
async fn shared_memory_is_the_pods() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let one = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    let two = w.start(&sandbox, ContainerConfig { log_path: "two/0.log".into(), ..w.command(&["/bin/sleep", "1000"]) }).await;
    w.exec(&one, "echo shared > /dev/shm/f").await;
    assert_eq!(w.exec(&two, "cat /dev/shm/f").await.stdout, b"shared\n");
    w.finish().await;
}

#[tokio::test]
async fn no_descriptor_leaks_into_containers_or_execs() {
    let w = World::new().await;
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "1000"])).await;
    assert_eq!(String::from_utf8_lossy(&w.exec(&id, "ls /proc/1/fd | tr '\\n' ' '").await.stdout).trim(), "0 1 2");
    // The listing itself has its folder open as 3.
    let seen = w.exec(&id, "ls /proc/self/fd | tr '\\n' ' '").await;
    assert_eq!(String::from_utf8_lossy(&seen.stdout).trim(), "0 1 2 3");
    w.finish().await;
}

#[tokio::test]
async fn the_shims_program_cannot_be_written_through_proc() {
    let w = World::new().await;
    let mut pod = w.pod();
    pod.pid = NamespaceMode::Pod;
    let sandbox = w.engine.run_sandbox(pod).await.unwrap().id;
    // The pod's init is the shim's own program: reachable as /proc/1/exe, even with every capability.
    let mut c = w.shell("echo evil >> /proc/1/exe; echo $?");
    c.security.add_capabilities = vec!["SYS_PTRACE".into(), "SYS_ADMIN".into()];
    let id = w.start(&sandbox, c).await;
    w.exited(&id).await;
    let text = w.log_text();
    // Busy while the shim runs; that it stays refused afterwards is covered in `linux::mount`.
    assert!(["Read-only file system", "Permission denied", "Text file busy"].iter().any(|e| text.contains(e)), "{text}");
    w.finish().await;
}

#[tokio::test]
async fn many_layers_are_one_root_and_writes_stay_in_the_container() {
    let w = World::new().await;
    let deep = w.dir.path().join("x".repeat(200)).join("y".repeat(200));
    let mut layers = Vec::new();
    for i in 0..60 {
        let layer = deep.join(i.to_string());
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join("which"), i.to_string()).unwrap();
        std::fs::write(layer.join(format!("f{i}")), "").unwrap();
        layers.push(layer);
    }
    layers.push(w.dir.path().join("image"));
    let c = ContainerConfig { layers, ..w.shell("cat /which; ls / | grep -c '^f'; echo new > /which; cat /which") };
    assert_eq!(w.output(c).await, "060\nnew\n");
    assert_eq!(std::fs::read_to_string(deep.join("0/which")).unwrap(), "0");
    w.finish().await;
}

#[tokio::test]
async fn mounts_made_later_cross_only_where_propagation_says_so() {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
    let w = World::new().await;
    let shared = w.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    mount("tmpfs", &shared, "tmpfs", MountFlags::empty(), None).unwrap();
    mount_change(&shared, MountPropagationFlags::SHARED).unwrap();
    for d in ["later", "inner"] {
        std::fs::create_dir(shared.join(d)).unwrap();
    }
    let at = |target: &str, propagation| Mount { source: shared.clone(), target: target.into(), propagation, ..Mount::default() };
    let mut c = w.command(&["/bin/sleep", "1000"]);
    c.security.privileged = true;
    c.mounts = vec![at("/both", Propagation::Bidirectional), at("/from-host", Propagation::HostToContainer), at("/private", Propagation::Private)];
    let sandbox = w.sandbox().await;
    let id = w.start(&sandbox, c).await;
    mount("tmpfs", shared.join("later"), "tmpfs", MountFlags::empty(), None).unwrap();
    std::fs::write(shared.join("later/f"), "").unwrap();
    let seen = w.exec(&id, "ls /both/later /from-host/later /private/later; mount -t tmpfs x /both/inner && touch /both/inner/g").await;
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "/both/later:\nf\n\n/from-host/later:\nf\n\n/private/later:\n");
    let reached_host = shared.join("inner/g").exists();
    w.engine.remove_sandbox(&sandbox).await.unwrap();
    for d in ["later", "inner"] {
        let _ = unmount(shared.join(d), UnmountFlags::DETACH);
    }
    unmount(&shared, UnmountFlags::DETACH).unwrap();
    assert!(reached_host, "a bidirectional mount reaches the host");
    let sandbox = w.sandbox().await;
    let mut c = w.command(&["/bin/true"]);
    c.mounts = vec![at("/both", Propagation::Bidirectional)];
    let id = w.engine.create_container(&sandbox, c).await.unwrap();
    assert!(w.engine.start_container(&id).await.unwrap_err().to_string().contains("not shared"), "without a shared mount it must be refused");
    w.finish().await;
}

#[tokio::test]
async fn mount_points_are_those_of_other_runtimes() {
    let w = World::new().await;
    let text = w.output(w.shell("awk '{print $5}' /proc/self/mountinfo | grep -v ^/sys/fs/cgroup/ | grep -v ^/proc/interrupts | tr '\\n' ' '")).await;
    let mut points: Vec<&str> = text.split_whitespace().collect();
    points.sort_unstable();
    assert_eq!(points, ["/", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/proc/sys", "/sys", "/sys/fs/cgroup"]);
    w.finish().await;
}

#[tokio::test]
async fn a_pod_with_a_user_namespace_is_root_inside_and_nobody_outside() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let users = UserRange { first: 1 << 20, length: 1 << 16 };
    let w = World::new().await;
    let volume = w.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(volume.join("given"), "given").unwrap();
    std::os::unix::fs::chown(volume.join("given"), Some(101), Some(2000)).unwrap();
    let mut pod = w.pod();
    pod.users = Some(users);
    pod.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "1000".into());
    pod.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let sandbox = w.engine.run_sandbox(pod.clone()).await.unwrap().id;
    let script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c '%u:%g %n' /v/given /bin/busybox / /dev/shm; touch /v/made /root/x /dev/shm/y; \
        chown 101:102 /v/made; mkdir /m && mount -t tmpfs none /m && echo mounted; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; \
        hostname changed && hostname; echo > /dev/null && echo null; ip link set lo down && echo down; mknod /x b 8 0 || echo refused; sleep 1000";
    let mut c = w.shell(script);
    c.mounts = vec![Mount { source: volume.clone(), target: "/v".into(), ..Mount::default() }];
    c.security.add_capabilities = vec!["SYS_ADMIN".into(), "NET_ADMIN".into()];
    let id = w.start(&sandbox, c).await;
    let text = w.logged(&id, "refused").await;
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!((&lines[0], &lines[1]), (&vec!["0", "1048576", "65536"], &vec!["0", "1048576", "65536"]), "{text}");
    for word in ["101:2000 /v/given", "0:0 /bin/busybox", "0:0 /\n", "0:0 /dev/shm", "mounted", "1000\n1\n", "changed", "null", "down"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let made = std::fs::metadata(volume.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (101, 102), "a volume's files keep their ids on disk");
    let pid = w.engine.container_status(&id).await.unwrap().pid.unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), users.first, "outside it is nobody's id");
    // One more process has the same rights, and a user of the image's is one inside.
    let seen = w.exec(&id, "id -u; cat /proc/self/uid_map; test -e /proc/1/cmdline && ps | grep -c 'sleep 100[0]'").await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.starts_with("0\n") && seen.contains("1048576") && seen.trim().ends_with('1'), "{seen}");
    let mut web = w.shell("id; echo to-stdout > /dev/stdout; cat /v/given; echo done");
    web.security.run_as_user = Some(101);
    web.mounts = vec![Mount { source: volume.clone(), target: "/v".into(), read_only: true, ..Mount::default() }];
    web.log_path = "web/0.log".into();
    let web = w.start(&sandbox, web).await;
    let ended = w.exited(&web).await;
    assert_eq!(ended.exit_code, 0);
    let text = std::fs::read_to_string(&ended.log_path).unwrap();
    assert!(text.contains("uid=101(web)") && text.contains("to-stdout") && text.contains("given"), "{text}");
    w.engine.remove_sandbox(&sandbox).await.unwrap();
    // With one pid namespace for the pod, which then belongs to the user namespace too.
    pod.pid = NamespaceMode::Pod;
    let sandbox = w.engine.run_sandbox(pod).await.unwrap().id;
    let id = w.start(&sandbox, w.command(&["/bin/sleep", "2000"])).await;
    let seen = w.exec(&id, "ps -o pid,user,args; readlink /proc/self/ns/user").await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("sleep 2000") && seen.contains("root"), "{seen}");
    w.finish().await;
}

#[tokio::test]
async fn a_container_can_join_the_processes_of_another() {
    let w = World::new().await;
    for users in [None, Some(UserRange { first: 1 << 20, length: 1 << 16 })] {
        let sandbox = w.engine.run_sandbox(SandboxConfig { users, ..w.pod() }).await.unwrap().id;
        let one = w.start(&sandbox, w.command(&["/bin/sleep", "1111"])).await;
        let looking = ContainerConfig { pid_target: Some(one.clone()), log_path: "two/0.log".into(), ..w.shell("ps -o pid,args; kill -0 1 && echo reached; sleep 2222") };
        let two = w.start(&sandbox, looking).await;
        let text = w.logged(&two, "reached").await;
        assert!(text.lines().any(|l| l.trim_start().starts_with("1 ") && l.contains("sleep 1111")), "its first process is the target's: {text}");
        assert!(String::from_utf8_lossy(&w.exec(&two, "ps -o args").await.stdout).contains("sleep 1111"));
        // The target's end is the end of its namespace.
        w.engine.stop_container(&one, std::time::Duration::ZERO).await.unwrap();
        assert_eq!(w.exited(&two).await.signal, 9);
        let late = ContainerConfig { pid_target: Some(one), log_path: "three/0.log".into(), ..w.command(&["/bin/true"]) };
        let late = w.engine.create_container(&sandbox, late).await.unwrap();
        let refused = w.engine.start_container(&late).await.expect_err("its target has gone");
        assert!(refused.to_string().contains("is not running"), "{refused}");
        w.engine.remove_sandbox(&sandbox).await.unwrap();
    }
    w.finish().await;
}

#[tokio::test]
async fn a_read_only_mount_is_so_below_only_when_asked() {
    let w = World::new().await;
    let source = w.dir.path().join("tree");
    std::fs::create_dir_all(source.join("below")).unwrap();
    rustix::mount::mount("tmpfs", source.join("below"), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    let mount = |target: &str, recursive_read_only| Mount { source: source.clone(), target: target.into(), read_only: true, recursive_read_only, ..Mount::default() };
    let mut c = w.shell("touch /top/x || echo top; touch /top/below/x && echo below-writable; touch /all/below/y || echo all");
    c.mounts = vec![mount("/top", false), mount("/all", true)];
    let text = w.output(c).await;
    rustix::mount::unmount(source.join("below"), rustix::mount::UnmountFlags::DETACH).unwrap();
    for word in ["top\n", "below-writable", "all\n"] {
        assert!(text.contains(word), "{text}");
    }
    w.finish().await;
}
