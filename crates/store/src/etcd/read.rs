//! Reads: one key, or a range in pages, all pages of one revision.

use super::Shared;
use super::client::{Failed, Refusal};
use super::messages::{KeyValue, RANGE, RangeRequest, RangeResponse};
use crate::{Entry, Page, Revision, StoreError};
use bytes::Bytes;
use std::time::Duration;

/// What an answer should weigh: large enough to be few, small enough to be no burden.
const ANSWER_BYTES: usize = 4 << 20;
/// Keys of the first answer, of which nothing is known.
const KEYS_FIRST: usize = 16;
const KEYS_MAX: usize = 10_000;
/// Upstream's `--etcd-healthcheck-timeout`.
const HEALTH: Duration = Duration::from_secs(2);

/// The entry of what etcd holds; `root` bytes of its key are not the caller's.
pub fn entry(kv: KeyValue, root: usize) -> Entry {
    Entry { key: kv.key.slice(root.min(kv.key.len())..), value: kv.value, created: kv.create_revision as u64, modified: kv.mod_revision as u64 }
}

/// Where a range of a prefix begins: etcd has no empty key.
pub fn first_of(prefix: &Bytes) -> Bytes {
    if prefix.is_empty() { Bytes::from_static(b"\0") } else { prefix.clone() }
}

/// Where it ends, exclusively: the next key that has the prefix no more. `\0` is the end of everything.
pub fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

impl Shared {
    /// The present revision, as all members agree on it.
    pub async fn present(&self) -> Result<Revision, StoreError> {
        let answer: RangeResponse = self.members.read(RANGE, &self.nothing(0)).await.map_err(|f| self.failed(f))?;
        Ok(revision_of(&answer))
    }

    /// Fails where `at` cannot be read.
    pub async fn check_revision(&self, at: Revision) -> Result<(), StoreError> {
        // etcd's 0 is the present.
        if at == 0 {
            return Ok(());
        }
        match self.members.read::<_, RangeResponse>(RANGE, &self.nothing(at)).await {
            Ok(_) => Ok(()),
            Err(failed) => Err(self.failed_at(at, failed).await),
        }
    }

    pub async fn healthy(&self) -> Result<(), StoreError> {
        self.members.read_within::<_, RangeResponse>(RANGE, &self.nothing(0), HEALTH).await.map(drop).map_err(|f| self.failed(f))
    }

    /// A question whose answer has no keys.
    fn nothing(&self, revision: Revision) -> RangeRequest {
        RangeRequest { key: self.keyed(b"/registry/health"), count_only: true, revision: revision as i64, ..RangeRequest::default() }
    }

    pub async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let request = RangeRequest { key: self.keyed(key), ..RangeRequest::default() };
        let answer: RangeResponse = self.members.read(RANGE, &request).await.map_err(|f| self.failed(f))?;
        Ok(answer.kvs.into_iter().next().map(|kv| entry(kv, self.root.len())))
    }

    pub async fn range(&self, prefix: &[u8], start: Option<&[u8]>, limit: usize, at: Option<Revision>) -> Result<Page, StoreError> {
        if at == Some(0) {
            // Before anything: etcd would read the present.
            return Ok(Page { entries: Vec::new(), unreadable: Vec::new(), revision: 0, more: false, count: 0 });
        }
        let whole = self.keyed(prefix);
        let end = end_of(&whole);
        let mut key = first_of(&self.keyed(start.unwrap_or(prefix).max(prefix)));
        if end.as_ref() != b"\0" && key >= end {
            let revision = match at {
                Some(at) => self.check_revision(at).await.map(|()| at)?,
                None => self.present().await?,
            };
            return Ok(Page { entries: Vec::new(), unreadable: Vec::new(), revision, more: false, count: 0 });
        }
        let (mut entries, mut count, mut revision, mut step) = (Vec::new(), None, at.unwrap_or(0), KEYS_FIRST);
        loop {
            let wanted = if limit == 0 { step } else { step.min(limit - entries.len()) };
            let request = RangeRequest { key: key.clone(), range_end: end.clone(), limit: wanted as i64, revision: revision as i64, ..RangeRequest::default() };
            let answer: RangeResponse = match self.members.read(RANGE, &request).await {
                Ok(answer) => answer,
                Err(Failed::Refused(status)) if wanted > 1 && matches!(Refusal::of(&status), Refusal::TooLarge) => {
                    step = wanted / 2;
                    continue;
                }
                Err(failed) => return Err(self.failed_at(revision, failed).await),
            };
            if revision == 0 {
                revision = revision_of(&answer);
            }
            // That of the first answer: from its start key on.
            let count = *count.get_or_insert(answer.count as u64);
            let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            step = (wanted * ANSWER_BYTES / bytes.max(1)).clamp(1, KEYS_MAX.min(wanted * 16));
            if let Some(last) = answer.kvs.last() {
                key = [last.key.as_ref(), b"\0"].concat().into();
            }
            let more = answer.more && !answer.kvs.is_empty();
            entries.extend(answer.kvs.into_iter().map(|kv| entry(kv, self.root.len())));
            if !more || entries.len() == limit {
                return Ok(Page { entries, unreadable: Vec::new(), revision, more, count });
            }
        }
    }
}

fn revision_of(answer: &RangeResponse) -> Revision {
    answer.header.as_ref().map_or(0, |h| h.revision as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_next_key_without_it() {
        for (prefix, end) in [(&b"a/"[..], &b"a0"[..]), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(end_of(prefix), end, "{prefix:?}");
        }
    }
}
