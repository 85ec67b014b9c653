//! Other API servers on the same store: that they are of one cluster, and where they are.
//!
//! Entry points: [`agree`] (before anything is served), [`Peers::pass`], [`run`]. Each server claims its address and renews that every few seconds;
//! the endpoints of the Service `default/kubernetes` are the addresses that are claimed (upstream's lease reconciler, `masterleases`). On a
//! store of its own a server is alone, and nothing of this runs.

use crate::bootstrap;
use crate::server::{Inner, StartError};
use bytes::Bytes;
use keles_api::Status;
use keles_pki::{Pki, PkiError, PublicKey};
use keles_registry::claims::ClaimError;
use keles_registry::{Registry, store_error};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const AREA: &str = "masterleases";
/// Upstream's: a claim lasts this long, and is renewed this often.
const LIFE: Duration = Duration::from_secs(15);
const RENEW: Duration = Duration::from_secs(10);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// Where it is noted of which cluster the store is.
const CLUSTER: (&str, &str) = ("keles", "cluster");
/// Tries to write the note when another server is at it.
const TRIES: usize = 5;

/// Refuses a server whose authority or ServiceAccount keys are not those of the servers that were there before: certificates and tokens of the one
/// would be strangers to the other. `keys`: the signing one, then the further ones whose tokens are taken.
pub async fn agree(registry: &Registry, pki: &Pki, keys: Vec<PublicKey>) -> Result<(), StartError> {
    if !registry.is_shared() {
        return Ok(());
    }
    let own = json!({"authority": fingerprint(&pki.ca_der()), "serviceAccountKey": keys.first().map(|k| fingerprint(k.jwks().as_bytes()))});
    let holder = Bytes::from(own.to_string());
    let (area, name) = CLUSTER;
    for _ in 0..TRIES {
        let there = match registry.claim(area, name, holder.clone(), None).await {
            Ok(_) => return Ok(()),
            Err(ClaimError::Taken(Some(there))) => there,
            Err(ClaimError::Taken(None)) => continue,
            Err(ClaimError::Store(e)) => return Err(e.into()),
        };
        let said: Value = serde_json::from_slice(&there.holder).unwrap_or_default();
        let what = if said["authority"] != own["authority"] {
            Some("certificate authority")
        } else {
            (!keys.iter().any(|k| said["serviceAccountKey"] == fingerprint(k.jwks().as_bytes()))).then_some("ServiceAccount key")
        };
        if let Some(what) = what {
            return Err(StartError::OtherCluster { what, key: format!("/registry/{area}/{name}") });
        }
        // A key that all take by now signs from now on.
        match if said == own { Ok(0) } else { registry.renew(area, name, holder.clone(), there.revision, None).await } {
            Ok(_) => return Ok(()),
            Err(ClaimError::Taken(_)) => {}
            Err(ClaimError::Store(e)) => return Err(e.into()),
        }
    }
    Err(StartError::Bootstrap { what: "the note of the cluster".into(), status: Status::conflict("", "", "", "other servers are writing it") })
}

fn fingerprint(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Waits for the key: it is made on a first start.
pub async fn public_key(key: &keles_pki::SigningKey) -> Result<PublicKey, PkiError> {
    let key = key.clone();
    tokio::task::spawn_blocking(move || key.public()).await.unwrap_or_else(|e| Err(PkiError::SigningKey { why: e.to_string() }))
}

/// This server among the others.
pub struct Peers {
    own: SocketAddr,
    /// The revision of our claim.
    claimed: Option<u64>,
}

impl Peers {
    /// `None`: alone, or where no pod could reach it.
    pub fn new(server: &Inner) -> Option<Peers> {
        let own = SocketAddr::new(server.config.advertise_address, server.config.port);
        (server.registry.is_shared() && !own.ip().is_loopback()).then_some(Peers { own, claimed: None })
    }

    /// Renews the claim, and brings the endpoints in line with all.
    pub async fn pass(&mut self, registry: &Registry) -> Result<(), Status> {
        let name = self.own.to_string();
        let written = match self.claimed {
            Some(revision) => registry.renew(AREA, &name, Bytes::new(), revision, Some(LIFE)).await,
            None => registry.claim(AREA, &name, Bytes::new(), Some(LIFE)).await,
        };
        let written = match written {
            // That of an earlier run of ours.
            Err(ClaimError::Taken(Some(there))) => registry.renew(AREA, &name, Bytes::new(), there.revision, Some(LIFE)).await,
            // It ended meanwhile.
            Err(ClaimError::Taken(None)) => registry.claim(AREA, &name, Bytes::new(), Some(LIFE)).await,
            written => written,
        };
        self.claimed = match written {
            Ok(revision) => Some(revision),
            Err(ClaimError::Taken(_)) => None,
            Err(ClaimError::Store(e)) => return Err(store_error(e)),
        };
        self.publish(registry).await
    }

    async fn publish(&self, registry: &Registry) -> Result<(), Status> {
        let all = registry.claims(AREA).await.map_err(store_error)?;
        let all: Vec<SocketAddr> = all.iter().filter_map(|c| c.name.parse().ok()).collect();
        let Some((addresses, port)) = endpoints(all, self.own) else { return Ok(()) };
        bootstrap::publish_endpoints(registry, &addresses, port).await
    }

    /// Takes this server from the endpoints.
    async fn leave(mut self, registry: &Registry) -> Result<(), Status> {
        if let Some(revision) = self.claimed.take() {
            registry.release(AREA, &self.own.to_string(), revision).await.map_err(store_error)?;
        }
        self.publish(registry).await
    }
}

/// Until the server stops.
pub async fn run(server: Arc<Inner>, mut peers: Peers) {
    let mut ticks = tokio::time::interval(RENEW);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while server.stops.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(status) = peers.pass(&server.registry).await {
            tracing::warn!(%status, "the endpoints of default/kubernetes could not be kept; trying again");
            // The claim would end before the next tick.
            ticks.reset_after(AGAIN);
        }
    }
    if let Err(status) = peers.leave(&server.registry).await {
        tracing::warn!(%status, "the endpoints of default/kubernetes still name this server; the others will see");
    }
    server.left.cancel();
}

/// Addresses and their port, the same for whoever asks: servers of one family are all on one port, as upstream's, or those on another have no
/// endpoint. `None` when nobody is left.
fn endpoints(mut all: Vec<SocketAddr>, own: SocketAddr) -> Option<(Vec<IpAddr>, u16)> {
    all.retain(|a| a.is_ipv4() == own.is_ipv4());
    all.sort_by_key(|a| (a.port(), a.ip()));
    let port = all.first()?.port();
    Some((all.into_iter().filter(|a| a.port() == port).map(|a| a.ip()).collect(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_the_same_whoever_makes_them() {
        let at = |t: &str| t.parse::<SocketAddr>().unwrap();
        let all = ["10.0.0.2:6443", "10.0.0.1:6443", "10.0.0.3:7443", "[fd00::1]:6443"];
        let made = |own: &str| endpoints(all.iter().map(|a| at(a)).collect(), at(own));
        let expected = Some((vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()], 6443));
        assert_eq!((made("10.0.0.1:6443"), made("10.0.0.3:7443")), (expected.clone(), expected));
        assert_eq!(endpoints(Vec::new(), at("10.0.0.1:6443")), None);
    }
}
