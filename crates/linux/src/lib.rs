//! The only unsafe code: namespaces, mounts, cgroups, seccomp, capabilities, netlink, nftables.
pub mod netlink;
pub mod rtnl;
pub mod nft;
