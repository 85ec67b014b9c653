//! Commands and flags of `keles oci`: runc's, so that callers need not know which runtime they have.
//!
//! Errors go to standard error and, with `--log`, to that file in the form that `--log-format` asks for; callers read the last of them.

use super::create::{self, CreateOptions};
use super::exec::{self, Changes};
use super::state::{Status, Store};
use super::{console::Foreground, report};
use crate::wire::{Failure, at};
use clap::{Args, Parser, Subcommand};
use keles_linux::{process, signal};
use keles_oci::runtime::{BlockIo, Resources};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_ROOT: &str = "/run/keles/oci";
/// Exit code when an exec'd command cannot be run, as other runtimes have it.
const EXEC_FAILED: i32 = 255;

/// An OCI runtime with runc's commands.
#[derive(Parser)]
#[command(name = "keles oci", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Args)]
struct Global {
    /// Folder of containers' state.
    #[arg(long, global = true, default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// File that errors are written to as well.
    #[arg(long, global = true)]
    log: Option<PathBuf>,
    #[arg(long, global = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
    /// Taken and without effect: there is nothing more to tell.
    #[arg(long, global = true)]
    debug: bool,
    /// Refused: groups are made by ourselves.
    #[arg(long, global = true)]
    systemd_cgroup: bool,
    /// Taken and without effect: we run as root.
    #[arg(long)]
    rootless: Option<String>,
    /// Refused.
    #[arg(long, global = true, hide = true)]
    criu: Option<String>,
}

#[derive(Args)]
struct Making {
    /// Folder of config.json.
    #[arg(short, long, default_value = ".")]
    bundle: PathBuf,
    /// Socket that gets the terminal.
    #[arg(long)]
    console_socket: Option<PathBuf>,
    /// File to write the first process's number to.
    #[arg(long)]
    pid_file: Option<PathBuf>,
    /// Move the root instead of pivot_root, for hosts that run from their initial ramfs.
    #[arg(long)]
    no_pivot: bool,
    /// Keep the caller's session keyring.
    #[arg(long)]
    no_new_keyring: bool,
    /// How many descriptors after the standard streams the process gets.
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    container: String,
}

