//! Private files: written whole or not at all.

use crate::{PkiError, Result};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// The folder and those above it, mode 0700 where they are new.
pub fn make_private_folder(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(PRIVATE_FOLDER).create(dir).map_err(|source| PkiError::File { action: "make the folder", path: dir.into(), source })
}

/// Writes `bytes` to `path` with mode 0600: a reader sees the old file or the new one, never a part. On disk when it returns.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = |action| move |source| PkiError::File { action, path: path.into(), source };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&new).map_err(file("write"))?;
    f.write_all(bytes).and_then(|()| f.sync_all()).map_err(file("write"))?;
    std::fs::rename(&new, path).map_err(file("replace"))
}

/// The file's text, `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(b) => Ok(Some(String::from_utf8_lossy(&b).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { action: "read", path: path.into(), source }),
    }
}
