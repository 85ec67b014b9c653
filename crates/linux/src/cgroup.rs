//! Control groups of both versions behind one interface: where they are mounted, groups, limits, figures, ending all members.
//!
//! Entry points: [`Layout::discover`], [`Layout::group`], [`Group`]; [`figures`] reads all that is counted. Each controller is used where this host has it: v1
//! (a tree a controller), v2 (one tree), or hybrid (v1 controllers beside a bare v2 tree, whose `cgroup.kill` we then use).
//! Processes join by themselves ([`Group::join`] writes "0" to `tasks`), which spares the kernel's global lock and with it
//! some milliseconds a controller; on v2 they are born inside (CLONE_INTO_CGROUP).
//! Absent: limits of io and hugetlb of pods. Without `cpuset` in the layout processes stay in the shim's. Bundles of the OCI runtime set any file ([`Group::set`]). Source: cgroups(7), the kernel's
//! cgroup-v1 and cgroup-v2 pages, KEP-2254 (conversion of shares).

mod figures;

pub use figures::{Cpu, Figures, Io, Memory, Pressure, Stall};

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The v1 controllers we place containers in. `freezer` only where no `cgroup.kill` exists.
const V1_CONTROLLERS: &[&str] = &["cpu", "cpuacct", "memory", "pids", "devices"];
const V2_CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];
/// How long members may take to end after SIGKILL.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// Between looks at a v1 tree, which cannot announce that it is empty.
const V1_LOOK_INTERVAL: Duration = Duration::from_millis(2);
const MAX_SHARES: u64 = 262_144;
/// v2's limit of swap alone.
pub const SWAP_MAX: &str = "memory.swap.max";
/// v1's limit of memory and swap together.
const MEMSW_LIMIT: &str = "memory.memsw.limit_in_bytes";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mount: PathBuf,
    pub version: Version,
    /// Those we use of this tree; none for the bare v2 tree of a hybrid host.
    pub controllers: Vec<String>,
}

/// The host's control group trees that we use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub hierarchies: Vec<Hierarchy>,
}

/// Figures to enforce. Absent: left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub memory_bytes: Option<i64>,
    /// Swap beside memory; below zero: as much as there is. v1 counts both together: there it needs `memory_bytes`, and what is absent is none.
    pub swap_bytes: Option<i64>,
    pub pids: Option<i64>,
    /// Processors and NUMA nodes, in the kernel's list form; the layout must have `cpuset`.
    pub cpus: Option<String>,
    pub mems: Option<String>,
    /// v2: an out-of-memory kill ends all members.
    pub oom_group: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no cgroup controllers are mounted under /sys/fs/cgroup; mount cgroup2 there")]
    NothingMounted,
    #[error("cgroup path {0:?} must be relative, without dots")]
    BadPath(String),
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("this host has no cgroup controller {controller} to set {name} with")]
    NoController { controller: &'static str, name: String },
    #[error("{0}: processes do not stop for the freezer")]
    DoNotFreeze(String),
    #[error("{0}: processes do not end after SIGKILL")]
    DoNotEnd(String),
}

type Result<T> = std::result::Result<T, CgroupError>;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { action, path, source }
}

fn write(path: &Path, value: &str) -> Result<()> {
    // Opened without O_CREAT and O_TRUNC: control files know neither.
    let mut f = fs::OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
    io::Write::write_all(&mut f, value.as_bytes()).map_err(failed("write", path))
}

fn limit_memory_v2(folder: &Path, l: &Limits) -> Result<()> {
    let word = |bytes: i64, limited: bool| if limited { bytes.to_string() } else { "max".into() };
    if let Some(bytes) = l.memory_bytes {
        write(&folder.join("memory.max"), &word(bytes, bytes > 0))?;
    }
    if let Some(bytes) = l.swap_bytes.filter(|_| folder.join(SWAP_MAX).exists()) {
        write(&folder.join(SWAP_MAX), &word(bytes, bytes >= 0))?;
    }
    if l.oom_group && l.memory_bytes.is_some() { write(&folder.join("memory.oom.group"), "1") } else { Ok(()) }
}