#[derive(Subcommand)]
enum Command {
    /// Make a container that waits for `start`.
    Create(Making),
    /// Let a created container run its command.
    Start { container: String },
    /// Make a container, start it, and stand by it unless detached.
    Run {
        #[command(flatten)]
        making: Making,
        #[arg(short, long)]
        detach: bool,
        /// Do not delete the container when it has ended.
        #[arg(long)]
        keep: bool,
        /// Leave orphans of the container to the system.
        #[arg(long)]
        no_subreaper: bool,
    },
    /// Print a container's state.
    State { container: String },
    /// Send a signal to a container's first process.
    Kill {
        /// To all of its processes.
        #[arg(short, long)]
        all: bool,
        container: String,
        #[arg(default_value = "SIGTERM", allow_hyphen_values = true)]
        signal: String,
    },
    /// Take away what a stopped container has.
    Delete {
        /// End it first.
        #[arg(short, long)]
        force: bool,
        container: String,
    },
    /// Run one more process in a container.
    Exec(Box<Exec>),
    /// List containers.
    #[command(visible_alias = "ls")]
    List {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        #[arg(short, long)]
        quiet: bool,
    },
    /// List the processes of a container.
    Ps {
        #[arg(short, long, default_value = "table", value_parser = ["table", "json"])]
        format: String,
        container: String,
        /// For the host's ps.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Write a config.json to start from.
    Spec {
        #[arg(short, long, default_value = ".")]
        bundle: PathBuf,
        /// For a caller who is not root.
        #[arg(long = "rootless", id = "without-root", num_args = 0)]
        without_root: bool,
    },
    /// Stop all processes of a container from running.
    Pause { container: String },
    /// Let them run again.
    Resume { container: String },
    /// Change the limits of a running container.
    Update(Box<Update>),
    /// Print figures and out-of-memory events of a container.
    Events {
        /// Print the figures once.
        #[arg(long)]
        stats: bool,
        /// Between figures: 5s, 1m.
        #[arg(long, default_value = "5s", value_parser = interval)]
        interval: Duration,
        container: String,
    },
    /// Print what this runtime can do.
    Features,
    /// Refused.
    Checkpoint {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Refused.
    Restore {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Args)]
struct Exec {
    #[arg(long)]
    console_socket: Option<PathBuf>,
    #[arg(long)]
    cwd: Option<String>,
    #[arg(short, long)]
    env: Vec<String>,
    #[arg(short, long)]
    tty: bool,
    /// uid[:gid]
    #[arg(short, long)]
    user: Option<String>,
    #[arg(short = 'g', long)]
    additional_gids: Vec<u32>,
    /// File of a process object.
    #[arg(short, long)]
    process: Option<PathBuf>,
    #[arg(short, long)]
    detach: bool,
    #[arg(long)]
    pid_file: Option<PathBuf>,
    #[arg(long)]
    process_label: Option<String>,
    #[arg(long)]
    apparmor: Option<String>,
    #[arg(long)]
    no_new_privs: bool,
    #[arg(short, long)]
    cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    preserve_fds: u32,
    /// Refused: processes join the container's own groups.
    #[arg(long)]
    cgroup: Vec<String>,
    #[arg(long)]
    ignore_paused: bool,
    #[arg(long)]
    no_subreaper: bool,
    container: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

#[derive(Args)]
struct Update {
    /// File of a resources object; `-` for standard input.
    #[arg(short, long)]
    resources: Option<PathBuf>,
    #[arg(long)]
    blkio_weight: Option<u16>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    #[arg(long)]
    cpu_burst: Option<u64>,
    #[arg(long, visible_alias = "cpu-shares")]
    cpu_share: Option<u64>,
    #[arg(long)]
    cpu_rt_period: Option<u64>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_rt_runtime: Option<i64>,
    #[arg(long)]
    cpuset_cpus: Option<String>,
    #[arg(long)]
    cpuset_mems: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    cpu_idle: Option<i64>,
    /// Bytes, or with k, m, g.
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory: Option<i64>,
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory_reservation: Option<i64>,
    #[arg(long, allow_hyphen_values = true, value_parser = bytes)]
    memory_swap: Option<i64>,
    #[arg(long, allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    container: String,
}

fn interval(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no time"))?;
    let unit = match unit {
        "ms" => 0.001,
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("{text:?} is no time")),
    };
    Duration::try_from_secs_f64(number * unit).ok().filter(|d| !d.is_zero()).ok_or_else(|| format!("{text:?} is no time to wait"))
}

fn bytes(text: &str) -> Result<i64, String> {
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_end_matches('b').trim_end_matches('i');
    let (number, shift) = match bare.as_bytes().last() {
        Some(b'k') => (&bare[..bare.len() - 1], 10),
        Some(b'm') => (&bare[..bare.len() - 1], 20),
        Some(b'g') => (&bare[..bare.len() - 1], 30),
        Some(b't') => (&bare[..bare.len() - 1], 40),
        _ => (bare, 0),
    };
    number.parse::<i64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(|| format!("{text:?} is no size"))
}

/// The process that `keles oci …` is. `args` are those after `oci`.
pub fn oci_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let cli = Cli::parse_from(std::iter::once(OsString::from("keles oci")).chain(args));
    let is_exec = matches!(cli.command, Command::Exec(_));
    let global = cli.global;
    let code = match run(cli.command, &global) {
        Ok(code) => code,
        Err(failure) => {
            tell(&failure, &global);
            if is_exec { EXEC_FAILED } else { 1 }
        }
    };
    let _ = std::io::stdout().flush();
    process::exit_now(code)
}

fn tell(failure: &Failure, global: &Global) {
    let message = format!("{}: {}", failure.step, failure.message);
    eprintln!("keles oci: {message}");
    let Some(path) = &global.log else { return };
    let time = jiff::Timestamp::now();
    let line = match global.log_format.as_str() {
        "json" => json!({"level": "error", "msg": message, "time": time}).to_string(),
        _ => format!("time={:?} level=error msg={message:?}", time.to_string()),
    };
    // The message stands on standard error already.
    let _ = std::fs::OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| writeln!(f, "{line}"));
}

fn refuse(what: &str) -> Failure {
    Failure::new("refused", what)
}

