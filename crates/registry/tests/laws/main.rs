//! The laws of the pipelines and the watch cache, over sample kinds and the embedded store.

mod deletes;
mod kinds;
mod late;
mod lifecycle;
mod lists;
mod owners;
mod patches;
mod protobuf;
mod versions;
mod watches;
mod world;
mod writes;
