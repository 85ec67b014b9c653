//! Prints a line of figures of the embedded store: `cargo run --release -p keles-store --example store_speed -- FOLDER`.

use bytes::Bytes;
use keles_store::embedded::{Embedded, Options};
use keles_store::{Expect, Store, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

async fn put(store: &Embedded, key: String, bytes: usize) {
    store.write(Write::Put { key: Bytes::from(key), value: Bytes::from(vec![b'x'; bytes]), expect: Expect::Absent, ttl: None }).await.expect("writable");
}

/// Puts a second with this many writers at once.
async fn rate(store: &Arc<Embedded>, name: &'static str, writers: usize, each: usize, bytes: usize) -> f64 {
    let begun = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..each {
                    put(&store, format!("/registry/{name}/{w}/{i}"), bytes).await;
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.expect("a writer ends");
    }
    (writers * each) as f64 / begun.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let folder = std::env::args().nth(1).expect("a folder to work in");
    let dir = Path::new(&folder).join("store_speed");
    let store = Embedded::open(&dir, Options::default()).expect("opens");
    let one = rate(&store, "one", 1, 2000, 1000).await;
    let many = rate(&store, "many", 64, 1500, 1000).await;
    store.close().await.expect("closes");
    drop(store);
    let begun = Instant::now();
    let store = Embedded::open(&dir, Options::default()).expect("opens");
    let opened = begun.elapsed();
    let begun = Instant::now();
    let count = store.range(b"/registry/", None, 500, None).await.expect("readable").count;
    println!(
        "store: 1 writer {one:.0} puts/s ({:.0} us each), 64 writers {many:.0} puts/s, open of {count} keys {:.0} ms, first page {:.1} ms",
        1e6 / one,
        opened.as_secs_f64() * 1e3,
        begun.elapsed().as_secs_f64() * 1e3
    );
    store.close().await.expect("closes");
    std::fs::remove_dir_all(&dir).expect("removable");
}
