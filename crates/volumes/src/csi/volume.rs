//! Bringing a volume to a pod: wait until it is attached, stage it on the node, grow it, publish it to the pod, give the pod's group its files.
//!
//! Entry points: [`persistent`] for volumes of claims, [`inline`] for those that a pod's spec describes. What the driver is told of the pod, and how its files
//! are owned, the CSIDriver object says; a driver without one has to have its volumes attached.

use super::driver::{Capabilities, Driver, is_infeasible, text};
use super::state::{Held, VolumeData};
use super::{Csi, attachment_name, hash, lock, wire};
use crate::{Bound, Context, Ready, Result, TokenAsk, VolumeError, ownership};
use k8s_openapi::api::core::v1::{CSIVolumeSource, PersistentVolume, PersistentVolumeClaim, SecretReference};
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec};
use keles_rules::volume_binding::{capacity, is_block};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use wire::Capability;

/// Upstream's wait for a volume to be attached, after which people are told and the wait begins anew.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(123);
/// The same for a volume that the pod has already, whose publishing is only renewed.
const ATTACHED_TIMEOUT: Duration = Duration::from_secs(10);
const POD_INFO: &str = "csi.storage.k8s.io/";
const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";
/// A claim's `allocatedResourceStatuses`, written by `claim_did_not_grow`.
const INFEASIBLE: &str = "NodeResizeInfeasible";
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

type Texts = HashMap<String, String>;

/// Who owns the files, CSIDriver's `fsGroupPolicy` applied.
#[derive(Clone, Copy)]
struct Group {
    id: u32,
    policy: ownership::ChangePolicy,
    /// The policy lets the agent change files; a driver that takes the group itself is told it in any case.
    by_agent: bool,
}

/// A growth that the driver has not made on this node yet.
#[derive(Clone)]
pub struct Growth {
    pub to_bytes: i64,
    secrets: Texts,
}

/// Everything the driver is asked with; nothing of the pod's objects is read any more.
struct Plan {
    held: Held,
    fs_type: String,
    mount_flags: Vec<String>,
    /// As the API names it.
    access_mode: String,
    read_only: bool,
    /// The driver said so of the volume when it attached it.
    publish_context: Texts,
    volume_context: Texts,
    /// Of the pod: added for publishing only.
    pod_context: Texts,
    stage_secrets: Texts,
    publish_secrets: Texts,
    growth: Option<Growth>,
    group: Option<Group>,
    /// Publish also what is published (`requiresRepublish`).
    republish: bool,
}

/// How far a plan came besides the volume itself.
enum Grown {
    No,
    Done,
    Failed { why: String, infeasible: bool },
}

