//! The OCI runtime as its callers see it: a program with runc's commands. Needs root, cgroups and /bin/busybox (busybox-static); bundles
//! are also run by Debian's runc and crun where they are installed. Every test owns its bundle, state folder and containers.

mod escapes;
mod exec;
mod hooks;
mod interchange;
mod lifecycle;
mod limits;
mod world;