fn run(command: Command, global: &Global) -> Result<i32, Failure> {
    if global.systemd_cgroup {
        return Err(refuse("--systemd-cgroup: this runtime makes control groups itself (cgroupfs); configure the caller so"));
    }
    let store = Store::new(&global.root);
    match command {
        Command::Create(making) => {
            protect()?;
            create::create(&store, &making.container.clone(), &making.options(false)).map(|_| 0)
        }
        Command::Start { container } => start(&store, &container),
        Command::Run { making, detach, keep, no_subreaper } => run_container(&store, &making, detach, keep, no_subreaper),
        Command::State { container } => print(report::state(&store.open(&container)?)),
        Command::Kill { all, container, signal: name } => {
            let number = signal::number(&name).ok_or_else(|| Failure::new("kill", format!("unknown signal {name:?}")))?;
            super::kill(&store.open(&container)?, number, all).map(|()| 0)
        }
        Command::Delete { force, container } => super::delete(&store, &container, force).map(|()| 0),
        Command::Exec(e) => exec_process(&store, *e),
        Command::List { format, quiet } => print(report::list(&store, format == "json", quiet)),
        Command::Ps { format, container, arguments } => print(report::processes(&store.open(&container)?, format == "json", &arguments)?),
        Command::Spec { bundle, without_root } => spec(&bundle, without_root),
        Command::Pause { container } => super::pause(&store.open(&container)?, true).map(|()| 0),
        Command::Resume { container } => super::pause(&store.open(&container)?, false).map(|()| 0),
        Command::Update(u) => super::update(&mut store.open(&u.container)?, &u.resources()?).map(|()| 0),
        Command::Events { stats, interval, container } => events(&store, &container, stats, interval),
        Command::Features => print(report::features()),
        Command::Checkpoint { .. } | Command::Restore { .. } => Err(refuse("checkpoint and restore are not supported by this runtime")),
    }
}

/// Before a process of this program is inside a container.
fn protect() -> Result<(), Failure> {
    process::run_from_read_only_mount().map_err(at("run from a read-only mount"))
}

fn print(text: String) -> Result<i32, Failure> {
    if !text.is_empty() {
        println!("{text}");
    }
    Ok(0)
}

impl Making {
    fn options(&self, keep_terminal: bool) -> CreateOptions {
        CreateOptions {
            bundle: self.bundle.clone(),
            pid_file: self.pid_file.clone(),
            console_socket: self.console_socket.clone(),
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            preserve_fds: self.preserve_fds + listen_fds(),
            keep_terminal,
        }
    }
}

/// Sockets of socket activation, which the process gets too.
fn listen_fds() -> u32 {
    std::env::var("LISTEN_FDS").ok().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn start(store: &Store, id: &str) -> Result<i32, Failure> {
    let container = store.open(id)?;
    match container.status() {
        Status::Created => create::start(&container).map(|()| 0),
        Status::Stopped => Err(Failure::new("start", "cannot start a container that has stopped")),
        Status::Running => Err(Failure::new("start", "cannot start an already running container")),
        Status::Paused => Err(Failure::new("start", "cannot start a paused container")),
    }
}

fn run_container(store: &Store, making: &Making, detach: bool, keep: bool, no_subreaper: bool) -> Result<i32, Failure> {
    protect()?;
    if !detach && !no_subreaper {
        process::become_subreaper().map_err(at("become subreaper"))?;
    }
    let foreground = if detach { None } else { Some(Foreground::new()?) };
    let created = create::create(store, &making.container, &making.options(!detach && making.console_socket.is_none()))?;
    let pid = created.container.saved.init_process_pid;
    let started = create::start(&created.container);
    let code = match (&foreground, started) {
        (_, Err(failure)) => Err(failure),
        (None, Ok(())) => return Ok(0),
        (Some(f), Ok(())) => f.attend(pid, created.terminal),
    };
    if !keep || code.is_err() {
        let deleted = super::delete(store, &making.container, true);
        return code.and_then(|c| deleted.map(|()| c));
    }
    code
}

fn exec_process(store: &Store, e: Exec) -> Result<i32, Failure> {
    protect()?;
    if !e.cgroup.is_empty() {
        return Err(refuse("exec --cgroup is not supported: processes join the container's own groups"));
    }
    let foreground = if e.detach { None } else { Some(Foreground::new()?) };
    let options = CreateOptions {
        console_socket: e.console_socket.clone(),
        pid_file: e.pid_file.clone(),
        preserve_fds: e.preserve_fds + listen_fds(),
        keep_terminal: !e.detach && e.console_socket.is_none(),
        ..CreateOptions::default()
    };
    let changes = Changes {
        process: e.process.as_deref().map(read_input).transpose()?,
        args: e.args,
        terminal: e.tty,
        cwd: e.cwd,
        env: e.env,
        user: e.user,
        additional_gids: e.additional_gids,
        capabilities: e.cap,
        no_new_privileges: e.no_new_privs,
        apparmor: e.apparmor,
        label: e.process_label,
        ignore_paused: e.ignore_paused,
    };
    let executed = exec::exec(&store.open(&e.container)?, changes, &options)?;
    foreground.map_or(Ok(0), |f| f.attend(executed.pid, executed.terminal))
}

fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    super::bundle::read_limited(if path == Path::new("-") { Path::new("/dev/stdin") } else { path })
}

