//! Variables that an earlier container wrote into a file of a volume (KEP-3721): `NAME='value'` lines.
//!
//! Entry point: [`read`]. The format is the subset of POSIX shell that the API documents: a value stands in single quotes, which may span
//! lines and hold no single quote; blank lines and lines whose first visible character is `#` do not count; the last of equal names wins.

use std::path::Path;

/// A file of variables is not a data set.
const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    #[error("{0}")]
    Unreadable(String),
    #[error("line {0} is not of the form NAME='value'")]
    Line(usize),
}

/// The value of `key` in `path` below `volume_root`, opened so that no link leads out of the volume; `None` when the file lacks it.
pub fn read(volume_root: &Path, path: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
    use std::io::Read;
    let unreadable = |error: &dyn std::fmt::Display| EnvFileError::Unreadable(error.to_string());
    let root = std::fs::File::open(volume_root).map_err(|error| unreadable(&error))?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS).map_err(|error| unreadable(&error))?;
    let mut text = String::new();
    std::fs::File::from(file).take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(|error| unreadable(&error))?;
    find(&text, key)
}

/// The last value of `key`; the whole text must be well formed.
fn find(text: &str, key: &str) -> Result<Option<String>, EnvFileError> {
    let mut found = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || EnvFileError::Line(index + 1);
        let (name, rest) = line.split_once('=').ok_or_else(wrong)?;
        let mut rest = rest.strip_prefix('\'').ok_or_else(wrong)?;
        if !is_name(name) {
            return Err(wrong());
        }
        let mut value = String::new();
        let after = loop {
            match rest.split_once('\'') {
                Some((end, after)) => {
                    value.push_str(end);
                    break after;
                }
                None => {
                    value.push_str(rest);
                    value.push('\n');
                    rest = lines.next().ok_or_else(wrong)?.1;
                }
            }
        };
        // What follows the value may only be a comment.
        let after = after.trim();
        if !(after.is_empty() || after.starts_with('#')) {
            return Err(wrong());
        }
        if name == key {
            found = Some(value);
        }
    }
    Ok(found)
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(plain) && !name.as_bytes()[0].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_single_quotes_and_the_last_of_a_name_wins() {
        let text = "# a comment\n\nA='one'\n  B='two words' # why\nA='again'\nC='two\nlines'\n";
        for (key, expected) in [("A", Some("again")), ("B", Some("two words")), ("C", Some("two\nlines")), ("D", None)] {
            assert_eq!(find(text, key), Ok(expected.map(String::from)), "{key}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_its_line() {
        for text in ["A=plain", "A=\"double\"", "A = 'x'", "1A='x'", "A='open", "A='x'y", "A"] {
            assert_eq!(find(&format!("B='ok'\n{text}\n"), "B"), Err(EnvFileError::Line(2)), "{text}");
        }
    }

    #[test]
    fn a_file_outside_the_volume_is_not_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("e.env"), "A='v'\n").expect("written");
        assert_eq!(read(dir.path(), "e.env", "A"), Ok(Some("v".into())));
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).expect("linked");
        for path in ["out", "../x", "none"] {
            assert!(matches!(read(dir.path(), path, "A"), Err(EnvFileError::Unreadable(_))), "{path}");
        }
    }
}