/// What v1 counts; below zero: no limit.
pub fn memory_and_swap(memory_bytes: i64, swap_bytes: i64) -> i64 {
    if swap_bytes < 0 { -1 } else { memory_bytes.saturating_add(swap_bytes) }
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_key(path: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

impl Layout {
    /// Reads this process's mounts.
    pub fn discover() -> Result<Layout> {
        Layout::discover_with(&[])
    }

    /// With further controllers, where the host has them: `cpuset`, `blkio` (v2: `io`), `hugetlb`, `net_cls`, `net_prio`, `rdma`.
    pub fn discover_with(more: &[&str]) -> Result<Layout> {
        let path = Path::new("/proc/self/mountinfo");
        let text = fs::read_to_string(path).map_err(failed("read", path))?;
        Layout::from_mountinfo_with(&text, more, |mount| fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default())
    }

    /// `controllers_of` reads cgroup.controllers of a v2 mount.
    pub fn from_mountinfo(mountinfo: &str, controllers_of: impl Fn(&Path) -> String) -> Result<Layout> {
        Layout::from_mountinfo_with(mountinfo, &[], controllers_of)
    }

    fn from_mountinfo_with(mountinfo: &str, more: &[&str], controllers_of: impl Fn(&Path) -> String) -> Result<Layout> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let (Some(mount), mut tail) = (head.split(' ').nth(4), tail.split(' ')) else { continue };
            let kind = tail.next().unwrap_or_default();
            let options = tail.nth(1).unwrap_or_default();
            let (version, offered): (_, Vec<String>) = match kind {
                "cgroup2" => (Version::V2, controllers_of(Path::new(mount)).split_whitespace().map(str::to_owned).collect()),
                "cgroup" => (Version::V1, options.split(',').map(str::to_owned).collect()),
                _ => continue,
            };
            let wanted = if version == Version::V1 { V1_CONTROLLERS } else { V2_CONTROLLERS };
            let taken = |c: &str| hierarchies.iter().any(|h| h.controllers.iter().any(|have| have == c));
            let controllers: Vec<String> = offered.into_iter().filter(|c| (wanted.contains(&c.as_str()) || more.contains(&c.as_str())) && !taken(c)).collect();
            let again = hierarchies.iter().any(|h| h.version == Version::V2 && version == Version::V2);
            if !again && (version == Version::V2 || !controllers.is_empty()) {
                hierarchies.push(Hierarchy { mount: mount.into(), version, controllers });
            }
        }
        let mut layout = Layout { hierarchies };
        if layout.hierarchies.is_empty() {
            return Err(CgroupError::NothingMounted);
        }
        if layout.v2().is_none() {
            layout.add_freezer(mountinfo);
        }
        Ok(layout)
    }

    fn add_freezer(&mut self, mountinfo: &str) {
        let freezer = mountinfo.lines().find_map(|l| {
            let (head, tail) = l.split_once(" - ")?;
            let mut tail = tail.split(' ');
            let is = tail.next() == Some("cgroup") && tail.nth(1)?.split(',').any(|c| c == "freezer");
            is.then(|| head.split(' ').nth(4)).flatten()
        });
        if let Some(mount) = freezer {
            self.hierarchies.push(Hierarchy { mount: mount.into(), version: Version::V1, controllers: vec!["freezer".into()] });
        }
    }

    fn v2(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.version == Version::V2)
    }
    fn of(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.controllers.iter().any(|c| c == controller))
    }
    /// The version in which the host has a controller that this layout uses.
    pub fn version_of(&self, controller: &str) -> Option<Version> {
        self.of(controller).map(|h| h.version)
    }
    /// The version in which groups can be held to swap; none: the kernel does not count what they use of it.
    pub fn swap_accounting(&self) -> Option<Version> {
        let h = self.of("memory")?;
        let is_counted = match h.version {
            Version::V1 => h.mount.join(MEMSW_LIMIT).exists(),
            // The top group is never limited, so any below it that has memory's files shows it; where none has yet, a kernel with swap counts it.
            Version::V2 => {
                let groups = fs::read_dir(&h.mount).into_iter().flatten().flatten().map(|group| group.path());
                let mut limited = groups.filter(|group| group.join("memory.max").exists());
                limited.next().map_or_else(|| Path::new("/proc/swaps").exists(), |group| group.join(SWAP_MAX).exists())
            }
        };
        is_counted.then_some(h.version)
    }
    /// Which version limits devices here: v1's `devices`, or a program on v2.
    pub fn devices_version(&self) -> Version {
        if self.of("devices").is_some() { Version::V1 } else { Version::V2 }
    }

    /// The tops of all trees: the whole machine, or what of it this process is shown.
    pub fn top(&self) -> Group {
        Group { layout: self.clone(), path: String::new() }
    }

    /// The group at `path`, relative to the trees' tops: `keles/burstable/pod…`.
    pub fn group(&self, path: &str) -> Result<Group> {
        let ok = !path.is_empty() && path.split('/').all(|p| !p.is_empty() && p != "." && p != ".." && !p.contains('\0'));
        if ok { Ok(Group { layout: self.clone(), path: path.to_owned() }) } else { Err(CgroupError::BadPath(path.to_owned())) }
    }
}

