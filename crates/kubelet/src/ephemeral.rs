//! Ephemeral containers (KEP-277) seen as containers: the same fields but for the target's name.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let from = ephemeral.clone();
    Container {
        name: from.name,
        image: from.image,
        command: from.command,
        args: from.args,
        working_dir: from.working_dir,
        env: from.env,
        env_from: from.env_from,
        volume_mounts: from.volume_mounts,
        image_pull_policy: from.image_pull_policy,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        tty: from.tty,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        restart_policy: Some("Never".into()),
        ..Default::default()
    }
}
