//! Authenticators, authorizers and the bootstrap RBAC policy.
