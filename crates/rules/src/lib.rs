//! Facts that two or more policies share: tolerations, pod requests, QoS, readiness, template hash.
