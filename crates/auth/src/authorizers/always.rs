//! AlwaysAllow and AlwaysDeny: for tests, and for the end of a chain.

use super::{Authorizer, Decision, Known};
use crate::rbac::{Reason, everything};
use crate::{Attributes, User};
use async_trait::async_trait;

pub struct AlwaysAllow;

#[async_trait]
impl Authorizer for AlwaysAllow {
    fn name(&self) -> &str {
        "AlwaysAllow"
    }
    async fn decide(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow(Reason::Text(String::new()))
    }
    fn rules(&self, _: &User, _: &str) -> Known {
        Known { rules: everything(), incomplete: None }
    }
}

pub struct AlwaysDeny;

#[async_trait]
impl Authorizer for AlwaysDeny {
    fn name(&self) -> &str {
        "AlwaysDeny"
    }
    async fn decide(&self, _: &Attributes<'_>) -> Decision {
        Decision::NoOpinion("Everything is forbidden.".into())
    }
    fn rules(&self, _: &User, _: &str) -> Known {
        Known::default()
    }
}
