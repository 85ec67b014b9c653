//! The merge: rewrites all closed segments into one that holds only what is kept, in the background.
//!
//! All of them at once, so that a forgotten delete may go together with the put it hides: a delete dropped alone would bring the key back
//! at the next start. Writers go on in the active segment meanwhile; versions learn their new place one atomic at a time.

use super::Shared;
use super::index::{Place, Version};
use super::record::{self, Frame, Kind, Record};
use super::segment::{self, Segment, disk_error};
use crate::StoreError;
use bytes::Bytes;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A frame of the merged file is written when it has grown to this.
const FRAME_BYTES: usize = 256 << 10;

/// Starts the merge of every segment but the active one. `shared.merging` is set by the caller and cleared at the end.
pub fn start(shared: Arc<Shared>, active: u32) -> Result<(), StoreError> {
    let dir = shared.dir.clone();
    let work = move || {
        let begun = std::time::Instant::now();
        match merge(&shared, active) {
            Ok((before, after)) => tracing::info!(before_bytes = before, after_bytes = after, took_ms = begun.elapsed().as_millis() as u64, "store files merged"),
            Err(e) => tracing::warn!(error = %e, "the merge of the store's files failed; nothing is lost, tried again after the next compaction"),
        }
        shared.merging.store(false, Ordering::Release);
    };
    std::thread::Builder::new().name("store-merge".into()).spawn(work).map(drop).map_err(|e| disk_error(&dir, &e))
}

/// Bytes before and after.
fn merge(shared: &Shared, active: u32) -> Result<(u64, u64), StoreError> {
    let closed: Vec<Arc<Segment>> = shared.values.files().into_iter().filter(|s| s.id != active).collect();
    let (Some(first), Some(last)) = (closed.iter().map(|s| s.first).min(), closed.iter().map(|s| s.last).max()) else { return Ok((0, 0)) };
    let temporary = shared.dir.join("merge.tmp");
    let merged = write_merged(shared, &closed, &temporary, first, last);
    if merged.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    let (segment, places) = merged?;
    let after = segment.file.metadata().map_err(|e| disk_error(&segment.path, &e))?.len();
    shared.values.add_file(Arc::new(segment));
    for (version, place) in places {
        version.move_to(place);
    }
    let mut before = 0;
    for old in closed {
        before += old.file.metadata().map_or(0, |m| m.len());
        shared.values.remove_file(old.id);
        if (old.first, old.last) != (first, last)
            && let Err(e) = std::fs::remove_file(&old.path)
        {
            tracing::warn!(path = %old.path.display(), error = %e, "a merged segment cannot be removed; removed at the next start");
        }
    }
    shared.log_bytes.fetch_sub(before.saturating_sub(after), Ordering::Relaxed);
    Ok((before, after))
}

type Places = Vec<(Arc<Version>, Place)>;

/// Writes the merged file, durably, under its final name.
fn write_merged(shared: &Shared, closed: &[Arc<Segment>], temporary: &std::path::Path, first: u64, last: u64) -> Result<(Segment, Places), StoreError> {
    let failed = |e: std::io::Error| disk_error(temporary, &e);
    let state = shared.state();
    let ids: HashSet<u32> = closed.iter().map(|s| s.id).collect();
    let id = shared.new_file_id();
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(temporary).map_err(failed)?;
    file.write_all_at(&record::file_header(), 0).map_err(failed)?;
    let mut length = record::FILE_HEADER_BYTES as u64;
    let mut frame = Frame::new();
    frame.push(&Record { kind: Kind::Compact, revision: 0, created: state.floor, expires_ms: 0, key: &[], value: &[], value_crc: 0 });
    let mut places = Vec::new();
    for (key, version) in state.kept().into_iter().filter(|(_, v)| ids.contains(&v.place().file())) {
        let value = if version.deleted { Bytes::new() } else { shared.values.read_disk(&version)? };
        let value_at = push(&mut frame, &key, &version, &value);
        places.push((version, Place::new(id, length + value_at)));
        if frame.len() >= FRAME_BYTES {
            length = flush(&file, &mut frame, length).map_err(failed)?;
        }
    }
    if !frame.is_empty() {
        flush(&file, &mut frame, length).map_err(failed)?;
    }
    file.sync_all().map_err(failed)?;
    let path = segment::path_of(&shared.dir, first, last);
    std::fs::rename(temporary, &path).and_then(|()| segment::sync_dir(&shared.dir)).map_err(failed)?;
    Ok((Segment { id, first, last, path, file }, places))
}

fn push(frame: &mut Frame, key: &Bytes, version: &Version, value: &Bytes) -> u64 {
    let kind = if version.deleted { Kind::Delete } else { Kind::Put };
    frame.push(&Record { kind, revision: version.modified, created: version.created, expires_ms: version.expires_ms, key, value, value_crc: version.value_crc })
}

fn flush(file: &std::fs::File, frame: &mut Frame, at: u64) -> std::io::Result<u64> {
    let bytes = frame.finish();
    file.write_all_at(bytes, at)?;
    let end = at + bytes.len() as u64;
    frame.clear();
    Ok(end)
}
