//! Files that are followed while the server runs: certificates and configurations, taken anew when their content changes.
//!
//! Entry points: [`Followed::new`] before the files are read for the first time, [`Followed::start`] once there is something to replace. One task
//! a row waits for a change in the files' folders (inotify; Secrets and ConfigMaps of a pod change by a link in the folder, which counts) and
//! looks by itself each [`LOOK_EVERY`], for file systems that tell nothing. Invariant: what counts is content, so that a file written anew with
//! what it held does nothing; what cannot be taken leaves what was there and is tried again at the next look, as upstream.

use keles_observe::metrics::{Collect, CounterVec, GaugeVec, alpha, beta, register};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// Upstream's figure.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is counted of one configuration, under upstream's names.
pub struct Series {
    reloads: CounterVec<2>,
    at: GaugeVec<2>,
    held: GaugeVec<2>,
}

macro_rules! series {
    ($what:literal, $stability:ident) => {
        Series {
            reloads: CounterVec::new(
                $stability(
                    concat!("apiserver_", $what, "_config_controller_automatic_reloads_total"),
                    concat!("Total number of automatic reloads of ", $what, " configuration split by status and apiserver identity."),
                ),
                ["apiserver_id_hash", "status"],
            ),
            at: GaugeVec::new(
                $stability(
                    concat!("apiserver_", $what, "_config_controller_automatic_reload_last_timestamp_seconds"),
                    concat!("Timestamp of the last automatic reload of ", $what, " configuration split by status and apiserver identity."),
                ),
                ["apiserver_id_hash", "status"],
            ),
            held: GaugeVec::new(
                alpha(
                    concat!("apiserver_", $what, "_config_controller_last_config_info"),
                    concat!("Information about the last applied ", $what, " configuration with hash as label, split by apiserver identity."),
                ),
                ["apiserver_id_hash", "hash"],
            ),
        }
    };
}

pub static AUTHENTICATION: Series = series!("authentication", beta);
pub static AUTHORIZATION: Series = series!("authorization", beta);
pub static ENCRYPTION: Series = series!("encryption", alpha);

static FAMILIES: &[&dyn Collect] = &[
    &AUTHENTICATION.reloads,
    &AUTHENTICATION.at,
    &AUTHENTICATION.held,
    &AUTHORIZATION.reloads,
    &AUTHORIZATION.at,
    &AUTHORIZATION.held,
    &ENCRYPTION.reloads,
    &ENCRYPTION.at,
    &ENCRYPTION.held,
];

/// This server among those of a cluster, as a digest: upstream names API servers after their host.
fn id_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("sha256:{}", hex::encode(Sha256::digest(format!("apiserver-{}", host.trim()))))
    })
}

impl Series {
    fn holds(&self, before: Option<&str>, now: &str) {
        if let Some(before) = before {
            self.held.remove([id_hash(), before]);
        }
        self.held.with([id_hash(), now]).set(1.0);
    }
    fn tried(&self, good: bool) {
        let status = if good { "success" } else { "failure" };
        self.reloads.with([id_hash(), status]).increment();
        self.at.with([id_hash(), status]).set(jiff::Timestamp::now().as_millisecond() as f64 / 1000.0);
    }
}

/// The digests of some files; `None` for one that cannot be read.
type Content = Vec<Option<[u8; 32]>>;

fn content(paths: &[PathBuf]) -> Content {
    paths.iter().map(|p| std::fs::read(p).ok().map(|b| Sha256::digest(b).into())).collect()
}

/// The hash under which a configuration of one file is told of.
fn told(content: &Content) -> Option<String> {
    content.first()?.map(|d| format!("sha256:{}", hex::encode(d)))
}

/// Files that one thing is made of.
pub struct Followed {
    /// For logs: `the client certificate authorities`.
    name: &'static str,
    paths: Vec<PathBuf>,
    held: Content,
    every: Duration,
    series: Option<&'static Series>,
}

impl Followed {
    /// Remembers what the files hold: a change from here on counts, even one before [`Followed::start`]. `None` without files.
    pub fn new(name: &'static str, paths: impl IntoIterator<Item = PathBuf>) -> Option<Followed> {
        let paths: Vec<PathBuf> = paths.into_iter().collect();
        (!paths.is_empty()).then(|| Followed { name, held: content(&paths), paths, every: LOOK_EVERY, series: None })
    }

    /// Counts what is taken under a configuration's names.
    pub fn counted(mut self, series: &'static Series) -> Followed {
        register(FAMILIES);
        if let Some(hash) = told(&self.held) {
            series.holds(None, &hash);
        }
        self.series = Some(series);
        self
    }

    /// Follows the files until `stop`: `take` replaces what was made of them, or says why it cannot.
    pub fn start<F>(mut self, stop: CancellationToken, mut take: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send,
    {
        tokio::spawn(async move {
            let mut folders = Folders::of(&self.paths);
            loop {
                self.look(&mut take).await;
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = folders.changed() => {}
                    () = tokio::time::sleep(self.every) => {}
                }
            }
        });
    }

