//! CSI drivers: one that registers is asked what it calls this node, and pods' volumes of it go through its socket from then on.

use super::{Handler, Plugin};
use crate::agent::Agent;
use async_trait::async_trait;
use keles_volumes::csi::Driver;
use std::path::Path;
use std::sync::Arc;

pub struct CsiPlugins;

/// The version of the service that this agent speaks.
const MAJOR: u32 = 1;

fn major(version: &str) -> Option<u32> {
    let mut numbers = version.strip_prefix('v').unwrap_or(version).split('.').map(str::parse::<u32>);
    let major = numbers.next()?.ok()?;
    numbers.all(|number| number.is_ok()).then_some(major)
}

#[async_trait]
impl Handler for CsiPlugins {
    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        let (name, versions) = (&plugin.name, &plugin.versions);
        match versions.iter().filter_map(|version| major(version)).any(|major| major == MAJOR) {
            true => Ok(()),
            false => Err(format!("validation failed for CSI Driver {name} at endpoint {}: versions {versions:?} hold none of v{MAJOR}", plugin.endpoint.display())),
        }
    }

    async fn register(&self, agent: &Arc<Agent>, plugin: &Plugin) -> Result<(), String> {
        let driver = Driver::at(&plugin.name, Path::new(&plugin.endpoint));
        let info = driver.node_info().await.map_err(|status| format!("CSI driver {}: NodeGetInfo: {status}", plugin.name))?;
        if info.node_id.is_empty() {
            return Err(format!("CSI driver {} gave no id of this node", plugin.name));
        }
        agent.csi.register(driver, info);
        // The node's objects show it before the driver learns that it is registered.
        agent.csi_node.shown(&plugin.name).await;
        agent.pods.all_look_again();
        Ok(())
    }

    async fn deregister(&self, agent: &Arc<Agent>, plugin: &Plugin) {
        agent.csi.deregister(&plugin.name);
    }
}
