//! iscsi: a logical unit of a target, reached by the host's initiator (open-iscsi's iscsiadm).
//!
//! Entry points: [`set_up`], [`device`], [`tear_down`]. Invariants: what a pod uses is noted in its folder before the initiator is asked; a session ends only
//! when no pod's note names it any more, so that a new run of the agent ends what the last one left; one thing at a time is done to a target. Each pod has
//! a mount of its own of the unit's filesystem, which the kernel keeps as one. Secrets are in no error. Source: iscsiadm(8).

use crate::mount_tool::{self, Ended};
use crate::{Context, Ready, Result, VolumeError, block_filesystem, local, tmpfs};
use k8s_openapi::api::core::v1::{ISCSIPersistentVolumeSource, ISCSIVolumeSource};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const TOOL: &str = "iscsiadm";
const PORT: &str = "3260";
const DEFAULT_INTERFACE: &str = "default";
/// Of a pod's folder.
const NOTES: &str = "iscsi";
/// Until the unit of a target that was logged in to is there, and until several paths to it are one.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
const MULTIPATH_LIMIT: Duration = Duration::from_secs(10);
/// udev makes the links; their folder may come with the first one, so there is nothing to follow.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// iscsiadm's ISCSI_ERR_SESS_EXISTS and ISCSI_ERR_NO_OBJS_FOUND.
const EXISTS: i32 = 15;
const NONE_FOUND: i32 = 21;
const DISCOVERY_SECRETS: [&str; 4] =
    ["discovery.sendtargets.auth.username", "discovery.sendtargets.auth.password", "discovery.sendtargets.auth.username_in", "discovery.sendtargets.auth.password_in"];
const SESSION_SECRETS: [&str; 4] = ["node.session.auth.username", "node.session.auth.password", "node.session.auth.username_in", "node.session.auth.password_in"];

/// What the two kinds of sources say.
pub(crate) struct Source {
    portals: Vec<String>,
    iqn: String,
    lun: i32,
    interface: Option<String>,
    initiator: Option<String>,
    fs_type: Option<String>,
    pub read_only: bool,
    chap_discovery: bool,
    chap_session: bool,
    /// Namespace (the pod's when absent) and name.
    secret: Option<(Option<String>, String)>,
}

impl From<&ISCSIVolumeSource> for Source {
    fn from(s: &ISCSIVolumeSource) -> Self {
        let secret = s.secret_ref.as_ref().map(|secret| (None, secret.name.clone()));
        Source {
            portals: portals(&s.target_portal, s.portals.as_deref()),
            iqn: s.iqn.clone(),
            lun: s.lun,
            interface: s.iscsi_interface.clone(),
            initiator: s.initiator_name.clone(),
            fs_type: s.fs_type.clone(),
            read_only: s.read_only == Some(true),
            chap_discovery: s.chap_auth_discovery == Some(true),
            chap_session: s.chap_auth_session == Some(true),
            secret,
        }
    }
}

impl From<&ISCSIPersistentVolumeSource> for Source {
    fn from(s: &ISCSIPersistentVolumeSource) -> Self {
        let secret = s.secret_ref.as_ref().map(|secret| (secret.namespace.clone(), secret.name.clone().unwrap_or_default()));
        Source {
            portals: portals(&s.target_portal, s.portals.as_deref()),
            iqn: s.iqn.clone(),
            lun: s.lun,
            interface: s.iscsi_interface.clone(),
            initiator: s.initiator_name.clone(),
            fs_type: s.fs_type.clone(),
            read_only: s.read_only == Some(true),
            chap_discovery: s.chap_auth_discovery == Some(true),
            chap_session: s.chap_auth_session == Some(true),
            secret,
        }
    }
}

/// Each once, with its port.
fn portals(first: &str, others: Option<&[String]>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for portal in std::iter::once(first).chain(others.into_iter().flatten().map(String::as_str)) {
        let has_port = portal.rsplit_once(':').is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
        let whole = if has_port { portal.to_owned() } else { format!("{portal}:{PORT}") };
        if !all.contains(&whole) {
            all.push(whole);
        }
    }
    all
}

/// What a pod uses of a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    portals: Vec<String>,
    iqn: String,
    interface: String,
    /// Made for this volume.
    own_interface: bool,
}

/// Where the host has its tool and its devices.
struct Host {
    tools: Vec<PathBuf>,
    by_path: PathBuf,
    blocks: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self { tools: mount_tool::FOLDERS.iter().map(PathBuf::from).collect(), by_path: "/dev/disk/by-path".into(), blocks: "/sys/class/block".into() }
    }
}

