//! ServiceAccount tokens: JWTs bound to objects that must still exist.
//!
//! Claims are upstream's (KEP-1205): issuer, audiences, times, and `kubernetes.io` with namespace, service account, and the pod, secret
//! or node the token is bound to. A checked token is remembered for [`REMEMBER`], as upstream does, so that the signature and the
//! look-ups are not paid on every request.

use crate::{User, service_account};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keles_pki::{PkiError, PublicKey, SigningKey};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long a checked token counts without looking again.
pub const REMEMBER: Duration = Duration::from_secs(10);
const REMEMBERED_TOKENS: usize = 4096;
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// A bound object that is being deleted counts this long after its deletionTimestamp, upstream's leeway.
pub const DELETION_LEEWAY_SECONDS: i64 = 60;

/// An object a token names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bindings {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    /// When clients that read the file only once should be warned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bindings,
    pub nbf: i64,
    pub sub: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours at all: another authenticator may know it.
    #[error("not a ServiceAccount token of this cluster")]
    NotOurs,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    NotYet,
    #[error("token audiences {got:?} is invalid for the target audiences {want:?}")]
    Audience { got: Vec<String>, want: Vec<String> },
    #[error("{kind} {name} that the token is bound to no longer exists")]
    Unbound { kind: &'static str, name: String },
    #[error(transparent)]
    Key(#[from] PkiError),
}

/// A found object: its uid, and when it is to be gone (Unix seconds).
pub struct Found {
    pub uid: String,
    pub deletion_unix_seconds: Option<i64>,
}

/// Looks at the objects that tokens are bound to.
pub trait BoundObjects: Send + Sync + 'static {
    /// `plural` is `serviceaccounts`, `pods`, `secrets` or `nodes`.
    fn find(&self, plural: &str, namespace: &str, name: &str) -> Option<Found>;
}

/// What a key of ours may sign with.
const ALGORITHMS: &[&str] = &["RS256", "ES256", "ES384"];

#[derive(Deserialize)]
struct Header {
    alg: String,
}

type Remembered = HashMap<String, (Instant, Arc<User>, Arc<Vec<String>>)>;

pub struct Tokens {
    key: SigningKey,
    /// Keys of others whose tokens count too, or of ours before a rotation.
    further: Vec<PublicKey>,
    /// The first makes tokens, all are taken.
    issuers: Vec<String>,
    /// The API server's own audiences.
    audiences: Vec<String>,
    objects: Arc<dyn BoundObjects>,
    remembered: Mutex<Remembered>,
}

