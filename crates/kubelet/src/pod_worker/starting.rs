//! One container's start: image, configuration, creation, start, postStart.

use super::{Retry, Worker};
use crate::container_config::{self, Input};
use crate::events::{NORMAL, WARNING};
use crate::image_access::Records;
use crate::image_credentials::{self, Source};
use crate::image_store::NodeImage;
use crate::log_links::{self, Whose};
use crate::machine::StartFailure;
use crate::machine::actions::{Role, Start};
use crate::{env, ephemeral, hook, metrics};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Container;
use keles_images::Auth;
use keles_oci::Reference;
use keles_runtime::api::{ContainerConfig, ContainerState, ContainerStatus, RuntimeError, Seccomp};
use keles_runtime::cdi;
use keles_volumes::Objects;
use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

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
        let kind = match start.role {
            Role::Main => "container",
            Role::Init => "init_container",
            Role::Ephemeral => "ephemeral_container",
        };
        metrics::CONTAINERS_STARTED.with([kind]).increment();
        match self.try_start(start, &container).await {
            Ok(()) => {
                self.failures.remove(&container.name);
                self.forget_old_ends(&container.name, start.attempt).await;
            }
            Err(None) => {}
            Err(Some(failure)) => {
                metrics::CONTAINERS_NOT_STARTED.with([failure.reason, kind]).increment();
                if !matches!(failure.reason, "RunContainerError" | "PostStartHookError") {
                    self.retries.entry(container.name.clone()).or_insert(Retry { at: Timestamp::now() + CONFIG_RETRY, soften_at: None });
                }
                self.failures.insert(container.name.clone(), failure);
            }
        }
    }

    /// Of what a container was before attempt `now`, the last end stays: for its status, its message and `kubectl logs --previous` (upstream's
    /// `--maximum-dead-containers-per-container`).
    async fn forget_old_ends(&mut self, name: &str, now: u32) {
        let ended = |record: &&ContainerStatus| record.name == name && record.state == ContainerState::Exited && record.attempt < now;
        let newest = self.records.iter().filter(ended).map(|record| record.attempt).max();
        let old: Vec<ContainerStatus> = self.records.iter().filter(ended).filter(|record| Some(record.attempt) != newest).cloned().collect();
        for record in old {
            match self.agent.runtime.remove_container(&record.id).await {
                Ok(()) => {
                    self.records.retain(|other| other.id != record.id);
                    log_links::remove(&self.agent.config.log_links_dir, Whose::of(&self.pod, &record));
                    crate::log_rotation::remove(&record.log_path);
                }
                Err(error) => tracing::warn!(%error, container = record.id, "an old container was not removed"),
            }
        }
    }

    /// `Err(None)`: the pod is ending, nothing more is to be said.
    async fn try_start(&mut self, start: &Start, container: &Container) -> Result<(), Option<StartFailure>> {
        let field = self.field_of(&container.name);
        let image = self.image_for(container, &field).await?;
        self.image_volumes(container, &field).await?;
        let (mut config, cdi) = match self.configure(start, container, &image).await {
            Ok(config) => config,
            Err(message) => return Err(Some(self.failed(&field, "CreateContainerConfigError", message))),
        };
        if let Err(error) = cdi::inject(&cdi, &cdi::FOLDERS.map(Path::new), &mut config) {
            return Err(Some(self.failed(&field, "CreateContainerError", format!("failed to inject CDI devices: {error}"))));
        }
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
        if let Some(record) = self.records.iter().find(|record| record.id == id) {
            log_links::add(&self.agent.config.log_links_dir, Whose::of(&self.pod, record), &self.log_dir().join(&record.log_path));
        }
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

    /// What the runtime is asked for, and which CDI devices are to be added.
    async fn configure(&self, start: &Start, container: &Container, image: &NodeImage) -> Result<(ContainerConfig, Vec<String>), String> {
        let ips = self.sandbox.as_ref().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let facts = self.agent.downward_facts(&ips);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let links = self.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let services = self.agent.services.variables(namespace, links, !crate::static_pods::is_static(&self.pod)).await;
        let given = self.agent.placement.devices.for_container(&self.uid, &container.name).await.map_err(|error| error.to_string())?;
        let own = env::build(&self.pod, container, &self.agent.objects, &facts, &services, &self.mounted).await.map_err(|error| error.to_string())?;
        // The container's own variables win over those of its devices.
        let env = given.env.into_iter().chain(own).collect();
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
            pid_target: self.pid_target(start)?,
            handler: &self.handler(),
        };
        let mut config = container_config::build(&input).map_err(|error| error.to_string())?;
        self.agent.placement.pin(&self.uid, &container.name, &mut config.resources);
        config.resources.swap_bytes = self.agent.facts.swap.of_container(&self.pod, container);
        config.mounts.splice(0..0, given.mounts);
        config.devices.extend(given.devices);
        config.annotations.extend(given.annotations);
        let claimed = self.agent.placement.dra.cdi(&self.pod, container).map_err(|error| error.to_string())?;
        Ok((config, given.cdi.into_iter().chain(claimed).collect()))
    }

    /// The container that an ephemeral one is to look into (`kubectl debug --target`).
    fn pid_target(&self, start: &Start) -> Result<Option<String>, String> {
        let ephemeral = self.pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_ref()).filter(|_| start.role == Role::Ephemeral);
        let target = ephemeral.and_then(|all| all[start.index].target_container_name.as_deref()).filter(|name| !name.is_empty());
        let Some(target) = target else { return Ok(None) };
        let record = self.observed().newest(target).map(|record| record.id.clone());
        record.map(Some).ok_or_else(|| format!("unable to find target container {target}"))
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
            if image.by_runtime {
                let message = format!(
                    "volume {}: {} has its images itself, and image volumes from those are not built; leave --container-runtime-endpoint out, or copy the files in an init container",
                    volume.name, self.agent.facts.info.container_runtime_version
                );
                return Err(Some(self.failed(field, "CreateContainerError", message)));
            }
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
        let parsed = match Reference::parse(reference) {
            Ok(parsed) => parsed,
            Err(fault) => {
                let message = format!("Failed to apply default image tag \"{reference}\": couldn't parse image name \"{reference}\": {fault}");
                event(WARNING, "InspectFailed", message.clone());
                event(WARNING, "Failed", "Error: InvalidImageName".into());
                return Err(Some(StartFailure { reason: "InvalidImageName", message }));
            }
        };
        let found = match agent.images.find(reference).await {
            Ok(found) => found,
            Err(error) => {
                event(WARNING, "InspectFailed", format!("Failed to inspect image \"{reference}\": {error}"));
                return Err(Some(self.failed(field, "ImageInspectError", error.to_string())));
            }
        };
        let never = |message: String| {
            event(WARNING, "ErrImageNeverPull", message.clone());
            event(WARNING, "Failed", "Error: ErrImageNeverPull".into());
            Err(Some(StartFailure { reason: "ErrImageNeverPull", message }))
        };
        let records = Records::new(&agent.config.data_dir);
        let fits = |credentials: &[(Auth, Source)]| {
            matches!(policy, "IfNotPresent" | "Never") && found.as_ref().is_some_and(|image| records.may_use(reference, &parsed, &image.id, credentials))
        };
        // What is everybody's needs neither the API server nor a plugin.
        let is_free = fits(&[]);
        let credentials = if is_free || (found.is_none() && policy == "Never") { Vec::new() } else { self.credentials(&parsed).await };
        let usable = is_free || fits(&credentials);
        match (found, policy) {
            (Some(image), _) if usable => {
                event(NORMAL, "Pulled", format!("Container image \"{reference}\" already present on machine and can be accessed by the pod"));
                Ok(image)
            }
            (Some(_), "Never") => never(format!("Container image \"{reference}\" is present with pull policy of Never but the pod has no credentials that it was pulled with")),
            (None, "Never") => never(format!("Container image \"{reference}\" is not present with pull policy of Never")),
            _ => self.pull(name, reference, &parsed, &credentials, field).await,
        }
    }

    async fn pull(&mut self, name: &str, reference: &str, parsed: &Reference, credentials: &[(Auth, Source)], field: &str) -> Result<NodeImage, Option<StartFailure>> {
        let agent = self.agent.clone();
        let pod = self.pod.clone();
        let event = |kind, reason: &str, text: String| agent.events.container(&pod, field, kind, reason, text);
        event(NORMAL, "Pulling", format!("Pulling image \"{reference}\""));
        let begun = Instant::now();
        let auths: Vec<Auth> = credentials.iter().map(|(auth, _)| auth.clone()).collect();
        let records = Records::new(&agent.config.data_dir);
        let ending = super::until_ends(self.wish.clone());
        // A pull may take long; the status says meanwhile that the pod is being made.
        self.publish();
        // Noted first: an image whose pull ends with the agent must not count as everybody's.
        let noted = records.begin(reference).map_err(|error| crate::image_store::ImageError(format!("the pull cannot be noted: {error}")));
        let pulled = match noted {
            Err(error) => Err(error),
            Ok(()) => tokio::select! {
                pulled = agent.images.pull(reference, &auths) => pulled,
                () = ending => return Err(None),
            },
        };
        self.startup.pulled(SignedDuration::try_from(begun.elapsed()).unwrap_or_default());
        let pulled = pulled.and_then(|pulled| {
            let by = pulled.accepted.and_then(|at| credentials.get(at));
            records.pulled(reference, parsed, &pulled.image.id, by).map_err(|error| crate::image_store::ImageError(format!("the pull cannot be noted: {error}")))?;
            Ok(pulled)
        });
        match pulled {
            Ok(pulled) => {
                let whole = begun.elapsed();
                let took = whole.saturating_sub(pulled.waited);
                let size = pulled.image.size_bytes;
                metrics::pulled(size, whole);
                let text = format!("Successfully pulled image \"{reference}\" in {} ({} including waiting). Image size: {size} bytes.", in_go(took), in_go(whole));
                event(NORMAL, "Pulled", text);
                self.image_backoffs.clear(reference);
                Ok(pulled.image)
            }
            Err(error) => {
                records.failed(reference);
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

    /// Credentials for an image, best first, by the pod's imagePullSecrets and the node's; a secret that is missing is passed over, as upstream does.
    async fn credentials(&self, image: &Reference) -> Vec<(Auth, Source)> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut secrets = Vec::new();
        for reference in self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
            match self.agent.objects.secret(namespace, &reference.name).await {
                Ok(found) => secrets.extend(found),
                Err(error) => tracing::warn!(%error, secret = reference.name, "image pull secret not read"),
            }
        }
        let provided = self.agent.config.credential_providers.provide(image, &self.pod, &self.agent.objects).await;
        image_credentials::credentials(image, &secrets, &self.agent.config.data_dir, &provided)
    }

    pub(super) fn address(&self) -> String {
        let ips = self.sandbox.as_ref().map(|sandbox| sandbox.ips.as_slice()).unwrap_or_default();
        ips.first().cloned().unwrap_or_else(|| self.agent.host_ips().first().cloned().unwrap_or_default())
    }
}

/// As Go prints a duration, to the millisecond: `405ms`, `1.2s`, `1m45.457s`.
fn in_go(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".into();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!(".{:03}", rest % 1000);
    let seconds = format!("{}{}s", rest / 1000, fraction.trim_end_matches('0').trim_end_matches('.'));
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_upstream_prints_them() {
        let text = |millis| in_go(Duration::from_millis(millis));
        assert_eq!((text(0), text(405), text(1200), text(2000)), ("0s".into(), "405ms".into(), "1.2s".into(), "2s".into()));
        assert_eq!((text(105_457), text(60_000), text(3_600_000)), ("1m45.457s".into(), "1m0s".into(), "1h0m0s".into()));
    }
}
