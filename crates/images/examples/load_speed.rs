//! Prints a line of figures of loading an archive: `cargo run --release -p keles-images --example load_speed -- ARCHIVE FOLDER`.

use keles_images::Images;
use std::path::Path;
use std::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let images = Images::open(&Path::new(&arguments[2]).join("load_speed")).expect("opens");
    let begun = Instant::now();
    let image = images.load(Path::new(&arguments[1])).await.expect("loads").remove(0);
    let loaded = begun.elapsed();
    let begun = Instant::now();
    images.get(&image.id).await.expect("readable").expect("loaded above");
    println!(
        "images: {} of {} bytes in {} layers loaded in {:.1} ms, looked up in {:.3} ms",
        image.tags.join(" "),
        image.size_bytes,
        image.layers.len(),
        loaded.as_secs_f64() * 1e3,
        begun.elapsed().as_secs_f64() * 1e3
    );
    images.remove(&image.id).await.expect("removable");
}
