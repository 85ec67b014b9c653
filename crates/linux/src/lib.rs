//! The only unsafe code: namespaces, mounts, cgroups, seccomp, capabilities, netlink, nftables.
pub mod netlink;
pub mod rtnl;
pub mod nft;
pub mod capabilities;
pub mod cgroup;
pub mod fdpass;
pub mod mount;
pub mod process;
pub mod rooted;
pub mod seccomp;
pub mod seccomp_default;
pub mod signal;
pub mod syscalls;
pub mod async_fd;
pub mod device_filter;
