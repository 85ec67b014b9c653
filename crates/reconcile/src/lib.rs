//! The controller runtime: watches, queue, back-off, limits, events, leader election, counters, panic boundary.
//!
//! Entry point: [`run`] with a [`Controller`], which is a function from a key to writes. The runtime owns the loop around it.
//! Invariants: one key is never reconciled twice at the same time; a key that changes while it is reconciled runs again (lesson 126); a
//! controller sees its own acknowledged writes when it writes through [`Writer`] (lesson 125); a panic costs one attempt, never the process.
//! Deliberately absent: polling. What wakes a controller is a change, a failure's back-off, or a time that the controller itself named.

mod controller;
mod events;
mod leader;
mod metrics;
mod queue;
mod writer;

pub use controller::{Context, Controller, Outcome, ReconcileError, Watches, run};
pub use events::{EventStyle, Recorder, reference_of};
pub use leader::{Election, Leadership, lead};
pub use metrics::{Counters, counters};
pub use queue::{BackOff, Queue};
pub use writer::{WriteError, Writer};
