//! What server and shim say to each other, and the files they share.
//!
//! One JSON document a message over a SOCK_SEQPACKET socket ([`keles_linux::fdpass`]), descriptors beside it. The server
//! sends [`Request`]s, the shim answers each with [`Message::Reply`] and pushes [`Message::Event`] to every connection.
//! Files are written whole and renamed into place, so a reader sees the old or the new. They are not synced: after a power
//! cut nothing of what they tell runs any more, and the server says so.

use crate::api::{ContainerConfig, SandboxConfig};
use keles_linux::cgroup::Layout;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

pub const SANDBOX_FILE: &str = "sandbox.json";
pub const STATE_FILE: &str = "state.json";
pub const CONFIG_FILE: &str = "config.json";
pub const STARTED_FILE: &str = "started.json";
pub const EXIT_FILE: &str = "exit.json";

/// Exit code of a container whose command could not be executed.
pub const START_ERROR_CODE: i32 = 128;
/// Exit code of a container whose end nobody saw.
pub const UNKNOWN_CODE: i32 = 255;

/// `sandboxes/<id>/sandbox.json`: everything the shim needs, written before it starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxFile {
    pub id: String,
    pub created_at_unix_ns: i64,
    pub config: SandboxConfig,
    /// The pod's group below the trees' tops.
    pub cgroup: String,
    pub layout: Layout,
    /// Where the network namespace is pinned; absent with host network.
    pub netns: Option<PathBuf>,
    pub socket: PathBuf,
    /// Folder of all containers' folders.
    pub containers: PathBuf,
}

/// `sandboxes/<id>/state.json`: what the server remembers. Absent: the sandbox was never completed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxState {
    pub stopped: bool,
    pub ips: Vec<String>,
}

/// `containers/<id>/config.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bundle {
    pub id: String,
    pub sandbox_id: String,
    pub created_at_unix_ns: i64,
    pub log_path: PathBuf,
    pub config: ContainerConfig,
}

/// `containers/<id>/started.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    pub pid: i32,
    pub at_unix_ns: i64,
}

/// `containers/<id>/exit.json`, written before the end is announced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exit {
    pub code: i32,
    pub signal: i32,
    pub reason: String,
    pub message: String,
    pub started_at_unix_ns: i64,
    pub finished_at_unix_ns: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    pub sequence: u64,
    pub operation: Operation,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Answered once the pod's namespaces stand.
    Setup,
    Start {
        id: String,
    },
    Kill {
        id: String,
        signal: i32,
        all: bool,
    },
    /// Descriptors: those of stdin, stdout, stderr that are asked for, in this order; none with a tty, whose terminal comes back.
    Exec {
        id: String,
        exec: u64,
        args: Vec<String>,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    KillExec {
        exec: u64,
    },
    /// Descriptors as for `Exec`.
    Attach {
        id: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    Resize {
        id: String,
        columns: u16,
        rows: u16,
    },
    ReopenLog {
        id: String,
    },
    /// The container is removed; frees what the shim knows of it.
    Forget {
        id: String,
    },
    /// Kills everything, then ends the shim.
    Shutdown,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    Reply { sequence: u64, result: Result<(), Failure> },
    Event(Event),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    Started { id: String, started: Started },
    Exited { id: String, exit: Exit },
    ExecExited { exec: u64, code: i32 },
}

/// A step that failed in the shim or in a child of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub step: String,
    pub message: String,
    /// For commands that cannot be executed: 127 not found, 126 not executable.
    pub exit_code: Option<i32>,
}

impl Failure {
    pub fn new(step: &str, message: impl std::fmt::Display) -> Self {
        Failure { step: step.to_owned(), message: message.to_string(), exit_code: None }
    }
}

impl Failure {
    /// The text in a container's status, in the words users know from other runtimes.
    pub fn for_users(&self) -> String {
        let prefix = "unable to start container process: error during container init";
        match self.exit_code {
            Some(_) => format!("{prefix}: {}", self.message),
            None => format!("{prefix}: {}: {}", self.step, self.message),
        }
    }
}

/// Names the step of an error: `.map_err(at("mount proc"))`.
pub fn at<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> Failure {
    move |e| Failure::new(step, e)
}

pub fn now_unix_ns() -> i64 {
    jiff::Timestamp::now().as_nanosecond() as i64
}

/// Writes `value` beside `path` and renames it into place.
pub fn write_file<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(&temporary, path)
}

pub fn read_file<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