/// A volume of a claim.
pub(crate) async fn persistent(bound: &Bound<'_>, context: &Context<'_>) -> Result<Ready> {
    let spec = bound.volume.spec.as_ref().expect("the caller read the source in it");
    let source = spec.csi.as_ref().expect("the caller read the source");
    let object = context.objects.csi_driver(&source.driver).await?;
    let driver = driver_spec(object.as_ref());
    check_lifecycle(&driver, &source.driver, "Persistent")?;
    let block = is_block(spec.volume_mode.as_deref());
    let attached = driver.attach_required != Some(false);
    let data = VolumeData {
        driver: source.driver.clone(),
        handle: source.volume_handle.clone(),
        spec_name: bound.name().into(),
        node: context.facts.node_name.clone(),
        attachment: attachment_name(&source.volume_handle, &source.driver, &context.facts.node_name),
        persistent: true,
        attached,
        pod_volume: bound.pod_volume.into(),
        claim: bound.claim.metadata.name.clone().unwrap_or_default(),
    };
    let held = context.csi.places.of_pod(context.uid(), data, block);
    let republish = driver.requires_republish == Some(true);
    let is_there = held.is_there()?;
    let publish_context = match attached && (!is_there || republish) {
        true => wait_attached(&held.data, if is_there { ATTACHED_TIMEOUT } else { ATTACH_TIMEOUT }, context).await?,
        false => Texts::new(),
    };
    let read_only = bound.read_only || source.read_only == Some(true);
    let modes = spec.access_modes.clone().unwrap_or_default();
    let fs_type = source.fs_type.clone().unwrap_or_default();
    let group = group(context, &driver, read_only, block, || {
        let one_node = modes.iter().any(|mode| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod"));
        !fs_type.is_empty() && one_node
    });
    let (pod_context, tokens_secret) = pod_context(&driver, false, context).await?;
    let mut publish_secrets = secrets(source.node_publish_secret_ref.as_ref(), context).await?;
    publish_secrets.extend(tokens_secret);
    let plan = Plan {
        held,
        fs_type,
        mount_flags: spec.mount_options.clone().unwrap_or_default(),
        access_mode: modes.first().cloned().unwrap_or_default(),
        read_only,
        publish_context,
        volume_context: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        pod_context,
        stage_secrets: secrets(source.node_stage_secret_ref.as_ref(), context).await?,
        publish_secrets,
        growth: growth(bound.volume, bound.claim, source.node_expand_secret_ref.as_ref(), context).await?,
        group,
        republish,
    };
    if plan.growth.is_some() {
        context.objects.claim_grows(bound.claim).await?;
    }
    let ready = Ready { path: plan.held.target.clone(), is_device: block, follows: true };
    let grown = run(plan, context).await?;
    tell_growth(grown, bound, context).await?;
    Ok(ready)
}

/// A volume that the pod's spec describes and that lives with the pod (KEP-596).
pub(crate) async fn inline(name: &str, source: &CSIVolumeSource, context: &Context<'_>) -> Result<Ready> {
    let object = context.objects.csi_driver(&source.driver).await?;
    let driver = driver_spec(object.as_ref());
    check_lifecycle(&driver, &source.driver, "Ephemeral")?;
    let handle = format!("csi-{}", hash(&format!("{}{name}", context.uid())));
    let data = VolumeData {
        attachment: attachment_name(&handle, &source.driver, &context.facts.node_name),
        driver: source.driver.clone(),
        handle,
        spec_name: name.into(),
        node: context.facts.node_name.clone(),
        pod_volume: name.into(),
        ..VolumeData::default()
    };
    let read_only = source.read_only == Some(true);
    let secret = source.node_publish_secret_ref.as_ref().map(|reference| SecretReference { name: Some(reference.name.clone()), namespace: Some(context.namespace().into()) });
    let (pod_context, tokens_secret) = pod_context(&driver, true, context).await?;
    let mut publish_secrets = secrets(secret.as_ref(), context).await?;
    publish_secrets.extend(tokens_secret);
    let plan = Plan {
        held: context.csi.places.of_pod(context.uid(), data, false),
        fs_type: source.fs_type.clone().unwrap_or_default(),
        mount_flags: Vec::new(),
        access_mode: "ReadWriteOnce".into(),
        read_only,
        publish_context: Texts::new(),
        volume_context: source.volume_attributes.clone().unwrap_or_default().into_iter().collect(),
        pod_context,
        stage_secrets: Texts::new(),
        publish_secrets,
        growth: None,
        // An inline volume has no access modes, so only the policy File speaks for it.
        group: group(context, &driver, read_only, false, || false),
        republish: driver.requires_republish == Some(true),
    };
    let ready = Ready { path: plan.held.target.clone(), is_device: false, follows: plan.republish };
    run(plan, context).await?;
    Ok(ready)
}

fn driver_spec(object: Option<&CSIDriver>) -> CSIDriverSpec {
    object.map(|object| object.spec.clone()).unwrap_or_default()
}

fn check_lifecycle(driver: &CSIDriverSpec, name: &str, wanted: &str) -> Result<()> {
    let default = vec!["Persistent".to_owned()];
    let modes = driver.volume_lifecycle_modes.as_ref().filter(|modes| !modes.is_empty()).unwrap_or(&default);
    if modes.iter().any(|mode| mode == wanted) {
        return Ok(());
    }
    Err(VolumeError::Field(format!("volume mode {wanted:?} not supported by driver {name} (only supports {modes:?})")))
}

/// Waits until the controllers have attached the volume to this node; what the driver then said of it.
async fn wait_attached(data: &VolumeData, limit: Duration, context: &Context<'_>) -> Result<Texts> {
    let unique = data.unique_name();
    let attached = async {
        context.csi.claim_use(&unique, context.uid()).await;
        context.objects.attached(&unique, &data.attachment).await
    };
    let late = |_| {
        let why = format!("timed out waiting for external-attacher of {} CSI driver to attach volume {}", data.driver, data.handle);
        Err(VolumeError::Stage { stage: "MountVolume.WaitForAttach", volume: data.spec_name.clone(), why })
    };
    let attachment = tokio::time::timeout(limit, attached).await.unwrap_or_else(late)?;
    Ok(attachment.status.and_then(|status| status.attachment_metadata).unwrap_or_default().into_iter().collect())
}

/// Whom the files are given to, by `fsGroupPolicy`; `default` decides under ReadWriteOnceWithFSType.
fn group(context: &Context<'_>, driver: &CSIDriverSpec, read_only: bool, block: bool, default: impl Fn() -> bool) -> Option<Group> {
    let id = context.fs_group().filter(|_| !block)?;
    let allowed = match driver.fs_group_policy.as_deref() {
        Some("None") => false,
        Some("File") => true,
        _ => default(),
    };
    Some(Group { id, policy: context.fs_group_change_policy(), by_agent: allowed && !read_only })
}

async fn secrets(reference: Option<&SecretReference>, context: &Context<'_>) -> Result<Texts> {
    let Some(reference) = reference else { return Ok(Texts::new()) };
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
    let found = context.objects.secret(namespace, name).await?;
    let secret = found.ok_or_else(|| VolumeError::NotFound { kind: "secrets", name: format!("{namespace}/{name}") })?;
    let data = secret.data.unwrap_or_default();
    Ok(data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect())
}

/// What the driver is told of the pod: in the volume's context, and of tokens in the secrets where the driver wants them there (KEP-5538).
async fn pod_context(driver: &CSIDriverSpec, ephemeral: bool, context: &Context<'_>) -> Result<(Texts, Texts)> {
    let (mut told, mut secret) = (Texts::new(), Texts::new());
    let account = context.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into());
    let meta = &context.pod.metadata;
    if driver.pod_info_on_mount == Some(true) {
        for (key, value) in [
            ("pod.name", meta.name.clone().unwrap_or_default()),
            ("pod.namespace", context.namespace().into()),
            ("pod.uid", context.uid().into()),
            ("serviceAccount.name", account.clone()),
            ("ephemeral", ephemeral.to_string()),
        ] {
            told.insert(format!("{POD_INFO}{key}"), value);
        }
    }
    let asked = driver.token_requests.clone().unwrap_or_default();
    if !asked.is_empty() {
        let mut tokens = serde_json::Map::new();
        for request in asked {
            let ask = TokenAsk {
                namespace: context.namespace().into(),
                service_account: account.clone(),
                audience: Some(request.audience.clone()).filter(|audience| !audience.is_empty()),
                expiration_seconds: request.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
                pod_name: meta.name.clone().unwrap_or_default(),
                pod_uid: context.uid().into(),
            };
            let token = context.objects.token(&ask).await?;
            tokens.insert(request.audience, serde_json::json!({"token": token.token, "expirationTimestamp": token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}));
        }
        let into = if driver.service_account_token_in_secrets == Some(true) { &mut secret } else { &mut told };
        into.insert(TOKENS.into(), serde_json::Value::Object(tokens).to_string());
    }
    Ok((told, secret))
}