/// Mounts the unit's filesystem for the pod. `name` is the volume's, `options` are the PersistentVolume's.
pub(crate) async fn set_up(name: &str, source: &Source, options: &[String], read_only: bool, context: &Context<'_>) -> Result<PathBuf> {
    set_up_on(&Host::default(), name, source, options, read_only, context).await
}

async fn set_up_on(host: &Host, name: &str, source: &Source, options: &[String], read_only: bool, context: &Context<'_>) -> Result<PathBuf> {
    let dir = context.volume_dir("iscsi", name);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    if tmpfs::is_mounted(&dir)? {
        return Ok(dir);
    }
    let device = attach(host, name, source, context).await?.display().to_string();
    let read_only = read_only || source.read_only;
    let ask = block_filesystem::Ask { device: &device, kind: source.fs_type.as_deref(), at: &dir, options, read_only };
    let failed = |error: VolumeError| VolumeError::Stage { stage: "MountVolume.MountDevice", volume: name.into(), why: error.to_string() };
    block_filesystem::mount(&ask).await.map_err(failed)?;
    local::hand_over(&dir, read_only, context)?;
    Ok(dir)
}

/// A volume with volumeMode Block.
pub(crate) async fn device(name: &str, source: &Source, context: &Context<'_>) -> Result<Ready> {
    Ok(Ready { path: attach(&Host::default(), name, source, context).await?, is_device: true, follows: false })
}

/// Gives back what the pod used. Repeatable until it succeeds.
pub async fn tear_down(pod_dir: &Path) -> Result<()> {
    tear_down_on(&Host::default(), pod_dir).await
}

async fn tear_down_on(host: &Host, pod_dir: &Path) -> Result<()> {
    let notes = read_notes(pod_dir)?;
    if notes.is_empty() {
        return Ok(());
    }
    // A session that ends under a mounted filesystem loses what is not written yet: so not lazily, and it may take as long as the target does.
    let dir = pod_dir.to_owned();
    tokio::task::spawn_blocking(move || tmpfs::unmount_wholly(&dir)).await.map_err(|error| VolumeError::Field(error.to_string()))??;
    for (file, note) in notes {
        let _alone = gate(&note.iqn).lock_owned().await;
        let others = others(pod_dir, &file)?;
        let is_used = |portal: &str| others.iter().any(|other| (&other.iqn, &other.interface) == (&note.iqn, &note.interface) && other.portals.iter().any(|used| used == portal));
        for portal in note.portals.iter().filter(|portal| !is_used(portal)) {
            let at = ["-m", "node", "-p", portal, "-T", &note.iqn, "-I", &note.interface];
            host.admin(&[&at[..], &["--logout"]].concat(), &[NONE_FOUND]).await?;
            host.admin(&[&at[..], &["-o", "delete"]].concat(), &[NONE_FOUND]).await?;
        }
        if note.own_interface && !others.iter().any(|other| other.interface == note.interface) {
            host.admin(&["-m", "iface", "-I", &note.interface, "-o", "delete"], &[NONE_FOUND]).await?;
        }
        std::fs::remove_file(&file).map_err(VolumeError::io("remove", &file))?;
    }
    Ok(())
}

/// Logs in where the target is reached and finds the unit's device. One path is enough; the last failure is told when there is none.
async fn attach(host: &Host, name: &str, source: &Source, context: &Context<'_>) -> Result<PathBuf> {
    host.tool()?;
    let secret = secret(source, context).await?;
    let _alone = gate(&source.iqn).lock_owned().await;
    let own = source.initiator.as_ref().filter(|initiator| !initiator.is_empty());
    let asked = source.interface.clone().filter(|interface| !interface.is_empty()).unwrap_or_else(|| DEFAULT_INTERFACE.into());
    // Upstream's name for an interface of the volume's own.
    let interface = own.map_or_else(|| asked.clone(), |_| format!("{}:{name}", source.portals[0]));
    let note = Note { portals: source.portals.clone(), iqn: source.iqn.clone(), interface: interface.clone(), own_interface: own.is_some() };
    write_note(context.pod_dir, name, &note)?;
    if let Some(initiator) = own {
        host.clone_interface(&asked, &interface, initiator).await?;
    }
    let (mut paths, mut fault) = (Vec::new(), None);
    for portal in &source.portals {
        match host.log_in(portal, &interface, source, &secret).await {
            Ok(()) => match host.unit(portal, source).await {
                Some(path) => paths.push(path),
                None => fault = Some(VolumeError::Field(format!("iscsi: no device of lun {} of {} at {portal} within {} s", source.lun, source.iqn, DEVICE_LIMIT.as_secs()))),
            },
            Err(error) => fault = Some(error),
        }
    }
    match (paths.first(), fault) {
        (None, Some(fault)) => Err(fault),
        (None, None) => Err(VolumeError::Field(format!("iscsi: {} has no portal", source.iqn))),
        (Some(first), _) => Ok(host.joined(&paths).await.unwrap_or_else(|| first.clone())),
    }
}

