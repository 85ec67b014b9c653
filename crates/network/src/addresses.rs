//! Which pod has which address: one file an address, named by it, holding the pod's uid.
//!
//! Created with O_EXCL before the address is used, removed after its interface is gone; the folder is the truth, so a
//! restart needs no repair. Addresses are handed out round robin, so that one just freed is the last to come again.

use crate::cidr::Cidr;
use std::collections::HashMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// Network address and bridge.
const RESERVED_LOW: u64 = 2;
/// Broadcast address.
const RESERVED_HIGH: u64 = 1;

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("no address is left in {range}: {in_use} pods hold one; delete pods or give the node a larger --cluster-cidr")]
    Exhausted { range: Cidr, in_use: usize },
    #[error("cannot keep the address file {path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

/// The addresses of one node's range.
#[derive(Debug)]
pub struct Addresses {
    folder: PathBuf,
    range: Cidr,
    by_pod: HashMap<String, Ipv4Addr>,
    taken: HashMap<Ipv4Addr, String>,
    next: u64,
}

impl Addresses {
    pub fn open(folder: &Path, range: Cidr) -> Result<Self, AddressError> {
        let file = |path: &Path, source| AddressError::File { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|e| file(folder, e))?;
        let mut a = Addresses { folder: folder.to_owned(), range, by_pod: HashMap::new(), taken: HashMap::new(), next: RESERVED_LOW };
        for entry in std::fs::read_dir(folder).map_err(|e| file(folder, e))?.flatten() {
            let Ok(ip) = entry.file_name().to_string_lossy().parse::<Ipv4Addr>() else { continue };
            let uid = std::fs::read_to_string(entry.path()).map_err(|e| file(&entry.path(), e))?;
            if uid.is_empty() {
                // Killed between create and write: nobody used it yet.
                let _ = std::fs::remove_file(entry.path());
                continue;
            }
            a.by_pod.insert(uid.clone(), ip);
            a.taken.insert(ip, uid);
        }
        Ok(a)
    }
    pub fn of(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        self.by_pod.get(pod_uid).copied()
    }
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        self.by_pod.keys().map(String::as_str)
    }
    /// The pod's address: the one it has, or a new one.
    pub fn allocate(&mut self, pod_uid: &str) -> Result<Ipv4Addr, AddressError> {
        if let Some(ip) = self.of(pod_uid) {
            return Ok(ip);
        }
        let ip = self.free().ok_or(AddressError::Exhausted { range: self.range, in_use: self.taken.len() })?;
        let path = self.folder.join(ip.to_string());
        let write = || std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?.write_all(pod_uid.as_bytes());
        write().map_err(|source| AddressError::File { path: path.clone(), source })?;
        self.by_pod.insert(pod_uid.to_owned(), ip);
        self.taken.insert(ip, pod_uid.to_owned());
        Ok(ip)
    }
    fn free(&mut self) -> Option<Ipv4Addr> {
        let end = self.range.size().checked_sub(RESERVED_HIGH)?;
        let span = end.checked_sub(RESERVED_LOW)?;
        for _ in 0..span {
            let ip = self.range.nth(self.next)?;
            self.next = if self.next + 1 >= end { RESERVED_LOW } else { self.next + 1 };
            if !self.taken.contains_key(&ip) {
                return Some(ip);
            }
        }
        None
    }
    /// Frees the pod's address, if it has one.
    pub fn release(&mut self, pod_uid: &str) -> Result<(), AddressError> {
        let Some(ip) = self.by_pod.remove(pod_uid) else { return Ok(()) };
        self.taken.remove(&ip);
        let path = self.folder.join(ip.to_string());
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(AddressError::File { path, source: e }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Addresses {
        Addresses::open(dir, "10.9.0.0/29".parse().expect("a valid range")).expect("opens")
    }

    #[test]
    fn an_address_survives_a_restart_and_is_never_given_twice() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut a = open(dir.path());
        let (x, y) = (a.allocate("x").expect("free"), a.allocate("y").expect("free"));
        assert_ne!(x, y);
        drop(a);
        let mut a = open(dir.path());
        assert_eq!(a.allocate("x").expect("kept"), x);
        assert!(![x, y].contains(&a.allocate("z").expect("free")));
    }

    #[test]
    fn a_full_range_says_so_and_a_freed_address_comes_back() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut a = open(dir.path());
        for i in 0..5 {
            a.allocate(&i.to_string()).expect("five hosts of a /29 remain beside network, bridge and broadcast");
        }
        assert!(matches!(a.allocate("more"), Err(AddressError::Exhausted { in_use: 5, .. })));
        let freed = a.of("3").expect("held");
        a.release("3").expect("removed");
        a.release("3").expect("releasing twice is fine");
        assert_eq!(a.allocate("more").expect("free again"), freed);
    }

    #[test]
    fn a_file_cut_short_by_a_kill_is_free_again() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("10.9.0.2"), "").expect("writes");
        assert_eq!(open(dir.path()).allocate("x").expect("free").to_string(), "10.9.0.2");
    }
}
