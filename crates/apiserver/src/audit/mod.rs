//! Audit: what was asked, by whom, and what came of it, by the operator's policy.
//!
//! Entry points: [`Auditor::open`], [`Auditor::begin`] for a request, then the methods of its [`Record`] as the request goes down the
//! chain. Events are audit.k8s.io/v1, one for each stage that the policy does not omit. Invariants: without a policy nothing is recorded
//! and nothing is paid; a sink that fails never fails a request. One file and one row of [`Auditor::open`] a sink.

mod event;
mod log;
mod policy;
mod webhook;

pub use event::Record;
pub use policy::{Level, Policy, PolicyError, Question};

use crate::path::RequestInfo;
use http::{HeaderValue, Request};
use keles_auth::User;
use keles_auth::outbound::OutboundError;
use serde_json::Value;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    pub webhook_kubeconfig: Option<PathBuf>,
    pub webhook_batch_max: usize,
    pub webhook_batch_wait: Duration,
    pub webhook_buffer: usize,
    /// Waits for each delivery before the request goes on, instead of batches.
    pub webhook_blocking: bool,
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
            webhook_kubeconfig: None,
            webhook_batch_max: 400,
            webhook_batch_wait: Duration::from_secs(30),
            webhook_buffer: 10_000,
            webhook_blocking: false,
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
    /// Takes one event. Never blocks for long and never fails the request.
    fn take(&self, event: &Arc<Value>);
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

    /// The record of a request, its first stage sent; `None` when the policy does not want it. `user` is absent when authentication failed.
    pub fn begin<B>(self: &Arc<Self>, info: &RequestInfo, user: Option<&User>, peer: IpAddr, audit_id: &HeaderValue, request: &Request<B>) -> Option<Record> {
        let nobody = User::default();
        let path = request.uri().path();
        let wanted = self.policy.decide(&Question::of(info, user.unwrap_or(&nobody), path))?;
        crate::metrics::AUDIT_LEVELS.with([wanted.level.name()]).increment();
        let mut record = Record::new(self.clone(), wanted, info, user, peer, audit_id, request);
        if user.is_some() {
            record.stage(event::RECEIVED);
        }
        Some(record)
    }

    fn send(&self, event: Value) {
        let event = Arc::new(event);
        crate::metrics::AUDIT_EVENTS.with([]).increment();
        for s in &self.sinks {
            s.take(&event);
        }
    }
}
