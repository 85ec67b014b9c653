//! Test builders, goldens and check functions.
