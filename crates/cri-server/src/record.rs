//! What a client said of a sandbox or container, kept by the runtime with it: in one annotation of the runtime's own, so that both are made and go
//! in one step. Sandboxes that the node agent made in the same folder have none; they are shown by what the runtime knows.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keles_cri::{ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata, RunPodSandboxRequest};
use keles_runtime::api::{ContainerStatus, SandboxStatus};
use prost::Message;
use std::collections::BTreeMap;

const KEY: &str = "keles.io/cri";

pub fn annotations(message: &impl Message) -> BTreeMap<String, String> {
    BTreeMap::from([(KEY.to_owned(), STANDARD.encode(message.encode_to_vec()))])
}

fn read<M: Message + Default>(annotations: &BTreeMap<String, String>) -> Option<M> {
    M::decode(STANDARD.decode(annotations.get(KEY)?).ok()?.as_slice()).ok()
}

pub fn is_ours(sandbox: &SandboxStatus) -> bool {
    sandbox.config.annotations.contains_key(KEY)
}

pub fn of_sandbox(sandbox: &SandboxStatus) -> RunPodSandboxRequest {
    let c = &sandbox.config;
    read(&c.annotations).unwrap_or_else(|| {
        let metadata = PodSandboxMetadata { name: c.name.clone(), uid: c.uid.clone(), namespace: c.namespace.clone(), attempt: c.attempt };
        let config = PodSandboxConfig {
            metadata: Some(metadata),
            hostname: c.hostname.clone(),
            log_directory: c.log_directory.display().to_string(),
            labels: c.labels.clone(),
            annotations: c.annotations.clone(),
            ..PodSandboxConfig::default()
        };
        RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
    })
}

pub fn of_container(container: &ContainerStatus) -> ContainerConfig {
    read(&container.annotations).unwrap_or_else(|| ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: container.attempt }),
        image: Some(ImageSpec { image: container.image.clone(), ..ImageSpec::default() }),
        labels: container.labels.clone(),
        annotations: container.annotations.clone(),
        ..ContainerConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_said_comes_back_whole() {
        let said = ContainerConfig { labels: [("a".to_owned(), "b".to_owned())].into(), tty: true, log_path: "c/0.log".into(), ..ContainerConfig::default() };
        assert_eq!(read::<ContainerConfig>(&annotations(&said)), Some(said));
        assert_eq!(read::<ContainerConfig>(&BTreeMap::new()), None);
    }
}
