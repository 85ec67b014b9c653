//! Limits of containers: from the service's figures to the runtime's, and the last ones that a container was given, across restarts.

use crate::CriError;
use crate::faults::{invalid, refused};
use keles_cri::LinuxContainerResources;
use keles_grpc::{Code, Status};
use keles_linux::cgroup::SWAP_MAX;
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
    if let Some((name, value)) = r.unified.iter().find(|(name, value)| name.as_str() != SWAP_MAX && (name.as_str(), value.as_str()) != OOM_GROUP) {
        return Err(refused("linux.resources.unified", format!("{name}={value} cannot be set")));
    }
    let positive = |n: i64| (n > 0).then_some(n);
    let text = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    Ok(Resources {
        cpu_shares: positive(r.cpu_shares).map(|n| n as u64),
        // -1 takes a limit away.
        cpu_quota_us: (r.cpu_quota != 0).then_some(r.cpu_quota),
        cpu_period_us: positive(r.cpu_period).map(|n| n as u64),
        memory_limit_bytes: (r.memory_limit_in_bytes != 0).then_some(r.memory_limit_in_bytes),
        swap_bytes: swap(r)?,
        pids_limit: None,
        oom_score_adj: (r.oom_score_adj != 0).then_some(r.oom_score_adj as i32),
        cpuset_cpus: text(&r.cpuset_cpus),
        cpuset_mems: text(&r.cpuset_mems),
    })
}

/// Swap alone, as cgroup v2 has it, or what is beyond memory in v1's sum of both; the former wins, as runc writes it last.
fn swap(r: &LinuxContainerResources) -> Result<Option<i64>, Status> {
    if let Some(text) = r.unified.get(SWAP_MAX) {
        let bytes = if text == "max" { Some(-1) } else { text.parse().ok().filter(|bytes| *bytes >= 0) };
        return bytes.map(Some).ok_or_else(|| invalid(format!("linux.resources.unified: {SWAP_MAX}={text:?} is neither bytes nor max")));
    }
    let (limit, both) = (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes);
    match both {
        0 => Ok(None),
        ..0 => Ok(Some(-1)),
        _ if limit > 0 && both >= limit => Ok(Some(both - limit)),
        _ => Err(invalid(format!("linux.resources.memory_swap_limit_in_bytes: {both} (memory and swap together) must not be less than a memory limit, which is {limit}"))),
    }
}

/// What stands after a change: figures that are not specified stay. A sum with swap belongs to the limit that it was given with.
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
        memory_swap_limit_in_bytes: if new.memory_limit_in_bytes == 0 {
            number(new.memory_swap_limit_in_bytes, old.memory_swap_limit_in_bytes)
        } else {
            new.memory_swap_limit_in_bytes
        },
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
    }

    #[test]
    fn swap_is_what_the_sum_has_beyond_memory_or_the_file_of_v2() {
        let of = |limit, both, file: Option<&str>| {
            let unified = file.map(|text| (SWAP_MAX.to_owned(), text.to_owned())).into_iter().collect();
            of_linux(&LinuxContainerResources { memory_limit_in_bytes: limit, memory_swap_limit_in_bytes: both, unified, ..Default::default() }).map(|limits| limits.swap_bytes)
        };
        for (limit, both, file, expected) in [
            (64, 0, None, None),
            (64, 64, None, Some(0)),
            (64, 96, None, Some(32)),
            (64, -1, None, Some(-1)),
            (0, 0, Some("0"), Some(0)),
            (64, 64, Some("16"), Some(16)),
            (64, 0, Some("max"), Some(-1)),
        ] {
            assert_eq!(of(limit, both, file).ok(), Some(expected), "{limit} {both} {file:?}");
        }
        for (limit, both, file) in [(64, 32, None), (0, 32, None), (64, 0, Some("-1")), (64, 0, Some("much"))] {
            assert_eq!(of(limit, both, file).err().map(|status| status.code), Some(Code::InvalidArgument), "{limit} {both} {file:?}");
        }
    }

    #[test]
    fn another_memory_limit_takes_the_sum_of_the_old_one_away() {
        let old = LinuxContainerResources { memory_limit_in_bytes: 64, memory_swap_limit_in_bytes: 64, ..Default::default() };
        let sum = |new: LinuxContainerResources| changed(&old, &new).memory_swap_limit_in_bytes;
        assert_eq!(sum(LinuxContainerResources { memory_limit_in_bytes: 128, ..Default::default() }), 0);
        assert_eq!(sum(LinuxContainerResources { memory_limit_in_bytes: 128, memory_swap_limit_in_bytes: 128, ..Default::default() }), 128);
        assert_eq!(sum(LinuxContainerResources { cpu_shares: 2, ..Default::default() }), 64);
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
