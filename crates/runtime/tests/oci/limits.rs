//! What a bundle says, asked inside the container: identity, mounts, namespaces, limits, devices, seccomp.

use crate::world::World;
use serde_json::{Value, json};

fn mounts(spec: &mut Value) -> &mut Vec<Value> {
    spec["mounts"].as_array_mut().unwrap()
}

#[test]
fn identity_limits_and_names_are_the_bundles() {
    let w = World::new();
    w.shell("id; umask; ulimit -n; ulimit -c; hostname; cat /proc/sys/kernel/domainname; cat /proc/sys/net/ipv4/ip_forward; cat /proc/self/oom_score_adj; uname -m; cut -d' ' -f19 /proc/self/stat", |s| {
        s["process"]["user"] = json!({"uid": 101, "gid": 102, "umask": 23, "additionalGids": [7, 8]});
        s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 66}, {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}]);
        s["hostname"] = json!("h1");
        s["domainname"] = json!("d1");
        s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        s["process"]["oomScoreAdj"] = json!(321);
        s["linux"]["personality"] = json!({"domain": "LINUX32"});
        s["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 5});
        s["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    });
    let out = w.run().fine();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "uid=101(web) gid=102 groups=7,8");
    assert_eq!(lines[1..8], ["0027", "66", "0", "h1", "d1", "1", "321"]);
    assert!(lines[8] == "i686" || cfg!(not(target_arch = "x86_64")), "{out}");
    assert_eq!(lines[9], "5");
}

