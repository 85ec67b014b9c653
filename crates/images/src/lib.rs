//! Images on this node: content store, pull, load, unpack to layer folders.
//!
//! Entry point: [`Images`] (to be built here). Layers are unpacked once, by diff id, and shared by images and containers.
