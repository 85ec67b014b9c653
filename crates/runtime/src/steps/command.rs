//! The command: environment, working folder, lookup in PATH, exec. Messages are those users know from runc.

use crate::api::{ContainerConfig, SandboxConfig};
use crate::wire::{Failure, at};
use keles_linux::process;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use std::convert::Infallible;
use std::ffi::CString;
use std::path::Path;

const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Defaults first, then the container's own; a name given twice has its last value.
pub fn environment(sandbox: &SandboxConfig, container: &ContainerConfig, home: &str, tty: bool) -> Vec<(String, String)> {
    let hostname = if sandbox.hostname.is_empty() { rustix::system::uname().nodename().to_string_lossy().into_owned() } else { sandbox.hostname.clone() };
    let mut env = crate::process::environment(&hostname, tty, &[], &container.env);
    if !env.iter().any(|(n, v)| n == "HOME" && !v.is_empty()) {
        env.push(("HOME".into(), home.to_owned()));
    }
    env
}

/// Makes it when the image lacks it.
pub fn enter_working_folder(path: &str) -> Result<(), Failure> {
    let path = if path.is_empty() { "/" } else { path };
    let failed = |e: &dyn std::fmt::Display| Failure::new("change to working directory", format!("{path}: {e}"));
    match rustix::process::chdir(path) {
        Ok(()) => return stay_inside().map_err(|e| failed(&e)),
        Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(failed(&e)),
    }
    std::fs::create_dir_all(path).map_err(|e| failed(&e))?;
    rustix::process::chdir(path).map_err(|e| failed(&e))?;
    stay_inside().map_err(|e| failed(&e))
}

/// A working folder reached through a descriptor of the host's (`/proc/self/fd/7`) has no path here (CVE-2024-21626).
fn stay_inside() -> std::io::Result<()> {
    let at = rustix::process::getcwd(Vec::new())?;
    if at.to_bytes().starts_with(b"/") { Ok(()) } else { Err(std::io::Error::other("it lies outside the container")) }
}

/// Looks the command up as the container's user and becomes it.
pub fn run(args: &[String], env: &[(String, String)]) -> Result<Infallible, Failure> {
    Command::find(args, env)?.become_it(0)
}

/// A command that was found and may be executed.
pub struct Command {
    path: CString,
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl Command {
    pub fn find(args: &[String], env: &[(String, String)]) -> Result<Self, Failure> {
        let name = args.first().filter(|a| !a.is_empty()).ok_or_else(|| Failure::new("start", "no command specified"))?;
        let path = look_up(name, env)?;
        let c = |s: String| CString::new(s).map_err(|_| Failure::new("start", "an argument or variable contains a zero byte"));
        let argv = args.iter().cloned().map(c).collect::<Result<Vec<_>, _>>()?;
        let envp = env.iter().map(|(n, v)| c(format!("{n}={v}"))).collect::<Result<Vec<_>, _>>()?;
        Ok(Command { path: c(path)?, argv, envp })
    }

    /// With the first `preserved` descriptors after the standard streams.
    pub fn become_it(&self, preserved: u32) -> Result<Infallible, Failure> {
        process::keep_only(preserved).map_err(at("close descriptors"))?;
        self.execute()
    }

    /// All other descriptors must be closed or marked by now.
    pub fn execute(&self) -> Result<Infallible, Failure> {
        let e = process::exec(&self.path, &self.argv, &self.envp);
        Err(start_error(NOT_EXECUTABLE, format!("exec {}: {}", self.path.to_string_lossy(), go_text(&e))))
    }
}

fn start_error(exit_code: i32, message: String) -> Failure {
    Failure { step: "start".into(), message, exit_code: Some(exit_code) }
}

/// The words Go prints for an errno, which users and tests look for.
fn go_text(e: &std::io::Error) -> String {
    match e.raw_os_error() {
        Some(8) => "exec format error".into(),
        Some(13) => "permission denied".into(),
        Some(2) => "no such file or directory".into(),
        Some(21) => "is a directory".into(),
        Some(20) => "not a directory".into(),
        _ => e.to_string(),
    }
}

fn look_up(name: &str, env: &[(String, String)]) -> Result<String, Failure> {
    if name.contains('/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(start_error(NOT_FOUND, format!("exec: {name:?}: stat {name}: no such file or directory"))),
            Err(e) => Err(start_error(NOT_EXECUTABLE, format!("exec: {name:?}: {}", go_text(&e)))),
        };
    }
    let path = env.iter().find(|(n, _)| n == "PATH").map_or("", |(_, v)| v.as_str());
    for folder in path.split(':') {
        let candidate = format!("{}/{name}", if folder.is_empty() { "." } else { folder.trim_end_matches('/') });
        if executable(&candidate).is_ok() {
            return Ok(candidate);
        }
    }
    Err(start_error(NOT_FOUND, format!("exec: {name:?}: executable file not found in $PATH")))
}

fn executable(path: &str) -> std::io::Result<()> {
    let meta = std::fs::metadata(Path::new(path))?;
    if meta.is_dir() {
        return Err(std::io::Error::from_raw_os_error(21));
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_own_variables_win_and_home_comes_from_passwd() {
        let sandbox = SandboxConfig { hostname: "p".into(), ..SandboxConfig::default() };
        let container = ContainerConfig { env: vec![("A".into(), "1".into()), ("PATH".into(), "/x".into()), ("A".into(), "2".into())], ..ContainerConfig::default() };
        let env = environment(&sandbox, &container, "/root", true);
        let words: Vec<String> = env.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(words, ["PATH=/x", "HOSTNAME=p", "TERM=xterm", "A=2", "HOME=/root"]);
    }
}
