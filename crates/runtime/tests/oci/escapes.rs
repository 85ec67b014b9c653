//! Ways out of a container that runtimes have had, each closed.

use crate::world::World;
use serde_json::json;
use std::os::unix::fs::symlink;

/// CVE-2024-21626 and kin: no descriptor of the runtime's or of its caller's is in the container's process, but what is preserved.
#[test]
fn no_descriptor_leaks_into_a_container() {
    let w = World::new();
    w.shell("ls /proc/self/fd; echo --; ls /proc/1/fd; true", |_| {});
    let with_leak = |args: &str| {
        let line = format!("exec 7</etc/hostname 9</; exec {} {args} {}", w.runtime.join(" "), w.id);
        let out = std::process::Command::new("sh").args(["-c", &line]).current_dir(w.dir.path()).stdin(std::process::Stdio::null()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(with_leak("run"), "0 1 2 3 -- 0 1 2");
    w.bundle(&["sleep", "1000"], |_| {});
    w.begin(&["run", "-d"]).fine();
    let line = format!("exec 7</etc/hostname 9</; exec {} exec {} sh -c 'ls /proc/$$/fd; true'", w.runtime.join(" "), w.id);
    let out = std::process::Command::new("sh").args(["-c", &line]).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"]);
}

/// CVE-2024-21626: through a descriptor that the runtime has open while it sets up.
#[test]
fn a_working_folder_that_is_a_descriptor_of_the_runtimes_leads_nowhere_on_the_host() {
    let w = World::new();
    let mark = w.path("mark");
    std::fs::write(&mark, "the host's").unwrap();
    let script = format!("cat {}{} mark", "../".repeat(12), mark.strip_prefix("/").unwrap().display());
    let (line, mut refused) = (format!("exec 7</ 8<{}; exec {} run {}", w.dir.path().display(), w.runtime.join(" "), w.id), 0);
    for n in 3..30 {
        w.shell(&script, |s| s["process"]["cwd"] = json!(format!("/proc/self/fd/{n}")));
        let out = std::process::Command::new("sh").args(["-c", &line]).current_dir(w.dir.path()).stdin(std::process::Stdio::null()).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(!out.contains("the host's"), "descriptor {n} is a way out: {err}");
        refused += usize::from(err.contains("outside the container"));
    }
    assert!(refused >= 2, "the caller's own two folders are refused for being outside");
}

#[test]
fn preserved_descriptors_are_there_and_the_next_is_not() {
    let w = World::new();
    w.shell("cat <&3; ls /proc/1/fd; true", |_| {});
    std::fs::write(w.path("given"), "given\n").unwrap();
    let line = format!("exec 3<given 4</; exec {} run --preserve-fds 1 {}", w.runtime.join(" "), w.id);
    let out = std::process::Command::new("sh").args(["-c", &line]).current_dir(w.dir.path()).stdin(std::process::Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stdout), "given\n0\n1\n2\n3\n", "{}", String::from_utf8_lossy(&out.stderr));
}

/// CVE-2019-5736: what an image makes of /proc/self/exe is the runtime's program, which must not be writable then.
#[test]
fn the_runtimes_program_cannot_be_written_from_inside() {
    let w = World::new();
    let program = w.path("program");
    std::fs::copy(&w.runtime[0], &program).unwrap();
    let before = std::fs::read(&program).unwrap();
    let mut ours = World { dir: tempfile::tempdir().unwrap(), id: format!("{}-x", w.id), runtime: w.runtime.clone() };
    ours.runtime[0] = program.display().to_string();
    // The image's command is a script whose interpreter is whoever runs it.
    std::fs::write(w.rootfs().join("bin/bad"), "#!/proc/self/exe\n").unwrap();
    std::fs::set_permissions(w.rootfs().join("bin/bad"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let script = "for i in $(seq 200); do for p in /proc/[0-9]*; do case $(readlink $p/exe) in /bin/busybox|'') ;; *) (echo overwritten > $p/exe) 2>/dev/null && echo written;; esac; done; done";
    w.shell(script, |s| {
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]);
        s["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let bundle = w.dir.path().display().to_string();
    let status =
        ours.command(&["create", "--bundle", &bundle, &ours.id]).stdin(std::process::Stdio::null()).stdout(std::fs::File::create(ours.path("out")).unwrap()).status().unwrap();
    assert!(status.success());
    // While it waits the first process is still ours.
    let exe = format!("/proc/{}/exe", ours.state()["pid"]);
    assert!(rustix::fs::statvfs(exe).unwrap().f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY), "its program lies on a mount that can be written");
    ours.on("start").fine();
    for _ in 0..10 {
        // What it answers does not matter: it is run as a script of itself inside the container.
        let _ = ours.call(&["exec", &ours.id, "/bin/bad"]);
    }
    let _ = ours.call(&["delete", "-f", &ours.id]);
    assert!(!ours.output().contains("written"), "a file behind /proc/PID/exe was opened for writing: {}", ours.output());
    assert!(std::fs::read(&program).unwrap() == before, "the program was overwritten");
}

/// CVE-2019-19921, CVE-2021-30465: a target that the image or another container makes a link to the host.
#[test]
fn a_mount_target_that_is_a_link_stays_inside_the_root() {
    let w = World::new();
    let outside = w.path("outside");
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, w.rootfs().join("link")).unwrap();
    symlink("../../../../../../../../tmp", w.rootfs().join("up")).unwrap();
    w.shell("ls /; cat /up/mark", |s| {
        std::fs::write(w.path("mark"), "mark\n").unwrap();
        s["mounts"].as_array_mut().unwrap().extend([
            json!({"destination": "/link/made", "type": "tmpfs", "source": "tmpfs"}),
            json!({"destination": "/up/mark", "type": "bind", "source": w.path("mark"), "options": ["bind"]}),
        ]);
    });
    assert!(w.run().fine().ends_with("mark\n"));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "a folder was made on the host");
}

#[test]
fn proc_and_sys_are_not_mounted_through_links() {
    for (link, name) in [("tmp", "proc"), ("/tmp", "sys")] {
        let w = World::new();
        std::fs::remove_dir(w.rootfs().join(name)).unwrap();
        symlink(link, w.rootfs().join(name)).unwrap();
        w.shell("true", |_| {});
        w.run().refused("must be a folder, not a link");
    }
}

/// CVE-2019-16884: a bind over parts of /proc would feed the runtime or programs what is not so.
#[test]
fn nothing_but_figures_is_bound_inside_proc() {
    let w = World::new();
    std::fs::write(w.path("f"), "0\n").unwrap();
    let bind = |to: &str| json!({"destination": to, "type": "bind", "source": "f", "options": ["bind"]});
    for bad in ["/proc/self/attr/exec", "/proc/sys/kernel/core_pattern", "/data/../proc/version"] {
        w.shell("true", |s| s["mounts"].as_array_mut().unwrap().push(bind(bad)));
        w.run().refused("inside /proc");
    }
    symlink("/proc", w.rootfs().join("p")).unwrap();
    w.shell("true", |s| s["mounts"].as_array_mut().unwrap().push(bind("/p/version")));
    w.run().refused("inside /proc");
    w.shell("cat /proc/uptime", |s| s["mounts"].as_array_mut().unwrap().push(bind("/proc/uptime")));
    assert_eq!(w.run().fine(), "0\n");
}

/// CVE-2025-31133: a mask is a bind of the null device, or of what an image makes pass for it.
#[test]
fn a_mask_is_the_null_device_or_there_is_no_container() {
    let w = World::new();
    std::fs::create_dir(w.path("dev")).unwrap();
    std::fs::write(w.path("secret"), "host's\n").unwrap();
    symlink("/proc/kcore", w.path("dev/null")).unwrap();
    let bound = |s: &mut serde_json::Value| {
        let mounts = s["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| !m["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(json!({"destination": "/dev", "type": "bind", "source": "dev", "options": ["bind"]}));
        s["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/proc/version"]);
    };
    w.shell("cat /proc/version", bound);
    w.run().refused("not the null device");
    std::fs::remove_file(w.path("dev/null")).unwrap();
    std::fs::write(w.path("dev/null"), "not a device").unwrap();
    w.run().refused("not the null device");
}

#[test]
fn masked_and_read_only_paths_are_so_and_cannot_be_undone_without_rights() {
    let w = World::new();
    std::fs::write(w.rootfs().join("data/secret"), "secret").unwrap();
    std::fs::create_dir(w.rootfs().join("data/folder")).unwrap();
    std::fs::write(w.rootfs().join("data/folder/secret"), "secret").unwrap();
    symlink("/data/secret", w.rootfs().join("alias")).unwrap();
    w.shell(
        "cat /data/secret /data/folder/* /alias; echo 1 > /proc/sys/kernel/shmmax && echo written; umount /data/secret 2>/dev/null && echo undone; touch /data/new && echo data-ok",
        |s| {
            s["linux"]["maskedPaths"] = json!(["/alias", "/data/folder", "/no/such", "/data/secret/not-a-folder"]);
        },
    );
    let ended = w.run();
    assert!(!ended.out.contains("secret") && !ended.out.contains("written") && !ended.out.contains("undone") && ended.out.contains("data-ok"), "{ended:?}");
}

/// Another container of the same volume renames a folder to a link and back while this one is made.
#[test]
fn a_volume_that_changes_while_it_is_mounted_into_leads_nowhere_else() {
    let w = World::new();
    let (volume, outside) = (w.path("volume"), w.path("outside"));
    std::fs::create_dir_all(volume.join("a")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    symlink(&outside, volume.join("b")).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, volume.join("a"), rustix::fs::CWD, volume.join("b"), flags);
            }
        });
        w.shell("true", |s| {
            s["mounts"].as_array_mut().unwrap().extend([
                json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["rbind"]}),
                json!({"destination": "/volume/a/made", "type": "tmpfs", "source": "tmpfs"}),
            ]);
            s["linux"]["maskedPaths"] = json!(["/volume/a"]);
            s["linux"]["readonlyPaths"] = json!(["/volume/a"]);
        });
        for _ in 0..30 {
            // Either is fine: made inside, or refused.
            let _ = w.run();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made on the host");
}
