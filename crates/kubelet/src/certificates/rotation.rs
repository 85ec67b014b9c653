//! Renews a certificate between 70 % and 90 % of its life, at once where there is none or it is not what is wanted.
//!
//! Entry point: [`Rotation::run`]. When and how long to wait is decided purely. Source: k8s.io/client-go/util/certificate/certificate_manager.go.

use super::metrics::{self, Series};
use super::request::{Name, WAIT_LIMIT, ask};
use super::{Pair, RequestError, Store, StoreError, Wanted};
use jiff::{SignedDuration, Timestamp};
use keles_client::{ClientCertificate, ConnectError};
use keles_pki::{Leaf, RequestKey};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A certificate whose time has come at once is not asked for more often; upstream's figure.
const REST: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(32);

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// How the agent's client certificate is renewed; made by who made the agent's client.
#[derive(Clone)]
pub struct ClientRotation {
    pub store: Store,
    /// What the client's connections show.
    pub shown: Arc<ClientCertificate>,
    /// Whose credentials ask once the certificate has expired.
    pub bootstrap: Option<PathBuf>,
    /// The certificate in force was not asked for here: it gives way at once.
    pub is_first: bool,
}

impl ClientRotation {
    /// Renews until `stop`.
    pub async fn run(self, node: &str, client: kube::Client, stop: CancellationToken) {
        let current = self.store.current().ok().flatten();
        let rotation = Rotation { store: self.store, wanted: Wanted::client(node), client, bootstrap: self.bootstrap, series: &metrics::CLIENT, current, is_due: self.is_first };
        rotation.run(|_| self.shown.reload(), stop).await;
    }
}

/// One certificate that is kept new.
pub struct Rotation {
    store: Store,
    wanted: Wanted,
    client: kube::Client,
    bootstrap: Option<PathBuf>,
    series: &'static Series,
    current: Option<Pair>,
    /// Whatever its life.
    is_due: bool,
}

impl Rotation {
    /// Of the serving certificate; `current` is in force until another is.
    pub(super) fn serving(store: Store, wanted: Wanted, client: kube::Client, current: Option<Pair>) -> Rotation {
        Rotation { store, wanted, client, bootstrap: None, series: &metrics::SERVER, current, is_due: false }
    }

    /// Renews until `stop`; `take` is told of each new pair.
    pub async fn run(mut self, take: impl Fn(&Pair), stop: CancellationToken) {
        self.series.show();
        let mut rest = Duration::ZERO;
        loop {
            let pause = self.pause(Timestamp::now(), rand::random());
            if self.current.is_some() {
                tracing::info!(signer = self.wanted.signer, seconds = pause.as_secs(), "certificate is renewed then");
            }
            let Some(()) = stop.run_until_cancelled(tokio::time::sleep(pause.max(rest))).await else { return };
            let Some(()) = stop.run_until_cancelled(self.renew_in_the_end()).await else { return };
            self.current.as_ref().inspect(|pair| take(pair));
            rest = REST;
        }
    }

    /// How long until it is renewed; `random` is of 0 to 1.
    fn pause(&mut self, now: Timestamp, random: f64) -> Duration {
        let Some(pair) = &self.current else { return Duration::ZERO };
        self.series.left.until(pair.leaf.not_after);
        if std::mem::take(&mut self.is_due) || !self.wanted.is_met_by(&pair.leaf) {
            return Duration::ZERO;
        }
        deadline(&pair.leaf, random).duration_since(now).try_into().unwrap_or(Duration::ZERO)
    }

    /// Tries until it succeeds.
    async fn renew_in_the_end(&mut self) {
        for failures in 0.. {
            match self.renew().await {
                Ok(pair) => {
                    let old = self.current.replace(pair);
                    if let (Some(lived), Some(old)) = (self.series.lived, old) {
                        lived.with([]).observe(Timestamp::now().duration_since(old.leaf.not_before).as_secs_f64());
                    }
                    return;
                }
                Err(error) => {
                    self.series.errors.with([]).increment();
                    let pause = back_off(failures);
                    tracing::warn!(%error, signer = self.wanted.signer, seconds = pause.as_secs(), "certificate not renewed, will be tried again");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn renew(&self) -> Result<Pair, RenewError> {
        let key = RequestKey::generate().map_err(RequestError::Key)?;
        let client = match (&self.bootstrap, &self.current) {
            // An expired one opens nothing.
            (Some(bootstrap), Some(pair)) if pair.is_expired(Timestamp::now()) => keles_client::from_kubeconfig(bootstrap).await?,
            _ => self.client.clone(),
        };
        let certificate = ask(&client, &self.wanted, &key, Name::Any, WAIT_LIMIT).await?;
        let pair = self.store.update(&certificate, &key.pem(), Timestamp::now())?;
        tracing::info!(signer = self.wanted.signer, until = %pair.leaf.not_after, "certificate renewed");
        Ok(pair)
    }
}

/// When a certificate is renewed: spread over a fifth of its life, so that nodes that joined together do not ask together.
fn deadline(leaf: &Leaf, random: f64) -> Timestamp {
    let life = leaf.not_after.duration_since(leaf.not_before).as_secs_f64();
    leaf.not_before + SignedDuration::from_secs_f64(life * (0.7 + 0.2 * random))
}

/// The pause after so many failures before this one.
fn back_off(failures: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures)).min(MAX_RETRY)
}

#[cfg(test)]
#[path = "rotation_tests.rs"]
mod tests;
