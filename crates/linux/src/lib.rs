//! The only unsafe code: namespaces, mounts, cgroups, seccomp, capabilities, netlink, nftables.
