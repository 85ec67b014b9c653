//! The controllers: one file and one row each.
