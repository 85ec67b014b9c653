//! The service proxy: services and endpoints to nftables.
