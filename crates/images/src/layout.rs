//! The folder's layout, its locks, and the index of images.
//!
//! ```text
//! index.json      every image; replaced by rename, read without a lock
//! LOCK            held while index.json changes
//! USE             held shared by loads and pulls, exclusively by whoever removes layers and leftovers
//! layers/HEX/     an unpacked layer, whole as soon as it has this name
//! sizes/HEX       how many bytes of files it holds
//! locks/HEX       held by the one process that makes the layer
//! partial/HEX-HEX what came of a blob so far: the layer it becomes, the blob; written under the layer's lock
//! tmp/            what is being made
//! ```

use crate::error::{ImageError, disk};
use keles_oci::{Digest, ImageConfig};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const INDEX_VERSION: u32 = 1;

/// An image in the index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub id: Digest,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    pub created: String,
    pub config: ImageConfig,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
}

#[derive(Serialize, Deserialize)]
struct IndexFile {
    version: u32,
    images: Vec<Record>,
}

#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

/// A held lock; released when dropped, also by kill -9.
pub struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Layout {
    pub fn open(root: &Path) -> Result<Layout, ImageError> {
        let layout = Layout { root: root.to_path_buf() };
        for folder in ["layers", "sizes", "locks", "partial", "tmp"] {
            let path = root.join(folder);
            DirBuilder::new().recursive(true).mode(0o711).create(&path).map_err(disk(&path))?;
        }
        Ok(layout)
    }

    pub fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn size_file(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("sizes").join(diff_id.hex())
    }

    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub fn partial(&self, diff_id: &Digest, blob: &Digest) -> PathBuf {
        self.partials().join(format!("{}-{}", diff_id.hex(), blob.hex()))
    }

    /// A name in `tmp` that no other process or thread takes, nor one that was killed and had our process id.
    pub fn new_tmp(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        self.tmp().join(format!("{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn lock_layer(&self, diff_id: &Digest) -> Result<Lock, ImageError> {
        lock(&self.root.join("locks").join(diff_id.hex()), FlockOperation::LockExclusive)
    }

    /// While held, layers that no image names yet are safe.
    pub fn lock_use(&self) -> Result<Lock, ImageError> {
        lock(&self.root.join("USE"), FlockOperation::LockShared)
    }

    /// The right to remove layers, unless a load or pull is on.
    pub fn try_lock_removal(&self) -> Result<Option<Lock>, ImageError> {
        match lock(&self.root.join("USE"), FlockOperation::NonBlockingLockExclusive) {
            Ok(lock) => Ok(Some(lock)),
            Err(ImageError::Disk { reason, .. }) if reason.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub fn lock_index(&self) -> Result<Lock, ImageError> {
        lock(&self.root.join("LOCK"), FlockOperation::LockExclusive)
    }

    fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub fn records(&self) -> Result<Vec<Record>, ImageError> {
        let path = self.index();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(disk(&path)(e)),
        };
        let file: IndexFile = serde_json::from_slice(&bytes).map_err(|reason| ImageError::Index { path: path.display().to_string(), reason })?;
        Ok(file.images)
    }

    /// Changes the index; on an error of `change` nothing is written.
    pub fn update<T>(&self, change: impl FnOnce(&mut Vec<Record>) -> Result<T, ImageError>) -> Result<T, ImageError> {
        let _lock = self.lock_index()?;
        let before = self.records()?;
        let mut records = before.clone();
        let result = change(&mut records)?;
        if records != before {
            let bytes = serde_json::to_vec(&IndexFile { version: INDEX_VERSION, images: records }).expect("plain data becomes JSON");
            self.replace(&self.index(), &bytes)?;
        }
        Ok(result)
    }

    /// Writes a file whole or not at all, durably.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let temporary = self.new_tmp();
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            sync_folder_of(path)
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            disk(path)(e)
        })
    }

    /// Adds an image, or its new names to the one that is there.
    pub fn commit(&self, new: Record) -> Result<Record, ImageError> {
        self.update(|records| {
            let id = new.id.clone();
            match records.iter_mut().find(|r| r.id == id) {
                Some(old) => new.digests.iter().for_each(|d| add(&mut old.digests, d)),
                None => records.push(Record { tags: Vec::new(), ..new.clone() }),
            }
            new.tags.iter().for_each(|tag| give_tag(records, &id, tag));
            Ok(records.iter().find(|r| r.id == id).cloned().expect("it was found or added above"))
        })
    }
}

fn add(list: &mut Vec<String>, item: &str) {
    if !list.iter().any(|i| i == item) {
        list.push(item.to_string());
    }
}

/// A tag names one image: it is taken from the one that had it.
pub fn give_tag(records: &mut [Record], id: &Digest, tag: &str) {
    for record in records.iter_mut() {
        if record.id == *id {
            add(&mut record.tags, tag);
        } else {
            record.tags.retain(|t| t != tag);
        }
    }
}

fn lock(path: &Path, how: FlockOperation) -> Result<Lock, ImageError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(disk(path))?;
    loop {
        match rustix::fs::flock(&file, how) {
            Ok(()) => return Ok(Lock(file)),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(disk(path)(e.into())),
        }
    }
}

pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}
