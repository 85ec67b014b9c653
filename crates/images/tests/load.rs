//! Loading archives: what a good image becomes on disk, and what a bad one does not.

mod world;

use keles_images::{Image, ImageError, Images, UnpackError};
use keles_oci::Digest;
use keles_testkit::registry::Blobs;
use rustix::fs::{FileType, lgetxattr};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use tar::EntryType;
use world::{Tar, docker_archive, gzip, write};

struct World {
    dir: tempfile::TempDir,
    images: Images,
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let images = Images::open(&dir.path().join("images")).expect("opens");
    World { dir, images }
}

impl World {
    async fn load(&self, archive: &[u8]) -> Result<Vec<Image>, ImageError> {
        self.images.load(&write(self.dir.path(), "archive.tar", archive)).await
    }

    async fn load_layers(&self, layers: &[Vec<u8>]) -> Result<Image, ImageError> {
        self.load(&docker_archive(&["app:v1"], layers)).await.map(|mut images| images.remove(0))
    }

    fn made(&self, folder: &str) -> Vec<String> {
        let path = self.dir.path().join("images").join(folder);
        std::fs::read_dir(path).expect("the folder").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 100];
    lgetxattr(path, name, &mut buffer[..]).ok().map(|n| buffer[..n].to_vec())
}

#[tokio::test]
async fn a_docker_archive_becomes_an_image_with_normalised_names_and_layers_topmost_first() {
    let w = world();
    let lower = Tar::new().folder("w").file("w/lower", b"low").done();
    let upper = Tar::new().folder("w").file("w/upper", b"upper").done();
    let image = w.load_layers(&[lower.clone(), upper.clone()]).await.expect("loads");
    assert_eq!(image.tags, ["docker.io/library/app:v1"]);
    assert_eq!((image.config.user.as_str(), image.config.cmd.as_slice(), image.config.working_dir.as_str()), ("1000", ["/hello".to_string()].as_slice(), "/w"));
    assert_eq!((image.created.as_str(), image.size_bytes), ("2024-01-02T03:04:05Z", 8));
    assert!(image.layers[0].ends_with(Digest::of(&upper).hex()) && image.layers[1].ends_with(Digest::of(&lower).hex()));
    assert_eq!(std::fs::read(image.layers[0].join("w/upper")).expect("the file"), b"upper");
    for name in ["app:v1", "docker.io/library/app:v1", "docker.io/app:v1", &image.id, &image.id[7..19]] {
        assert_eq!(w.images.get(name).await.expect("readable").as_ref(), Some(&image), "{name}");
    }
    assert_eq!(w.images.get("app").await.expect("readable"), None);
    assert!(matches!(w.images.get("sha256:0000").await, Ok(None)));
    assert_eq!(w.images.list().await.expect("readable"), [image]);
    assert!(w.made("tmp").is_empty());
}

#[tokio::test]
async fn compressed_archives_and_layers_load_like_plain_ones() {
    let layer = Tar::new().file("f", &vec![7; 300_000]).done();
    let plain = world().load(&docker_archive(&["a"], std::slice::from_ref(&layer))).await.expect("loads").remove(0);
    let whole = world().load(&gzip(&docker_archive(&["a"], std::slice::from_ref(&layer)))).await.expect("loads").remove(0);
    let zstd = world().load(&zstd::encode_all(&docker_archive(&["a"], std::slice::from_ref(&layer))[..], 1).expect("memory")).await.expect("loads").remove(0);
    assert_eq!((&plain.id, plain.size_bytes), (&whole.id, whole.size_bytes));
    assert_eq!(plain.id, zstd.id);
    // A layer that is compressed inside the archive: its diff id is of the uncompressed tar.
    let config = world::config(&[Digest::of(&layer)]);
    let archive = Tar::new().file("c", &config).file("l", &gzip(&layer)).file("manifest.json", br#"[{"Config":"c","RepoTags":null,"Layers":["l"]}]"#).done();
    assert_eq!(world().load(&archive).await.expect("loads")[0].tags, Vec::<String>::new());
}

#[tokio::test]
async fn an_oci_layout_loads_with_names_and_digests_from_its_annotations() {
    let layer = Tar::new().file("f", b"content").done();
    let image = Blobs::new(&[(layer.clone(), gzip(&layer))]);
    let mut tar = Tar::new();
    for (digest, bytes) in &image.blobs {
        tar = tar.file(&format!("blobs/sha256/{}", &digest[7..]), bytes);
    }
    let index = serde_json::json!({"manifests": [{"digest": image.manifest, "size": 1, "annotations": {"org.opencontainers.image.ref.name": "localhost:5000/app:v2"}}]});
    let archive = tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).file("index.json", index.to_string().as_bytes()).done();
    let loaded = world().load(&archive).await.expect("loads").remove(0);
    assert_eq!(loaded.tags, ["localhost:5000/app:v2"]);
    assert_eq!(loaded.digests, [format!("localhost:5000/app@{}", image.manifest)]);
    assert_eq!(loaded.id, image.config.to_string());
}

