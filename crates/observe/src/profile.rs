//! `/debug/pprof/profile`: where the process spends its CPU, in the format of `pprof` (gzipped protobuf, profile.proto).
//!
//! The `pprof` crate samples by SIGPROF; its own protobuf features are left out, they generate code from a schema of a dozen messages.
//! One profile at a time.

use crate::proto::Message;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Go's rate.
const SAMPLES_A_SECOND: i32 = 100;
/// Length without `seconds`, as Go's.
pub const DEFAULT_SECONDS: u64 = 30;
/// Longer profiles are refused: they keep all samples in memory.
pub const SECONDS_MAX: u64 = 600;
/// Signals must not unwind out of these: a lock could be theirs.
const LEFT_OUT: &[&str] = &["libc", "libgcc", "pthread", "vdso", "ld-linux"];

#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("Could not enable CPU profiling: cpu profiling already in use")]
    InUse,
    #[error("Could not enable CPU profiling: {0}")]
    Sampler(#[from] pprof::Error),
    #[error("the profile could not be written: {0}")]
    Write(#[from] std::io::Error),
}

/// Samples the process until `over`; the profile as `go tool pprof` reads it.
pub async fn cpu(over: impl Future<Output = ()>) -> Result<Vec<u8>, ProfileError> {
    static BUSY: AtomicBool = AtomicBool::new(false);
    struct Free;
    impl Drop for Free {
        fn drop(&mut self) {
            BUSY.store(false, Ordering::Release);
        }
    }
    if BUSY.swap(true, Ordering::AcqRel) {
        return Err(ProfileError::InUse);
    }
    let _free = Free;
    let began = SystemTime::now();
    let guard = pprof::ProfilerGuardBuilder::default().frequency(SAMPLES_A_SECOND).blocklist(LEFT_OUT).build()?;
    let started = Instant::now();
    over.await;
    let length = started.elapsed();
    // Names are looked up in the binary's symbols: work for a thread of its own.
    let report = tokio::task::block_in_place(|| guard.report().build())?;
    let stacks = report.data.iter().map(|(frames, n)| {
        let names = frames.frames.iter().flatten().map(|s| (s.name(), s.filename().into_owned(), s.lineno()));
        (names.collect(), u64::try_from(*n).unwrap_or(0))
    });
    let profile = encode(stacks, began, length);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&profile)?;
    Ok(gzip.finish()?)
}

/// A function's name, its file and a line in it.
type Frame = (String, String, u32);

/// Strings by number; 0 is the empty one.
#[derive(Default)]
struct Table<K> {
    ids: HashMap<K, u64>,
    all: Vec<K>,
}

impl<K: Clone + std::hash::Hash + Eq> Table<K> {
    /// Numbers from 1 on.
    fn id(&mut self, k: K) -> u64 {
        if let Some(id) = self.ids.get(&k) {
            return *id;
        }
        self.all.push(k.clone());
        self.ids.insert(k, self.all.len() as u64);
        self.all.len() as u64
    }
}

/// Stacks (innermost first) and how often each was seen, as profile.proto.
fn encode(stacks: impl Iterator<Item = (Vec<Frame>, u64)>, began: SystemTime, length: Duration) -> Vec<u8> {
    let period = 1_000_000_000 / SAMPLES_A_SECOND as u64;
    let (mut strings, mut functions, mut locations) = (Table::<String>::default(), Table::<(String, String)>::default(), Table::<(u64, u32)>::default());
    let mut out = Message::default();
    let mut kind = |kind: &str, unit: &str| (strings.id(kind.into()), strings.id(unit.into()));
    let (samples, cpu) = (kind("samples", "count"), kind("cpu", "nanoseconds"));
    for (kind, unit) in [samples, cpu] {
        out.message(1, |m| {
            m.varint(1, kind).varint(2, unit);
        });
    }
    for (frames, n) in stacks {
        let ids: Vec<u64> = frames.into_iter().map(|(name, file, line)| locations.id((functions.id((name, file)), line))).collect();
        out.message(2, |m| {
            m.packed(1, ids).packed(2, [n, n * period]);
        });
    }
    for (i, (function, line)) in locations.all.iter().enumerate() {
        out.message(4, |m| {
            m.varint(1, i as u64 + 1).message(4, |l| {
                l.varint(1, *function).varint(2, u64::from(*line));
            });
        });
    }
    for (i, (name, file)) in functions.all.iter().enumerate() {
        let (name, file) = (strings.id(name.clone()), strings.id(file.clone()));
        out.message(5, |m| {
            m.varint(1, i as u64 + 1).varint(2, name).varint(3, name).varint(4, file);
        });
    }
    out.text(6, "");
    for s in &strings.all {
        out.text(6, s);
    }
    let began = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    out.varint(9, began.as_nanos() as u64).varint(10, length.as_nanos() as u64);
    out.message(11, |m| {
        m.varint(1, cpu.0).varint(2, cpu.1);
    })
    .varint(12, period);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::tests::{at, fields};
    use std::io::Read;

    #[test]
    fn a_profile_names_functions_and_counts_samples() {
        let frame = |name: &str| (name.to_owned(), "a.rs".to_owned(), 7);
        let stacks = vec![(vec![frame("leaf"), frame("root")], 3), (vec![frame("root")], 1)];
        let p = encode(stacks.into_iter(), UNIX_EPOCH, Duration::from_secs(1));
        let all = fields(&p);
        let of = |n: u32| all.iter().filter(|(f, _)| *f == n).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        assert_eq!((of(1).len(), of(2).len(), of(4).len(), of(5).len()), (2, 2, 2, 2), "two kinds of values, two stacks, two places, two functions");
        assert_eq!(at(&of(2)[0], &[1]), Some(vec![1, 2]), "innermost first");
        assert_eq!(at(&of(2)[0], &[2]).unwrap()[0], 3);
        let strings: Vec<String> = of(6).into_iter().map(|b| String::from_utf8(b).unwrap()).collect();
        assert_eq!(strings[0], "");
        assert!(["cpu", "nanoseconds", "leaf", "root", "a.rs"].iter().all(|s| strings.iter().any(|t| t == s)), "{strings:?}");
    }

    /// Nanoseconds this thread has had a processor.
    fn processor_nanoseconds() -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_process_is_sampled_once_at_a_time() {
        let burn = || {
            let (mut n, until) = (0u64, processor_nanoseconds() + 300_000_000);
            // Seldom looks at the clock: what the kernel does for it is not ours.
            while processor_nanoseconds() < until {
                for _ in 0..1_000_000 {
                    n = std::hint::black_box(n.wrapping_mul(31).wrapping_add(7));
                }
            }
        };
        // Both within the first: setting a profile up may take longer than the work does.
        let mut second = None;
        let first = cpu(async {
            second = Some(cpu(std::future::ready(())).await);
            tokio::task::spawn_blocking(burn).await.unwrap();
        })
        .await;
        assert!(matches!(second, Some(Err(ProfileError::InUse))));
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&first.unwrap()[..]).read_to_end(&mut bytes).unwrap();
        let samples = fields(&bytes).into_iter().filter(|(n, _)| *n == 2).count();
        assert!(samples > 0, "a busy process leaves samples");
    }
}
