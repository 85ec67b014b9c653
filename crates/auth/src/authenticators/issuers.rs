//! The issuers of an AuthenticationConfiguration file, which may change while the server runs.
//!
//! Entry points: [`Issuers::open`], [`Issuers::reload`]. New issuers take the place of the old ones whole, and only once the keys of each were
//! fetched; `anonymous` is settled at the start, as upstream.

use super::jwt::Jwt;
use super::structured::{Anonymous, Structured, StructuredError};
use super::{Authenticated, Refused, TokenAuthenticator};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How long new issuers may take to answer, and the pause between two tries; upstream's figures.
const READY_WITHIN: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    File(#[from] StructuredError),
    #[error("its issuers do not answer: {0}")]
    Issuer(#[source] Refused),
}

pub struct Issuers {
    path: PathBuf,
    own_audiences: Vec<String>,
    own_issuers: Vec<String>,
    /// What the file said at the start of who may be anonymous.
    anonymous: Option<Anonymous>,
    held: RwLock<Arc<Vec<Jwt>>>,
}

impl Issuers {
    pub fn open(path: &Path, own_audiences: &[String], own_issuers: &[String]) -> Result<Issuers, StructuredError> {
        let s = Structured::open(path, own_audiences, own_issuers)?;
        Ok(Issuers { path: path.into(), own_audiences: own_audiences.to_vec(), own_issuers: own_issuers.to_vec(), anonymous: s.anonymous, held: RwLock::new(Arc::new(s.jwt)) })
    }

    pub fn anonymous(&self) -> Option<&Anonymous> {
        self.anonymous.as_ref()
    }

    /// Reads the file again.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let s = Structured::open(&self.path, &self.own_audiences, &self.own_issuers)?;
        if s.anonymous != self.anonymous {
            tracing::warn!(path = %self.path.display(), "who may be anonymous changes with the next start only");
        }
        let end = tokio::time::Instant::now() + READY_WITHIN;
        for jwt in &s.jwt {
            while let Err(why) = jwt.ready().await {
                if tokio::time::Instant::now() + TRY_EVERY > end {
                    return Err(ReloadError::Issuer(why));
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
        }
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(s.jwt);
        Ok(())
    }
}

#[async_trait]
impl TokenAuthenticator for Issuers {
    fn name(&self) -> &'static str {
        "jwt"
    }
    /// No two issuers of a file are the same, so that at most one knows a token.
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        for jwt in held.iter() {
            if let Some(found) = jwt.authenticate(token, audiences).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
