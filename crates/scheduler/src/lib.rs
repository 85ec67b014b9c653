//! The scheduler: queue, cache, framework and plugins.
//!
//! Entry point: [`run`]. A pod waits in the queue until an event that may help it; one cycle at a time filters and scores nodes over the cache;
//! the choice is assumed in the cache at once and bound in the background, so cycles do not wait for the API.
//! Invariants: a node's cached requests count every pod bound or assumed on it (lesson 135); a pod is in exactly one place of the queue.
//! Deliberately absent: preemption (its verdict is told in upstream's words, nothing is evicted), limits of volumes a node, pod affinity, topology spread,
//! dynamic resources; a pod that asks for these is scheduled by the rest of the rules.

mod cache;
mod cycle;
mod framework;
mod metrics;
mod plugins;
mod queue;
mod report;
mod resources;
mod run;
mod storage;

pub use plugins::ALL;
pub use run::{Options, run};
