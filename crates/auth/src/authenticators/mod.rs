//! Who asks: authenticators of bearer tokens in upstream's order, and what is read from headers of a proxy.
//!
//! Entry points: [`Tokens::authenticate`] for a bearer token, [`request_header::RequestHeader`] for headers, [`config::Options`] for what the
//! operator wants. One file and one line of [`config::Options::build`] an authenticator. Invariants: the first that knows a token decides;
//! an error of one does not keep the next from knowing it; nobody tells a client which one refused.

pub mod bootstrap_token;
pub mod config;
pub mod issuers;
pub mod jwt;
pub mod legacy_service_account;
pub mod request_header;
pub mod service_account;
pub mod structured;
pub mod token_file;
pub mod webhook;

use crate::User;
use async_trait::async_trait;
use std::sync::Arc;

/// Who a token is, and for which of the asked audiences it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Authenticated {
    pub user: Arc<User>,
    pub audiences: Vec<String>,
}

/// Why a known kind of token is not good. The text goes to logs and TokenReviews, never into a 401.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Refused {
    pub fn new(why: impl std::fmt::Display) -> Refused {
        Refused(why.to_string())
    }
}

/// A kind of bearer token.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// For logs.
    fn name(&self) -> &'static str;
    /// `Ok(None)`: not a token of this kind. `audiences` is what the token must be for, never empty.
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused>;
}

/// The authenticators in order.
pub struct Tokens {
    all: Vec<Arc<dyn TokenAuthenticator>>,
    /// This API server's own audiences.
    audiences: Vec<String>,
}

impl Tokens {
    pub fn new(all: Vec<Arc<dyn TokenAuthenticator>>, audiences: Vec<String>) -> Tokens {
        Tokens { all, audiences }
    }
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The user of a token for any of `audiences` (the API server's own when empty). `Err` is empty when nobody knows the token.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Authenticated, Vec<Refused>> {
        let wanted = if audiences.is_empty() { &self.audiences } else { audiences };
        let mut refused = Vec::new();
        for authenticator in &self.all {
            match authenticator.authenticate(token, wanted).await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(why) => {
                    tracing::debug!(authenticator = authenticator.name(), %why, "a token was refused");
                    refused.push(why);
                }
            }
        }
        Err(refused)
    }
}

/// Tokens that name no audience count for the API server's own; `None` when others are asked for.
fn implicit(own: &[String], wanted: &[String]) -> Option<Vec<String>> {
    let shared: Vec<String> = wanted.iter().filter(|a| own.contains(a)).cloned().collect();
    (!shared.is_empty()).then_some(shared)
}

/// Compares in a time that does not depend on where two texts differ.
fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (crate::ttl_cache::key([a.as_bytes()]), crate::ttl_cache::key([b.as_bytes()]));
    a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}
