//! The certificate that the agent's API shows: one given at the start, files that somebody renews, or one the agent asks the cluster for.
//!
//! Entry points: [`first`] before the agent listens, [`keep`] while it runs.

use super::{Pair, Rotation, Store, Wanted};
use crate::KubeletError;
use crate::agent::Agent;
use crate::config::{ServerTls, ServingCertificate};
use keles_pki::{Certified, Names};
use keles_serve::tls::{self, ClientVerifier, Settings};
use rustix::fs::inotify;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Of the store of serving certificates.
const PREFIX: &str = "kubelet-server";
/// What handshakes fail with until a certificate is issued; upstream's words.
const NONE_YET: &str = "no serving certificate available for the kubelet";
/// How often files are looked at besides when the kernel tells of a change; upstream's figure.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What the API shows, and who may call it.
#[derive(Clone)]
pub struct Shown {
    pub settings: Settings,
    pub verifier: ClientVerifier,
}

impl Shown {
    fn take(&self, certified: &Certified) -> Result<(), String> {
        self.settings.replace(&settings(certified, &self.verifier)?);
        Ok(())
    }
}

fn settings(certified: &Certified, verifier: &ClientVerifier) -> Result<Settings, String> {
    let chain = certified.certificate_der().ok_or("no certificate")?;
    let key = certified.key_der().ok_or("no key")?;
    tls::server_config(chain, key, Some(verifier.clone())).map_err(|error| error.to_string())
}

/// What is there at the start; nothing where it is still to be asked for.
pub fn first(tls: &ServerTls) -> Result<Shown, KubeletError> {
    let cas: Vec<Vec<u8>> = keles_pki::certificates(&tls.client_ca_pem).iter().map(|der| der.to_vec()).collect();
    if cas.is_empty() {
        return Err(KubeletError::Tls("no client authority".into()));
    }
    let verifier = tls::client_verifier(&cas).map_err(|error| KubeletError::Tls(error.to_string()))?;
    let there = match &tls.certificate {
        ServingCertificate::Given(certified) => Some(certified.clone()),
        ServingCertificate::Files { certificate, key } => Some(read(certificate, key).map_err(KubeletError::Tls)?),
        ServingCertificate::Requested { dir } => requested(dir)?.1.map(|pair| pair.certified),
    };
    let settings = match there {
        Some(certified) => settings(&certified, &verifier).map_err(KubeletError::Tls)?,
        None => Settings::none_yet(NONE_YET),
    };
    Ok(Shown { settings, verifier })
}

fn read(certificate: &Path, key: &Path) -> Result<Certified, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    Ok(Certified { certificate_pem: read(certificate)?, key_pem: read(key)? })
}

/// The store with the pair in force; an expired one is none.
fn requested(dir: &Path) -> Result<(Store, Option<Pair>), KubeletError> {
    let fault = |error: super::StoreError| KubeletError::Tls(error.to_string());
    let store = Store::open(dir, PREFIX).map_err(fault)?;
    let current = store.current().map_err(fault)?.filter(|pair| !pair.is_expired(jiff::Timestamp::now()));
    Ok((store, current))
}

/// Keeps what the API shows new until `stop`.
pub async fn keep(agent: Arc<Agent>, shown: Shown, stop: CancellationToken) {
    match agent.config.tls.as_ref().map(|tls| &tls.certificate) {
        None | Some(ServingCertificate::Given(_)) => {}
        Some(ServingCertificate::Files { certificate, key }) => {
            let _ = stop.run_until_cancelled(follow(certificate.clone(), key.clone(), shown)).await;
        }
        Some(ServingCertificate::Requested { dir }) => match requested(dir) {
            Ok((store, current)) => {
                let names = Names { dns: vec![agent.config.node_name.clone()], ips: agent.config.node_ips.clone() };
                let wanted = Wanted::serving(&agent.config.node_name, names);
                let take = |pair: &Pair| {
                    if let Err(why) = shown.take(&pair.certified) {
                        tracing::error!(why, "the serving certificate that was issued cannot be shown");
                    }
                };
                Rotation::serving(store, wanted, agent.client.clone(), current).run(take, stop).await;
            }
            Err(error) => tracing::error!(%error, "no serving certificate is asked for"),
        },
    }
}

/// Takes the files anew whenever they change. What cannot be used leaves what was there: another change follows.
async fn follow(certificate: PathBuf, key: PathBuf, shown: Shown) {
    let watch = watch(&[&certificate, &key]);
    // What changed since the start is seen by the first look.
    let mut taken = None;
    loop {
        match read(&certificate, &key) {
            Ok(now) if taken.as_ref() != Some(&now) => match shown.take(&now) {
                Ok(()) => {
                    tracing::info!(file = %certificate.display(), "serving certificate taken");
                    taken = Some(now);
                }
                Err(why) => tracing::warn!(why, file = %certificate.display(), "serving certificate not taken anew; what was there stays"),
            },
            Ok(_) => {}
            Err(why) => tracing::warn!(why, "serving certificate not taken anew; what was there stays"),
        }
        tokio::select! {
            () = changed(watch.as_ref()) => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Tells when something in the files' folders was written, moved or made; a link that is replaced is such. `None` leaves the clock.
fn watch(files: &[&Path]) -> Option<AsyncFd<OwnedFd>> {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).ok()?;
    let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE;
    let folders: BTreeSet<&Path> = files.iter().map(|file| file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))).collect();
    for folder in folders {
        if let Err(error) = inotify::add_watch(&watch, folder, events) {
            tracing::warn!(%error, folder = %folder.display(), "the serving certificate is followed by the clock only");
        }
    }
    keles_linux::async_fd::watch(watch).ok()
}

async fn changed(watch: Option<&AsyncFd<OwnedFd>>) {
    let Some(watch) = watch else { return std::future::pending().await };
    let Ok(mut ready) = watch.readable().await else { return std::future::pending().await };
    while rustix::io::read(watch.get_ref(), &mut [0; 4096]).is_ok_and(|count| count > 0) {}
    ready.clear_ready();
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;
