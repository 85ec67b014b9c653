//! Services: name, needs, run; start order, readiness, drain.