type Secret = BTreeMap<String, String>;

async fn secret(source: &Source, context: &Context<'_>) -> Result<Secret> {
    if !source.chap_discovery && !source.chap_session {
        return Ok(Secret::new());
    }
    let (namespace, name) = source.secret.as_ref().ok_or_else(|| VolumeError::Field("iscsi: CHAP enabled but secretRef is nil".into()))?;
    let namespace = namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(context.namespace());
    let found = context.objects.secret(namespace, name).await?.ok_or_else(|| VolumeError::NotFound { kind: "secret", name: name.clone() })?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\n').to_owned();
    Ok(found.data.into_iter().flatten().map(|(key, value)| (key, text(&value.0))).collect())
}

impl Host {
    fn tool(&self) -> Result<PathBuf> {
        let found = self.tools.iter().map(|folder| folder.join(TOOL)).find(|tool| tool.exists());
        found.ok_or_else(|| VolumeError::NoTool { tool: TOOL.into(), package: "open-iscsi".into() })
    }

    /// Runs iscsiadm; ends with one of `fine` are as good as success.
    async fn admin(&self, arguments: &[&str], fine: &[i32]) -> Result<Ended> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let ended = mount_tool::run(&self.tool()?.display().to_string(), &arguments).await?;
        if ended.is_success() || ended.code.is_some_and(|code| fine.contains(&code)) { Ok(ended) } else { Err(ended.failure(TOOL, &arguments)) }
    }

    /// Sets what nobody must read in an event.
    async fn tell_secret(&self, record: &[&str], key: &str, value: &str) -> Result<()> {
        let told = self.admin(&[record, &["-o", "update", "-n", key, "-v", value]].concat(), &[]).await;
        told.map(drop).map_err(|error| match error {
            none @ VolumeError::NoTool { .. } => none,
            _ => VolumeError::Field(format!("iscsi: {TOOL} {} -o update -n {key} failed", record.join(" "))),
        })
    }

    async fn chap(&self, record: &[&str], method: &str, keys: &[&str], secret: &Secret) -> Result<()> {
        self.admin(&[record, &["-o", "update", "-n", method, "-v", "CHAP"]].concat(), &[]).await?;
        for key in keys {
            if let Some(value) = secret.get(*key).filter(|value| !value.is_empty()) {
                self.tell_secret(record, key, value).await?;
            }
        }
        Ok(())
    }

    /// An interface like `from` under another initiator's name.
    async fn clone_interface(&self, from: &str, interface: &str, initiator: &str) -> Result<()> {
        let shown = self.admin(&["-m", "iface", "-I", from, "-o", "show"], &[]).await?;
        self.admin(&["-m", "iface", "-I", interface, "-o", "new"], &[EXISTS]).await?;
        let settings = shown.said.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        for (key, value) in settings.filter(|(key, value)| *value != "<empty>" && !matches!(*key, "iface.iscsi_ifacename" | "iface.initiatorname")) {
            self.admin(&["-m", "iface", "-I", interface, "-o", "update", "-n", key, "-v", value], &[]).await?;
        }
        self.admin(&["-m", "iface", "-I", interface, "-o", "update", "-n", "iface.initiatorname", "-v", initiator], &[]).await.map(drop)
    }

    async fn log_in(&self, portal: &str, interface: &str, source: &Source, secret: &Secret) -> Result<()> {
        let discovery = ["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-I", interface];
        self.admin(&[&discovery[..], &["-o", "new"]].concat(), &[]).await?;
        if source.chap_discovery {
            self.chap(&discovery, "discovery.sendtargets.auth.authmethod", &DISCOVERY_SECRETS, secret).await?;
        }
        if let Err(error) = self.admin(&[&discovery[..], &["--discover"]].concat(), &[]).await {
            let _ = self.admin(&[&discovery[..], &["-o", "delete"]].concat(), &[]).await;
            return Err(error);
        }
        let node = ["-m", "node", "-p", portal, "-T", &source.iqn, "-I", interface];
        if source.chap_session {
            self.chap(&node, "node.session.auth.authmethod", &SESSION_SECRETS, secret).await?;
        }
        let begun = match self.admin(&[&node[..], &["--login"]].concat(), &[EXISTS]).await {
            Ok(ended) => ended,
            Err(error) => {
                let _ = self.admin(&[&node[..], &["-o", "delete"]].concat(), &[]).await;
                return Err(error);
            }
        };
        // Not by itself at the next boot: then no pod is there that uses it.
        self.admin(&[&node[..], &["-o", "update", "-n", "node.startup", "-v", "manual"]].concat(), &[]).await?;
        if begun.code == Some(EXISTS) {
            self.admin(&[&node[..], &["--rescan"]].concat(), &[]).await?;
        }
        Ok(())
    }

    /// The unit's device as a path of the kernel's, once it is there.
    async fn unit(&self, portal: &str, source: &Source) -> Option<PathBuf> {
        let link = format!("ip-{portal}-iscsi-{}-lun-{}", source.iqn, source.lun);
        // Hardware initiators put their own address before it.
        let behind = format!("-{link}");
        let find = || {
            let entries = std::fs::read_dir(&self.by_path).into_iter().flatten().flatten();
            let mut named = entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name == link || name.ends_with(&behind)));
            named.find_map(|entry| std::fs::canonicalize(entry.path()).ok())
        };
        wait_for(DEVICE_LIMIT, find).await
    }

    /// The device that joins several paths, where multipathd makes one.
    async fn joined(&self, paths: &[PathBuf]) -> Option<PathBuf> {
        let find = || paths.iter().find_map(|path| self.map_of(path));
        if paths.len() > 1 { wait_for(MULTIPATH_LIMIT, find).await } else { find() }
    }

    fn map_of(&self, device: &Path) -> Option<PathBuf> {
        let holders = std::fs::read_dir(self.blocks.join(device.file_name()?).join("holders")).ok()?;
        let names = holders.flatten().map(|entry| entry.file_name());
        let is_multipath = |name: &std::ffi::OsString| std::fs::read_to_string(self.blocks.join(name).join("dm/uuid")).is_ok_and(|uuid| uuid.starts_with("mpath-"));
        names.into_iter().find(is_multipath).map(|name| Path::new("/dev").join(name))
    }
}

