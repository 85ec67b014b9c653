//! What operators see of a process: logs, metrics, traces, pages for debugging.
//!
//! Entry points: [`init_logs`], [`metrics`], [`trace`], [`pages`], [`health`]. Everything is a property of the process, so what is here is global:
//! parts of one process share one log, one table of metrics and one exporter of traces.

pub mod current;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod pages;
pub mod profile;
mod proto;
pub mod trace;

pub use logs::{LogFormat, LogOptions, init_logs};