#[tokio::test]
async fn ownership_modes_times_attributes_links_and_devices_survive() {
    let w = world();
    let layer = Tar::new()
        .owned_file("suid", b"x", 0o4755, 1234, 5678)
        .folder("dir/")
        .file("dir/inside", b"y")
        .symlink("link", "/absolute/target")
        .hardlink("dir/hard", "suid")
        .node(EntryType::Char, "null", 1, 3)
        .node(EntryType::Fifo, "fifo", 0, 0)
        .pax(&[("SCHILY.xattr.user.note", b"hello"), ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"), ("mtime", b"1600000000.5"), ("uid", b"3000000")])
        .file("noted", b"z")
        .done();
    let image = w.load_layers(&[layer]).await.expect("loads");
    let root = &image.layers[0];
    let suid = root.join("suid").metadata().expect("the file");
    assert_eq!((suid.mode() & 0o7777, suid.uid(), suid.gid(), suid.mtime(), suid.nlink()), (0o4755, 1234, 5678, 1_700_000_000, 2));
    assert_eq!(root.join("dir/hard").metadata().expect("the link").ino(), suid.ino());
    assert_eq!(root.join("dir").metadata().expect("the folder").mtime(), 1_700_000_000, "filling a folder does not change its time");
    assert_eq!(std::fs::read_link(root.join("link")).expect("the link"), Path::new("/absolute/target"));
    let null = root.join("null").metadata().expect("the device");
    assert!(null.file_type().is_char_device() && null.rdev() == rustix::fs::makedev(1, 3) && null.mode() & 0o777 == 0o660);
    assert!(root.join("fifo").metadata().expect("the fifo").file_type().is_fifo());
    let noted = root.join("noted").metadata().expect("the file");
    assert_eq!((noted.uid(), noted.mtime(), noted.mtime_nsec()), (3_000_000, 1_600_000_000, 500_000_000));
    assert_eq!(xattr(&root.join("noted"), "user.note").as_deref(), Some(b"hello".as_slice()));
    assert_eq!(xattr(&root.join("noted"), "trusted.overlay.redirect"), None, "an image does not command overlayfs");
}

fn is_whiteout(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|m| FileType::from_raw_mode(m.mode()) == FileType::CharacterDevice && m.rdev() == 0)
}

#[tokio::test]
async fn whiteouts_and_opaque_folders_take_overlayfs_form() {
    let w = world();
    let layer = Tar::new()
        .file(".wh.gone", b"")
        .folder("dir")
        .file("dir/.wh..wh..opq", b"")
        .file("dir/new", b"n")
        .file(".wh..wh.plnk", b"")
        .file("again", b"here")
        .file(".wh.again", b"")
        .file(".wh.replaced", b"")
        .folder("replaced")
        .file("replaced/f", b"f")
        .done();
    let root = w.load_layers(&[layer]).await.expect("loads").layers.remove(0);
    assert!(is_whiteout(&root.join("gone")));
    assert!(!root.join(".wh.gone").exists() && !root.join("dir/.wh..wh..opq").exists() && !root.join(".wh..wh.plnk").exists());
    assert_eq!(xattr(&root.join("dir"), "trusted.overlay.opaque").as_deref(), Some(b"y".as_slice()));
    assert_eq!(std::fs::read(root.join("again")).expect("the file"), b"here", "a whiteout is for lower layers");
    assert_eq!(xattr(&root.join("replaced"), "trusted.overlay.opaque").as_deref(), Some(b"y".as_slice()), "a folder over a whiteout hides what was below");
}

#[tokio::test]
async fn an_overlay_of_the_layers_shows_what_the_image_means() {
    let w = world();
    let lower = Tar::new().folder("d").file("d/old", b"1").file("gone", b"1").file("kept", b"1").done();
    let upper = Tar::new().folder("d").file("d/.wh..wh..opq", b"").file("d/new", b"2").file(".wh.gone", b"").done();
    let twice = world().load_layers(&[lower.clone(), upper.clone(), lower.clone()]).await.expect("loads");
    assert_eq!(twice.layers.len(), 2, "a folder stands once in an overlay");
    let image = w.load_layers(&[lower, upper]).await.expect("loads");
    let merged = w.dir.path().join("merged");
    std::fs::create_dir(&merged).expect("writable");
    let lowerdir = image.layers.iter().map(|l| l.display().to_string()).collect::<Vec<_>>().join(":");
    let options = std::ffi::CString::new(format!("lowerdir={lowerdir}")).expect("no zero byte");
    rustix::mount::mount("overlay", &merged, "overlay", rustix::mount::MountFlags::RDONLY, options.as_c_str()).expect("mounting needs root");
    let mut names: Vec<String> =
        ["", "d"].iter().flat_map(|d| std::fs::read_dir(merged.join(d)).expect("the folder").map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    // While mounted the image cannot be removed.
    let refused = w.images.remove("app:v1").await;
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::DETACH).expect("unmounts");
    assert_eq!(names, ["d", "kept", "new"]);
    assert!(matches!(refused, Err(ImageError::InUse { .. })), "{refused:?}");
    w.images.remove("app:v1").await.expect("no longer used");
}

#[tokio::test]
async fn layers_that_lead_out_are_refused_and_leave_nothing() {
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("dotdot", Tar::new().file("../escaped", b"x").done()),
        ("dotdot inside", Tar::new().folder("a").file("a/../../escaped", b"x").done()),
        ("absolute link parent", Tar::new().symlink("out", "/tmp").file("out/escaped", b"x").done()),
        ("relative link parent", Tar::new().symlink("out", "../..").file("out/escaped", b"x").done()),
        ("link chain", Tar::new().folder("a").symlink("a/up", "..").symlink("out", "a/up/../..").file("out/escaped", b"x").done()),
        ("hardlink out", Tar::new().hardlink("passwd", "../../../../etc/passwd").done()),
        ("hardlink through link", Tar::new().symlink("etc", "/etc").hardlink("passwd", "etc/passwd").done()),
        ("whiteout of dotdot", Tar::new().folder("a").file("a/.wh...", b"").done()),
        ("opaque outside", Tar::new().symlink("out", "/tmp").file("out/.wh..wh..opq", b"").done()),
    ];
    for (name, layer) in bad {
        let w = world();
        match w.load_layers(&[layer]).await {
            Err(ImageError::Layer { reason: UnpackError::Escape { .. }, .. }) => {}
            other => panic!("{name}: {other:?}"),
        }
        assert!(w.images.list().await.expect("readable").is_empty() && w.made("layers").is_empty() && w.made("tmp").is_empty(), "{name}");
        assert!(!w.dir.path().join("images/tmp/escaped").exists() && !Path::new("/tmp/escaped").exists() && !w.dir.path().join("escaped").exists());
    }
}