    async fn look<F: Future<Output = Result<(), String>>>(&mut self, take: &mut impl FnMut() -> F) {
        let now = content(&self.paths);
        if now == self.held {
            return;
        }
        let taken = take().await;
        if let Some(s) = self.series {
            s.tried(taken.is_ok());
        }
        match taken {
            Ok(()) => {
                tracing::info!(what = self.name, "taken anew, as its files changed");
                if let (Some(s), Some(hash)) = (self.series, told(&now)) {
                    s.holds(told(&self.held).filter(|h| *h != hash).as_deref(), &hash);
                }
                self.held = now;
            }
            Err(why) => tracing::error!(what = self.name, why, "changed, and cannot be taken; what was there stays"),
        }
    }
}

/// The folders of some files, and whether anything in them changed.
struct Folders(Option<AsyncFd<OwnedFd>>);

impl Folders {
    fn of(paths: &[PathBuf]) -> Folders {
        let folder = |p: &Path| p.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        let folders: BTreeSet<PathBuf> = paths.iter().map(|p| folder(p)).collect();
        // A file that is written in place is looked at when its writer is done with it.
        let flags = WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let watch = || -> std::io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            for f in folders {
                if let Err(error) = inotify::add_watch(&fd, &f, flags) {
                    tracing::warn!(folder = %f.display(), %error, "changes in the folder are seen once a minute only");
                }
            }
            #[expect(deprecated, reason = "an OwnedFd keeps its descriptor for as long as it is registered; what replaces it is unsafe")]
            AsyncFd::with_interest(fd, Interest::READABLE)
        };
        Folders(watch().map_err(|error| tracing::warn!(%error, "no inotify: changes of files are seen once a minute only")).ok())
    }

    /// May be dropped at any time without losing a change.
    async fn changed(&mut self) {
        let Some(fd) = &self.0 else { return std::future::pending().await };
        let Ok(mut ready) = fd.readable().await else { return std::future::pending().await };
        // What happened does not matter: the files are looked at.
        let mut events = [0u8; 4096];
        while rustix::io::read(fd.get_ref(), &mut events).is_ok_and(|n| n > 0) {}
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use tokio::sync::mpsc;

    /// A thing made of a file: what was taken of it last, and a message for each try.
    fn following(path: &Path) -> (Arc<Mutex<String>>, mpsc::UnboundedReceiver<bool>, CancellationToken) {
        let (held, stop) = (Arc::new(Mutex::new(String::new())), CancellationToken::new());
        let (tell, told) = mpsc::unbounded_channel();
        let (path, into) = (path.to_owned(), held.clone());
        Followed::new("a test", [path.clone()]).unwrap().start(stop.clone(), move || {
            let read = std::fs::read_to_string(&path).map_err(|e| e.to_string()).and_then(|t| if t == "bad" { Err(t) } else { Ok(t) });
            let _ = tell.send(read.is_ok());
            let done = read.map(|t| *into.lock().unwrap() = t);
            async move { done }
        });
        (held, told, stop)
    }

    #[tokio::test]
    async fn a_change_is_taken_and_a_bad_one_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let (held, mut told, stop) = following(&path);
        std::fs::write(&path, "two").unwrap();
        while *held.lock().unwrap() != "two" {
            told.recv().await.unwrap();
        }
        std::fs::write(dir.path().join("new"), "bad").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        while told.recv().await.unwrap() {}
        assert_eq!(*held.lock().unwrap(), "two");
        std::fs::write(&path, "three").unwrap();
        while !told.recv().await.unwrap() {}
        assert_eq!(*held.lock().unwrap(), "three");
        stop.cancel();
    }

    /// How the volume of a Secret changes: `f` is a link to `..data/f`, and `..data` a link that is replaced.
    #[tokio::test]
    async fn a_link_that_is_replaced_in_the_folder_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, text) in [("a", "one"), ("b", "two")] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join("f"), text).unwrap();
        }
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
        link("a", "..data");
        link("..data/f", "f");
        let (held, mut told, stop) = following(&dir.path().join("f"));
        link("b", "..tmp");
        std::fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
        told.recv().await.unwrap();
        assert_eq!(*held.lock().unwrap(), "two");
        stop.cancel();
    }

    #[tokio::test]
    async fn what_could_not_be_taken_is_tried_again_and_once_taken_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let followed = Followed { every: Duration::from_millis(1), ..Followed::new("a test", [path.clone()]).unwrap() };
        std::fs::write(&path, "two").unwrap();
        let (tries, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
        let (tell, mut told) = mpsc::unbounded_channel();
        let counted = tries.clone();
        followed.start(stop.clone(), move || {
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            let _ = tell.send(());
            async move { if nth < 2 { Err("not yet".to_owned()) } else { Ok(()) } }
        });
        for _ in 0..3 {
            told.recv().await.unwrap();
        }
        std::fs::write(dir.path().join("new"), "three").unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        told.recv().await.unwrap();
        assert_eq!(tries.load(Ordering::SeqCst), 4, "between the third try, which took it, and the next change there is none");
        stop.cancel();
    }
}