/// The growth of a volume that its claim does not show yet.
async fn growth(volume: &PersistentVolume, claim: &PersistentVolumeClaim, secret: Option<&SecretReference>, context: &Context<'_>) -> Result<Option<Growth>> {
    let shown = claim.status.as_ref().and_then(|status| keles_rules::volume_binding::storage(status.capacity.as_ref()));
    let (Some(have), Some(shown)) = (capacity(volume), shown) else { return Ok(None) };
    // What the driver will not do is not asked of it again: its owner asks for something else.
    let statuses = claim.status.as_ref().and_then(|status| status.allocated_resource_statuses.as_ref());
    if have <= shown || statuses.and_then(|all| all.get("storage")).is_some_and(|status| status == INFEASIBLE) {
        return Ok(None);
    }
    Ok(Some(Growth { to_bytes: have.units(), secrets: secrets(secret, context).await? }))
}

async fn tell_growth(grown: Grown, bound: &Bound<'_>, context: &Context<'_>) -> Result<()> {
    match grown {
        Grown::No => Ok(()),
        Grown::Done => {
            context.objects.claim_grew(bound.claim, bound.volume).await?;
            let name = bound.name();
            context.objects.tell(context.pod, false, "FileSystemResizeSuccessful", format!("MountVolume.NodeExpandVolume succeeded for volume \"{name}\" "));
            Ok(())
        }
        Grown::Failed { why, infeasible } => {
            context.objects.claim_did_not_grow(bound.claim, infeasible).await?;
            context.objects.tell(context.pod, true, "FileSystemResizeFailed", format!("MountVolume.NodeExpandVolume failed for volume \"{}\" : {why}", bound.name()));
            Ok(())
        }
    }
}