impl Tokens {
    pub fn new(key: SigningKey, issuer: &str, objects: Arc<dyn BoundObjects>) -> Self {
        Tokens { key, further: Vec::new(), issuers: vec![issuer.into()], audiences: vec![issuer.into()], objects, remembered: Mutex::default() }
    }
    /// Takes tokens of further issuers, for other audiences, and signed with other keys. No audiences: the issuers.
    pub fn with(mut self, further_issuers: &[String], audiences: &[String], further: Vec<PublicKey>) -> Self {
        self.issuers.extend(further_issuers.iter().cloned());
        self.audiences = if audiences.is_empty() { self.issuers.clone() } else { audiences.to_vec() };
        self.further = further;
        self
    }
    pub fn key(&self) -> &SigningKey {
        &self.key
    }
    pub fn issuer(&self) -> &str {
        &self.issuers[0]
    }
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }
    /// The JSON Web Key Set of every key that tokens are checked with.
    pub fn jwks(&self) -> Result<String, TokenError> {
        let own = self.key.public()?;
        Ok(keles_pki::jwks(std::iter::once(&own).chain(&self.further)))
    }
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Signs claims. Blocks while the key is still being made.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, TokenError> {
        let public = self.key.public()?;
        let header = format!(r#"{{"alg":"{}","kid":"{}"}}"#, public.algorithm(), public.id);
        let body = serde_json::to_vec(claims).expect("claims always encode");
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The user of a token for any of `audiences` (the API server's own when empty), with the audiences they share.
    pub fn authenticate(&self, token: &str, audiences: &[String], now_unix_seconds: i64) -> Result<(Arc<User>, Vec<String>), TokenError> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let (user, got) = match self.recall(token) {
            Some(known) => known,
            None => {
                let claims = self.verify(token)?;
                let user = self.check(&claims, now_unix_seconds)?;
                let known = (Arc::new(user), Arc::new(claims.aud));
                self.remember(token, known.clone());
                known
            }
        };
        let shared: Vec<String> = wanted.iter().filter(|a| got.contains(a)).cloned().collect();
        if shared.is_empty() {
            return Err(TokenError::Audience { got: got.to_vec(), want: wanted.to_vec() });
        }
        Ok((user, shared))
    }

    fn recall(&self, token: &str) -> Option<(Arc<User>, Arc<Vec<String>>)> {
        let held = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        held.get(token).filter(|(at, ..)| at.elapsed() < REMEMBER).map(|(_, u, a)| (u.clone(), a.clone()))
    }
    fn remember(&self, token: &str, known: (Arc<User>, Arc<Vec<String>>)) {
        let mut held = self.remembered.lock().unwrap_or_else(|e| e.into_inner());
        if held.len() >= REMEMBERED_TOKENS {
            held.clear();
        }
        held.insert(token.into(), (Instant::now(), known.0, known.1));
    }

    /// Checks form, issuer and signature.
    fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::NotOurs);
        }
        let (signed, _) = token.rsplit_once('.').ok_or(TokenError::NotOurs)?;
        let (header, body) = signed.split_once('.').ok_or(TokenError::NotOurs)?;
        let bytes = |s: &str| URL_SAFE_NO_PAD.decode(s).map_err(|_| TokenError::NotOurs);
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| TokenError::NotOurs)?;
        let claims: Claims = serde_json::from_slice(&bytes(body)?).map_err(|_| TokenError::NotOurs)?;
        if !ALGORITHMS.contains(&header.alg.as_str()) || !self.issuers.contains(&claims.iss) {
            return Err(TokenError::NotOurs);
        }
        if self.is_signed(token) { Ok(claims) } else { Err(TokenError::Signature) }
    }

    /// The algorithms of our keys, each once. Blocks while the key is still being made.
    pub fn algorithms(&self) -> Result<Vec<&'static str>, TokenError> {
        let own = self.key.public()?;
        let mut all: Vec<_> = std::iter::once(&own).chain(&self.further).map(PublicKey::algorithm).collect();
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// Whether one of our keys signed the token, with the algorithm it names. Blocks while the key is still being made.
    pub fn is_signed(&self, token: &str) -> bool {
        let parts = || {
            let (signed, signature) = token.rsplit_once('.')?;
            let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(signed.split('.').next()?).ok()?).ok()?;
            Some((header.alg, signed.as_bytes(), URL_SAFE_NO_PAD.decode(signature).ok()?))
        };
        let Some((algorithm, signed, signature)) = parts() else { return false };
        let good = |k: &PublicKey| k.algorithm() == algorithm && k.verify(signed, &signature);
        self.key.public().is_ok_and(|k| good(&k)) || self.further.iter().any(good)
    }

    /// Checks times and that everything the token is bound to still is what it was.
    fn check(&self, c: &Claims, now: i64) -> Result<User, TokenError> {
        if now >= c.exp {
            return Err(TokenError::Expired);
        }
        if now < c.nbf {
            return Err(TokenError::NotYet);
        }
        let k = &c.kubernetes;
        let account = &k.serviceaccount;
        self.still_there("serviceaccounts", "service account", &k.namespace, account, now)?;
        for (plural, kind, namespace, reference) in [("pods", "pod", k.namespace.as_str(), &k.pod), ("secrets", "secret", k.namespace.as_str(), &k.secret)] {
            if let Some(r) = reference {
                self.still_there(plural, kind, namespace, r, now)?;
            }
        }
        // A node is looked at only when the token is bound to it directly; beside a pod it is information.
        if let (Some(node), None) = (&k.node, &k.pod) {
            self.still_there("nodes", "node", "", node, now)?;
        }
        let mut user = service_account(&k.namespace, &account.name, &account.uid);
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        extra("credential-id", &if c.jti.is_empty() { String::new() } else { format!("JTI={}", c.jti) });
        for (name, reference) in [("pod", &k.pod), ("node", &k.node)] {
            if let Some(r) = reference {
                extra(&format!("{name}-name"), &r.name);
                extra(&format!("{name}-uid"), &r.uid);
            }
        }
        Ok(user)
    }

    fn still_there(&self, plural: &str, kind: &'static str, namespace: &str, r: &Reference, now: i64) -> Result<(), TokenError> {
        match self.objects.find(plural, namespace, &r.name) {
            Some(f) if f.uid == r.uid && f.deletion_unix_seconds.is_none_or(|d| now < d + DELETION_LEEWAY_SECONDS) => Ok(()),
            _ => Err(TokenError::Unbound { kind, name: r.name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World(Mutex<Vec<(&'static str, &'static str, &'static str)>>);
    impl BoundObjects for World {
        fn find(&self, plural: &str, _: &str, name: &str) -> Option<Found> {
            self.0.lock().unwrap().iter().find(|(p, n, _)| *p == plural && *n == name).map(|(_, _, uid)| Found { uid: (*uid).into(), deletion_unix_seconds: None })
        }
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![DEFAULT_ISSUER.into()],
            exp: 2000,
            iat: 1000,
            iss: DEFAULT_ISSUER.into(),
            jti: "j".into(),
            kubernetes: Bindings {
                namespace: "shop".into(),
                pod: Some(Reference { name: "p".into(), uid: "pu".into() }),
                node: Some(Reference { name: "n".into(), uid: "nu".into() }),
                serviceaccount: Reference { name: "bot".into(), uid: "su".into() },
                ..Bindings::default()
            },
            nbf: 1000,
            sub: "system:serviceaccount:shop:bot".into(),
        }
    }

    #[test]
    fn a_bound_token_names_its_user_and_dies_with_what_it_is_bound_to() {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(World(Mutex::new(vec![("serviceaccounts", "bot", "su"), ("pods", "p", "pu")])));
        keles_pki::Pki::open(dir.path()).unwrap();
        let key = SigningKey::open(dir.path()).unwrap();
        let tokens = || Tokens::new(key.clone(), DEFAULT_ISSUER, world.clone());
        let token = tokens().sign(&claims()).unwrap();

        let (user, _) = tokens().authenticate(&token, &[], 1500).unwrap();
        assert_eq!(user.name, "system:serviceaccount:shop:bot");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]);
        assert_eq!(user.extra["authentication.kubernetes.io/credential-id"], ["JTI=j"]);
        assert_eq!(user.extra["authentication.kubernetes.io/node-name"], ["n"]);

        assert!(matches!(tokens().authenticate(&token, &[], 2000), Err(TokenError::Expired)));
        assert!(matches!(tokens().authenticate(&token, &["vault".into()], 1500), Err(TokenError::Audience { .. })));
        let mut forged = token.clone();
        let at = token.rfind('.').unwrap() + 5;
        forged.replace_range(at..at + 1, if &token[at..at + 1] == "A" { "B" } else { "A" });
        assert!(matches!(tokens().authenticate(&forged, &[], 1500), Err(TokenError::Signature)));
        assert!(matches!(tokens().authenticate("x.y.z", &[], 1500), Err(TokenError::NotOurs)));

        *world.0.lock().unwrap() = vec![("serviceaccounts", "bot", "su"), ("pods", "p", "another")];
        assert!(matches!(tokens().authenticate(&token, &[], 1500), Err(TokenError::Unbound { kind: "pod", .. })));
    }
}
