//! `keles oci …`, and the same as a link named `keles-oci` for callers that take a program's path and no first argument (containerd's
//! `BinaryName`, Docker's and Podman's `runtimes`).

use std::ffi::OsString;
use std::path::Path;

const LINK: &str = "keles-oci";

/// The arguments of the OCI runtime, when that is what was called.
pub fn arguments(args: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = args.split_first()?;
    if Path::new(program).file_name().is_some_and(|n| n == LINK) {
        return Some(rest.to_vec());
    }
    let (role, rest) = rest.split_first()?;
    (role == "oci").then(|| rest.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_called_by_its_role_or_by_its_links_name() {
        let of = |words: &[&str]| arguments(&words.iter().map(OsString::from).collect::<Vec<_>>()).map(|a| a.len());
        assert_eq!(of(&["keles", "oci", "state", "c"]), Some(2));
        assert_eq!(of(&["/usr/bin/keles-oci", "state", "c"]), Some(2));
        assert_eq!((of(&["keles", "server"]), of(&["keles"]), of(&[])), (None, None, None));
    }
}