#[test]
fn a_host_that_withholds_a_capability_gives_the_nearest_that_is_allowed_and_says_so() {
    let w = World::new();
    w.shell("ulimit -n; cat /proc/self/oom_score_adj", |s| {
        s["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 1u64 << 40, "soft": 1u64 << 40}]);
        s["process"]["oomScoreAdj"] = json!(-999);
    });
    let ended = w.run();
    if ended.code != 0 {
        // With CAP_SYS_RESOURCE the kernel's own ceiling is what refuses.
        return ended.refused("RLIMIT_NOFILE");
    }
    assert!(ended.err.contains("RLIMIT_NOFILE") && ended.err.contains("oom_score_adj"), "{ended:?}");
}

#[test]
fn mounts_have_their_options_recursive_ones_too() {
    let w = World::new();
    for d in ["src/sub", "shared"] {
        std::fs::create_dir_all(w.path(d)).unwrap();
    }
    std::fs::write(w.rootfs().join("data/kept"), "image").unwrap();
    let sub = w.path("src/sub");
    assert!(std::process::Command::new("mount").args(["-t", "tmpfs", "koci"]).arg(&sub).status().unwrap().success());
    let script = "
        touch /ro/x 2>/dev/null && echo ro-written; touch /ro/sub/y && echo below-written
        touch /rro/x 2>/dev/null && echo rro-written; touch /rro/sub/y 2>/dev/null && echo rro-below-written
        cat /data/kept; touch /data/new && echo data-written; stat -c %a /tmp2; grep ' /noexec ' /proc/mounts; cat /file";
    w.shell(script, |s| {
        let src = w.path("src").display().to_string();
        std::fs::write(w.path("src/text"), "a file\n").unwrap();
        mounts(s).extend([
            json!({"destination": "/ro", "type": "bind", "source": src, "options": ["rbind", "ro"]}),
            json!({"destination": "/rro", "type": "bind", "source": src, "options": ["rbind", "rro"]}),
            json!({"destination": "/noexec", "type": "none", "source": "src", "options": ["bind", "noexec", "nosuid", "nodev", "noatime"]}),
            json!({"destination": "/file", "type": "bind", "source": format!("{src}/text"), "options": ["bind", "ro"]}),
            json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=1m"]}),
            json!({"destination": "/tmp2", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1700"]}),
        ]);
    });
    let ended = w.run();
    assert!(std::process::Command::new("umount").arg(&sub).status().unwrap().success());
    let out = ended.fine();
    assert!(out.contains("below-written\n") && !out.contains("ro-written") && !out.contains("rro-below-written"), "{out}");
    assert!(out.contains("image") && out.contains("data-written") && out.contains("1700"), "{out}");
    let noexec = out.lines().find(|l| l.contains(" /noexec ")).unwrap();
    assert!(["noexec", "nosuid", "nodev", "noatime"].iter().all(|o| noexec.contains(o)), "{noexec}");
    assert!(out.ends_with("a file\n"), "{out}");
    assert_eq!(std::fs::read_to_string(w.rootfs().join("data/kept")).unwrap(), "image", "copied, not moved");
    assert!(!w.rootfs().join("data/new").exists());
}

#[test]
fn propagation_goes_the_ways_that_are_asked_for() {
    let w = World::new();
    let shared = w.path("shared");
    std::fs::create_dir_all(shared.join("from-host")).unwrap();
    std::fs::create_dir_all(shared.join("from-container")).unwrap();
    let run = |args: &[&str]| assert!(std::process::Command::new(args[0]).args(&args[1..]).arg(&shared).status().unwrap().success());
    run(&["mount", "-t", "tmpfs", "koci"]);
    run(&["mount", "--make-shared"]);
    std::fs::create_dir_all(shared.join("from-host")).unwrap();
    std::fs::create_dir_all(shared.join("from-container")).unwrap();
    w.shell("while [ ! -e /slave/from-host/mark ]; do usleep 1000; done; mount -t tmpfs x /both/from-container && touch /both/from-container/mark; ls /private/from-host | wc -l; echo seen; sleep 1000", |s| {
        let bind = |to: &str, how: &str| json!({"destination": to, "type": "bind", "source": shared, "options": ["rbind", how]});
        mounts(s).extend([bind("/slave", "rslave"), bind("/both", "rshared"), bind("/private", "rprivate")]);
        let all = json!(["CAP_SYS_ADMIN"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    w.begin(&["run", "-d"]).fine();
    let host = shared.join("from-host");
    assert!(std::process::Command::new("mount").args(["-t", "tmpfs", "koci"]).arg(&host).status().unwrap().success());
    std::fs::write(host.join("mark"), "").unwrap();
    w.wait_for("propagation", || w.output().contains("seen"));
    let came = shared.join("from-container/mark").exists();
    w.call(&["delete", "-f", &w.id]).fine();
    let _ = std::process::Command::new("umount").arg("-R").arg(&shared).status();
    assert!(came, "a mount of the container's did not reach the host");
    assert_eq!(w.output(), "0\nseen\n", "a private mount must not see the host's");
}

#[test]
fn a_user_namespace_maps_ids_and_an_id_mapped_mount_shows_them() {
    let w = World::new();
    std::fs::create_dir(w.path("vol")).unwrap();
    std::fs::write(w.path("vol/file"), "").unwrap();
    w.shell("id -u; cat /proc/self/uid_map; stat -c %u /plain/file /mapped/file; touch /dev/null && echo device; mount -t tmpfs x /tmp && echo mounted; ls -ld /proc/self/ns/user > /dev/null; hostname x", |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        (s["linux"]["uidMappings"], s["linux"]["gidMappings"]) = (ids.clone(), ids);
        let vol = w.path("vol");
        mounts(s).extend([
            json!({"destination": "/plain", "type": "bind", "source": vol, "options": ["bind"]}),
            json!({"destination": "/mapped", "type": "bind", "source": vol, "options": ["bind", "idmap"]}),
        ]);
        let all = json!(["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    std::fs::create_dir_all(w.rootfs().join("plain")).unwrap();
    std::fs::create_dir_all(w.rootfs().join("mapped")).unwrap();
    let chown = std::process::Command::new("chown").args(["-hR", "200000:200000"]).arg(w.rootfs()).status().unwrap();
    assert!(chown.success());
    let out = w.run().fine();
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "200000", "65536", "65534", "0", "device", "mounted"], "{out}");
}

#[test]
fn namespaces_of_another_container_are_joined_by_path() {
    let w = World::new();
    w.bundle(&["sleep", "1000"], |s| s["hostname"] = json!("pod"));
    w.begin(&["run", "-d"]).fine();
    let pid = w.state()["pid"].as_i64().unwrap();
    let other = World::new();
    other.shell("hostname; readlink /proc/self/ns/net; ls /proc/1/comm && cat /proc/1/comm", |s| {
        s["hostname"] = json!("");
        for n in s["linux"]["namespaces"].as_array_mut().unwrap() {
            let file = match n["type"].as_str().unwrap() {
                "pid" => "pid",
                "network" => "net",
                "ipc" => "ipc",
                "uts" => "uts",
                _ => continue,
            };
            n["path"] = json!(format!("/proc/{pid}/ns/{file}"));
        }
    });
    let out = other.run().fine();
    let net = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(out, format!("pod\n{}\n/proc/1/comm\nsleep\n", net.display()));
}

#[test]
fn a_time_namespace_has_its_offsets() {
    let w = World::new();
    w.shell("cut -d. -f1 /proc/uptime; cat /proc/self/timens_offsets", |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
        s["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000, "nanosecs": 0}});
    });
    let out = w.run().fine();
    assert!(out.lines().next().unwrap().parse::<u64>().unwrap() > 1_000_000, "{out}");
}

#[test]
fn resources_are_set_and_updated_while_it_runs() {
    let w = World::new();
    w.bundle(&["sleep", "1000"], |s| {
        s["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        s["linux"]["resources"]["pids"] = json!({"limit": 33});
        s["linux"]["resources"]["cpu"] = json!({"shares": 512, "quota": 50000, "period": 100_000});
    });
    w.begin(&["run", "-d"]).fine();
    let read = |names: &[&str]| names.iter().find_map(|n| w.groups().iter().find_map(|g| std::fs::read_to_string(g.join(n)).ok())).unwrap_or_default().trim().to_owned();
    assert_eq!((read(&["memory.limit_in_bytes", "memory.max"]), read(&["pids.max"])), ((64 << 20).to_string(), "33".into()));
    assert!(["50000", "50000 100000"].contains(&read(&["cpu.cfs_quota_us", "cpu.max"]).as_str()));
    w.call(&["update", "--memory", "128m", "--pids-limit", "44", "--cpu-quota", "25000", &w.id]).fine();
    assert_eq!((read(&["memory.limit_in_bytes", "memory.max"]), read(&["pids.max"])), ((128 << 20).to_string(), "44".into()));
    w.call(&["update", "--cpuset-cpus", "0", &w.id]).fine();
    assert_eq!(w.call(&["exec", &w.id, "grep", "Cpus_allowed_list", "/proc/1/status"]).fine(), "Cpus_allowed_list:\t0\n", "a controller that nobody asked for before");
    std::fs::write(w.path("r.json"), r#"{"pids":{"limit":55}}"#).unwrap();
    w.call(&["update", "--resources", "r.json", &w.id]).fine();
    assert_eq!(read(&["pids.max"]), "55");
}

#[test]
fn a_limit_that_this_host_cannot_set_is_refused_by_name() {
    let w = World::new();
    w.shell("true", |s| s["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "3MB", "limit": 1}]));
    w.run().refused("hugetlb.3MB");
    w.shell("true", |s| s["linux"]["resources"]["unified"] = json!({"no.such.file": "1"}));
    w.run().refused("no.such.file");
}

#[test]
fn devices_are_made_and_only_those_allowed_can_be_used() {
    let w = World::new();
    w.shell("ls -l /dev/extra; head -c1 /dev/zero >/dev/null && echo zero; mknod /dev/m c 1 1 && (head -c1 /dev/m >/dev/null 2>&1 || echo memory-refused); head -c1 /dev/extra | wc -c; echo x > /dev/extra || echo extra-write-refused", |s| {
        s["linux"]["devices"] = json!([{"type": "c", "path": "/dev/extra", "major": 1, "minor": 11, "fileMode": 0o640, "uid": 0, "gid": 7}]);
        s["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}, {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "w"}]);
        let all = json!(["CAP_MKNOD"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let ended = w.run();
    let out = &ended.out;
    assert!(out.contains("crw-r-----") && out.contains("zero\n") && out.contains("memory-refused\n") && out.contains("extra-write-refused"), "{ended:?}");
}

#[test]
fn seccomp_answers_as_the_section_says() {
    let w = World::new();
    let profile = |rules: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "syscalls": rules});
    let script = "mkdir /tmp/d; echo $?; chmod 700 /tmp; grep Seccomp: /proc/self/status";
    for no_new_privileges in [true, false] {
        w.shell(script, |s| {
            s["process"]["noNewPrivileges"] = json!(no_new_privileges);
            s["linux"]["seccomp"] = profile(json!([
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
                {"names": ["chmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"},
                // What setting up needs is not asked of the filter.
                {"names": ["accept", "accept4", "setgroups", "setresuid", "sethostname", "mount", "close_range"], "action": "SCMP_ACT_KILL_PROCESS"}]));
        });
        let ended = w.run();
        assert!(ended.err.contains("Operation not supported") && ended.err.contains("Operation not permitted"), "{ended:?}");
        assert!(ended.out.contains("1\n") && ended.out.contains("Seccomp:\t2"), "{ended:?}");
    }
    w.bundle(&["sh", "-c", "mkdir /tmp/e"], |s| s["linux"]["seccomp"] = profile(json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}])));
    assert_eq!(w.run().code, 128 + 31);
}

#[test]
fn a_bundle_without_a_cgroup_or_mount_namespace_sees_no_more_than_it_must() {
    let w = World::new();
    w.shell("ls /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null | head -1 | xargs cat", |s| {
        s["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
    });
    let out = w.run().fine();
    assert!(out.lines().count() < 8 && out.lines().any(|l| l == "1"), "only its own processes: {out}");
    w.bundle(&["ls", "/"], |s| {
        s["linux"]["namespaces"] = json!([{"type": "pid"}]);
        (s["mounts"], s["hostname"]) = (json!([]), json!(""));
        (s["linux"]["maskedPaths"], s["linux"]["readonlyPaths"]) = (json!([]), json!([]));
    });
    assert!(w.run().fine().contains("data\n"));
}

/// As the containers of a pod with a user namespace are made: all by path, exec too.
#[test]
fn a_user_namespace_by_path_is_joined_and_new_namespaces_belong_to_it() {
    let first = World::new();
    let ids = |s: &mut Value| {
        s["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 300_000, "size": 65536}]);
        (s["linux"]["uidMappings"], s["linux"]["gidMappings"]) = (map.clone(), map);
        let all = json!(["CAP_SYS_ADMIN"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    };
    let own = |w: &World| assert!(std::process::Command::new("chown").args(["-hR", "300000:300000"]).arg(w.rootfs()).status().unwrap().success());
    own(&first);
    first.bundle(&["sleep", "1000"], ids);
    first.begin(&["run", "-d"]).fine();
    assert_eq!(first.call(&["exec", &first.id, "sh", "-c", "id -u; cat /proc/self/uid_map | tr -s ' '; hostname y && hostname"]).fine(), "0\n 0 300000 65536\ny\n");
    let pid = first.state()["pid"].as_i64().unwrap();
    let second = World::new();
    own(&second);
    second.shell("readlink /proc/self/ns/user; readlink /proc/self/ns/net; hostname z && hostname; mount -t tmpfs x /tmp && echo mounted; cat /proc/1/comm; true", |s| {
        ids(s);
        for n in s["linux"]["namespaces"].as_array_mut().unwrap() {
            match n["type"].as_str().unwrap() {
                "user" => n["path"] = json!(format!("/proc/{pid}/ns/user")),
                "network" => n["path"] = json!(format!("/proc/{pid}/ns/net")),
                _ => {}
            }
        }
    });
    let out = second.run().fine();
    let link = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string();
    assert_eq!(out, format!("{}\n{}\nz\nmounted\nsh\n", link("user"), link("net")));
    // A new user namespace, and the network of one that belongs to the host.
    let host = World::new();
    host.bundle(&["sleep", "1000"], |_| {});
    host.begin(&["run", "-d"]).fine();
    let net = format!("/proc/{}/ns/net", host.state()["pid"]);
    second.shell("readlink /proc/self/ns/net; id -u", |s| {
        ids(s);
        for n in s["linux"]["namespaces"].as_array_mut().unwrap().iter_mut().filter(|n| n["type"] == "network") {
            n["path"] = json!(net);
        }
        // /sys shows a network namespace, which is another's here.
        mounts(s).retain(|m| m["type"] != "sysfs" && m["type"] != "cgroup");
    });
    assert_eq!(second.run().fine(), format!("{}\n0\n", std::fs::read_link(&net).unwrap().display()));
}

/// The trees of the first version are unmounted: groups, the devices' program, the freezer and figures are the second's.
#[test]
fn a_host_with_version_2_alone_limits_devices_and_freezes() {
    let mut w = World::new();
    let alone = "mount --make-rprivate /; for m in $(awk '$3 == \"cgroup\" {print $2}' /proc/mounts); do umount $m; done; exec \"$@\"";
    let ours = std::mem::take(&mut w.runtime);
    w.runtime = ["unshare", "-m", "sh", "-c", alone, "sh"].map(String::from).into_iter().chain(ours).collect();
    w.shell("mknod /dev/m c 1 1; head -c1 /dev/zero > /dev/null && echo zero; head -c1 /dev/m > /dev/null 2>&1 || echo refused; ls /sys/fs/cgroup/cgroup.procs; while true; do echo x; usleep 1000; done", |s| {
        let all = json!(["CAP_MKNOD"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    w.begin(&["run", "-d"]).fine();
    w.wait_for("output", || w.output().contains("x\n"));
    assert!(w.output().starts_with("zero\nrefused\n/sys/fs/cgroup/cgroup.procs\n"), "{}", w.output());
    w.on("pause").fine();
    assert_eq!(w.status(), "paused");
    w.on("resume").fine();
    assert_eq!(w.call(&["exec", &w.id, "echo", "in"]).fine(), "in\n");
}

#[test]
fn a_limit_of_huge_pages_reaches_the_controller_that_only_it_needs() {
    let w = World::new();
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let v2 = mountinfo.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4).map(std::path::PathBuf::from));
    let offered = v2.map(|m| std::fs::read_to_string(m.join("cgroup.controllers")).unwrap()).unwrap_or_default();
    if !offered.split_whitespace().any(|c| c == "hugetlb") || !std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        eprintln!("SKIPPED: this host has no hugetlb controller of version 2");
        return;
    }
    w.bundle(&["sleep", "1000"], |s| s["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]));
    w.begin(&["create"]).fine();
    let limits: Vec<String> = w.groups().iter().filter_map(|g| std::fs::read_to_string(g.join("hugetlb.2MB.max")).ok()).collect();
    assert_eq!(limits, [format!("{}\n", 4 << 20)]);
}
