//! AppArmor: which profile a container's processes run under, the default one, and how a process comes under it.
//!
//! Entry points: [`Host::of`], [`Host::profile_for`] with the server's rights, [`Label::open`] and [`Label::take`] in the process that becomes a container's.
//! A host that lacks any part (kernel, securityfs, `apparmor_parser`) has none for us, as containerd sees it: containers that ask for no profile run without, those
//! that do are refused. Sources: apparmor.d(5), the kernel's Documentation/admin-guide/LSM/apparmor.rst.

use crate::api::{AppArmor, Security};
use crate::wire::{Failure, at};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The name of the profile for containers that are to have the runtime's.
pub const DEFAULT: &str = "keles-default";
const PARSERS: [&str; 2] = ["sbin/apparmor_parser", "usr/sbin/apparmor_parser"];

#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    /// Upstream's runtimes' words, as those below.
    #[error("apparmor is not supported")]
    Unsupported,
    #[error("apparmor profile not found {0}")]
    NotFound(String),
    #[error("loaded apparmor profiles cannot be read from {path}: {source}")]
    Profiles { path: String, source: std::io::Error },
    #[error("default apparmor profile {DEFAULT} cannot be loaded: {parser}: {message}")]
    Load { parser: String, message: String },
}

/// What of AppArmor a host has.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// `root` is `/`, or a folder that stands for it.
    pub fn of(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The kernel enforces profiles.
    pub fn is_enabled(&self) -> bool {
        std::fs::read(self.root.join("sys/module/apparmor/parameters/enabled")).is_ok_and(|text| text.starts_with(b"Y"))
    }

    fn loaded(&self) -> PathBuf {
        self.root.join("sys/kernel/security/apparmor/profiles")
    }

    fn parser(&self) -> Option<PathBuf> {
        PARSERS.iter().map(|path| self.root.join(path)).find(|path| path.exists())
    }

    /// The profile that a container's processes are to run under; `None` for none. The default one is loaded if it is not.
    pub fn profile_for(&self, security: &Security) -> Result<Option<String>, AppArmorError> {
        let is_supported = self.is_enabled() && self.loaded().exists() && self.parser().is_some();
        match &security.apparmor {
            Some(AppArmor::Unconfined) => Ok(None),
            // Such a container is confined only by a profile of its own.
            None | Some(AppArmor::RuntimeDefault) if security.privileged => Ok(None),
            None if !is_supported => Ok(None),
            Some(_) if !is_supported => Err(AppArmorError::Unsupported),
            Some(AppArmor::RuntimeDefault) => self.load_default().map(|()| Some(DEFAULT.into())),
            // Who asked for none does not wait for it.
            None => Ok(self.load_default().map_or_else(
                |error| {
                    tracing::warn!(%error, "containers that ask for no AppArmor profile run without");
                    None
                },
                |()| Some(DEFAULT.into()),
            )),
            Some(AppArmor::Localhost(name)) if self.is_loaded(name)? => Ok(Some(name.clone())),
            Some(AppArmor::Localhost(name)) => Err(AppArmorError::NotFound(name.clone())),
        }
    }

    /// Lines of the kernel's list are `NAME (MODE)`; a name may have blanks.
    fn is_loaded(&self, name: &str) -> Result<bool, AppArmorError> {
        let path = self.loaded();
        let all = std::fs::read_to_string(&path).map_err(|source| AppArmorError::Profiles { path: path.display().to_string(), source })?;
        Ok(all.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _)| loaded == name))
    }

    fn load_default(&self) -> Result<(), AppArmorError> {
        if self.is_loaded(DEFAULT)? {
            return Ok(());
        }
        let parser = self.parser().ok_or(AppArmorError::Unsupported)?;
        let failed = |message: String| AppArmorError::Load { parser: parser.display().to_string(), message };
        // Replaced if somebody was faster, and compiled anew: the cache is the administrator's.
        let child = Command::new(&parser).args(["--skip-cache", "--replace"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| failed(error.to_string()))?;
        let profile = default_profile(&self.root.join("etc/apparmor.d"));
        let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(profile.as_bytes()));
        let out = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
        if !out.status.success() {
            return Err(failed(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
        }
        written.map_err(|error| failed(error.to_string()))
    }
}

/// The runtime's profile: what containers do is allowed but for mounting and for what of /proc and /sys is the host's. Processes may signal and trace their
/// own kind, and be signalled by the host. `policy` is the folder of the host's policy, whose base abstraction is taken where it is there.
fn default_profile(policy: &Path) -> String {
    let include = |name: &str| if policy.join(name).exists() { format!("#include <{name}>\n") } else { String::new() };
    // Of /proc all that is no process's own: its files, and folders whose names begin with no digit (but /proc/sys, which follows).
    let denied = [
        "/proc/* w",
        "/proc/[^1-9s]** w",
        "/proc/s[^ey]** w",
        "/proc/sys/[^k]** w",
        "/proc/sys/kernel/[^s]** w",
        "/proc/sys/kernel/s[^h]** w",
        "/proc/sysrq-trigger rwklx",
        "/proc/kcore rwklx",
        "/proc/kmem rwklx",
        "/proc/mem rwklx",
        "/sys/[^f]** wklx",
        "/sys/f[^s]** wklx",
        "/sys/fs/[^c]** wklx",
        "/sys/firmware/** rwklx",
        "/sys/devices/virtual/powercap/** rwklx",
        "/sys/kernel/security/** rwklx",
    ];
    let denied: String = denied.iter().map(|rule| format!("  deny {rule},\n")).collect();
    format!(
        "{tunables}profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{\n  {base}  network,\n  capability,\n  file,\n  umount,\n  signal (receive) peer=unconfined,\n  signal (send,receive) peer={DEFAULT},\n  ptrace (trace,read,tracedby,readby) peer={DEFAULT},\n  deny mount,\n{denied}}}\n",
        tunables = include("tunables/global"),
        base = include("abstractions/base"),
    )
}

/// A profile that the calling process comes under when it executes its command.
pub struct Label {
    file: File,
    text: String,
}

impl Label {
    /// By the process that will take it (the kernel lets none write another's), while the host's /proc can be seen.
    pub fn open(profile: &str) -> Result<Self, Failure> {
        Self::open_in(Path::new("/proc"), profile)
    }

    /// The file that is AppArmor's own, where the kernel (5.8 and later) has it: the other may be another module's.
    fn open_in(proc: &Path, profile: &str) -> Result<Self, Failure> {
        let open = |path: &str| File::options().write(true).open(proc.join(path));
        let file = open("thread-self/attr/apparmor/exec").or_else(|_| open("thread-self/attr/exec")).map_err(at("open AppArmor label"))?;
        Ok(Self { file, text: format!("exec {profile}") })
    }

    pub fn take(&self) -> Result<(), Failure> {
        // In one write, as the kernel reads it.
        (&self.file).write_all(self.text.as_bytes()).map_err(|error| Failure::new("set AppArmor profile", format!("{}: {error}", self.text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with these parts; its parser notes what it is given, and the kernel's list then has the profile.
    fn host(enabled: &str, has_parser: bool) -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        for part in ["sys/module/apparmor/parameters", "sys/kernel/security/apparmor", "sbin", "etc/apparmor.d/abstractions"] {
            std::fs::create_dir_all(root.join(part)).expect("made");
        }
        std::fs::write(root.join("sys/module/apparmor/parameters/enabled"), enabled).expect("written");
        std::fs::write(root.join("etc/apparmor.d/abstractions/base"), "").expect("written");
        std::fs::write(root.join("sys/kernel/security/apparmor/profiles"), "mine (enforce)\nwith blanks (complain)\n").expect("written");
        if has_parser {
            let parser = root.join("sbin/apparmor_parser");
            let at = root.display();
            let script = format!(
                "#!/bin/sh\necho \"$@\" >>{at}/asked\ncat >{at}/given\ngrep -q refuse {at}/mood 2>/dev/null && {{ echo 'syntax error in line 1' >&2; exit 1; }}\nsed -n 's/^profile \\([^ ]*\\) .*/\\1 (enforce)/p' {at}/given >>{at}/sys/kernel/security/apparmor/profiles\n"
            );
            // Written by another process: one that this one held open for writing could not be run (ETXTBSY) while another test forks.
            let written = Command::new("sh").args(["-c", r#"printf %s "$0" >"$1" && chmod 755 "$1""#, &script]).arg(&parser).status();
            assert!(written.expect("a shell").success());
        }
        let host = Host::of(root);
        (folder, host)
    }

    fn asking(apparmor: Option<AppArmor>, privileged: bool) -> Security {
        Security { apparmor, privileged, ..Security::default() }
    }

    fn localhost(name: &str) -> Option<AppArmor> {
        Some(AppArmor::Localhost(name.into()))
    }

    #[test]
    fn a_host_without_any_part_runs_what_asks_for_none_and_refuses_the_rest() {
        for (_folder, host) in [host("N\n", true), host("Y\n", false)] {
            for (asked, profile) in [(None, Ok(None)), (Some(AppArmor::Unconfined), Ok(None)), (Some(AppArmor::RuntimeDefault), Err(())), (localhost("mine"), Err(()))] {
                let said = host.profile_for(&asking(asked, false)).map_err(|error| assert_eq!(error.to_string(), "apparmor is not supported"));
                assert_eq!(said, profile);
            }
        }
    }

    #[test]
    fn the_default_is_loaded_once_and_profiles_of_the_host_must_be() {
        let (folder, host) = host("Y\n", true);
        let of = |asked, privileged| host.profile_for(&asking(asked, privileged)).map_err(|error| error.to_string());
        assert_eq!((of(Some(AppArmor::Unconfined), false), of(None, true), of(Some(AppArmor::RuntimeDefault), true)), (Ok(None), Ok(None), Ok(None)));
        assert!(!folder.path().join("asked").exists(), "nothing to load so far");
        assert_eq!(of(None, false), Ok(Some(DEFAULT.into())));
        assert_eq!(of(Some(AppArmor::RuntimeDefault), false), Ok(Some(DEFAULT.into())));
        assert_eq!(std::fs::read_to_string(folder.path().join("asked")).expect("asked"), "--skip-cache --replace\n", "once");
        assert_eq!((of(localhost("mine"), true), of(localhost("with blanks"), false)), (Ok(Some("mine".into())), Ok(Some("with blanks".into()))));
        assert_eq!(of(localhost("min"), false), Err("apparmor profile not found min".into()));
    }

    #[test]
    fn a_profile_that_the_parser_refuses_is_told_with_its_words() {
        let (folder, host) = host("Y\n", true);
        std::fs::write(folder.path().join("mood"), "refuse").expect("written");
        assert_eq!(host.profile_for(&asking(None, false)).expect("without"), None);
        let error = host.profile_for(&asking(Some(AppArmor::RuntimeDefault), false)).expect_err("refused").to_string();
        assert!(error.starts_with("default apparmor profile keles-default cannot be loaded") && error.ends_with("syntax error in line 1"), "{error}");
    }

    #[test]
    fn the_profile_takes_from_the_hosts_policy_what_is_there() {
        let (folder, _host) = host("Y\n", true);
        let profile = default_profile(&folder.path().join("etc/apparmor.d"));
        assert!(profile.contains("  #include <abstractions/base>\n") && !profile.contains("tunables/global"), "{profile}");
        assert!(profile.starts_with("profile keles-default ") && profile.ends_with("}\n"));
        assert_eq!(profile.matches('{').count(), profile.matches('}').count());
    }

    /// `KELES_TEST_APPARMOR` is a folder that `apparmor_parser` was unpacked into; it needs no kernel that has AppArmor.
    #[test]
    fn the_profile_compiles_where_there_is_a_compiler() {
        let root = std::env::var_os("KELES_TEST_APPARMOR").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        let Some(parser) = Host::of(&root).parser() else { return };
        let policy = root.join("etc/apparmor.d");
        for profile in [default_profile(&policy), default_profile(Path::new("/nowhere"))] {
            let mut child =
                Command::new(&parser).args(["--skip-kernel-load", "--skip-cache", "--base"]).arg(&policy).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
            child.stdin.take().expect("piped").write_all(profile.as_bytes()).expect("written");
            let out = child.wait_with_output().expect("ends");
            assert!(out.status.success(), "{}\n{profile}", String::from_utf8_lossy(&out.stderr));
        }
    }

    #[test]
    fn a_process_asks_for_its_profile_at_its_next_execution() {
        for file in ["thread-self/attr/apparmor/exec", "thread-self/attr/exec"] {
            let proc = tempfile::tempdir().expect("a folder");
            let path = proc.path().join(file);
            std::fs::create_dir_all(path.parent().expect("in a folder")).and_then(|()| std::fs::write(&path, "")).expect("a file");
            Label::open_in(proc.path(), "mine").expect("opened").take().expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("a file"), "exec mine");
        }
        assert!(Label::open_in(Path::new("/nowhere"), "mine").is_err());
    }
}
