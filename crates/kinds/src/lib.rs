//! Every built-in kind: one file and one row each.