/// One group in every tree we use.
#[derive(Clone, Debug)]
pub struct Group {
    layout: Layout,
    path: String,
}

impl Group {
    pub fn path(&self) -> &str {
        &self.path
    }
    fn folder(&self, h: &Hierarchy) -> PathBuf {
        h.mount.join(&self.path)
    }
    fn file(&self, controller: &str, name: &str) -> Option<(Version, PathBuf)> {
        self.layout.of(controller).map(|h| (h.version, self.folder(h).join(name)))
    }
    pub fn child(&self, name: &str) -> Result<Group> {
        self.layout.group(&format!("{}/{name}", self.path))
    }

    /// Makes it and its parents; fine when it exists.
    pub fn create(&self) -> Result<()> {
        for h in &self.layout.hierarchies {
            let folder = self.folder(h);
            if h.version == Version::V2 && !h.controllers.is_empty() {
                self.enable_controllers_above(h)?;
            }
            fs::create_dir_all(&folder).map_err(failed("make cgroup", &folder))?;
        }
        Ok(())
    }

    /// Sets one control file of a controller. `NotFound` in the error's source: the host's kernel lacks it.
    pub fn set(&self, controller: &'static str, name: &str, value: &str) -> Result<()> {
        match self.file(controller, name) {
            Some((_, file)) => write(&file, value),
            None => Err(CgroupError::NoController { controller, name: name.to_owned() }),
        }
    }

