//! Audit: what was asked, by whom, and what came of it, by the operator's policy.
//!
//! Entry points: [`Auditor::open`], [`Auditor::begin`] for a request, then the methods of its [`Record`] as the request goes down the
//! chain. Events are audit.k8s.io/v1, one for each stage that the policy does not omit. Invariants: without a policy nothing is recorded
//! and nothing is paid; a sink that fails fails a request only in mode `blocking-strict`, and only before it is worked on. One file and one row
//! of [`Auditor::open`] a sink.

mod event;
mod line;
mod log;
mod policy;
mod webhook;

pub use event::{PATCH_NOTE, Record};
pub use policy::{Level, Policy, PolicyError, Question};

use crate::path::RequestInfo;
use futures::future::{BoxFuture, join_all};
use http::{HeaderValue, Request};
use keles_auth::User;
use keles_auth::outbound::OutboundError;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a request knows of the delivery of its events (`--audit-log-mode`, `--audit-webhook-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: events go in batches, later.
    Batch,
    /// It waits for each delivery, whatever comes of it.
    Blocking,
    /// The same; a failure before the request is worked on fails it.
    BlockingStrict,
}

impl std::str::FromStr for Mode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "batch" => Ok(Mode::Batch),
            "blocking" => Ok(Mode::Blocking),
            "blocking-strict" => Ok(Mode::BlockingStrict),
            other => Err(format!("invalid audit mode {other}, allowed modes are \"batch,blocking,blocking-strict\"")),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Batch => "batch",
            Mode::Blocking => "blocking",
            Mode::BlockingStrict => "blocking-strict",
        })
    }
}

/// How an event stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    /// One line of text, upstream's form of old.
    Legacy,
}

impl std::str::FromStr for Format {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "json" => Ok(Format::Json),
            "legacy" => Ok(Format::Legacy),
            other => Err(format!("invalid audit log format {other}, allowed formats are \"legacy,json\"")),
        }
    }
}

/// `--audit-*`
#[derive(Clone, Debug)]
pub struct Options {
    pub policy_file: Option<PathBuf>,
    /// `-` is standard output.
    pub log_path: Option<PathBuf>,
    /// Days old log files are kept; 0: for ever.
    pub log_max_age_days: u32,
    /// Old log files kept; 0: all.
    pub log_max_backups: u32,
    /// Megabytes a file grows to; 0: 100.
    pub log_max_megabytes: u64,
    pub log_compress: bool,
    pub log_format: Format,
    /// Events are in the file before the request goes on in any mode; what fails counts in the strict one.
    pub log_mode: Mode,
    pub webhook_kubeconfig: Option<PathBuf>,
    pub webhook_batch_max: usize,
    pub webhook_batch_wait: Duration,
    pub webhook_buffer: usize,
    pub webhook_mode: Mode,
}

impl Default for Options {
    /// Upstream's defaults.
    fn default() -> Self {
        Options {
            policy_file: None,
            log_path: None,
            log_max_age_days: 0,
            log_max_backups: 0,
            log_max_megabytes: 0,
            log_compress: false,
            log_format: Format::Json,
            log_mode: Mode::Blocking,
            webhook_kubeconfig: None,
            webhook_batch_max: 400,
            webhook_batch_wait: Duration::from_secs(30),
            webhook_buffer: 10_000,
            webhook_mode: Mode::Batch,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("cannot open the audit log {}: {source}", path.display())]
    Log { path: PathBuf, source: std::io::Error },
    #[error("the audit webhook: {0}")]
    Webhook(#[from] OutboundError),
}

/// Where events go.
pub(crate) trait Sink: Send + Sync + 'static {
    /// Takes one event. False: it is lost, and that is to fail the request.
    fn take<'a>(&'a self, event: &'a Arc<Value>) -> BoxFuture<'a, bool>;
}

pub struct Auditor {
    policy: Policy,
    sinks: Vec<Box<dyn Sink>>,
}

impl Auditor {
    /// `None` when nothing is to be recorded: no policy, or no sink.
    pub fn open(o: &Options) -> Result<Option<Arc<Auditor>>, AuditError> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        if let Some(path) = &o.log_path {
            sinks.push(Box::new(log::Log::open(path, o).map_err(|source| AuditError::Log { path: path.clone(), source })?));
        }
        if let Some(path) = &o.webhook_kubeconfig {
            sinks.push(Box::new(webhook::Webhook::open(path, o)?));
        }
        let policy = o.policy_file.as_deref().map(Policy::open).transpose()?;
        let (Some(policy), false) = (policy, sinks.is_empty()) else {
            if o.log_path.is_some() || o.webhook_kubeconfig.is_some() {
                tracing::warn!("no audit policy file provided, no events will be recorded");
            } else if o.policy_file.is_some() {
                tracing::warn!("an audit policy without --audit-log-path or --audit-webhook-config-file records nothing");
            }
            return Ok(None);
        };
        Ok(Some(Arc::new(Auditor { policy, sinks })))
    }

    /// The record of a request; `None` when the policy does not want it. `user` is absent when authentication failed.
    pub fn begin<B>(self: &Arc<Self>, info: &RequestInfo, user: Option<&User>, peer: IpAddr, audit_id: &HeaderValue, request: &Request<B>) -> Option<Record> {
        let nobody = User::default();
        let path = request.uri().path();
        let wanted = self.policy.decide(&Question::of(info, user.unwrap_or(&nobody), path))?;
        crate::metrics::AUDIT_LEVELS.with([wanted.level.name()]).increment();
        Some(Record::new(self.clone(), wanted, info, user, peer, audit_id, request))
    }

    /// Whether all sinks are content.
    async fn send(&self, event: Value) -> bool {
        let event = Arc::new(event);
        crate::metrics::AUDIT_EVENTS.with([]).increment();
        join_all(self.sinks.iter().map(|s| s.take(&event))).await.into_iter().all(|good| good)
    }
}
