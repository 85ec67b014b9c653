//! The controller runtime: watches, queue, back-off, events, panic boundary.