    /// Reads a control file of a controller, if there is one.
    pub fn get(&self, controller: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.file(controller, name)?.1).ok()
    }

    /// Sets a file of the v2 group by name, as the `unified` resources of a bundle do.
    pub fn set_unified(&self, name: &str, value: &str) -> Result<()> {
        match self.layout.v2() {
            Some(h) if !name.contains('/') => write(&self.folder(h).join(name), value),
            _ => Err(CgroupError::NoController { controller: "unified", name: name.to_owned() }),
        }
    }

    /// v1: a cpuset starts without processors or memory nodes, and nothing can join it: take the parent's.
    pub fn inherit_cpuset(&self) -> Result<()> {
        let Some(h) = self.layout.of("cpuset").filter(|h| h.version == Version::V1) else { return Ok(()) };
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let mut folder = h.mount.clone();
            for part in Path::new(&self.path) {
                let above = fs::read_to_string(folder.join(name)).map_err(failed("read", &folder))?;
                folder.push(part);
                if fs::read_to_string(folder.join(name)).map_err(failed("read", &folder))?.trim().is_empty() {
                    write(&folder.join(name), above.trim())?;
                }
            }
        }
        Ok(())
    }

    /// Stops all members from running, or lets them; returns once it is so.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(h) = self.layout.v2() {
            let folder = self.folder(h);
            write(&folder.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
            wait_event(&folder.join("cgroup.events"), "frozen", u64::from(frozen), Instant::now() + KILL_WAIT);
            return Ok(());
        }
        let Some((_, file)) = self.file("freezer", "freezer.state") else { return Err(CgroupError::NoController { controller: "freezer", name: "freezer.state".into() }) };
        let wanted = if frozen { "FROZEN" } else { "THAWED" };
        let end = Instant::now() + KILL_WAIT;
        loop {
            // Written anew each time: members that fork while being frozen make the kernel stop short.
            write(&file, wanted)?;
            if fs::read_to_string(&file).is_ok_and(|s| s.trim() == wanted) {
                return Ok(());
            }
            if Instant::now() > end {
                let _ = write(&file, "THAWED");
                return Err(CgroupError::DoNotFreeze(self.path.clone()));
            }
            std::thread::sleep(V1_LOOK_INTERVAL);
        }
    }

    pub fn is_frozen(&self) -> bool {
        match self.layout.v2() {
            Some(h) => read_number(&self.folder(h).join("cgroup.freeze")) == Some(1),
            None => self.file("freezer", "freezer.state").is_some_and(|(_, f)| fs::read_to_string(f).is_ok_and(|s| s.trim() != "THAWED")),
        }
    }

    /// The group's folder in each tree: (the tree's folder, version, the group's).
    pub fn folders(&self) -> Vec<(PathBuf, Version, PathBuf)> {
        self.layout.hierarchies.iter().map(|h| (h.mount.clone(), h.version, self.folder(h))).collect()
    }

    /// The files that a process joins by, opened now: one that has lost the rights to open them later can still [`enter`].
    pub fn doors(&self, born_inside: bool) -> Result<Vec<OwnedFd>> {
        let mut doors = Vec::new();
        for h in &self.layout.hierarchies {
            let name = match h.version {
                Version::V1 => "tasks",
                Version::V2 if born_inside => continue,
                Version::V2 => "cgroup.procs",
            };
            let path = self.folder(h).join(name);
            doors.push(fs::OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?.into());
        }
        Ok(doors)
    }

    /// Moves processes in, where they are not yet.
    pub fn adopt(&self, pids: &[i32]) -> Result<()> {
        for h in &self.layout.hierarchies {
            let file = self.folder(h).join("cgroup.procs");
            let inside = fs::read_to_string(&file).map_err(failed("read", &file))?;
            let inside: Vec<i32> = inside.lines().filter_map(|l| l.parse().ok()).collect();
            for pid in pids.iter().filter(|p| !inside.contains(p)) {
                match write(&file, &pid.to_string()) {
                    // Gone in the meantime.
                    Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
                    r => r?,
                }
            }
        }
        Ok(())
    }

    /// v2: each parent must hand the controllers down.
    fn enable_controllers_above(&self, h: &Hierarchy) -> Result<()> {
        let enable: String = h.controllers.iter().map(|c| format!("+{c} ")).collect();
        let mut at = h.mount.clone();
        for part in Path::new(&self.path) {
            let file = at.join("cgroup.subtree_control");
            let on = fs::read_to_string(&file).unwrap_or_default();
            if !h.controllers.iter().all(|c| on.split_whitespace().any(|o| o == c)) {
                write(&file, enable.trim_end())?;
            }
            at.push(part);
            fs::create_dir_all(&at).map_err(failed("make cgroup", &at))?;
        }
        Ok(())
    }

    pub fn limit(&self, l: &Limits) -> Result<()> {
        self.limit_cpu(l)?;
        for (name, list) in [("cpuset.cpus", &l.cpus), ("cpuset.mems", &l.mems)] {
            if let Some(list) = list {
                self.set("cpuset", name, list)?;
            }
        }
        self.limit_memory(l)?;
        if let (Some(n), Some((_, file))) = (l.pids, self.file("pids", "pids.max")) {
            write(&file, &if n > 0 { n.to_string() } else { "max".into() })?;
        }
        Ok(())
    }

    fn limit_cpu(&self, l: &Limits) -> Result<()> {
        let Some(h) = self.layout.of("cpu") else { return Ok(()) };
        let folder = self.folder(h);
        if let Some(shares) = l.cpu_shares.filter(|s| *s > 0) {
            match h.version {
                Version::V1 => write(&folder.join("cpu.shares"), &shares.clamp(2, MAX_SHARES).to_string())?,
                Version::V2 => write(&folder.join("cpu.weight"), &weight_of_shares(shares).to_string())?,
            }
        }
        if l.cpu_quota_us.is_none() && l.cpu_period_us.is_none() {
            return Ok(());
        }
        let period = l.cpu_period_us.filter(|p| *p > 0).unwrap_or(100_000);
        let quota = l.cpu_quota_us.unwrap_or(-1);
        match h.version {
            Version::V1 => {
                write(&folder.join("cpu.cfs_period_us"), &period.to_string())?;
                write(&folder.join("cpu.cfs_quota_us"), &if quota > 0 { quota } else { -1 }.to_string())
            }
            Version::V2 => write(&folder.join("cpu.max"), &format!("{} {period}", if quota > 0 { quota.to_string() } else { "max".into() })),
        }
    }

    /// A kernel that counts no swap has no files for it; there is nothing to limit then.
    fn limit_memory(&self, l: &Limits) -> Result<()> {
        let Some(h) = self.layout.of("memory") else { return Ok(()) };
        let folder = self.folder(h);
        if h.version == Version::V2 {
            return limit_memory_v2(&folder, l);
        }
        let Some(bytes) = l.memory_bytes else { return Ok(()) };
        let sum = if bytes > 0 { memory_and_swap(bytes, l.swap_bytes.unwrap_or(0)) } else { -1 };
        let (memory, both) = (folder.join("memory.limit_in_bytes"), folder.join(MEMSW_LIMIT));
        // memory <= memory+swap must hold at each step: growing writes the sum first, shrinking last.
        let _ = both.exists().then(|| write(&both, &sum.to_string()));
        write(&memory, &if bytes > 0 { bytes } else { -1 }.to_string())?;
        if both.exists() { write(&both, &sum.to_string()) } else { Ok(()) }
    }

    /// Refuses all devices but `rules` (`c 1:3 rwm`): by v1's `devices` where there is one, else by a program on v2.
    pub fn allow_devices(&self, rules: &[String]) -> Result<()> {
        let rules: Vec<(bool, String)> = rules.iter().map(|r| (true, r.clone())).collect();
        self.filter_devices(&rules)
    }

    /// Refuses all devices but what the rules allow, of which the last that matches counts: (allow, `c 1:3 rwm`).
    pub fn filter_devices(&self, rules: &[(bool, String)]) -> Result<()> {
        // A rule for all devices makes those before it void.
        let from = rules.iter().rposition(|(_, r)| r.starts_with("a ")).unwrap_or(0);
        let rules = &rules[from..];
        if let Some((Version::V1, deny)) = self.file("devices", "devices.deny") {
            let allow = deny.with_file_name("devices.allow");
            write(&deny, "a")?;
            // One open file for all rules of a kind in a row: each is a write of its own, as the kernel reads one rule a write.
            return rules.chunk_by(|a, b| a.0 == b.0).try_for_each(|run| {
                let path = if run[0].0 { &allow } else { &deny };
                let mut file = fs::OpenOptions::new().write(true).open(path).map_err(failed("open", path))?;
                run.iter().try_for_each(|(_, rule)| io::Write::write_all(&mut file, rule.as_bytes()).map_err(failed("write", path)))
            });
        }
        let Some(folder) = self.birth_place()? else { return Ok(()) };
        crate::device_filter::attach(folder.as_fd(), rules).map_err(failed("filter devices of", Path::new(&self.path)))
    }

    /// The v2 folder, to be born in (CLONE_INTO_CGROUP), when there is a v2 tree.
    pub fn birth_place(&self) -> Result<Option<OwnedFd>> {
        let Some(h) = self.layout.v2() else { return Ok(None) };
        let folder = self.folder(h);
        fs::File::open(&folder).map(|f| Some(f.into())).map_err(failed("open", &folder))
    }

    /// Moves the calling single-threaded process in. With `born_inside` the v2 tree is already right.
    pub fn join(&self, born_inside: bool) -> Result<()> {
        for h in &self.layout.hierarchies {
            match h.version {
                Version::V1 => write(&self.folder(h).join("tasks"), "0")?,
                Version::V2 if born_inside => {}
                Version::V2 => write(&self.folder(h).join("cgroup.procs"), "0")?,
            }
        }
        Ok(())
    }

    /// Every process in it and below.
    pub fn members(&self) -> Vec<i32> {
        let mut all = Vec::new();
        for h in &self.layout.hierarchies {
            collect_members(&self.folder(h), &mut all);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// SIGKILL to all members, once; see [`Group::destroy`] for waiting.
    pub fn kill(&self) {
        if let Some(h) = self.layout.v2()
            && write(&self.folder(h).join("cgroup.kill"), "1").is_ok()
            && self.layout.hierarchies.len() == 1
        {
            return;
        }
        let freezer = self.file("freezer", "freezer.state").map(|(_, f)| f);
        let _ = freezer.as_ref().map(|f| write(f, "FROZEN"));
        for pid in self.members() {
            let _ = crate::signal::kill(pid, crate::signal::SIGKILL);
        }
        let _ = freezer.map(|f| write(&f, "THAWED"));
    }

    /// Ends all members and removes the group and all below it. Fine when it is gone already.
    pub fn destroy(&self) -> Result<()> {
        // Without members and groups below this is all.
        if self.layout.hierarchies.iter().all(|h| matches!(fs::remove_dir(self.folder(h)), Ok(())) || !self.folder(h).exists()) {
            return Ok(());
        }
        let end = Instant::now() + KILL_WAIT;
        self.kill();
        while !self.wait_empty(Duration::from_millis(200)) {
            if Instant::now() > end {
                return Err(CgroupError::DoNotEnd(self.path.clone()));
            }
            self.kill();
        }
        for h in &self.layout.hierarchies {
            remove_tree(&self.folder(h), end)?;
        }
        Ok(())
    }

    /// Waits until nothing runs inside.
    fn wait_empty(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        if let Some(h) = self.layout.v2() {
            wait_unpopulated(&self.folder(h).join("cgroup.events"), end);
        }
        loop {
            if self.members().is_empty() {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(V1_LOOK_INTERVAL);
        }
    }

    pub fn exists(&self) -> bool {
        self.layout.hierarchies.iter().any(|h| self.folder(h).exists())
    }

    /// How many processes the kernel killed here for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let v1 = self.file("memory", "memory.oom_control");
        match v1 {
            Some((Version::V1, f)) => read_key(&f, "oom_kill").unwrap_or(0),
            Some((Version::V2, f)) => read_key(&f.with_file_name("memory.events"), "oom_kill").unwrap_or(0),
            None => 0,
        }
    }

    /// A descriptor that becomes readable when this group, or one it lies in, has run out of memory; [`Group::oom_kills`] then says whether a
    /// process of this one was ended for it. Absent on cgroup v2, which ends the whole group by itself (`memory.oom.group`).
    pub fn oom_notice(&self) -> io::Result<Option<OwnedFd>> {
        let Some((Version::V1, path)) = self.file("memory", "memory.oom_control") else { return Ok(None) };
        let control = std::fs::File::open(&path)?;
        let notice = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK)?;
        std::fs::write(path.with_file_name("cgroup.event_control"), format!("{} {}", notice.as_raw_fd(), control.as_raw_fd()))?;
        Ok(Some(notice))
    }
}