async fn wait_for<T>(limit: Duration, find: impl Fn() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = find() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn gate(iqn: &str) -> Arc<tokio::sync::Mutex<()>> {
    static GATES: Mutex<Option<HashMap<String, Arc<tokio::sync::Mutex<()>>>>> = Mutex::new(None);
    let mut all = GATES.lock().unwrap_or_else(PoisonError::into_inner);
    let all = all.get_or_insert_default();
    all.retain(|_, gate| Arc::strong_count(gate) > 1);
    all.entry(iqn.to_owned()).or_default().clone()
}

fn write_note(pod_dir: &Path, name: &str, note: &Note) -> Result<()> {
    let folder = pod_dir.join(NOTES);
    std::fs::create_dir_all(&folder).map_err(VolumeError::io("create", &folder))?;
    let (file, fresh) = (folder.join(format!("{name}.json")), folder.join(format!(".{name}.new")));
    let text = serde_json::to_vec(note).map_err(|error| VolumeError::Field(error.to_string()))?;
    // On the disk: one that is empty after a power cut would hold up the end of every pod that uses a target.
    let write = || -> std::io::Result<()> {
        let mut out = std::fs::File::create(&fresh)?;
        std::io::Write::write_all(&mut out, &text)?;
        out.sync_data()?;
        std::fs::rename(&fresh, &file)
    };
    write().map_err(VolumeError::io("write", &file))
}

fn read_notes(pod_dir: &Path) -> Result<Vec<(PathBuf, Note)>> {
    let folder = pod_dir.join(NOTES);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        entries => entries.map_err(VolumeError::io("read", &folder))?,
    };
    let files = entries.flatten().map(|entry| entry.path()).filter(|file| file.extension().is_some_and(|kind| kind == "json"));
    let read = |file: PathBuf| {
        let text = std::fs::read(&file).map_err(VolumeError::io("read", &file))?;
        let note = serde_json::from_slice(&text).map_err(|error| VolumeError::Field(format!("{} says not what the pod uses: {error}", file.display())))?;
        Ok((file, note))
    };
    files.map(read).collect()
}

/// All notes of the node's pods but this one.
fn others(pod_dir: &Path, except: &Path) -> Result<Vec<Note>> {
    let pods = pod_dir.parent().into_iter().flat_map(|pods| std::fs::read_dir(pods).into_iter().flatten().flatten());
    let mut all = Vec::new();
    for pod in pods {
        all.extend(read_notes(&pod.path())?.into_iter().filter(|(file, _)| file != except).map(|(_, note)| note));
    }
    Ok(all)
}

#[cfg(test)]
#[path = "iscsi_tests.rs"]
mod tests;
