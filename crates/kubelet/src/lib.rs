//! The node agent: pod state machine, probes, status, its HTTPS API.
