//! OpenID Connect: JWTs of other issuers, checked by the keys the issuer publishes.
//!
//! Keys come from the issuer's discovery document and are fetched again when a token names a key that is not known, at most once in
//! [`REFETCH_EVERY`]. Source: OpenID Connect Discovery 1.0, RFC 7515, 7517, 7519, KEP-3331. Groups that a token only
//! points to (OpenID Connect Core 1.0, 5.6.2) are fetched from where it says. Deliberately absent: ES512.

use super::{Authenticated, Refused, TokenAuthenticator, implicit};
use crate::expression::Expression;
use crate::outbound::Endpoint;
use crate::{User, mark_authenticated};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Unknown key ids do not make us ask the issuer more often than this.
pub const REFETCH_EVERY: Duration = Duration::from_secs(10);
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// Clocks may differ this much where a token is not valid yet.
const NOT_BEFORE_LEEWAY_SECONDS: f64 = 300.0;
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Algorithms a token may be signed with.
pub const ALGORITHMS: &[&str] = &["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"];

/// One rule that must hold of the claims.
#[derive(Debug, Clone)]
pub enum ClaimRule {
    Equals { claim: String, value: String },
    Holds { expression: Expression, message: String },
}

/// Where a part of the user comes from.
#[derive(Debug, Clone)]
pub enum Mapping {
    Claim { claim: String, prefix: String },
    Expression(Expression),
}

/// What an issuer's tokens are taken for.
#[derive(Debug, Clone)]
pub struct Trust {
    pub issuer: String,
    /// Where the discovery document is, when not below the issuer's URL.
    pub discovery_url: Option<String>,
    /// A token must be for one of these.
    pub audiences: Vec<String>,
    pub algorithms: Vec<String>,
    pub rules: Vec<ClaimRule>,
    pub username: Mapping,
    pub groups: Option<Mapping>,
    pub uid: Option<Mapping>,
    /// Key and value.
    pub extra: Vec<(String, Expression)>,
    pub user_rules: Vec<(Expression, String)>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// A published key that can check signatures.
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
}

struct Key {
    id: String,
    /// Empty: any that fits.
    algorithm: String,
    material: Material,
}

impl Key {
    /// `None` for kinds of keys that are not for signatures here.
    fn parse(v: &Value) -> Option<Key> {
        let text = |k: &str| v[k].as_str().unwrap_or_default();
        let bytes = |k: &str| URL_SAFE_NO_PAD.decode(text(k).trim_end_matches('=')).ok().filter(|b| !b.is_empty());
        if !matches!(text("use"), "" | "sig") {
            return None;
        }
        let point = |n: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == n && y.len() == n).then(|| [vec![4], x, y].concat())
        };
        let material = match (text("kty"), text("crv")) {
            ("RSA", _) => Material::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", "P-256") => Material::P256(point(32)?),
            ("EC", "P-384") => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Key { id: text("kid").into(), algorithm: text("alg").into(), material })
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> bool {
        if !self.algorithm.is_empty() && self.algorithm != algorithm {
            return false;
        }
        let rsa = |n: &Vec<u8>, e: &Vec<u8>, p: &'static signature::RsaParameters| RsaPublicKeyComponents { n, e }.verify(p, message, signed).is_ok();
        let ec = |point: &Vec<u8>, a: &'static signature::EcdsaVerificationAlgorithm| UnparsedPublicKey::new(a, point).verify(message, signed).is_ok();
        match (algorithm, &self.material) {
            ("RS256", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PKCS1_2048_8192_SHA256),
            ("RS384", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PKCS1_2048_8192_SHA384),
            ("RS512", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PKCS1_2048_8192_SHA512),
            ("PS256", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PSS_2048_8192_SHA256),
            ("PS384", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PSS_2048_8192_SHA384),
            ("PS512", Material::Rsa { n, e }) => rsa(n, e, &signature::RSA_PSS_2048_8192_SHA512),
            ("ES256", Material::P256(p)) => ec(p, &signature::ECDSA_P256_SHA256_FIXED),
            ("ES384", Material::P384(p)) => ec(p, &signature::ECDSA_P384_SHA384_FIXED),
            _ => false,
        }
    }
}

#[derive(Default)]
struct Keys {
    keys: Arc<Vec<Key>>,
}

