//! The Kubernetes CEL environment. Not built yet: see docs/STATUS.md.
