//! The host's ids of pods that have a user namespace of their own (`hostUsers: false`, KEP-127): a range of 65,536 each, no two the same.
//!
//! Entry points: [`Ids::of_host`] (which ids pods may have here), [`Ranges`]. A range is written to the file `userns` of the pod's folder, in
//! upstream's form, before it is used, so that the next run of the agent finds it; it is free again once that folder is gone.

use keles_runtime::api::UserRange;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Ids of a pod (upstream's `idsPerPod`).
const LENGTH: u32 = 1 << 16;
/// Whose lines in /etc/subuid and /etc/subgid say which ids pods may have.
const USER: &str = "kubelet";
const FILE: &str = "userns";

/// The ids that pods may have: `count` ranges from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    first: u32,
    count: u32,
}

impl Ids {
    /// By the host's files; a range for each of `max_pods` after the first 65,536 ids where they do not know the user `kubelet`.
    pub fn of_host(max_pods: u32) -> Result<Ids, String> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&read("/etc/subuid"), &read("/etc/subgid"), max_pods)
    }

    fn parse(uids: &str, gids: &str, max_pods: u32) -> Result<Ids, String> {
        let (uids, gids) = (subordinate(uids)?, subordinate(gids)?);
        if uids != gids {
            return Err(format!("/etc/subuid and /etc/subgid must give user {USER} the same ids"));
        }
        let Some((first, length)) = uids else { return Ok(Ids { first: LENGTH, count: max_pods }) };
        if first < LENGTH || first % LENGTH != 0 {
            return Err(format!("user {USER}'s first subordinate id {first} must be a multiple of {LENGTH} and not 0"));
        }
        if length % LENGTH != 0 || length / LENGTH < max_pods {
            return Err(format!("user {USER} has {length} subordinate ids, which must be a multiple of {LENGTH} and enough for {max_pods} pods"));
        }
        Ok(Ids { first, count: length / LENGTH })
    }

    fn range(self, slot: u32) -> UserRange {
        UserRange { first: self.first + slot * LENGTH, length: LENGTH }
    }
}

/// First id and length of the user's line, as subuid(5) has it. More than one is refused: nobody could say which is meant.
fn subordinate(text: &str) -> Result<Option<(u32, u32)>, String> {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(USER)?.strip_prefix(':')).collect();
    match lines.as_slice() {
        [] => Ok(None),
        [line] => {
            let numbers = line.split_once(':').and_then(|(first, length)| Some((first.trim().parse().ok()?, length.trim().parse().ok()?)));
            numbers.map(Some).ok_or_else(|| format!("line {line:?} of user {USER} is not START:COUNT"))
        }
        _ => Err(format!("user {USER} has more than one range of subordinate ids")),
    }
}

/// Who has which range.
pub struct Ranges {
    ids: Ids,
    pods: PathBuf,
    by_uid: Mutex<BTreeMap<String, UserRange>>,
}

impl Ranges {
    /// Finds the ranges of the pods whose folders are below `pods`.
    pub fn open(ids: Ids, pods: PathBuf) -> Self {
        let folders = std::fs::read_dir(&pods).into_iter().flatten().flatten();
        let known = folders.filter_map(|folder| Some((folder.file_name().into_string().ok()?, read(&folder.path())?)));
        Self { ids, by_uid: Mutex::new(known.collect()), pods }
    }

    /// The pod's range, a new one if it has none.
    pub fn get(&self, uid: &str) -> Result<UserRange, String> {
        let mut by_uid = self.by_uid.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(range) = by_uid.get(uid) {
            return Ok(*range);
        }
        let taken: Vec<UserRange> = by_uid.values().copied().collect();
        let free = (0..self.ids.count).map(|slot| self.ids.range(slot)).find(|range| !taken.contains(range));
        let range = free.ok_or_else(|| format!("could not find an empty slot to allocate a user namespace: all {} are taken", self.ids.count))?;
        write(&self.pods.join(uid), range).map_err(|error| format!("user namespace of pod {uid} not written: {error}"))?;
        by_uid.insert(uid.into(), range);
        Ok(range)
    }

    /// The pod's folder is gone.
    pub fn release(&self, uid: &str) {
        self.by_uid.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(uid);
    }
}

fn read(folder: &Path) -> Option<UserRange> {
    let mappings: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join(FILE)).ok()?).ok()?;
    let figure = |name: &str| u32::try_from(mappings["uidMappings"][0][name].as_u64()?).ok();
    Some(UserRange { first: figure("hostId")?, length: figure("length")? })
}

/// Whole or not at all.
fn write(folder: &Path, range: UserRange) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mapping = json!([{"hostId": range.first, "containerId": 0, "length": range.length}]);
    let temporary = folder.join("userns.new");
    std::fs::write(&temporary, json!({"uidMappings": mapping, "gidMappings": mapping}).to_string())?;
    std::fs::rename(temporary, folder.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_ranges_of_their_own_which_the_next_run_finds() {
        let dir = tempfile::tempdir().expect("tempdir");
        let ids = Ids::parse("", "", 2).expect("valid");
        let open = || Ranges::open(ids, dir.path().to_owned());
        let ranges = open();
        let (a, b) = (ranges.get("a").expect("free"), ranges.get("b").expect("free"));
        assert_eq!((a, b), (UserRange { first: 65_536, length: 65_536 }, UserRange { first: 131_072, length: 65_536 }));
        assert_eq!(ranges.get("a"), Ok(a));
        assert!(ranges.get("c").expect_err("only two").contains("could not find an empty slot"));
        let text = std::fs::read_to_string(dir.path().join("b/userns")).expect("written");
        assert!(text.contains(r#""uidMappings":[{"#) && text.contains(r#""hostId":131072"#) && text.contains("gidMappings"), "{text}");
        let again = open();
        assert_eq!((again.get("b"), again.get("a")), (Ok(b), Ok(a)), "after a restart");
        std::fs::remove_dir_all(dir.path().join("a")).expect("removed");
        again.release("a");
        assert_eq!(again.get("c"), Ok(a), "what was given back is given again");
    }

    #[test]
    fn subordinate_ids_of_the_kubelet_are_kept_to() {
        let parse = |text: &str| Ids::parse(text, text, 110);
        assert_eq!(parse("other:1:2\nkubelet:655360:7208960\n"), Ok(Ids { first: 655_360, count: 110 }));
        for wrong in ["kubelet:0:7208960", "kubelet:65537:7208960", "kubelet:65536:65536", "kubelet:65536:7208961", "kubelet:x:1", "kubelet:65536:7208960\nkubelet:1:1"] {
            parse(wrong).expect_err(wrong);
        }
        Ids::parse("kubelet:65536:7208960", "", 110).expect_err("both files must agree");
    }
}
