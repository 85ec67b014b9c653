//! image: the files of an OCI image, read-only (KEP-4639).
//!
//! Entry point: [`set_up`], once the image is on the node: pulling is the node agent's work, at a container's start. Invariant: nothing of an
//! image volume is executable by the kernel's `noexec`, and nothing can be written to it.

use crate::{Mounted, Result, VolumeError, tmpfs};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Shows `layers` (topmost first) as the volume `name` of the pod in `pod_dir`. Safe to call again.
pub fn set_up(name: &str, layers: &[PathBuf], pod_dir: &Path) -> Result<Mounted> {
    let dir = pod_dir.join("volumes").join("kubernetes.io~image").join(name);
    let ready = Mounted::files(name, dir.clone(), true);
    std::fs::create_dir_all(&dir).map_err(VolumeError::io("create", &dir))?;
    if tmpfs::is_mounted(&dir)? {
        return Ok(ready);
    }
    // An overlay without an upper folder wants two lower ones; an image may have one layer or none.
    let nothing = pod_dir.join("volumes").join("no-files");
    std::fs::create_dir_all(&nothing).map_err(VolumeError::io("create", &nothing))?;
    // By descriptor, so that any number and length of folders fits the page that mount(2) has for options.
    let folders = layers.iter().chain([&nothing]).map(|layer| {
        let opened = open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|error| VolumeError::io("open image layer", layer)(error.into()))
    });
    let folders = folders.collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = folders.iter().map(|folder| format!("/proc/self/fd/{}", folder.as_raw_fd())).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", names.join(":"))).expect("digits and slashes hold no NUL");
    let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", &dir, "overlay", flags, options.as_c_str()).map_err(|error| VolumeError::io("mount image at", &dir)(error.into()))?;
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_shows_its_layers_together_and_takes_no_writes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let layer = |name: &str, file: &str, text: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir_all(&folder).expect("made");
            std::fs::write(folder.join(file), text).expect("written");
            folder
        };
        let layers = [layer("top", "both", "top"), layer("low", "below", "low")];
        std::fs::write(layers[1].join("both"), "low").expect("written");
        let pod_dir = dir.path().join("pod");
        for layers in [&layers[..], &layers[..1]] {
            let mounted = set_up("v", layers, &pod_dir).expect("mounted");
            assert_eq!(set_up("v", layers, &pod_dir).expect("again is fine"), mounted);
            assert_eq!(std::fs::read_to_string(mounted.path.join("both")).expect("readable"), "top");
            assert_eq!(mounted.path.join("below").exists(), layers.len() == 2);
            std::fs::write(mounted.path.join("new"), "x").expect_err("read-only");
            tmpfs::unmount_below(&pod_dir).expect("unmounted");
        }
    }
}
