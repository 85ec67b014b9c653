//! Limits of containers: from the service's figures to the runtime's, and the last ones that a container was given, across restarts.

use crate::CriError;
use crate::faults::refused;
use keles_cri::LinuxContainerResources;
use keles_grpc::{Code, Status};
use keles_runtime::api::Resources;
use prost::Message;
use std::io;
use std::path::{Path, PathBuf};

/// The one file of cgroup v2 that is always as the agent asks for it: an out-of-memory kill ends the whole container.
const OOM_GROUP: (&str, &str) = ("memory.oom.group", "1");

/// 0 and empty are not specified. What the runtime cannot hold a container to is refused by its name.
pub fn of_linux(r: &LinuxContainerResources) -> Result<Resources, Status> {
    if let Some(limit) = r.hugepage_limits.iter().find(|limit| limit.limit != 0) {
        return Err(refused("linux.resources.hugepage_limits", format!("{} pages cannot be limited", limit.page_size)));
    }
    if let Some((name, value)) = r.unified.iter().find(|(name, value)| (name.as_str(), value.as_str()) != OOM_GROUP) {
        return Err(refused("linux.resources.unified", format!("{name}={value} cannot be set")));
    }
    // Memory and swap together: as much as memory alone is no swap, which is what a limit means here.
    if r.memory_swap_limit_in_bytes != 0 && r.memory_swap_limit_in_bytes != r.memory_limit_in_bytes {
        return Err(refused("linux.resources.memory_swap_limit_in_bytes", "a container with a memory limit has no swap, one without is not limited"));
    }
    let positive = |n: i64| (n > 0).then_some(n);
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Ok(Resources {
        cpu_shares: positive(r.cpu_shares).map(|n| n as u64),
        // -1 takes a limit away.
        cpu_quota_us: (r.cpu_quota != 0).then_some(r.cpu_quota),
        cpu_period_us: positive(r.cpu_period).map(|n| n as u64),
        memory_limit_bytes: (r.memory_limit_in_bytes != 0).then_some(r.memory_limit_in_bytes),
        pids_limit: None,
        oom_score_adj: (r.oom_score_adj != 0).then_some(r.oom_score_adj as i32),
        cpuset_cpus: text(&r.cpuset_cpus),
        cpuset_mems: text(&r.cpuset_mems),
    })
}

/// What stands after a change: figures that are not specified stay.
pub fn changed(old: &LinuxContainerResources, new: &LinuxContainerResources) -> LinuxContainerResources {
    let number = |new: i64, old: i64| if new == 0 { old } else { new };
    let text = |new: &String, old: &String| if new.is_empty() { old.clone() } else { new.clone() };
    LinuxContainerResources {
        cpu_period: number(new.cpu_period, old.cpu_period),
        cpu_quota: number(new.cpu_quota, old.cpu_quota),
        cpu_shares: number(new.cpu_shares, old.cpu_shares),
        memory_limit_in_bytes: number(new.memory_limit_in_bytes, old.memory_limit_in_bytes),
        oom_score_adj: number(new.oom_score_adj, old.oom_score_adj),
        cpuset_cpus: text(&new.cpuset_cpus, &old.cpuset_cpus),
        cpuset_mems: text(&new.cpuset_mems, &old.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() { old.hugepage_limits.clone() } else { new.hugepage_limits.clone() },
        unified: old.unified.iter().chain(&new.unified).map(|(k, v)| (k.clone(), v.clone())).collect(),
        memory_swap_limit_in_bytes: number(new.memory_swap_limit_in_bytes, old.memory_swap_limit_in_bytes),
    }
}

/// Figures that differ from what containers and sandboxes were made with: a file each, named by the id.
pub struct Updated {
    folder: PathBuf,
}

impl Updated {
    pub fn open(state_dir: &Path) -> Result<Updated, CriError> {
        let folder = state_dir.join("resources");
        std::fs::create_dir_all(&folder).map_err(|source| CriError::Files { path: folder.clone(), source })?;
        Ok(Updated { folder })
    }

    pub fn get(&self, id: &str) -> Option<LinuxContainerResources> {
        LinuxContainerResources::decode(std::fs::read(self.folder.join(id)).ok()?.as_slice()).ok()
    }

    pub fn set(&self, id: &str, resources: &LinuxContainerResources) -> Result<(), Status> {
        let (path, new) = (self.folder.join(id), self.folder.join(format!(".{id}")));
        let written = std::fs::write(&new, resources.encode_to_vec()).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|error| Status::new(Code::Unknown, format!("cannot write {}: {error}", path.display())))
    }

    /// Fine when there is nothing.
    pub fn remove(&self, id: &str) {
        if let Err(error) = std::fs::remove_file(self.folder.join(id))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, id, "resources of what is gone stay until the next start");
        }
    }

    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Result<(), CriError> {
        let entries = std::fs::read_dir(&self.folder).map_err(|source| CriError::Files { path: self.folder.clone(), source })?;
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|id| !keep(id)).for_each(|id| self.remove(&id));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keles_cri::HugepageLimit;

    #[test]
    fn figures_become_limits_and_what_is_not_specified_none() {
        let r = LinuxContainerResources { cpu_quota: 50_000, cpu_period: 100_000, memory_limit_in_bytes: 64 << 20, oom_score_adj: -998, ..LinuxContainerResources::default() };
        let limits = of_linux(&r).ok().expect("understood");
        assert_eq!((limits.cpu_quota_us, limits.cpu_period_us, limits.cpu_shares), (Some(50_000), Some(100_000), None));
        assert_eq!((limits.memory_limit_bytes, limits.oom_score_adj, limits.cpuset_cpus), (Some(64 << 20), Some(-998), None));
    }

    #[test]
    fn what_the_runtime_cannot_hold_is_refused_by_name() {
        let refusal = |r: LinuxContainerResources| of_linux(&r).err().map(|status| status.message).unwrap_or_default();
        let pages = |limit| vec![HugepageLimit { page_size: "2MB".into(), limit }];
        assert!(refusal(LinuxContainerResources { hugepage_limits: pages(4096), ..Default::default() }).contains("hugepage_limits: 2MB"));
        assert_eq!(refusal(LinuxContainerResources { hugepage_limits: pages(0), ..Default::default() }), "");
        assert!(refusal(LinuxContainerResources { unified: [("memory.high".to_owned(), "1".to_owned())].into(), ..Default::default() }).contains("memory.high=1"));
        assert_eq!(refusal(LinuxContainerResources { unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(), ..Default::default() }), "");
        assert!(refusal(LinuxContainerResources { memory_swap_limit_in_bytes: 2, memory_limit_in_bytes: 1, ..Default::default() }).contains("memory_swap"));
    }

    #[test]
    fn the_last_figures_are_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let updated = Updated::open(dir.path()).ok().expect("opens");
        let old = LinuxContainerResources { cpu_shares: 2, memory_limit_in_bytes: 5, ..Default::default() };
        let both = changed(&old, &LinuxContainerResources { cpu_shares: 3, ..Default::default() });
        updated.set("a", &both).ok().expect("written");
        let again = Updated::open(dir.path()).ok().expect("opens");
        assert_eq!(again.get("a").map(|r| (r.cpu_shares, r.memory_limit_in_bytes)), Some((3, 5)));
        again.retain(|_| false).ok().expect("removed");
        assert_eq!(again.get("a"), None);
    }
}
