//! One container's start: image, configuration, creation, start, postStart.

use super::{Retry, Worker};
use crate::container_config::{self, Input};
use crate::events::{NORMAL, WARNING};
use crate::image_store::{NodeImage, RegistryLogin};
use crate::machine::StartFailure;
use crate::machine::actions::{Role, Start};
use crate::{env, ephemeral, hook};
use base64::Engine as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use keles_oci::Reference;
use keles_runtime::api::{RuntimeError, Seccomp};
use keles_volumes::Objects;
use std::borrow::Cow;
use std::time::Instant;

pub(super) const CRASH_LOOP: &str = "CrashLoopBackOff";
const ERR_IMAGE_PULL: &str = "ErrImagePull";
const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";

/// Pause before a start that failed for its configuration is tried again (upstream's worker back-off).
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(10);
/// ErrImagePull is shown this long before ImagePullBackOff: upstream's worker looks again 10 to 15 seconds after a failure.
const SOFTEN_AFTER: SignedDuration = SignedDuration::from_secs(12);

impl Worker {
    pub(super) fn container_of(&self, start: &Start) -> Cow<'_, Container> {
        let spec = self.pod.spec.as_ref().expect("the API server admits no pod without a spec");
        match start.role {
            Role::Main => Cow::Borrowed(&spec.containers[start.index]),
            Role::Init => Cow::Borrowed(&spec.init_containers.as_ref().expect("the machine counted them")[start.index]),
            Role::Ephemeral => Cow::Owned(ephemeral::as_container(&spec.ephemeral_containers.as_ref().expect("the machine counted them")[start.index])),
        }
    }

    /// Starts one container, or notes why it could not be. `ended`: the end that this attempt follows, for the back-off of the next.
    pub(super) async fn start(&mut self, start: &Start, ended: Option<Timestamp>) {
        let container = self.container_of(start).into_owned();
        if let Some(ended) = ended {
            self.backoffs.attempted(&container.name, ended, Timestamp::now());
        }
        self.retries.remove(&container.name);
        match self.try_start(start, &container).await {
            Ok(()) => drop(self.failures.remove(&container.name)),
            Err(None) => {}
            Err(Some(failure)) => {
                if !matches!(failure.reason, "RunContainerError" | "PostStartHookError") {
                    self.retries.entry(container.name.clone()).or_insert(Retry { at: Timestamp::now() + CONFIG_RETRY, soften_at: None });
                }
                self.failures.insert(container.name.clone(), failure);
            }
        }
    }

    /// `Err(None)`: the pod is ending, nothing more is to be said.
    async fn try_start(&mut self, start: &Start, container: &Container) -> Result<(), Option<StartFailure>> {
        let field = self.field_of(&container.name);
        let image = self.image_for(container, &field).await?;
        self.image_volumes(container, &field).await?;
        let config = match self.configure(start, container, &image).await {
            Ok(config) => config,
            Err(message) => return Err(Some(self.failed(&field, "CreateContainerConfigError", message))),
        };
        if let Seccomp::Localhost(profile) = &config.security.seccomp
            && let Err(error) = std::fs::File::open(profile)
        {
            let message = format!("unable to load local seccomp profile {}: {error}", profile.display());
            return Err(Some(self.failed(&field, "CreateContainerError", message)));
        }
        let sandbox = self.sandbox.as_ref().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let id = match self.agent.runtime.create_container(&sandbox, config).await {
            Ok(id) => id,
            Err(error) => return Err(Some(self.failed(&field, "CreateContainerError", error.to_string()))),
        };
        self.agent.events.container(&self.pod, &field, NORMAL, "Created", "Container created");
        let started = self.agent.runtime.start_container(&id).await;
        self.learn(&id).await;
        if let Err(error) = started {
            let message = match error {
                RuntimeError::Start { message, .. } => message,
                other => other.to_string(),
            };
            return Err(Some(self.failed(&field, "RunContainerError", message)));
        }
        self.agent.events.container(&self.pod, &field, NORMAL, "Started", "Container started");
        self.run_post_start(container, &field, &id).await
    }

    fn failed(&self, field: &str, reason: &'static str, message: String) -> StartFailure {
        self.agent.events.container(&self.pod, field, WARNING, "Failed", format!("Error: {message}"));
        StartFailure { reason, message }
    }

    async fn run_post_start(&mut self, container: &Container, field: &str, id: &str) -> Result<(), Option<StartFailure>> {
        let Some(handler) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone()) else { return Ok(()) };
        self.publish();
        let address = self.address();
        let runtime = self.agent.runtime.clone();
        let ending = super::until_ends(self.wish.clone());
        let outcome = tokio::select! {
            outcome = hook::run(&handler, container, id, &address, runtime.as_ref()) => outcome,
            () = ending => return Err(None),
        };
        let Err(fault) = outcome else { return Ok(()) };
        tracing::info!(pod = crate::pod_ref(&self.pod), container = container.name, fault, "postStart hook failed");
        self.agent.events.container(&self.pod, field, WARNING, "FailedPostStartHook", "PostStartHook failed");
        self.kill_after_hook(container, id).await;
        Err(Some(StartFailure { reason: "PostStartHookError", message: "PostStartHook failed".into() }))
    }

    async fn configure(&self, start: &Start, container: &Container, image: &NodeImage) -> Result<keles_runtime::api::ContainerConfig, String> {
        let ips = self.sandbox.as_ref().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let facts = self.agent.downward_facts(&ips);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let services = self.agent.services.variables(namespace, links).await;
        let env = env::build(&self.pod, container, &self.agent.objects, &facts, &services, &self.mounted).await.map_err(|error| error.to_string())?;
        let input = Input {
            config: &self.agent.config,
            pod: &self.pod,
            container,
            image,
            env,
            mounted: &self.mounted,
            pod_ips: &ips,
            attempt: start.attempt,
            node_memory_bytes: self.agent.facts.memory_bytes,
        };
        container_config::build(&input).map_err(|error| error.to_string())
    }

    /// The container's image by its pull policy.
    async fn image_for(&mut self, container: &Container, field: &str) -> Result<NodeImage, Option<StartFailure>> {
        let reference = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.clone().unwrap_or_else(|| "IfNotPresent".into());
        self.image(&container.name, &reference, &policy, field).await
    }

    /// Gets the images of the volumes that the container mounts and sets these up (KEP-4639). A volume's image that cannot be had keeps the
    /// container from starting with the reasons its own image would.
    async fn image_volumes(&mut self, container: &Container, field: &str) -> Result<(), Option<StartFailure>> {
        let pod = self.pod.clone();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let Some(source) = volume.image.as_ref().filter(|_| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name)) else { continue };
            let reference = source.reference.clone().unwrap_or_default();
            let policy = source.pull_policy.clone().unwrap_or_else(|| "IfNotPresent".into());
            let image = self.image(&container.name, &reference, &policy, field).await?;
            match keles_volumes::image::set_up(&volume.name, &image.layers, &self.agent.config.pod_dir(&self.uid)) {
                Ok(ready) => drop(self.mounted.insert(volume.name.clone(), ready)),
                Err(error) => return Err(Some(self.failed(field, "CreateContainerError", error.to_string()))),
            }
        }
        Ok(())
    }

    /// An image for container `name` by a pull policy.
    async fn image(&mut self, name: &str, reference: &str, policy: &str, field: &str) -> Result<NodeImage, Option<StartFailure>> {
        let agent = self.agent.clone();
        let event = |kind, reason: &str, text: String| agent.events.container(&self.pod, field, kind, reason, text);
        if let Err(fault) = Reference::parse(reference) {
            let message = format!("Failed to apply default image tag \"{reference}\": couldn't parse image name \"{reference}\": {fault}");
            event(WARNING, "InspectFailed", message.clone());
            event(WARNING, "Failed", "Error: InvalidImageName".into());
            return Err(Some(StartFailure { reason: "InvalidImageName", message }));
        }
        let found = match agent.images.find(reference).await {
            Ok(found) => found,
            Err(error) => {
                event(WARNING, "InspectFailed", format!("Failed to inspect image \"{reference}\": {error}"));
                return Err(Some(self.failed(field, "ImageInspectError", error.to_string())));
            }
        };
        match (found, policy) {
            (Some(image), "IfNotPresent" | "Never") => {
                event(NORMAL, "Pulled", format!("Container image \"{reference}\" already present on machine and can be accessed by the pod"));
                Ok(image)
            }
            (None, "Never") => {
                let message = format!("Container image \"{reference}\" is not present with pull policy of Never");
                event(WARNING, "ErrImageNeverPull", message.clone());
                event(WARNING, "Failed", "Error: ErrImageNeverPull".into());
                Err(Some(StartFailure { reason: "ErrImageNeverPull", message }))
            }
            _ => self.pull(name, reference, field).await,
        }
    }

    async fn pull(&mut self, name: &str, reference: &str, field: &str) -> Result<NodeImage, Option<StartFailure>> {
        let event = |kind, reason: &str, text: String| self.agent.events.container(&self.pod, field, kind, reason, text);
        event(NORMAL, "Pulling", format!("Pulling image \"{reference}\""));
        let begun = Instant::now();
        let logins = self.logins().await;
        let images = self.agent.images.clone();
        let ending = super::until_ends(self.wish.clone());
        // A pull may take long; the status says meanwhile that the pod is being made.
        self.publish();
        let pulled = tokio::select! {
            pulled = images.pull(reference, &logins) => pulled,
            () = ending => return Err(None),
        };
        let event = |kind, reason: &str, text: String| self.agent.events.container(&self.pod, field, kind, reason, text);
        match pulled {
            Ok(image) => {
                let took = format!("{:.3}s", begun.elapsed().as_secs_f64());
                let size = image.size_bytes;
                event(NORMAL, "Pulled", format!("Successfully pulled image \"{reference}\" in {took} ({took} including waiting). Image size: {size} bytes."));
                self.image_backoffs.clear(reference);
                Ok(image)
            }
            Err(error) => {
                event(WARNING, "Failed", format!("Failed to pull image \"{reference}\": {error}"));
                event(WARNING, "Failed", format!("Error: {ERR_IMAGE_PULL}"));
                let now = Timestamp::now();
                self.image_backoffs.attempted(reference, now, now);
                let soften_at = now + SOFTEN_AFTER;
                let until = self.image_backoffs.waiting(reference, now, now).map_or(now + CONFIG_RETRY, |wait| wait.until);
                self.retries.insert(name.into(), Retry { at: until.max(soften_at), soften_at: Some(soften_at) });
                Err(Some(StartFailure { reason: ERR_IMAGE_PULL, message: error.to_string() }))
            }
        }
    }

    /// ErrImagePull becomes ImagePullBackOff while the next pull is waited for.
    pub(super) fn soften_failures(&mut self) {
        let now = Timestamp::now();
        for (name, retry) in &mut self.retries {
            if retry.soften_at.is_none_or(|at| at > now) {
                continue;
            }
            retry.soften_at = None;
            let Some(failure) = self.failures.get_mut(name).filter(|failure| failure.reason == ERR_IMAGE_PULL) else { continue };
            let spec = self.pod.spec.as_ref().expect("the API server admits no pod without a spec");
            let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
            let image = all.into_iter().find(|container| container.name == *name).and_then(|container| container.image.clone()).unwrap_or_default();
            let text = format!("Back-off pulling image \"{image}\"");
            let list = if spec.containers.iter().any(|container| container.name == *name) { "containers" } else { "initContainers" };
            let field = format!("spec.{list}{{{name}}}");
            self.agent.events.container(&self.pod, &field, NORMAL, "BackOff", text.clone());
            self.agent.events.container(&self.pod, &field, WARNING, "Failed", format!("Error: {IMAGE_PULL_BACK_OFF}"));
            *failure = StartFailure { reason: IMAGE_PULL_BACK_OFF, message: format!("{text}: {ERR_IMAGE_PULL}: {}", failure.message) };
        }
    }

    /// Says once which of the pod's imagePullSecrets are missing, whether or not anything is to be pulled.
    pub(super) async fn name_missing_pull_secrets(&self) {
        let references: Vec<String> = self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()).map(|reference| reference.name.clone()).collect();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut missing = Vec::new();
        for name in references {
            if let Ok(None) = self.agent.objects.secret(namespace, &name).await {
                missing.push(name);
            }
        }
        if !missing.is_empty() {
            let text = format!("Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.", missing.join(", "));
            self.agent.events.pod(&self.pod, WARNING, "FailedToRetrieveImagePullSecret", text);
        }
    }

    /// Credentials of the pod's imagePullSecrets; one that is missing is passed over, as upstream does.
    async fn logins(&self) -> Vec<RegistryLogin> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut logins = Vec::new();
        for reference in self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
            match self.agent.objects.secret(namespace, &reference.name).await {
                Ok(Some(secret)) => logins.extend(parse_logins(&secret)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, secret = reference.name, "image pull secret not read"),
            }
        }
        logins
    }

    pub(super) fn address(&self) -> String {
        let ips = self.sandbox.as_ref().map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default();
        ips.first().cloned().unwrap_or_else(|| self.agent.host_ips().first().cloned().unwrap_or_default())
    }
}

