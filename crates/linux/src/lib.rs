//! The only unsafe code: namespaces, mounts, cgroups, seccomp, capabilities, netlink, nftables.
pub mod async_fd;
pub mod capabilities;
pub mod cgroup;
pub mod device_filter;
pub mod fdpass;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod process;
pub mod rooted;
pub mod rtnl;
pub mod seccomp;
pub mod seccomp_default;
pub mod signal;
pub mod syscalls;
#[cfg(target_arch = "x86_64")]
mod syscalls_32;
