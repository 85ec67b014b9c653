//! The CA, certificates and ServiceAccount signing keys.