fn collect_members(folder: &Path, all: &mut Vec<i32>) {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    all.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            collect_members(&entry.path(), all);
        }
    }
}

fn remove_tree(folder: &Path, end: Instant) -> Result<()> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path(), end)?;
        }
    }
    loop {
        match fs::remove_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A member that has ended still counts until its parent reaped it.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < end => std::thread::sleep(V1_LOOK_INTERVAL),
            r => return r.map_err(failed("remove cgroup", folder)),
        }
    }
}

/// Sleeps in poll until `populated 0` or the end.
fn wait_unpopulated(events: &Path, end: Instant) {
    wait_event(events, "populated", 0, end);
}

/// Sleeps in poll until the key of cgroup.events has the value, or is missing, or the end.
fn wait_event(events: &Path, key: &str, value: u64, end: Instant) {
    let Ok(file) = fs::File::open(events) else { return };
    loop {
        if read_key(events, key).is_none_or(|v| v == value) {
            return;
        }
        let left = end.saturating_duration_since(Instant::now());
        let Ok(timeout) = rustix::event::Timespec::try_from(left) else { return };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(file.as_fd(), rustix::event::PollFlags::PRI)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Moves the calling single-threaded process into the group whose [`Group::doors`] these are.
pub fn enter(doors: &[OwnedFd]) -> io::Result<()> {
    doors.iter().try_for_each(|door| rustix::io::write(door, b"0").map(drop).map_err(io::Error::from))
}

/// cpu.weight for v1's shares: 2..262144 onto 1..10000 (KEP-2254).
pub fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, MAX_SHARES) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:7 - cgroup cgroup rw,devices
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_uses_v1_controllers_and_the_bare_v2_tree() {
        let l = Layout::from_mountinfo(HYBRID, |_| "hugetlb\n".into()).unwrap();
        let seen: Vec<_> = l.hierarchies.iter().map(|h| (h.version, h.controllers.join("+"))).collect();
        let v1 = |c: &str| (Version::V1, c.to_owned());
        assert_eq!(seen, [v1("cpu+cpuacct"), v1("memory"), v1("devices"), (Version::V2, String::new())]);
    }

    #[test]
    fn a_v1_host_gets_the_freezer_for_killing() {
        let text: String = HYBRID.lines().filter(|l| !l.contains("cgroup2")).map(|l| format!("{l}\n")).collect();
        let l = Layout::from_mountinfo(&text, |_| String::new()).unwrap();
        assert!(l.of("freezer").is_some());
    }

    #[test]
    fn a_v2_host_has_one_tree() {
        let l = Layout::from_mountinfo("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", |_| "cpuset cpu io memory pids\n".into()).unwrap();
        assert_eq!(l.hierarchies.len(), 1);
        assert_eq!(l.hierarchies[0].controllers, ["cpu", "memory", "pids"]);
        assert_eq!(l.devices_version(), Version::V2);
        assert!(Layout::from_mountinfo("1 2 3\n", |_| String::new()).is_err());
    }

    #[test]
    fn a_path_cannot_leave_the_tree() {
        let l = Layout::from_mountinfo(HYBRID, |_| String::new()).unwrap();
        for bad in ["", "/abs", "a/../b", "a//b", "."] {
            assert!(l.group(bad).is_err(), "{bad}");
        }
    }

    fn recorded_v2(folder: &Path) -> Layout {
        let h = Hierarchy { mount: folder.into(), version: Version::V2, controllers: vec!["cpu".into(), "memory".into(), "pids".into()] };
        Layout { hierarchies: vec![h] }
    }

    #[test]
    fn a_group_is_held_to_processors_only_where_the_layout_has_cpusets() {
        let dir = tempfile::tempdir().unwrap();
        let mounts = format!("41 31 0:38 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display());
        let folder = dir.path().join("g");
        std::fs::create_dir(&folder).unwrap();
        for name in ["cpuset.cpus", "cpuset.mems"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let limits = Limits { cpus: Some("1,3".into()), mems: Some("0".into()), ..Limits::default() };
        let layout = |more: &[&str]| Layout::from_mountinfo_with(&mounts, more, |_| "cpuset cpu memory pids\n".into()).unwrap();
        layout(&["cpuset"]).group("g").unwrap().limit(&limits).unwrap();
        assert_eq!(["cpuset.cpus", "cpuset.mems"].map(|name| std::fs::read_to_string(folder.join(name)).unwrap()), ["1,3", "0"]);
        assert!(matches!(layout(&[]).group("g").unwrap().limit(&limits), Err(CgroupError::NoController { controller: "cpuset", .. })));
    }

    #[test]
    fn limits_of_v2_are_written_in_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let group = recorded_v2(dir.path()).group("g").unwrap();
        std::fs::create_dir(dir.path().join("g")).unwrap();
        for f in ["cpu.weight", "cpu.max", "memory.max", SWAP_MAX, "memory.oom.group", "pids.max"] {
            std::fs::write(dir.path().join("g").join(f), "").unwrap();
        }
        let l = Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(1 << 20),
            swap_bytes: Some(0),
            pids: Some(7),
            oom_group: true,
            ..Limits::default()
        };
        group.limit(&l).unwrap();
        let read = |f: &str| std::fs::read_to_string(dir.path().join("g").join(f)).unwrap();
        assert_eq!(
            [read("cpu.weight"), read("cpu.max"), read("memory.max"), read(SWAP_MAX), read("memory.oom.group"), read("pids.max")],
            ["39", "50000 100000", "1048576", "0", "1", "7"]
        );
    }

    #[test]
    fn swap_is_a_figure_of_its_own_on_v2_and_part_of_the_sum_on_v1() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("g");
        std::fs::create_dir(&folder).unwrap();
        let v1 = Layout { hierarchies: vec![Hierarchy { mount: dir.path().into(), version: Version::V1, controllers: vec!["memory".into()] }] };
        let limit = |layout: &Layout, memory_bytes, swap_bytes| {
            for file in ["memory.max", SWAP_MAX, "memory.limit_in_bytes", MEMSW_LIMIT] {
                std::fs::write(folder.join(file), "").unwrap();
            }
            layout.group("g").unwrap().limit(&Limits { memory_bytes, swap_bytes, ..Limits::default() }).unwrap();
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap();
            if layout.version_of("memory") == Some(Version::V2) { [read("memory.max"), read(SWAP_MAX)] } else { [read("memory.limit_in_bytes"), read(MEMSW_LIMIT)] }
        };
        let v2 = recorded_v2(dir.path());
        for (memory, swap, expected_v2, expected_v1) in [
            (Some(10), Some(5), ["10", "5"], ["10", "15"]),
            (Some(10), Some(-1), ["10", "max"], ["10", "-1"]),
            (Some(10), None, ["10", ""], ["10", "10"]),
            (Some(-1), Some(0), ["max", "0"], ["-1", "-1"]),
            (None, Some(0), ["", "0"], ["", ""]),
        ] {
            assert_eq!(limit(&v2, memory, swap), expected_v2, "v2: {memory:?} and {swap:?}");
            assert_eq!(limit(&v1, memory, swap), expected_v1, "v1: {memory:?} and {swap:?}");
        }
    }

    #[test]
    fn a_kernel_that_counts_no_swap_limits_memory_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("g");
        std::fs::create_dir(&folder).unwrap();
        let v1 = Layout { hierarchies: vec![Hierarchy { mount: dir.path().into(), version: Version::V1, controllers: vec!["memory".into()] }] };
        let v2 = recorded_v2(dir.path());
        for file in ["memory.max", "memory.limit_in_bytes"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        for layout in [&v1, &v2] {
            assert_eq!(layout.swap_accounting(), None);
            layout.group("g").unwrap().limit(&Limits { memory_bytes: Some(10), swap_bytes: Some(0), ..Limits::default() }).unwrap();
        }
        assert_eq!(["memory.max", "memory.limit_in_bytes"].map(|file| std::fs::read_to_string(folder.join(file)).unwrap()), ["10", "10"]);
        std::fs::write(folder.join(SWAP_MAX), "").unwrap();
        std::fs::write(dir.path().join(MEMSW_LIMIT), "").unwrap();
        assert_eq!((v1.swap_accounting(), v2.swap_accounting()), (Some(Version::V1), Some(Version::V2)));
    }

    #[test]
    fn kills_for_memory_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("g")).unwrap();
        std::fs::write(dir.path().join("g/memory.events"), "oom 1\noom_kill 2\n").unwrap();
        let group = recorded_v2(dir.path()).group("g").unwrap();
        assert_eq!(group.oom_kills(), 2);
    }

    /// This machine's own trees; needs root.
    #[test]
    fn a_real_group_holds_and_kills_a_process() {
        let layout = Layout::discover().unwrap();
        let group = layout.group(&format!("keles-linux-test-{}", std::process::id())).unwrap();
        group.create().unwrap();
        group.limit(&Limits { memory_bytes: Some(32 << 20), pids: Some(9), cpu_shares: Some(512), ..Limits::default() }).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        for h in &layout.hierarchies {
            write(&group.folder(h).join("cgroup.procs"), &child.id().to_string()).unwrap();
        }
        assert_eq!(group.members(), [child.id() as i32]);
        let waiter = std::thread::spawn(move || child.wait().unwrap());
        group.destroy().unwrap();
        assert!(!group.exists());
        assert!(!waiter.join().unwrap().success());
    }
}