/// `.dockerconfigjson` or the older `.dockercfg`.
fn parse_logins(secret: &k8s_openapi::api::core::v1::Secret) -> Vec<RegistryLogin> {
    let data = secret.data.as_ref();
    let read = |key: &str| data.and_then(|data| data.get(key)).and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes.0).ok());
    let table = read(".dockerconfigjson").and_then(|config| config.get("auths").cloned()).or_else(|| read(".dockercfg"));
    let Some(serde_json::Value::Object(table)) = table else { return Vec::new() };
    table.into_iter().filter_map(|(registry, entry)| login(&registry, &entry)).collect()
}

fn login(registry: &str, entry: &serde_json::Value) -> Option<RegistryLogin> {
    let host = registry.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    let host = if host == "index.docker.io" { "docker.io" } else { host };
    let text = |key: &str| entry.get(key).and_then(serde_json::Value::as_str).map(String::from);
    let (username, password) = match text("auth") {
        Some(auth) => {
            let decoded = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(auth).ok()?).ok()?;
            let (username, password) = decoded.split_once(':')?;
            (username.to_string(), password.to_string())
        }
        None => (text("username")?, text("password")?),
    };
    Some(RegistryLogin { registry: host.into(), username, password })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn a_pull_secret_gives_logins_by_registry() {
        let auth = base64::engine::general_purpose::STANDARD.encode("me:pa:ss");
        let json = serde_json::json!({"auths": {"https://index.docker.io/v1/": {"auth": auth}, "r.example:5000": {"username": "u", "password": "p"}}});
        let data = std::collections::BTreeMap::from([(".dockerconfigjson".to_string(), ByteString(json.to_string().into_bytes()))]);
        let logins = parse_logins(&k8s_openapi::api::core::v1::Secret { data: Some(data), ..Default::default() });
        let login = |registry: &str, username: &str, password: &str| RegistryLogin { registry: registry.into(), username: username.into(), password: password.into() };
        assert_eq!(logins, [login("docker.io", "me", "pa:ss"), login("r.example:5000", "u", "p")]);
    }
}
