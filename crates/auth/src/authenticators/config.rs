//! What the operator wants of authentication, and the authenticators made of it.

use super::bootstrap_token::{BootstrapTokens, Objects};
use super::issuers::Issuers;
use super::jwt::{ALGORITHMS, ClaimRule, Jwt, Mapping, Trust};
use super::legacy_service_account::LegacyServiceAccounts;
use super::request_header::RequestHeader;
use super::service_account::ServiceAccounts;
use super::structured::{Anonymous, StructuredError, check_url};
use super::token_file::{TokenFile, TokenFileError};
use super::webhook::{self, Webhook, WebhookError};
use super::{TokenAuthenticator, Tokens};
use crate::outbound::{Endpoint, OutboundError};
use crate::tokens;
use std::path::PathBuf;
use std::sync::Arc;

/// `--oidc-*`
#[derive(Clone, Debug, Default)]
pub struct Oidc {
    pub issuer_url: String,
    pub client_id: String,
    pub ca_file: Option<PathBuf>,
    pub username_claim: String,
    /// Empty: the issuer's URL and `#`, but nothing before an email; `-`: nothing.
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub signing_algs: Vec<String>,
    /// `claim=value`
    pub required_claims: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub anonymous: bool,
    /// Whether the flag was given: the configuration file may say it too, but not both.
    pub anonymous_given: bool,
    /// PEM bundles of authorities whose client certificates count, beside the cluster's own.
    pub client_ca_file: Option<PathBuf>,
    pub request_header: RequestHeader,
    pub token_file: Option<PathBuf>,
    pub bootstrap_tokens: bool,
    pub oidc: Option<Oidc>,
    pub config_file: Option<PathBuf>,
    pub webhook: Option<webhook::Options>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            anonymous: true,
            anonymous_given: false,
            client_ca_file: None,
            request_header: RequestHeader::default(),
            token_file: None,
            bootstrap_tokens: false,
            oidc: None,
            config_file: None,
            webhook: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    #[error("--oidc-*: {0}")]
    Oidc(String),
    #[error("--oidc-* and --authentication-config are two ways to say the same: give one of them")]
    OidcTwice,
    #[error("--anonymous-auth and the field anonymous of --authentication-config cannot both be given")]
    AnonymousTwice,
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    #[error(transparent)]
    TokenFile(#[from] TokenFileError),
    #[error(transparent)]
    Structured(#[from] StructuredError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
}

/// What the options make.
pub struct Authentication {
    pub tokens: Tokens,
    pub anonymous: Anonymous,
    /// Those of `--authentication-config`, which are read again when the file changes.
    pub issuers: Option<Arc<Issuers>>,
}

impl Options {
    /// The authenticators of tokens, in upstream's order.
    pub fn build(&self, accounts: Arc<tokens::Tokens>, objects: Arc<dyn Objects>) -> Result<Authentication, AuthenticationError> {
        let own = accounts.audiences().to_vec();
        let mut anonymous = Anonymous { enabled: self.anonymous, paths: Vec::new() };
        let mut issuers = None;
        let mut all: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
        if let Some(path) = &self.token_file {
            all.push(Arc::new(TokenFile::open(path, own.clone())?));
        }
        all.push(Arc::new(LegacyServiceAccounts::new(accounts.clone(), objects.clone())));
        all.push(Arc::new(ServiceAccounts(accounts.clone())));
        if self.bootstrap_tokens {
            all.push(Arc::new(BootstrapTokens::new(objects, own.clone())));
        }
        match (&self.oidc, &self.config_file) {
            (Some(_), Some(_)) => return Err(AuthenticationError::OidcTwice),
            (Some(oidc), None) => all.push(Arc::new(oidc.open(&own, accounts.issuers())?)),
            (None, Some(path)) => {
                let all_of_file = Arc::new(Issuers::open(path, &own, accounts.issuers())?);
                if let Some(a) = all_of_file.anonymous() {
                    if self.anonymous_given {
                        return Err(AuthenticationError::AnonymousTwice);
                    }
                    anonymous = a.clone();
                }
                all.push(all_of_file.clone());
                issuers = Some(all_of_file);
            }
            (None, None) => {}
        }
        if let Some(w) = &self.webhook {
            all.push(Arc::new(Webhook::open(w, own.clone())?));
        }
        Ok(Authentication { tokens: Tokens::new(all, own), anonymous, issuers })
    }
}

impl Oidc {
    fn open(&self, own: &[String], own_issuers: &[String]) -> Result<Jwt, AuthenticationError> {
        let bad = |why: String| AuthenticationError::Oidc(why);
        check_url(&self.issuer_url).map_err(|why| bad(format!("--oidc-issuer-url {:?}: {why}", self.issuer_url)))?;
        if own_issuers.contains(&self.issuer_url) {
            return Err(bad("--oidc-issuer-url is this cluster's own issuer".into()));
        }
        if self.client_id.is_empty() {
            return Err(bad("--oidc-issuer-url needs --oidc-client-id".into()));
        }
        if let Some(unknown) = self.signing_algs.iter().find(|a| !ALGORITHMS.contains(&a.as_str())) {
            return Err(bad(format!("--oidc-signing-algs: {unknown:?} is not supported; there are {ALGORITHMS:?}")));
        }
        let mut rules = Vec::new();
        for pair in &self.required_claims {
            let (claim, value) = pair.split_once('=').ok_or_else(|| bad(format!("--oidc-required-claim: {pair:?} is not claim=value")))?;
            rules.push(ClaimRule::Equals { claim: claim.into(), value: value.into() });
        }
        let prefix = match (self.username_prefix.as_str(), self.username_claim.as_str()) {
            ("-", _) | ("", "email") => String::new(),
            ("", _) => format!("{}#", self.issuer_url),
            (given, _) => given.to_owned(),
        };
        let ca = match &self.ca_file {
            Some(path) => Some(std::fs::read(path).map_err(|source| AuthenticationError::Read { path: path.clone(), source })?),
            None => None,
        };
        let trust = Trust {
            issuer: self.issuer_url.clone(),
            discovery_url: None,
            audiences: vec![self.client_id.clone()],
            algorithms: self.signing_algs.clone(),
            rules,
            username: Mapping::Claim { claim: self.username_claim.clone(), prefix },
            groups: (!self.groups_claim.is_empty()).then(|| Mapping::Claim { claim: self.groups_claim.clone(), prefix: self.groups_prefix.clone() }),
            uid: None,
            extra: Vec::new(),
            user_rules: Vec::new(),
        };
        Ok(Jwt::new(trust, Endpoint::https(&self.issuer_url, ca.as_deref())?, own.to_vec()))
    }
}
