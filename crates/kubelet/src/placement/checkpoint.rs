//! Files in which the managers of devices, cpus and memory keep what they gave, in upstream's form, so that either agent can go on with the
//! other's.
//!
//! Each carries a checksum: FNV-1a of 32 bits over the state as Go's `spew` prints it (upstream's `checkpointmanager/checksum`). The files'
//! owners print their own state; this has what they share.

use std::io;
use std::path::Path;

/// FNV-1a, 32 bits.
pub fn checksum(printed: &str) -> u64 {
    u64::from(printed.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
}

/// As spew prints a map inside something: `map[k:v k:v]`. Keys must come sorted.
pub fn map<K: std::fmt::Display>(entries: impl IntoIterator<Item = (K, String)>) -> String {
    let all: Vec<String> = entries.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("map[{}]", all.join(" "))
}

/// As spew prints a slice.
pub fn list<T: std::fmt::Display>(entries: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = entries.into_iter().map(|entry| entry.to_string()).collect();
    format!("[{}]", all.join(" "))
}

/// Whole or not at all, and on the disk: what is read back decides what containers have.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.new"));
    let mut file = std::fs::File::create(&fresh)?;
    io::Write::write_all(&mut file, text)?;
    file.sync_data()?;
    std::fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
}
