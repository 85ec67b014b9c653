//! Two processes on one folder, and kill -9 in the middle: the test binary runs itself as the other process.

mod world;

use keles_images::Images;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use world::{Tar, docker_archive, write};

const ROOT: &str = "KELES_IMAGES_TEST_ROOT";
const ARCHIVE: &str = "KELES_IMAGES_TEST_ARCHIVE";

/// Starts this binary as a process that loads an archive: says "loading", loads, says "loaded".
fn loader(test: &str, root: &Path, archive: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", test, "--nocapture"])
        .env(ROOT, root)
        .env(ARCHIVE, archive)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs")
}

/// In the child: loads and is done.
async fn is_loader() -> bool {
    let (Some(root), Some(archive)) = (std::env::var_os(ROOT), std::env::var_os(ARCHIVE)) else { return false };
    let images = Images::open(Path::new(&root)).expect("opens");
    println!("\nloading");
    images.load(Path::new(&archive)).await.expect("loads");
    println!("\nloaded");
    true
}

fn wait_for(child: &mut Child, word: &str) {
    let out = child.stdout.take().expect("piped");
    let mut lines = BufReader::new(out);
    let mut line = String::new();
    while line.trim() != word {
        line.clear();
        assert!(lines.read_line(&mut line).expect("readable") > 0, "the child ended before it said {word}");
    }
    child.stdout = Some(lines.into_inner());
}

fn archive_of(files: usize, bytes: usize) -> Vec<u8> {
    let layer = (0..files).fold(Tar::new(), |tar, i| tar.file(&format!("f{i}"), &vec![i as u8; bytes])).done();
    docker_archive(&["app:v1"], &[layer])
}

#[tokio::test]
async fn a_running_process_sees_what_another_loaded() {
    if is_loader().await {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("images");
    let images = Images::open(&root).expect("opens");
    assert!(images.get("app:v1").await.expect("readable").is_none());
    let archive = write(dir.path(), "a.tar", &archive_of(3, 100));
    let mut child = loader("a_running_process_sees_what_another_loaded", &root, &archive);
    child.stdout.take().expect("piped").read_to_end(&mut Vec::new()).expect("readable");
    assert!(child.wait().expect("it ends").success());
    let image = images.get("app:v1").await.expect("readable").expect("loaded by the other process");
    assert!(image.layers[0].join("f2").exists());
}

/// Greatest resident memory of this process so far.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("it has a peak");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}

#[tokio::test]
async fn a_large_layer_is_streamed_and_never_held() {
    const LAYER_KIB: u64 = 200 << 10;
    const BOUND_KIB: u64 = 64 << 10;
    const WORD: &str = "peak in KiB: ";
    if is_loader().await {
        println!("{WORD}{}", peak_kib());
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let archive = write(dir.path(), "a.tar", &archive_of(1, (LAYER_KIB << 10) as usize));
    let root = dir.path().join("images");
    let mut child = loader("a_large_layer_is_streamed_and_never_held", &root, &archive);
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("readable");
    assert!(child.wait().expect("it ends").success());
    let peak: u64 = said.lines().find_map(|l| l.strip_prefix(WORD)).expect("it says").parse().expect("a number");
    assert!(peak < BOUND_KIB, "a layer of {LAYER_KIB} KiB took {peak} KiB of memory");
    let image = Images::open(&root).expect("opens").get("app:v1").await.expect("readable").expect("loaded");
    assert_eq!(std::fs::metadata(image.layers[0].join("f0")).expect("the file").len(), LAYER_KIB << 10);
}

#[tokio::test]
async fn several_processes_load_the_same_image_at_once() {
    if is_loader().await {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("images");
    let archive = write(dir.path(), "a.tar", &archive_of(50, 10_000));
    let children: Vec<Child> = (0..4).map(|_| loader("several_processes_load_the_same_image_at_once", &root, &archive)).collect();
    for mut child in children {
        child.stdout.take().expect("piped").read_to_end(&mut Vec::new()).expect("readable");
        assert!(child.wait().expect("it ends").success());
    }
    let images = Images::open(&root).expect("opens").list().await.expect("readable");
    assert_eq!((images.len(), images[0].layers.len()), (1, 1));
    assert_eq!(std::fs::read_dir(&images[0].layers[0]).expect("the layer").count(), 50);
}

#[tokio::test]
async fn kill_9_during_a_load_leaves_a_whole_layer_or_none() {
    if is_loader().await {
        return;
    }
    const FILES: usize = 400;
    let dir = tempfile::tempdir().expect("a folder");
    let archive = write(dir.path(), "a.tar", &archive_of(FILES, 20_000));
    let mut interrupted = 0;
    for round in 0..8 {
        let root = dir.path().join(format!("images{round}"));
        let mut child = loader("kill_9_during_a_load_leaves_a_whole_layer_or_none", &root, &archive);
        wait_for(&mut child, "loading");
        // The moment differs by round: after so many of its files are there, wherever they are.
        let made = || walk(&root.join("tmp")) + walk(&root.join("layers"));
        while made() < round * FILES / 8 && child.try_wait().expect("waitable").is_none() {
            std::thread::yield_now();
        }
        child.kill().expect("SIGKILL");
        child.wait().expect("it ended");
        let layers: Vec<_> = std::fs::read_dir(root.join("layers")).expect("the folder").map(|e| e.expect("an entry").path()).collect();
        interrupted += usize::from(layers.is_empty());
        for layer in &layers {
            assert_eq!(std::fs::read_dir(layer).expect("the layer").count(), FILES, "a layer under its name is whole");
        }
        let images = Images::open(&root).expect("opens after a kill");
        assert_eq!(std::fs::read_dir(root.join("tmp")).expect("the folder").count(), 0, "leftovers go at the next start");
        let image = images.load(&archive).await.expect("loads again").remove(0);
        assert_eq!(std::fs::read_dir(&image.layers[0]).expect("the layer").count(), FILES);
    }
    assert!(interrupted > 0, "no kill hit a load in the middle: the test proves nothing");
}

/// How many entries lie two levels below a folder that may change meanwhile.
fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().map(|e| std::fs::read_dir(e.path()).map_or(0, Iterator::count)).sum()
}