pub struct Jwt {
    trust: Trust,
    endpoint: Endpoint,
    own_audiences: Vec<String>,
    keys: RwLock<Keys>,
    /// Issuers of claims that tokens of this one point to, by their URL.
    others: Mutex<HashMap<String, Arc<Jwt>>>,
    /// When the keys were last asked for; held while they are, so that one asks for all.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Jwt {
    pub fn new(trust: Trust, endpoint: Endpoint, own_audiences: Vec<String>) -> Jwt {
        Jwt { trust, endpoint, own_audiences, keys: RwLock::default(), others: Mutex::default(), asked: tokio::sync::Mutex::default() }
    }

    fn known(&self) -> Arc<Vec<Key>> {
        self.keys.read().unwrap_or_else(|e| e.into_inner()).keys.clone()
    }

    /// Asks the issuer for its keys, unless somebody just did.
    async fn fetch(&self) -> Result<Arc<Vec<Key>>, Refused> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < REFETCH_EVERY) {
            return Ok(self.known());
        }
        let fetched = self.fetch_now().await;
        if fetched.is_ok() {
            *asked = Some(Instant::now());
        }
        let keys = Arc::new(fetched?);
        self.keys.write().unwrap_or_else(|e| e.into_inner()).keys = keys.clone();
        Ok(keys)
    }

    /// Fetches the keys if they are not there yet: whether the issuer answers.
    pub async fn ready(&self) -> Result<(), Refused> {
        if self.asked.lock().await.is_some() { Ok(()) } else { self.fetch().await.map(|_| ()) }
    }

    async fn fetch_now(&self) -> Result<Vec<Key>, Refused> {
        let issuer = &self.trust.issuer;
        let url = self.trust.discovery_url.clone().unwrap_or_else(|| format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')));
        let document = self.endpoint.get(&url, FETCH_TIMEOUT).await.map_err(|e| Refused(format!("oidc: authenticator for issuer {issuer:?} is not initialized: {e}")))?;
        let document: Discovery = serde_json::from_value(document).map_err(|e| Refused(format!("oidc: {url} is no discovery document: {e}")))?;
        if document.issuer != *issuer {
            return Err(Refused(format!("oidc: issuer did not match the issuer returned by provider, expected {issuer:?} got {:?}", document.issuer)));
        }
        let set = self.endpoint.get(&document.jwks_uri, FETCH_TIMEOUT).await.map_err(|e| Refused(format!("oidc: fetching keys: {e}")))?;
        let set: KeySet = serde_json::from_value(set).map_err(|e| Refused(format!("oidc: {} is no key set: {e}", document.jwks_uri)))?;
        Ok(set.keys.iter().filter_map(Key::parse).collect())
    }

    async fn verify(&self, token: &str) -> Result<Map<String, Value>, Refused> {
        let refuse = |why: &str| Refused(format!("oidc: verify token: {why}"));
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| refuse("malformed jwt"))?;
        let (header, body) = signed.split_once('.').ok_or_else(|| refuse("malformed jwt"))?;
        let bytes = |s: &str| URL_SAFE_NO_PAD.decode(s).map_err(|_| refuse("malformed jwt"));
        let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| refuse("malformed jwt"))?;
        if header.crit.is_some() {
            return Err(refuse("the header demands extensions that are not known"));
        }
        if !self.trust.algorithms.contains(&header.alg) {
            return Err(refuse(&format!("oidc: id token signed with unsupported algorithm, expected {:?} got {:?}", self.trust.algorithms, header.alg)));
        }
        let signature = bytes(signature)?;
        let good = |keys: &[Key]| keys.iter().any(|k| (header.kid.is_empty() || k.id.is_empty() || k.id == header.kid) && k.verifies(&header.alg, signed.as_bytes(), &signature));
        if !good(&self.known()) && !good(&self.fetch().await?) {
            return Err(refuse("failed to verify signature: failed to verify id token signature"));
        }
        serde_json::from_slice(&bytes(body)?).map_err(|_| refuse("malformed jwt"))
    }

    /// Times and audience.
    fn check_token(&self, c: &Map<String, Value>, now: f64) -> Result<(), Refused> {
        let number = |k: &str| c.get(k).and_then(Value::as_f64);
        let expires = number("exp").ok_or_else(|| Refused("oidc: verify token: the token has no exp claim".into()))?;
        if now >= expires {
            return Err(Refused("oidc: verify token: oidc: token is expired".into()));
        }
        if number("nbf").is_some_and(|n| now + NOT_BEFORE_LEEWAY_SECONDS < n) {
            return Err(Refused("oidc: verify token: oidc: current time is before the nbf (not before) time".into()));
        }
        let got = texts(c.get("aud")).unwrap_or_default();
        if !got.iter().any(|a| self.trust.audiences.contains(a)) {
            return Err(Refused(format!("oidc: verify token: oidc: expected audience in {:?} got {got:?}", self.trust.audiences)));
        }
        Ok(())
    }

    fn check(&self, c: &Map<String, Value>, now: f64) -> Result<(), Refused> {
        self.check_token(c, now)?;
        for rule in &self.trust.rules {
            match rule {
                ClaimRule::Equals { claim, value } => match c.get(claim) {
                    None => return Err(Refused(format!("oidc: required claim {claim} not present in ID token"))),
                    Some(Value::String(s)) if s == value => {}
                    Some(Value::String(s)) => return Err(Refused(format!("oidc: required claim {claim} value does not match. Got = {s}, want = {value}"))),
                    Some(_) => return Err(Refused(format!("oidc: parse claim {claim}: it is not a string"))),
                },
                ClaimRule::Holds { expression, message } => hold(expression, &Value::Object(c.clone()), message)?,
            }
        }
        Ok(())
    }

    /// Fetches the groups where the token points to them instead of naming them.
    async fn expand(&self, c: &mut Map<String, Value>, now: f64) -> Result<(), Refused> {
        let Some(Mapping::Claim { claim, .. }) = &self.trust.groups else { return Ok(()) };
        let Some(source) = c.get("_claim_names").and_then(|n| n[claim].as_str()).filter(|_| !c.contains_key(claim)) else { return Ok(()) };
        let refuse = |why: String| Refused(format!("oidc: could not expand distributed claims: {why}"));
        let sources = c.get("_claim_sources").ok_or_else(|| refuse("oidc: no claim sources".into()))?;
        let at = sources.get(source).ok_or_else(|| refuse(format!("id token _claim_names contained a source {source} missing in _claims_sources")))?;
        // Without an address it is an aggregated claim, which is none of ours.
        let Some(url) = at["endpoint"].as_str().filter(|u| !u.is_empty()) else { return Ok(()) };
        let jwt = self.endpoint.get_text(url, at["access_token"].as_str(), FETCH_TIMEOUT).await.map_err(|e| refuse(format!("while getting distributed claim {claim:?}: {e}")))?;
        let jwt = jwt.trim();
        let issuer = claimed_issuer(jwt).ok_or_else(|| refuse("getting untrusted issuer from endpoint: malformed jwt".into()))?;
        let theirs = match issuer == self.trust.issuer {
            true => self.verify(jwt).await,
            false => Box::pin(self.other(&issuer).map_err(refuse)?.verify(jwt)).await,
        };
        let theirs = theirs.map_err(|e| refuse(format!("verify distributed claim token: {e}")))?;
        self.check_token(&theirs, now).map_err(|e| refuse(format!("verify distributed claim token: {e}")))?;
        let value = theirs.get(claim).ok_or_else(|| refuse(format!("jwt returned by distributed claim endpoint {url:?} did not contain claim: {claim}")))?;
        c.insert(claim.clone(), value.clone());
        Ok(())
    }

    /// Whose tokens are only looked at for what ours point to.
    fn other(&self, issuer: &str) -> Result<Arc<Jwt>, String> {
        const OTHERS_MAX: usize = 16;
        super::structured::check_url(issuer)?;
        let mut all = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= OTHERS_MAX && !all.contains_key(issuer) {
            all.clear();
        }
        let made = || Arc::new(Jwt::new(Trust { issuer: issuer.into(), discovery_url: None, ..self.trust.clone() }, self.endpoint.clone(), self.own_audiences.clone()));
        Ok(all.entry(issuer.into()).or_insert_with(made).clone())
    }

    fn user(&self, c: &Map<String, Value>) -> Result<User, Refused> {
        let claims = Value::Object(c.clone());
        let evaluate = |e: &Expression| e.evaluate(&claims).map_err(|e| Refused(format!("oidc: error evaluating claim mapping: {e}")));
        let name = match &self.trust.username {
            Mapping::Claim { claim, prefix } => {
                let name = c.get(claim).ok_or_else(|| Refused(format!("oidc: parse username claims {claim:?}: claim not present")))?;
                let name = name.as_str().ok_or_else(|| Refused(format!("oidc: parse username claims {claim:?}: it is not a string")))?;
                if claim == "email" {
                    match c.get("email_verified") {
                        None | Some(Value::Bool(true)) => {}
                        Some(Value::Bool(false)) => return Err(Refused("oidc: email not verified".into())),
                        Some(_) => return Err(Refused("oidc: parse 'email_verified' claim: it is not a boolean".into())),
                    }
                }
                format!("{prefix}{name}")
            }
            Mapping::Expression(e) => {
                evaluate(e)?.as_str().map(str::to_owned).ok_or_else(|| Refused("oidc: error evaluating username claim expression: it is not a string".into()))?
            }
        };
        let mut user = User { name, ..User::default() };
        if user.name.is_empty() {
            return Err(Refused("oidc: the username is empty".into()));
        }
        let many = |m: &Mapping| -> Result<Vec<String>, Refused> {
            let (value, prefix) = match m {
                Mapping::Claim { claim, prefix } => (c.get(claim).cloned(), prefix.as_str()),
                Mapping::Expression(e) => (Some(evaluate(e)?), ""),
            };
            let all = match &value {
                None | Some(Value::Null) => Vec::new(),
                v => texts(v.as_ref()).ok_or_else(|| Refused("oidc: parse groups claim: it is neither a string nor a list of strings".into()))?,
            };
            Ok(all.into_iter().filter(|g| !g.is_empty()).map(|g| format!("{prefix}{g}")).collect())
        };
        if let Some(m) = &self.trust.groups {
            user.groups = many(m)?;
        }
        user.uid = match &self.trust.uid {
            None => String::new(),
            Some(Mapping::Claim { claim, .. }) => {
                c.get(claim).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| Refused(format!("oidc: parse uid claim {claim:?}: it is absent or not a string")))?
            }
            Some(Mapping::Expression(e)) => {
                evaluate(e)?.as_str().map(str::to_owned).ok_or_else(|| Refused("oidc: error evaluating uid claim expression: it is not a string".into()))?
            }
        };
        for (key, e) in &self.trust.extra {
            let values = many(&Mapping::Expression(e.clone()))?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        if let Some(id) = c.get("jti").and_then(Value::as_str).filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
        }
        let info = serde_json::json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        for (rule, message) in &self.trust.user_rules {
            hold(rule, &info, message)?;
        }
        mark_authenticated(&mut user);
        Ok(user)
    }
}

