//! Controllers over the real API server, a file a subject. One binary, for each would be 170 MB with both in it.

mod deletion;
mod leases;
mod nodes;
mod storage_migration;
mod volumes;
mod workloads;
