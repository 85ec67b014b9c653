//! Real containers under a real shim: needs root, cgroups, overlayfs and /bin/busybox (package busybox-static).
//! Every test owns its folders and cgroup root, and ends with [`world::World::finish`], which looks for anything left behind.

mod isolation;
mod lifecycle;
mod recovery;
mod streams;
mod world;
