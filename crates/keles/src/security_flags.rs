//! Flags of authentication, authorization, audit and encryption at rest, under upstream's names, and the settings they make.

use crate::server::ServerError;
use clap::{ArgAction, Args};
use keles_apiserver::{Config, NamedFiles, audit};
use keles_auth::authenticators::config::Oidc;
use keles_auth::authenticators::{config as authentication, request_header::RequestHeader, webhook};
use keles_auth::authorizers::config as authorization;
use keles_auth::durations::GoDuration;
use keles_pki::{Authority, PkiError, SigningKey};
use std::path::PathBuf;
use std::time::Duration;

fn seconds(s: u64) -> GoDuration {
    GoDuration(Duration::from_secs(s))
}

/// Who a caller is.
#[derive(Args, Clone)]
#[command(next_help_heading = "Authentication")]
pub struct AuthenticationFlags {
    /// Answer requests without credentials as system:anonymous [default: true].
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// Certificate authorities of client certificates, beside the cluster's own.
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// CSV file of static tokens: token, user, uid, "groups".
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// Take tokens of Secrets of type bootstrap.kubernetes.io/token in kube-system.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// AuthenticationConfiguration file: issuers of JWTs, anonymous access.
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig of a webhook that reviews tokens.
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    #[arg(long, default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,
    /// How long the webhook's answers are kept.
    #[arg(long, default_value_t = seconds(120))]
    pub authentication_token_webhook_cache_ttl: GoDuration,
    /// OpenID Connect: the issuer, an https URL.
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    #[arg(long, default_value = "")]
    pub oidc_client_id: String,
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What stands before user names; "-" for nothing [default: the issuer and "#", nothing before an email].
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub oidc_username_prefix: String,
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    #[arg(long, default_value = "RS256", value_delimiter = ',')]
    pub oidc_signing_algs: Vec<String>,
    /// key=value that a token must claim; may be repeated.
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Authorities of front proxies, which say in headers who asks [default: the cluster's own].
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies [default: front-proxy-client, or any with an own authority].
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    #[arg(long, default_value = "X-Remote-User", value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    #[arg(long, default_value = "X-Remote-Uid", value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    #[arg(long, default_value = "X-Remote-Group", value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    #[arg(long, default_value = "X-Remote-Extra-", value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Issuers of ServiceAccount tokens; the first makes them, all count.
    #[arg(long)]
    pub service_account_issuer: Vec<String>,
    /// Key that signs ServiceAccount tokens, RSA or EC (P-256, P-384) [default: one made in the data folder].
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Further keys whose ServiceAccount tokens count, RSA or EC (P-256, P-384); may be repeated.
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Longest life of a ServiceAccount token that is asked for.
    #[arg(long)]
    pub service_account_max_token_expiration: Option<GoDuration>,
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub service_account_extend_token_expiration: bool,
    /// Tokens are checked against the objects they are bound to; nothing else is offered.
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub service_account_lookup: bool,
    /// Where discovery says the keys of ServiceAccount tokens are [default: this server].
    #[arg(long)]
    pub service_account_jwks_uri: Option<String>,
    /// Audiences of this API server [default: the issuers].
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
}

/// What the server shows of itself.
#[derive(Args, Clone)]
#[command(next_help_heading = "Serving")]
pub struct ServingFlags {
    /// Certificate that is shown to clients, its chain after it [default: one of the cluster's authority; who asks for `kubernetes`,
    /// `localhost` and the like by name is shown that one still]. Followed, as are the others here.
    #[arg(long, requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file.
    #[arg(long, requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// A certificate and its key, "cert,key" or "cert,key:name,*.name2", for clients who ask for these names (its own by default); may be repeated.
    #[arg(long)]
    pub tls_sni_cert_key: Vec<NamedFiles>,
}

impl ServingFlags {
    pub fn apply(&self, config: &mut Config) {
        let default = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        config.serving = default.map(|(certificate, key)| NamedFiles { certificate, key, names: Vec::new() });
        config.serving_by_name = self.tls_sni_cert_key.clone();
    }
}

/// What a caller may do.
#[derive(Args, Clone)]
#[command(next_help_heading = "Authorization")]
pub struct AuthorizationFlags {
    /// Authorizers in order: AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node [default: Node,RBAC].
    #[arg(long, value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// Policy of ABAC, one JSON object a line.
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of a webhook that reviews access.
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    #[arg(long, default_value = "v1beta1")]
    pub authorization_webhook_version: String,
    #[arg(long, default_value_t = seconds(300))]
    pub authorization_webhook_cache_authorized_ttl: GoDuration,
    #[arg(long, default_value_t = seconds(30))]
    pub authorization_webhook_cache_unauthorized_ttl: GoDuration,
    /// AuthorizationConfiguration file; instead of the mode and webhook flags.
    #[arg(long, conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub authorization_config: Option<PathBuf>,
}

/// What is written down, and how the state is kept.
#[derive(Args, Clone)]
#[command(next_help_heading = "Audit and encryption")]
pub struct AuditFlags {
    /// What is recorded; nothing without it.
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// File of audit events, one JSON document a line; "-" for standard output.
    #[arg(long, allow_hyphen_values = true)]
    pub audit_log_path: Option<PathBuf>,
    /// json, or legacy for a line of text an event.
    #[arg(long, default_value = "json")]
    pub audit_log_format: audit::Format,
    /// Days old files are kept.
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxage: u32,
    /// How many old files are kept.
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: u32,
    /// Megabytes a file grows to [default: 100].
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxsize: u64,
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub audit_log_compress: bool,
    /// Kubeconfig of a webhook that takes audit events.
    #[arg(long)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// batch, blocking (requests wait for the delivery of their events) or blocking-strict (and fail with it before they are worked on).
    #[arg(long, default_value = "batch")]
    pub audit_webhook_mode: audit::Mode,
    #[arg(long, default_value_t = 400)]
    pub audit_webhook_batch_max_size: usize,
    #[arg(long, default_value_t = seconds(30))]
    pub audit_webhook_batch_max_wait: GoDuration,
    #[arg(long, default_value_t = 10_000)]
    pub audit_webhook_batch_buffer_size: usize,
    /// Events are in the file before a request is answered, in mode batch too; blocking-strict fails requests that cannot be written down.
    #[arg(long, default_value = "blocking")]
    pub audit_log_mode: audit::Mode,
    /// EncryptionConfiguration file: how resources are encrypted in the store.
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Take the file anew whenever it changes.
    #[arg(long, default_value_t = false, requires = "encryption_provider_config", action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub encryption_provider_config_automatic_reload: bool,
}

/// What the controllers sign with.
#[derive(Args, Clone)]
#[command(next_help_heading = "Signing")]
pub struct SigningFlags {
    /// Certificate of the authority that signs certificate requests [default: the cluster's; none where the controllers run alone].
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// Longest life of certificates that are asked for.
    #[arg(long, default_value = "8760h")]
    pub cluster_signing_duration: GoDuration,
    /// Key that signs the tokens in Secrets of service accounts [default: the API server's; none where the controllers run alone].
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
}

impl SigningFlags {
    pub fn authority(&self) -> Result<Option<Authority>, PkiError> {
        let (Some(certificate), Some(key)) = (&self.cluster_signing_cert_file, &self.cluster_signing_key_file) else { return Ok(None) };
        Authority::read(certificate, key).map(Some)
    }
    pub fn key(&self) -> Result<Option<SigningKey>, PkiError> {
        self.service_account_private_key_file.as_deref().map(SigningKey::read).transpose()
    }
}

fn refuse(flag: &'static str, instead: &'static str) -> ServerError {
    ServerError::NotBuilt { flag, instead }
}

/// Puts the flags into the API server's settings.
pub fn apply(config: &mut Config, a: &AuthenticationFlags, z: &AuthorizationFlags, u: &AuditFlags) -> Result<(), ServerError> {
    if !a.service_account_lookup {
        return Err(refuse("--service-account-lookup=false", "tokens are always checked against live objects; leave it out"));
    }
    if let Some(first) = a.service_account_issuer.first() {
        config.issuer = first.clone();
        config.service_accounts.further_issuers = a.service_account_issuer[1..].to_vec();
    }
    let accounts = &mut config.service_accounts;
    accounts.api_audiences = a.api_audiences.clone();
    accounts.signing_key_file = a.service_account_signing_key_file.clone();
    accounts.key_files = a.service_account_key_file.clone();
    accounts.max_expiration = a.service_account_max_token_expiration.map(|d| d.0);
    accounts.no_extension = !a.service_account_extend_token_expiration;
    accounts.jwks_uri = a.service_account_jwks_uri.clone();
    let own_proxies = a.requestheader_client_ca_file.is_none() && a.requestheader_allowed_names.is_empty();
    config.authentication = authentication::Options {
        anonymous: a.anonymous_auth.unwrap_or(true),
        anonymous_given: a.anonymous_auth.is_some(),
        client_ca_file: a.client_ca_file.clone(),
        request_header: RequestHeader {
            ca_file: a.requestheader_client_ca_file.clone(),
            allowed_names: if own_proxies { RequestHeader::default().allowed_names } else { a.requestheader_allowed_names.clone() },
            username_headers: a.requestheader_username_headers.clone(),
            uid_headers: a.requestheader_uid_headers.clone(),
            group_headers: a.requestheader_group_headers.clone(),
            extra_prefixes: a.requestheader_extra_headers_prefix.clone(),
        },
        token_file: a.token_auth_file.clone(),
        bootstrap_tokens: a.enable_bootstrap_token_auth,
        oidc: a.oidc_issuer_url.as_ref().map(|issuer| Oidc {
            issuer_url: issuer.clone(),
            client_id: a.oidc_client_id.clone(),
            ca_file: a.oidc_ca_file.clone(),
            username_claim: a.oidc_username_claim.clone(),
            username_prefix: a.oidc_username_prefix.clone(),
            groups_claim: a.oidc_groups_claim.clone(),
            groups_prefix: a.oidc_groups_prefix.clone(),
            signing_algs: a.oidc_signing_algs.clone(),
            required_claims: a.oidc_required_claim.clone(),
        }),
        config_file: a.authentication_config.clone(),
        webhook: a.authentication_token_webhook_config_file.as_ref().map(|path| webhook::Options {
            kubeconfig: path.clone(),
            version: a.authentication_token_webhook_version.clone(),
            cache_ttl: a.authentication_token_webhook_cache_ttl.0,
        }),
    };
    let modes = if z.authorization_mode.is_empty() { authorization::Options::default().modes } else { z.authorization_mode.clone() };
    config.authorization = authorization::Options {
        modes,
        policy_file: z.authorization_policy_file.clone(),
        webhook_kubeconfig: z.authorization_webhook_config_file.clone(),
        webhook_version: z.authorization_webhook_version.clone(),
        webhook_authorized_ttl: z.authorization_webhook_cache_authorized_ttl.0,
        webhook_unauthorized_ttl: z.authorization_webhook_cache_unauthorized_ttl.0,
        config_file: z.authorization_config.clone(),
    };
    config.audit = audit::Options {
        policy_file: u.audit_policy_file.clone(),
        log_path: u.audit_log_path.clone(),
        log_max_age_days: u.audit_log_maxage,
        log_max_backups: u.audit_log_maxbackup,
        log_max_megabytes: u.audit_log_maxsize,
        log_compress: u.audit_log_compress,
        log_format: u.audit_log_format,
        log_mode: u.audit_log_mode,
        webhook_kubeconfig: u.audit_webhook_config_file.clone(),
        webhook_batch_max: u.audit_webhook_batch_max_size,
        webhook_batch_wait: u.audit_webhook_batch_max_wait.0,
        webhook_buffer: u.audit_webhook_batch_buffer_size,
        webhook_mode: u.audit_webhook_mode,
    };
    Ok(())
}