/// Carries the plan out in a task of its own: a pod that goes meanwhile does not leave it half done.
async fn run(plan: Plan, context: &Context<'_>) -> Result<Grown> {
    let csi = context.csi.clone();
    let gate = csi.gate_of(context.uid()).read_owned().await;
    let work = tokio::spawn(async move {
        let done = csi.carry_out(&plan).await;
        drop(gate);
        done
    });
    work.await.unwrap_or_else(|error| Err(VolumeError::Field(format!("setting the volume up ended: {error}"))))
}

impl Plan {
    fn stage(&self, stage: &'static str) -> impl Fn(String) -> VolumeError {
        let volume = self.held.data.spec_name.clone();
        move |why| VolumeError::Stage { stage, volume: volume.clone(), why }
    }

    fn capability(&self, capabilities: &Capabilities) -> wire::VolumeCapability {
        let many = capabilities.has(Capability::SingleNodeMultiWriter);
        let mode = match (self.access_mode.as_str(), many) {
            ("ReadWriteOnce", false) | ("ReadWriteOncePod", false) => wire::Mode::SingleNodeWriter,
            ("ReadWriteOnce", true) => wire::Mode::SingleNodeMultiWriter,
            ("ReadWriteOncePod", true) => wire::Mode::SingleNodeSingleWriter,
            ("ReadOnlyMany", _) => wire::Mode::MultiNodeReaderOnly,
            ("ReadWriteMany", _) => wire::Mode::MultiNodeMultiWriter,
            _ => wire::Mode::Unknown,
        };
        let group = self.group.filter(|_| capabilities.has(Capability::VolumeMountGroup)).map(|group| group.id.to_string()).unwrap_or_default();
        let access_type = match self.held.block {
            true => wire::AccessType::Block(wire::Empty {}),
            false => wire::AccessType::Mount(wire::MountVolume { fs_type: self.fs_type.clone(), mount_flags: self.mount_flags.clone(), volume_mount_group: group }),
        };
        wire::VolumeCapability { access_type: Some(access_type), access_mode: Some(wire::AccessMode { mode: mode as i32 }) }
    }
}

/// Of a driver that takes longer there are no figures this time: the summary of all pods waits for them.
const STATS_TIMEOUT: Duration = Duration::from_secs(3);

