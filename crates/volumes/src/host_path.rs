//! hostPath: a file or folder of the node, checked or made as `type` says.

use crate::{Result, VolumeError};
use k8s_openapi::api::core::v1::HostPathVolumeSource;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

pub fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf> {
    let path = PathBuf::from(&source.path);
    let kind = fs::metadata(&path).ok().map(|info| info.file_type());
    let fits = match source.type_.as_deref().unwrap_or("") {
        "" => return Ok(path),
        "DirectoryOrCreate" => {
            if kind.is_none() {
                make(&path, 0o755, |path| fs::create_dir_all(path))?;
                return Ok(path);
            }
            (kind.is_some_and(|k| k.is_dir()), "a directory")
        }
        "Directory" => (kind.is_some_and(|k| k.is_dir()), "a directory"),
        "FileOrCreate" => {
            if kind.is_none() {
                make(&path, 0o644, |path| fs::File::create(path).map(drop))?;
                return Ok(path);
            }
            (kind.is_some_and(|k| k.is_file()), "a file")
        }
        "File" => (kind.is_some_and(|k| k.is_file()), "a file"),
        "Socket" => (kind.is_some_and(|k| k.is_socket()), "a socket file"),
        "CharDevice" => (kind.is_some_and(|k| k.is_char_device()), "a character device"),
        "BlockDevice" => (kind.is_some_and(|k| k.is_block_device()), "a block device"),
        other => return Err(VolumeError::Unsupported(format!("hostPath type {other}"))),
    };
    match fits {
        (true, _) => Ok(path),
        (false, expected) => Err(VolumeError::HostPathType { path: source.path.clone(), expected }),
    }
}

fn make(path: &Path, mode: u32, create: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
    create(path).map_err(VolumeError::io("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(VolumeError::io("chmod", path))
}
