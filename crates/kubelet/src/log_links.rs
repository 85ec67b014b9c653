//! A link to each container's log under a name that says whose it is, in upstream's `/var/log/containers`: log collectors look there.
//!
//! Entry points: [`add`] once a container has started, [`remove`] when its log goes, [`sweep`] at the start, for what an end of the agent left. A link
//! that cannot be made costs the container nothing. Source: kubernetes pkg/kubelet/kuberuntime/legacy.go.

use k8s_openapi::api::core::v1::Pod;
use keles_runtime::api::ContainerStatus;
use std::io;
use std::path::{Path, PathBuf};

const SUFFIX: &str = ".log";
/// Of file names on ext4 and most others.
const NAME_MAX_BYTES: usize = 255;

/// Names a link.
#[derive(Clone, Copy)]
pub struct Whose<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub container: &'a str,
    pub id: &'a str,
}

impl<'a> Whose<'a> {
    pub fn of(pod: &'a Pod, record: &'a ContainerStatus) -> Self {
        let text = |value: &'a Option<String>| value.as_deref().unwrap_or_default();
        Self { namespace: text(&pod.metadata.namespace), pod: text(&pod.metadata.name), container: &record.name, id: &record.id }
    }

    fn link(self, folder: &Path) -> PathBuf {
        let Self { namespace, pod, container, id } = self;
        let mut name = format!("{pod}_{namespace}_{container}-{id}");
        // Names and ids are ASCII.
        name.truncate(NAME_MAX_BYTES - SUFFIX.len());
        folder.join(name + SUFFIX)
    }
}

/// `log` is where the container writes.
pub fn add(folder: &Path, whose: Whose<'_>, log: &Path) {
    let link = whose.link(folder);
    match std::os::unix::fs::symlink(log, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => tracing::warn!(%error, link = %link.display(), "no link to a container's log"),
        _ => {}
    }
}

pub fn remove(folder: &Path, whose: Whose<'_>) {
    remove_link(&whose.link(folder));
}

fn remove_link(link: &Path) {
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, link = %link.display(), "the link to a log that is gone stays"),
        _ => {}
    }
}

/// Makes the folder, and removes links whose logs are gone.
pub fn sweep(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        let link = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_symlink()) && matches!(link.metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound) {
            remove_link(&link);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pod: &str) -> Whose<'_> {
        Whose { namespace: "ns", pod, container: "c", id: "a1" }
    }

    #[test]
    fn a_container_has_a_link_until_its_log_goes() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, log) = (dir.path().join("containers"), dir.path().join("0.log"));
        std::fs::write(&log, "said").expect("written");
        sweep(&folder).expect("made");
        add(&folder, of("p"), &log);
        add(&folder, of("p"), &log);
        assert_eq!(std::fs::read_to_string(folder.join("p_ns_c-a1.log")).expect("followed"), "said");
        remove(&folder, of("p"));
        remove(&folder, of("p"));
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 0);
    }

    #[test]
    fn links_that_lead_nowhere_go_at_the_start_and_names_fit_the_filesystem() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, log) = (dir.path().join("containers"), dir.path().join("0.log"));
        std::fs::write(&log, "said").expect("written");
        sweep(&folder).expect("made");
        add(&folder, of(&"n".repeat(253)), &log);
        std::os::unix::fs::symlink(dir.path().join("gone"), folder.join("old.log")).expect("linked");
        std::fs::write(folder.join("file.log"), "somebody's").expect("written");
        sweep(&folder).expect("read");
        let mut names: Vec<String> = std::fs::read_dir(&folder).expect("a folder").flatten().map(|entry| entry.file_name().into_string().expect("text")).collect();
        names.sort();
        assert_eq!((names.len(), names[0].as_str(), names[1].len()), (2, "file.log", NAME_MAX_BYTES));
    }
}
