//! Calls: how long each kind may take, and what its failure is to the agent.

use keles_grpc::{Channel, Code, Status};
use keles_runtime::api::{Result, RuntimeError};
use prost::Message;
use std::time::Duration;

/// Upstream's `--runtime-request-timeout`.
pub const USUAL: Duration = Duration::from_secs(120);
/// For what makes or changes much: twice that, as upstream has it for sandboxes.
pub const LONG: Duration = Duration::from_secs(240);

/// The way to the runtime. Clones share the connection.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
}

impl Caller {
    pub fn new(channel: Channel) -> Caller {
        Caller { channel }
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub async fn raw<Q: Message, A: Message + Default>(&self, method: &str, request: &Q, limit: Duration) -> std::result::Result<A, Status> {
        self.channel.unary(method, request, limit).await
    }

    /// About the container with this id.
    pub async fn container<Q: Message, A: Message + Default>(&self, method: &str, step: &'static str, id: &str, request: &Q, limit: Duration) -> Result<A> {
        self.raw(method, request, limit).await.map_err(|status| failed("container", step, id, status))
    }

    /// About the sandbox with this id.
    pub async fn sandbox<Q: Message, A: Message + Default>(&self, method: &str, step: &'static str, id: &str, request: &Q, limit: Duration) -> Result<A> {
        self.raw(method, request, limit).await.map_err(|status| failed("sandbox", step, id, status))
    }
}

pub fn failed(what: &'static str, step: &'static str, id: &str, status: Status) -> RuntimeError {
    match status.code {
        Code::NotFound => RuntimeError::NotFound { what, id: id.to_owned() },
        _ => RuntimeError::Step { step, message: status.to_string() },
    }
}

/// Of what is to be gone: gone already is as good.
pub fn gone<A>(result: Result<A>) -> Result<()> {
    match result {
        Ok(_) | Err(RuntimeError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whole seconds, as the CRI counts them; what is begun counts, so that no limit becomes none.
pub fn seconds(duration: Duration) -> i64 {
    let whole = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX)
}
