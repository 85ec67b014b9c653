//! Bound ServiceAccount tokens ([`crate::tokens`]) in the line of authenticators.

use super::{Authenticated, Refused, TokenAuthenticator};
use crate::tokens::{TokenError, Tokens};
use async_trait::async_trait;
use std::sync::Arc;

pub struct ServiceAccounts(pub Arc<Tokens>);

#[async_trait]
impl TokenAuthenticator for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount"
    }
    async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Authenticated>, Refused> {
        let now = jiff::Timestamp::now().as_second();
        let answer = if self.0.key().is_ready() {
            self.0.authenticate(token, audiences, now)
        } else {
            // The signing key is still being made: off the event loop.
            let (tokens, token, audiences) = (self.0.clone(), token.to_owned(), audiences.to_vec());
            tokio::task::spawn_blocking(move || tokens.authenticate(&token, &audiences, now)).await.unwrap_or(Err(TokenError::NotOurs))
        };
        match answer {
            Ok((user, audiences)) => Ok(Some(Authenticated { user, audiences })),
            Err(TokenError::NotOurs) => Ok(None),
            Err(e) => Err(Refused::new(e)),
        }
    }
}
