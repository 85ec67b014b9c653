//! Sessions with the real kubectl as text: what is typed after `$ `, then what is printed, as in a manual.
//!
//! Entry point: [`Session::play`]. `> ` continues a command; `[N]` at the end is its exit code, 0 where nothing is said; `#: ` begins a
//! remark. In what is printed `...` stands for anything within a line and, alone on a line, for any lines; `$NS` is the session's
//! namespace. Each command is a shell of its own in the session's folder, where `kubectl` is the version that is played. Standard error is
//! part of what is printed. Widths of columns depend on values, so any space is as good as any other. All commands are run and every
//! difference is shown, not only the first.

use crate::Cluster;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Longest a command may take, in seconds; nothing waits for it.
const LIMIT_SECONDS: &str = "300";
/// Exit code of a command that took longer.
const TOOK_TOO_LONG: i32 = 124;

/// A folder, a namespace and one version of kubectl.
pub struct Session {
    dir: tempfile::TempDir,
    namespace: String,
    /// How the version is named when something differs.
    kubectl: String,
}

/// A command and what it prints.
struct Step {
    line: usize,
    command: String,
    expected: Vec<String>,
    code: i32,
}

impl Session {
    /// A session in a namespace made for it.
    pub fn new(cluster: &Cluster, kubectl: &Path, namespace: &str) -> Session {
        let dir = tempfile::Builder::new().prefix("keles-session-").tempdir().expect("a folder");
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).and_then(|()| symlink(kubectl, bin.join("kubectl"))).expect("a link to kubectl");
        std::fs::copy(cluster.kubeconfig(), dir.path().join("kubeconfig")).expect("the kubeconfig");
        let s = Session { dir, namespace: namespace.into(), kubectl: kubectl.file_name().unwrap_or_default().to_string_lossy().into_owned() };
        let (said, code) = s.shell("kubectl create namespace $NS && kubectl config set-context --current --namespace=$NS && until kubectl get sa default -o name; do :; done");
        assert_eq!(code, 0, "{said}");
        s
    }

    /// Plays a transcript; `Err` shows each command that printed something else.
    pub fn play(&self, name: &str, transcript: &str) -> Result<(), String> {
        let differences: Vec<String> = parse(transcript).iter().filter_map(|step| self.step(name, step)).collect();
        if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
    }

    fn step(&self, name: &str, step: &Step) -> Option<String> {
        let (said, code) = self.shell(&step.command);
        let expected: Vec<String> = step.expected.iter().map(|l| l.replace("$NS", &self.namespace)).collect();
        let lines: Vec<&str> = said.lines().filter(|l| !is_own_remark(l)).collect();
        if code == step.code && matches(&expected, &lines) {
            return None;
        }
        let late = if code == TOOK_TOO_LONG { " (took too long)" } else { "" };
        Some(format!(
            "--- {name}:{} with {}\n$ {}\nexpected, exit {}:\n{}\nprinted, exit {code}{late}:\n{}\n",
            step.line,
            self.kubectl,
            step.command,
            step.code,
            expected.join("\n"),
            lines.join("\n")
        ))
    }

    fn shell(&self, command: &str) -> (String, i32) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let o = Command::new("timeout")
            .args(["--kill-after=5", LIMIT_SECONDS, "bash", "-c", &format!("exec 2>&1\n{command}")])
            .envs([("PATH", path.as_str()), ("NS", self.namespace.as_str()), ("TERM", "dumb")])
            .env("KUBECONFIG", self.path("kubeconfig"))
            .env("HOME", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .expect("bash and timeout");
        (String::from_utf8_lossy(&o.stdout).into_owned(), o.status.code().unwrap_or(-1))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// What kubectl says of itself: that a server is much newer; and, from 1.31 on, that on a busy machine the empty first message of exec
/// came before the goroutine that sets channels up. A message with content that is lost so is missed in what is printed.
fn is_own_remark(line: &str) -> bool {
    line.starts_with("WARNING: version difference between client") || (line.starts_with('E') && line.ends_with("] Unknown stream id 1, discarding message"))
}

fn parse(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (i, l) in transcript.lines().enumerate() {
        if let Some(command) = l.strip_prefix("$ ") {
            steps.push(Step { line: i + 1, command: command.into(), expected: Vec::new(), code: 0 });
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        if let Some(more) = l.strip_prefix("> ").or(if l == ">" { Some("") } else { None }) {
            step.command.push('\n');
            step.command.push_str(more);
        } else if let Some(code) = l.strip_prefix('[').and_then(|l| l.strip_suffix(']')).and_then(|l| l.parse().ok()) {
            step.code = code;
        } else if !l.starts_with("#: ") {
            step.expected.push(l.into());
        }
    }
    for s in &mut steps {
        while s.expected.last().is_some_and(String::is_empty) {
            s.expected.pop();
        }
    }
    steps
}

/// Do the lines fit, `...` alone standing for any of them?
fn matches(expected: &[String], lines: &[&str]) -> bool {
    match expected.split_first() {
        None => lines.iter().all(|l| l.trim().is_empty()),
        Some((e, rest)) if e == "..." => (0..=lines.len()).any(|skip| matches(rest, &lines[skip..])),
        Some((e, rest)) => lines.split_first().is_some_and(|(l, more)| fits(&spaced(e), &spaced(l)) && matches(rest, more)),
    }
}

/// A line with one space wherever it has any.
fn spaced(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Does a line fit, `...` standing for any characters?
fn fits(expected: &str, line: &str) -> bool {
    match expected.split_once("...") {
        None => expected == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|l| (0..=l.len()).filter(|i| l.is_char_boundary(*i)).any(|i| fits(rest, &l[i..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn commands_continue_and_end_with_a_code() {
        let steps = parse("#: a remark\n$ cat <<X\n> one\n> X\none\n\n$ false\n[1]\n");
        assert_eq!((steps.len(), steps[0].command.as_str(), steps[0].line), (2, "cat <<X\none\nX", 2));
        assert_eq!((&steps[0].expected, steps[0].code, steps[1].code), (&lines("one"), 0, 1));
    }

    #[test]
    fn dots_stand_for_characters_or_lines_and_for_nothing_else() {
        let fit = |e: &str, l: &str| matches(&lines(e), &l.lines().collect::<Vec<_>>());
        assert!(fit("a ... c\n...\nlast", "a b c\nx\ny\nlast\n"));
        assert!(fit("...\nend", "end"));
        assert!(!fit("a ... c", "a b d"));
        assert!(!fit("a", "a\nb"));
        assert!(!fit("a\nb", "a"));
    }
}
