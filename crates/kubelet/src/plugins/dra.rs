//! DRA drivers: pods' claims of one that registers are prepared and given back through its socket from then on.

use super::{Handler, Plugin};
use crate::agent::Agent;
use crate::dra::drivers;
use async_trait::async_trait;
use std::sync::Arc;

pub struct DraPlugins;

#[async_trait]
impl Handler for DraPlugins {
    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        drivers::service(plugin).map(drop)
    }

    async fn register(&self, agent: &Arc<Agent>, plugin: &Plugin) -> Result<(), String> {
        agent.placement.dra.drivers.register(agent, plugin)?;
        agent.placement.dra.ring();
        agent.pods.all_look_again();
        Ok(())
    }

    async fn deregister(&self, agent: &Arc<Agent>, plugin: &Plugin) {
        agent.placement.dra.drivers.deregister(agent, plugin);
    }
}
