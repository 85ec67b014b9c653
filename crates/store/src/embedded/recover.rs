//! Opening: replays every segment into the index, cuts a torn end, refuses damage.

use super::index::{Place, State, Step};
use super::record::{self, FILE_HEADER_BYTES, Kind};
use super::segment::{self, Scanned, Scanner, Segment, damaged, disk_error};
use crate::{Revision, StoreError};
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

pub struct Recovered {
    pub state: State,
    pub segments: Vec<Arc<Segment>>,
    pub active: Arc<Segment>,
    pub active_bytes: u64,
    pub log_bytes: u64,
    pub live_bytes: u64,
}

pub fn recover(dir: &Path) -> Result<Recovered, StoreError> {
    let mut segments: Vec<Arc<Segment>> = segment::list(dir)?.into_iter().map(Arc::new).collect();
    if segments.is_empty() {
        segments.push(Arc::new(segment::create(dir, 0, 1)?));
    }
    let mut state = State::default();
    let mut floor = 0;
    let (mut active_bytes, mut log_bytes) = (0, 0);
    let last = segments.len() - 1;
    for (i, segment) in segments.iter().enumerate() {
        active_bytes = replay(segment, i == last, &mut state, &mut floor)?;
        log_bytes += active_bytes;
    }
    state.forget(floor);
    let live_bytes = state.kept().iter().map(|(key, version)| version.record_bytes(key)).sum();
    let active = segments[last].clone();
    Ok(Recovered { state, segments, active, active_bytes, log_bytes, live_bytes })
}

/// Applies one segment; its valid length.
fn replay(segment: &Segment, newest: bool, state: &mut State, floor: &mut Revision) -> Result<u64, StoreError> {
    let Some(mut scanner) = Scanner::open(segment)? else {
        if !newest {
            return Err(damaged(&segment.path, 0, "the file is cut short"));
        }
        return restart_file(segment);
    };
    loop {
        match scanner.next()? {
            Scanned::Frame(payload, offset) => apply_frame(segment, payload, offset, state, floor)?,
            Scanned::End(length) => return Ok(length),
            Scanned::Torn(at) if newest => return cut(segment, at),
            Scanned::Torn(at) => return Err(damaged(&segment.path, at, "the file is cut short")),
        }
    }
}

/// The process ended between making the file and writing its header.
fn restart_file(segment: &Segment) -> Result<u64, StoreError> {
    let write = || {
        segment.file.set_len(0)?;
        segment.file.write_all_at(&record::file_header(), 0)?;
        segment.file.sync_all()
    };
    write().map_err(|e| disk_error(&segment.path, &e))?;
    Ok(FILE_HEADER_BYTES as u64)
}

fn cut(segment: &Segment, at: u64) -> Result<u64, StoreError> {
    let size = segment.file.metadata().map_err(|e| disk_error(&segment.path, &e))?.len();
    tracing::warn!(path = %segment.path.display(), offset = at, bytes = size - at, "the last write was interrupted before it was acknowledged; its remains are cut off");
    segment.file.set_len(at).and_then(|()| segment.file.sync_all()).map_err(|e| disk_error(&segment.path, &e))?;
    Ok(at)
}

fn apply_frame(segment: &Segment, payload: &[u8], offset: u64, state: &mut State, floor: &mut Revision) -> Result<(), StoreError> {
    let mut at = 0;
    while at < payload.len() {
        let (record, next) = record::decode(payload, at).ok_or_else(|| damaged(&segment.path, offset + at as u64, "a record does not parse"))?;
        if record.kind == Kind::Compact {
            *floor = (*floor).max(record.created);
            state.revision = state.revision.max(record.revision);
        } else if record.revision <= state.history.get_max().map_or(0, |(r, _)| *r) {
            return Err(damaged(&segment.path, offset + at as u64, format!("revision {} is out of order", record.revision)));
        } else {
            let value_at = offset + (next - record.value.len()) as u64;
            let before = state.revision;
            state.apply(Step {
                key: Bytes::copy_from_slice(record.key),
                revision: record.revision,
                created: record.created,
                expires_ms: record.expires_ms,
                value_bytes: record.value.len() as u32,
                value_crc: record.value_crc,
                deleted: record.kind == Kind::Delete,
                place: Place::new(segment.id, value_at),
            });
            state.revision = state.revision.max(before);
        }
        at = next;
    }
    Ok(())
}