fn hold(e: &Expression, over: &Value, message: &str) -> Result<(), Refused> {
    match e.evaluate(over) {
        Ok(Value::Bool(true)) => Ok(()),
        Ok(_) => Err(Refused(format!("oidc: error evaluating claim validation expression: validation expression failed: {message}"))),
        Err(e) => Err(Refused(format!("oidc: error evaluating claim validation expression: {e}"))),
    }
}

/// A string, or a list of strings.
fn texts(v: Option<&Value>) -> Option<Vec<String>> {
    match v? {
        Value::String(s) => Some(vec![s.clone()]),
        Value::Array(all) => all.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// The issuer a token claims, not yet checked.
fn claimed_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        iss: String,
    }
    let body = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Claims>(&body).ok().map(|c| c.iss)
}

#[async_trait]
impl TokenAuthenticator for Jwt {
    fn name(&self) -> &'static str {
        "jwt"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        if token.len() > TOKEN_BYTES_MAX || claimed_issuer(token).as_deref() != Some(&self.trust.issuer) {
            return Ok(None);
        }
        let Some(audiences) = implicit(&self.own_audiences, audiences) else { return Ok(None) };
        let now = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
        let mut claims = self.verify(token).await?;
        self.check_token(&claims, now)?;
        self.expand(&mut claims, now).await?;
        self.check(&claims, now)?;
        Ok(Some(Authenticated { user: Arc::new(self.user(&claims)?), audiences }))
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