impl Csi {
    async fn carry_out(&self, plan: &Plan) -> Result<Grown> {
        let held = &plan.held;
        let volume = self.lock_of(&held.data.driver, &held.data.handle);
        let _alone = volume.lock().await;
        let is_there = held.is_there()?;
        if is_there && !plan.republish && plan.growth.is_none() {
            // Nothing to ask the driver for, which may hang or be away.
            self.places.note(held)?;
            return Ok(Grown::No);
        }
        let (staging_step, publishing_step) = match held.block {
            true => ("MapVolume.SetUpDevice", "MapVolume.MapPodDevice"),
            false => ("MountVolume.MountDevice", "MountVolume.SetUp"),
        };
        let driver =
            self.driver(&held.data.driver).map_err(|error| plan.stage(publishing_step)(format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {error}")))?;
        let capabilities = driver.capabilities().await.map_err(|status| plan.stage(staging_step)(status.to_string()))?;
        self.places.note(held)?;
        let stages = held.data.persistent && capabilities.has(Capability::StageUnstageVolume);
        if stages && !is_there {
            self.stage(plan, &driver, &capabilities).await.map_err(plan.stage(staging_step))?;
        }
        let staging = if stages { text(&self.places.staging_of(&held.data, held.block)) } else { String::new() };
        if !is_there || plan.republish {
            if !is_there {
                held.begin()?;
            }
            self.publish(plan, &driver, &capabilities, &staging).await.map_err(plan.stage(publishing_step))?;
        }
        let grown = self.grow(plan, &driver, &capabilities, staging).await;
        if let Some(group) = plan.group.filter(|group| !is_there && group.by_agent && !capabilities.has(Capability::VolumeMountGroup)) {
            let target = held.target.clone();
            let granted = tokio::task::spawn_blocking(move || ownership::grant_by_policy(&target, group.id, group.policy)).await;
            granted.unwrap_or_else(|error| Err(VolumeError::Field(error.to_string()))).map_err(|error| plan.stage(publishing_step)(error.to_string()))?;
        }
        if !is_there {
            held.finish()?;
        }
        Ok(grown)
    }

    async fn stage(&self, plan: &Plan, driver: &Driver, capabilities: &Capabilities) -> std::result::Result<(), String> {
        let data = &plan.held.data;
        let staging = self.places.staging_of(data, plan.held.block);
        if lock(&self.staged).contains(&staging) {
            return Ok(());
        }
        self.places.note_staging(data, plan.held.block).map_err(|error| error.to_string())?;
        let request = wire::NodeStageVolumeRequest {
            volume_id: data.handle.clone(),
            publish_context: plan.publish_context.clone(),
            staging_target_path: text(&staging),
            volume_capability: Some(plan.capability(capabilities)),
            secrets: plan.stage_secrets.clone(),
            volume_context: plan.volume_context.clone(),
        };
        driver.stage(&request).await.map_err(|status| status.to_string())?;
        lock(&self.staged).insert(staging);
        Ok(())
    }

    async fn publish(&self, plan: &Plan, driver: &Driver, capabilities: &Capabilities, staging: &str) -> std::result::Result<(), String> {
        let held = &plan.held;
        let request = wire::NodePublishVolumeRequest {
            volume_id: held.data.handle.clone(),
            publish_context: plan.publish_context.clone(),
            staging_target_path: staging.into(),
            target_path: text(&held.target),
            volume_capability: Some(plan.capability(capabilities)),
            readonly: plan.read_only,
            secrets: plan.publish_secrets.clone(),
            volume_context: plan.volume_context.iter().chain(&plan.pod_context).map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        driver.publish(&request).await.map_err(|status| status.to_string())?;
        // What is not there would be an empty folder of the node's disk to the pod.
        let shown = if held.block { held.is_there().unwrap_or(false) } else { held.target.is_dir() };
        if shown { Ok(()) } else { Err(format!("driver {} published the volume, but {} is not there", held.data.driver, held.target.display())) }
    }

    async fn grow(&self, plan: &Plan, driver: &Driver, capabilities: &Capabilities, staging: String) -> Grown {
        let Some(growth) = plan.growth.as_ref().filter(|_| capabilities.has(Capability::ExpandVolume)) else { return Grown::No };
        let request = wire::NodeExpandVolumeRequest {
            volume_id: plan.held.data.handle.clone(),
            volume_path: text(&plan.held.target),
            capacity_range: Some(wire::CapacityRange { required_bytes: growth.to_bytes, limit_bytes: 0 }),
            staging_target_path: staging,
            volume_capability: Some(plan.capability(capabilities)),
            secrets: growth.secrets.clone(),
        };
        match driver.expand(&request).await {
            Ok(_) => Grown::Done,
            Err(status) => Grown::Failed { infeasible: is_infeasible(&status), why: status.to_string() },
        }
    }

    /// What the driver says of a pod's volumes: the volume, and its figures where the driver has any.
    pub async fn stats(self: &Arc<Self>, uid: &str) -> Vec<(VolumeData, Option<wire::NodeGetVolumeStatsResponse>)> {
        let all = self.places.held_by(uid).into_iter().map(|held| async move {
            let figures = tokio::time::timeout(STATS_TIMEOUT, self.figures(&held)).await.ok().flatten();
            (held.data.clone(), figures)
        });
        futures::future::join_all(all).await
    }

    async fn figures(&self, held: &Held) -> Option<wire::NodeGetVolumeStatsResponse> {
        let driver = self.driver(&held.data.driver).ok()?;
        let capabilities = driver.capabilities().await.ok()?;
        if !capabilities.has(Capability::GetVolumeStats) {
            return None;
        }
        let staging = self.places.staging_of(&held.data, held.block);
        let asked = driver.stats(&held.data.handle, &held.target, &staging).await;
        asked.inspect_err(|status| tracing::debug!(%status, driver = driver.name, volume = held.data.spec_name, "no figures of a volume")).ok()
    }
}
