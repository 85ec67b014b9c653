//! Filesystems that the kernel cannot mount by itself: the host's mount(8) and its helper for the type.
//!
//! Entry point: [`mount`]. Unmounting needs no tool (`tmpfs::unmount_below`). A tool that hangs, as for a server that is away, is ended.

use crate::{Result, VolumeError};
use std::path::Path;
use std::time::Duration;

/// Upstream's limit of one attempt.
const TIMEOUT: Duration = Duration::from_secs(120);
pub(crate) const FOLDERS: &[&str] = &["/sbin", "/usr/sbin", "/bin", "/usr/bin", "/usr/local/sbin"];

/// What to mount.
pub struct Ask<'a> {
    /// The filesystem's type, whose helper is `mount.<kind>`.
    pub kind: &'a str,
    /// What brings the helper on Debian.
    pub package: &'a str,
    pub what: &'a str,
    pub at: &'a Path,
    pub options: &'a [&'a str],
}

/// How a tool ended, and all it said.
pub(crate) struct Ended {
    pub code: Option<i32>,
    status: std::process::ExitStatus,
    pub said: String,
}

impl Ended {
    pub fn is_success(&self) -> bool {
        self.status.success()
    }
    pub fn failure(&self, tool: &'static str, arguments: &[String]) -> VolumeError {
        VolumeError::Tool { tool, arguments: arguments.join(" "), why: format!("{}: {}", self.status, self.said) }
    }
}

/// Runs a tool of the host; one that hangs is ended.
pub(crate) async fn run(tool: &str, arguments: &[String]) -> Result<Ended> {
    run_within(TIMEOUT, tool, arguments).await
}

pub(crate) async fn run_within(limit: Duration, tool: &str, arguments: &[String]) -> Result<Ended> {
    let failed = |why: String| VolumeError::Field(format!("{tool} failed: {why} (arguments: {})", arguments.join(" ")));
    let run = tokio::process::Command::new(tool).args(arguments).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, run).await.map_err(|_| failed(format!("no end within {} s", limit.as_secs())))?.map_err(|error| failed(error.to_string()))?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
    Ok(Ended { code: output.status.code(), status: output.status, said })
}

/// Mounts through the host's tool; a missing helper is named before anything is tried.
pub async fn mount(ask: &Ask<'_>) -> Result<()> {
    mount_with(ask, FOLDERS).await
}

async fn mount_with(ask: &Ask<'_>, folders: &[&str]) -> Result<()> {
    let helper = format!("mount.{}", ask.kind);
    if !folders.iter().any(|folder| Path::new(folder).join(&helper).exists()) {
        return Err(VolumeError::NoTool { tool: helper, package: ask.package.into() });
    }
    let mut arguments = vec!["-t".to_owned(), ask.kind.to_owned()];
    if !ask.options.is_empty() {
        arguments.extend(["-o".to_owned(), ask.options.join(",")]);
    }
    arguments.extend([ask.what.to_owned(), ask.at.display().to_string()]);
    let ended = run("mount", &arguments).await?;
    if ended.is_success() { Ok(()) } else { Err(ended.failure("mount", &arguments)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_helper_is_named_with_its_package() {
        let dir = tempfile::tempdir().expect("tempdir");
        let ask = Ask { kind: "nfs", package: "nfs-common", what: "192.0.2.1:/x", at: dir.path(), options: &["ro"] };
        let error = mount_with(&ask, &[&dir.path().display().to_string()]).await.expect_err("no helper there");
        assert_eq!(error.to_string(), "mount.nfs is not on this node; install nfs-common");
    }

    #[tokio::test]
    async fn what_the_tool_says_of_a_failure_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("mount.keles-none"), "").expect("written");
        let ask = Ask { kind: "keles-none", package: "nothing", what: "none", at: dir.path(), options: &[] };
        let error = mount_with(&ask, &[&dir.path().display().to_string()]).await.expect_err("no such filesystem").to_string();
        assert!(error.starts_with("mount failed: exit status: ") && error.contains("-t keles-none none"), "{error}");
    }
}
