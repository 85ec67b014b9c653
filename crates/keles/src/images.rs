//! The image verbs: `load`, `images`, `pull`, `tag`, `rmi`, over the node's image store, with or without a server running.

use crate::flags;
use keles_images::{Auth, Image, Images, Keyring, Progress, PullEvent};
use keles_kubelet::image_credentials::credentials;
use keles_supervise::BoxError;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Folder of images under the data folder.
pub fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("images")
}

fn open(data: &flags::Data) -> Result<Images, BoxError> {
    Ok(Images::open(&folder(&data.data_dir))?)
}

pub async fn load(f: flags::Load) -> Result<(), BoxError> {
    let images = open(&f.data)?;
    let stdin = Path::new("/dev/stdin");
    let archive = f.input.as_deref().filter(|p| *p != Path::new("-")).unwrap_or(stdin);
    for image in images.load(archive).await? {
        for tag in &image.tags {
            println!("Loaded image: {tag}");
        }
        if image.tags.is_empty() {
            println!("Loaded image ID: {}", image.id);
        }
    }
    Ok(())
}

/// With the credentials of the docker configuration, as the node agent pulls with the node's.
pub async fn pull(f: flags::Pull) -> Result<(), BoxError> {
    let images = Images::open_with(&folder(&f.data.data_dir), f.registries.options()?)?;
    let auths: Vec<Auth> = match f.image.parse() {
        Ok(reference) => credentials(&reference, &[], &f.data.data_dir, &Keyring::default()).into_iter().map(|(auth, _)| auth).collect(),
        // Pulling says what is wrong with the name.
        Err(_) => Vec::new(),
    };
    let image = images.pull(&f.image, &auths, Some(progress())).await?.image;
    println!("{}", image.digests.first().unwrap_or(&image.id));
    Ok(())
}

/// Shows how far a pull is, on standard error: on a terminal one line that changes, else a line for each layer that is done.
fn progress() -> Progress {
    let terminal = std::io::stderr().is_terminal();
    let state = Mutex::new(Shown::default());
    Arc::new(move |event| {
        let mut shown = state.lock().unwrap_or_else(PoisonError::into_inner);
        let layer = |layer: &str| short(layer).to_owned();
        match event {
            PullEvent::Present { layer: l } => shown.line(terminal, &format!("{}: Already exists", layer(&l))),
            PullEvent::Unpacked { layer: l } => {
                shown.under_way.remove(&l);
                shown.line(terminal, &format!("{}: Pull complete", layer(&l)));
            }
            PullEvent::Downloading { layer, done_bytes, total_bytes } => {
                shown.under_way.insert(layer, (done_bytes, total_bytes));
            }
        }
        if terminal && shown.is_due() {
            let (done, total) = shown.under_way.values().fold((0, 0), |(d, t), (done, total)| (d + done, t + total));
            if total > 0 {
                eprint!("\r\x1b[KDownloading {} of {}", size(done), size(total));
            }
        }
    })
}

#[derive(Default)]
struct Shown {
    /// Layer to bytes done and bytes in all.
    under_way: BTreeMap<String, (u64, u64)>,
    last: Option<Instant>,
}

impl Shown {
    fn line(&self, terminal: bool, text: &str) {
        eprintln!("{}{text}", if terminal { "\r\x1b[K" } else { "" });
    }

    /// A terminal need not see every chunk.
    fn is_due(&mut self) -> bool {
        const PAUSE: Duration = Duration::from_millis(100);
        let due = self.last.is_none_or(|at| at.elapsed() >= PAUSE);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

pub async fn tag(f: flags::Tag) -> Result<(), BoxError> {
    Ok(open(&f.data)?.tag(&f.image, &f.name).await?)
}

pub async fn remove(f: flags::Rmi) -> Result<(), BoxError> {
    let images = open(&f.data)?;
    for name in &f.images {
        images.remove(name).await?;
        println!("Untagged: {name}");
    }
    Ok(())
}

pub async fn list(f: flags::Images) -> Result<(), BoxError> {
    let all = open(&f.data)?.list().await?;
    if f.quiet {
        all.iter().for_each(|i| println!("{}", short(&i.id)));
        return Ok(());
    }
    println!("{:<40} {:<20} {:<14} SIZE", "REPOSITORY", "TAG", "IMAGE ID");
    for (repository, tag, image) in all.iter().flat_map(rows) {
        println!("{repository:<40} {tag:<20} {:<14} {}", short(&image.id), size(image.size_bytes));
    }
    Ok(())
}

/// One row a tag, as `docker images` prints.
fn rows(image: &Image) -> Vec<(String, String, &Image)> {
    if image.tags.is_empty() {
        return vec![("<none>".into(), "<none>".into(), image)];
    }
    image
        .tags
        .iter()
        .map(|t| {
            let (r, t) = t.rsplit_once(':').unwrap_or((t, "<none>"));
            (familiar(r), t.to_owned(), image)
        })
        .collect()
}

/// Docker Hub's names without the part that everybody leaves out.
fn familiar(repository: &str) -> String {
    let r = repository.strip_prefix("docker.io/").unwrap_or(repository);
    r.strip_prefix("library/").unwrap_or(r).to_owned()
}

fn short(id: &str) -> &str {
    const SHOWN: usize = 12;
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    &hex[..hex.len().min(SHOWN)]
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.3}").trim_end_matches('0').trim_end_matches('.').chars().take(5).collect::<String>() + UNITS[unit] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_names_read_as_docker_prints_them() {
        assert_eq!((size(999), size(2_010_000), size(1_500_000_000)), ("999B".into(), "2.01MB".into(), "1.5GB".into()));
        assert_eq!((familiar("docker.io/library/nginx"), familiar("docker.io/a/b"), familiar("ghcr.io/x")), ("nginx".into(), "a/b".into(), "ghcr.io/x".into()));
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
