//! Users, privileges, sysctls.

use keles_e2e::api::{World, shell, with};
use keles_e2e::conformance::{Case, case};
use serde_json::{Value, json};

pub fn cases() -> Vec<Case> {
    vec![
        case("Security Context When creating a container with runAsUser should run the container with uid 65534", |w| {
            ids(w, json!({}), json!({"runAsUser": 65534}), "65534 65534\n")
        }),
        case("Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup", |w| {
            ids(w, json!({}), json!({"runAsUser": 1001, "runAsGroup": 2002}), "1001 2002\n")
        }),
        case("Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup", |w| {
            ids(w, json!({"runAsUser": 1001, "runAsGroup": 2002}), json!({}), "1001 2002\n")
        }),
        case("Security Context When creating a pod with privileged should run the container as unprivileged when false", |w| async move {
            let container = with(shell("ip link add dummy0 type dummy || true"), json!({"securityContext": {"privileged": false}}));
            let log = w.output(json!({"containers": [container]})).await;
            assert!(log.contains("Operation not permitted"), "{log}");
        }),
        case("Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false", |w| async move {
            let container = with(shell("touch checkfile"), json!({"securityContext": {"readOnlyRootFilesystem": false}}));
            w.output(json!({"containers": [container]})).await;
        }),
        case("Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false", |w| async move {
            // Upstream's image has a program with the set-user-id bit; the kernel's flag is what keeps such a program from its effect.
            let own = json!({"securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": false}});
            let log = w.output(json!({"containers": [with(shell("id -u; grep NoNewPrivs /proc/self/status"), own)]})).await;
            assert_eq!(log, "1000\nNoNewPrivs:\t1\n");
        }),
        case("Sysctls [LinuxOnly] [NodeConformance] should support sysctls", |w| async move {
            let log =
                w.output(json!({"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}, "containers": [shell("sysctl kernel.shm_rmid_forced")]})).await;
            assert_eq!(log, "kernel.shm_rmid_forced = 1\n");
        }),
        case("Sysctls [LinuxOnly] [NodeConformance] should reject invalid sysctls", |w| async move {
            let names = ["foo-", "kernel.shmmax", "safe-and-unsafe", "bar.."];
            let sysctls = names.map(|n| json!({"name": n, "value": "bar"}));
            let e = w.pods().try_create(&json!({"metadata": {"name": "p"}, "spec": {"securityContext": {"sysctls": sysctls}, "containers": [shell("true")]}})).await;
            let e = e.expect_err("two names are none");
            assert!(e.message.contains("Invalid value: \"foo-\"") && e.message.contains("Invalid value: \"bar..\""), "{e:?}");
            assert!(!e.message.contains("safe-and-unsafe") && !e.message.contains("kernel.shmmax"), "{e:?}");
        }),
    ]
}

/// Without a group of its own a user has the one that the image's `/etc/passwd` gives it.
async fn ids(w: World, pod: Value, container: Value, wanted: &str) {
    let container = with(shell("echo $(id -u) $(id -g)"), json!({"securityContext": container}));
    assert_eq!(w.output(json!({"securityContext": pod, "containers": [container]})).await, wanted);
}