#[tokio::test]
async fn a_link_in_place_of_a_file_is_replaced_not_followed() {
    let w = world();
    let outside = w.dir.path().join("outside");
    std::fs::write(&outside, "untouched").expect("writable");
    let target = outside.to_str().expect("utf-8").to_string();
    let layer = Tar::new().symlink("f", &target).file("f", b"inside").symlink("d", "/").folder("d").file("d/x", b"x").done();
    let root = w.load_layers(&[layer]).await.expect("loads").layers.remove(0);
    assert_eq!(std::fs::read(&outside).expect("the file"), b"untouched");
    assert_eq!(std::fs::read(root.join("f")).expect("the file"), b"inside");
    assert!(root.join("d").symlink_metadata().expect("there").is_dir() && root.join("d/x").exists());
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_says_is_refused() {
    let w = world();
    let config = world::config(&[Digest::of(b"something else")]);
    let layer = Tar::new().file("f", b"x").done();
    let archive = Tar::new().file("c", &config).file("l", &layer).file("manifest.json", br#"[{"Config":"c","RepoTags":["a:b"],"Layers":["l"]}]"#).done();
    assert!(matches!(w.load(&archive).await, Err(ImageError::Mismatch { expected, .. }) if expected == Digest::of(b"something else")));
    assert!(w.made("layers").is_empty() && w.made("tmp").is_empty());
}

#[tokio::test]
async fn broken_archives_say_what_is_wrong() {
    let w = world();
    let whole = docker_archive(&["a"], &[Tar::new().file("f", &[1; 5000]).done()]);
    for (what, archive, words) in [
        ("not a tar", b"hello, this is no archive at all".repeat(50), "archive.tar"),
        ("cut short", whole[..3000].to_vec(), "cut short"),
        ("no image", Tar::new().file("x", b"").done(), "neither manifest.json"),
        (
            "missing layer",
            Tar::new().file("c", &world::config(&[Digest::of(b"")])).file("manifest.json", br#"[{"Config":"c","RepoTags":["a"],"Layers":["l"]}]"#).done(),
            "l is missing",
        ),
        (
            "count differs",
            Tar::new().file("c", &world::config(&[])).file("l", b"").file("manifest.json", br#"[{"Config":"c","RepoTags":["a"],"Layers":["l"]}]"#).done(),
            "names 0 layers, the manifest 1",
        ),
    ] {
        let error = w.load(&archive).await.expect_err(what).to_string();
        assert!(error.contains(words), "{what}: {error}");
    }
    let missing = w.images.load(Path::new("/nowhere/image.tar")).await.expect_err("absent").to_string();
    assert!(missing.contains("/nowhere/image.tar") && missing.contains("No such file"), "{missing}");
}

#[tokio::test]
async fn removal_drops_names_one_by_one_and_layers_nobody_needs() {
    let w = world();
    let shared = Tar::new().file("shared", b"s").done();
    let one = w.load_layers(&[shared.clone(), Tar::new().file("one", b"1").done()]).await.expect("loads");
    let two = w.load(&docker_archive(&["other:v1"], &[shared.clone(), Tar::new().file("two", b"2").done()])).await.expect("loads").remove(0);
    w.images.tag("app:v1", "second:name").await.expect("tags");
    assert!(matches!(w.images.tag("absent:v1", "x").await, Err(ImageError::Absent { .. })));
    w.images.remove("app:v1").await.expect("a name");
    assert_eq!(w.images.get(&one.id).await.expect("readable").expect("it has a second name").tags, ["docker.io/library/second:name"]);
    w.images.remove("second:name").await.expect("the last name");
    assert_eq!(w.images.list().await.expect("readable"), [two.clone()]);
    let mut left = w.made("layers");
    left.sort();
    let mut expected: Vec<String> = two.layers.iter().map(|l| l.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    expected.sort();
    assert_eq!(left, expected, "the shared layer stays for the other image");
    w.images.remove(&two.id).await.expect("by id");
    assert!(w.made("layers").is_empty() && w.made("sizes").is_empty());
    assert!(matches!(w.images.remove("other:v1").await, Err(ImageError::Absent { .. })));
}

#[tokio::test]
async fn a_tag_moves_to_the_image_loaded_last() {
    let w = world();
    let old = w.load_layers(&[Tar::new().file("f", b"old").done()]).await.expect("loads");
    let new = w.load_layers(&[Tar::new().file("f", b"new").done()]).await.expect("loads");
    assert_eq!(w.images.get("app:v1").await.expect("readable").map(|i| i.id), Some(new.id));
    assert!(w.images.get(&old.id).await.expect("readable").expect("still there").tags.is_empty());
}
