//! What is watched, by upstream's names.

use super::machine::Condition;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// First: memory is taken back before anything else (upstream's order).
    MemoryAvailable,
    NodeFsAvailable,
    NodeFsInodesFree,
    ImageFsAvailable,
    ImageFsInodesFree,
    ContainerFsAvailable,
    ContainerFsInodesFree,
    PidAvailable,
}

/// Signal, name, condition, resource in messages.
const ROWS: [(Signal, &str, Condition, &str); 8] = [
    (Signal::MemoryAvailable, "memory.available", Condition::Memory, "memory"),
    (Signal::NodeFsAvailable, "nodefs.available", Condition::Disk, "ephemeral-storage"),
    (Signal::NodeFsInodesFree, "nodefs.inodesFree", Condition::Disk, "inodes"),
    (Signal::ImageFsAvailable, "imagefs.available", Condition::Disk, "ephemeral-storage"),
    (Signal::ImageFsInodesFree, "imagefs.inodesFree", Condition::Disk, "inodes"),
    (Signal::ContainerFsAvailable, "containerfs.available", Condition::Disk, "ephemeral-storage"),
    (Signal::ContainerFsInodesFree, "containerfs.inodesFree", Condition::Disk, "inodes"),
    (Signal::PidAvailable, "pid.available", Condition::Pid, "pids"),
];

impl Signal {
    fn row(self) -> &'static (Signal, &'static str, Condition, &'static str) {
        ROWS.iter().find(|row| row.0 == self).expect("every signal has a row")
    }
    pub fn named(name: &str) -> Option<Self> {
        ROWS.iter().find(|row| row.1 == name).map(|row| row.0)
    }
    pub fn name(self) -> &'static str {
        self.row().1
    }
    pub fn condition(self) -> Condition {
        self.row().2
    }
    pub fn resource(self) -> &'static str {
        self.row().3
    }
    /// A count rather than bytes.
    pub fn is_count(self) -> bool {
        matches!(self.resource(), "inodes" | "pids")
    }
}