fn spec(bundle: &Path, rootless: bool) -> Result<i32, Failure> {
    let path = bundle.join(super::bundle::CONFIG);
    let ids = rootless.then(|| (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let mut text = serde_json::to_string_pretty(&keles_oci::runtime_default::default_spec(ids)).map_err(at("write configuration"))?;
    text.push('\n');
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut f| f.write_all(text.as_bytes())).map(|()| 0).map_err(|e| Failure::new("write configuration", format!("{}: {e}", path.display())))
}

impl Update {
    fn resources(&self) -> Result<Resources, Failure> {
        let mut r: Resources = match &self.resources {
            Some(path) => keles_oci::runtime::parse(&read_input(path)?).map_err(at("read resources"))?,
            None => Resources::default(),
        };
        // The rules of devices stay as they are.
        r.devices.clear();
        if self.blkio_weight.is_some() {
            r.block_io = BlockIo { weight: self.blkio_weight, ..r.block_io };
        }
        r.cpu.period = self.cpu_period.or(r.cpu.period);
        r.cpu.quota = self.cpu_quota.or(r.cpu.quota);
        r.cpu.burst = self.cpu_burst.or(r.cpu.burst);
        r.cpu.shares = self.cpu_share.or(r.cpu.shares);
        r.cpu.realtime_period = self.cpu_rt_period.or(r.cpu.realtime_period);
        r.cpu.realtime_runtime = self.cpu_rt_runtime.or(r.cpu.realtime_runtime);
        r.cpu.cpus = self.cpuset_cpus.clone().unwrap_or(r.cpu.cpus);
        r.cpu.mems = self.cpuset_mems.clone().unwrap_or(r.cpu.mems);
        r.cpu.idle = self.cpu_idle.or(r.cpu.idle);
        r.memory.limit = self.memory.or(r.memory.limit);
        r.memory.reservation = self.memory_reservation.or(r.memory.reservation);
        r.memory.swap = self.memory_swap.or(r.memory.swap);
        if let Some(limit) = self.pids_limit {
            r.pids = Some(keles_oci::runtime::Pids { limit });
        }
        Ok(r)
    }
}

fn events(store: &Store, id: &str, once: bool, interval: Duration) -> Result<i32, Failure> {
    let container = store.open(id)?;
    if container.status() == Status::Stopped {
        return Err(Failure::new("events", "container is stopped"));
    }
    let group = container.group()?;
    let stats = || report::event(&container, "stats", Some(report::stats(&group, &container.saved.layout)));
    if once {
        return print(stats());
    }
    let handle = process::open_process(container.saved.init_process_pid).map_err(at("open first process"))?;
    let mut killed = group.oom_kills();
    let timeout = rustix::event::Timespec::try_from(interval).map_err(at("interval"))?;
    loop {
        let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
        let ended = match rustix::event::poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            r => r.map_err(at("wait"))? > 0,
        };
        let now = group.oom_kills();
        if now > killed {
            killed = now;
            print(report::event(&container, "oom", None))?;
        }
        if ended {
            return Ok(0);
        }
        print(stats())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_flags_are_consistent_and_runcs_calls_are_understood() {
        Cli::command().debug_assert();
        for call in [
            "--root /r --log /l --log-format json create --bundle /b --pid-file /p --no-pivot c",
            "--root /r --log /l --log-format json --systemd-cgroup start c",
            "--root /r exec --process /p --console-socket /s --detach --pid-file /f c",
            "exec -t -u 1:2 -e A=B --cwd /x --cap CAP_KILL c ls -l",
            "kill --all c 9",
            "kill c SIGTERM",
            "delete --force c",
            "list --format json",
            "ps --format json c",
            "update --resources - c",
            "update --cpu-quota -1 --memory 64m c",
            "run -d --no-new-keyring --preserve-fds 2 c",
            "events --stats c",
        ] {
            assert!(Cli::try_parse_from(std::iter::once("keles oci").chain(call.split(' '))).is_ok(), "{call}");
        }
    }

    #[test]
    fn sizes_and_times_are_read_with_their_units() {
        assert_eq!((bytes("64m"), bytes("1GiB"), bytes("-1"), bytes("12")), (Ok(64 << 20), Ok(1 << 30), Ok(-1), Ok(12)));
        assert!(bytes("x").is_err() && interval("0s").is_err() && interval("5y").is_err());
        assert_eq!((interval("5s"), interval("250ms")), (Ok(Duration::from_secs(5)), Ok(Duration::from_millis(250))));
    }
}
