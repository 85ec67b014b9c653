//! The pod network: bridge, addresses, routes.
