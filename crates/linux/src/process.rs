//! Making children without threads: clone3, exec, descriptors, identity of the calling process.
//!
//! Entry point: [`clone_child`]. Only for single-threaded processes (the pod's shim): it refuses in any other, because a
//! child of a process with threads may find locks taken for ever. Source: clone(2), execve(2), close_range(2), prctl(2).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS};

/// A new time namespace, for children.
pub const CLONE_NEWTIME: libc::c_int = 0x80;
/// The child becomes one of the caller's parent.
pub const CLONE_PARENT: libc::c_int = libc::CLONE_PARENT;

/// Exit code of a child whose code panicked.
const PANIC_EXIT_CODE: i32 = 70;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// struct clone_args of linux/sched.h, up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn check(r: libc::c_int) -> io::Result<()> {
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many threads this process has.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Runs `child` in a new process, in new namespaces `namespaces` (CLONE_NEW…) and, when given, born in a cgroup v2 folder.
/// Returns the child's pid here. The child ends with the returned code; it never returns into the caller's code.
pub fn clone_child(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> io::Result<i32> {
    if thread_count()? != 1 {
        return Err(io::Error::other("a process with threads must not make children without exec"));
    }
    let mut args = CloneArgs { flags: namespaces as u64, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if namespaces & CLONE_PARENT != 0 {
        // The kernel takes the caller's own.
        args.exit_signal = 0;
    }
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: no CLONE_VM, so the child has its own copy of memory and of this stack; the process has one thread, so no
    // lock is held by anyone else; `args` outlives the call and has the size passed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(PANIC_EXIT_CODE);
            // SAFETY: ends this process at once, without running the parent's exit handlers twice.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid as i32),
    }
}

/// Ends the process without exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(code) }
}

/// Replaces this process; returns only the error.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |v: &[CString]| v.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect::<Vec<_>>();
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays are null-terminated and point to strings that live until the call has returned or replaced us.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: changes flags of descriptors only; none is closed while someone owns it.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(r as i32)
}

/// Closes every descriptor from `first` on. For a child that never returns to code owning descriptors.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: the only callers are children that use no descriptor afterwards and end with `_exit` or a signal.
    let r = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    check(r as i32)
}

/// Makes `fd` the descriptor number `to` (0, 1 or 2), inherited by exec.
pub fn install_stdio(fd: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    assert!((0..=2).contains(&to), "only the standard streams may be replaced");
    // SAFETY: replaces a standard stream, which nobody owns as an OwnedFd.
    let r = if fd.as_raw_fd() == to { unsafe { libc::fcntl(to, libc::F_SETFD, 0) } } else { unsafe { libc::dup2(fd.as_raw_fd(), to) } };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the descriptor that the parent process passed as standard input, putting /dev/null in its place.
pub fn take_stdin() -> io::Result<OwnedFd> {
    use std::os::fd::AsFd;
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    install_stdio(null.as_fd(), 0)?;
    Ok(taken)
}

/// Identity of the calling thread: groups, then gid, then uid. Keeps capabilities until the caller sets them.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: plain system calls on this thread; `groups` is a valid array of the length passed.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        match check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) as i32) {
            // In a user namespace made without privileges nobody may change groups; wanting none is fine there.
            Err(e) if groups.is_empty() && e.raw_os_error() == Some(libc::EPERM) => {}
            r => r?,
        }
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid) as i32)?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid) as i32)?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0))
    }
}

/// Makes other processes unable to trace this one or open its /proc files, until the next exec.
pub fn hide_from_tracers() -> io::Result<()> {
    // SAFETY: a flag of this process.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Whether the process, and all it starts from here on, may get transparent huge pages.
pub fn allow_huge_pages(allowed: bool) -> io::Result<()> {
    // SAFETY: an attribute of the address space; no memory is read or written.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, libc::c_ulong::from(!allowed), 0, 0, 0) })
}

/// Orphaned descendants come to this process.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: a flag of this process.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// A session keyring of its own, so that containers do not share root's. Kernels without keyrings are fine.
pub fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) };
}

/// The parent's end ends this process too.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: a flag of this process.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) })
}

/// The controlling terminal of this session.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an ioctl without memory arguments.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) })
}

/// Joins the namespace that `fd` refers to; `kind` is its CLONE_NEW… flag. CLONE_NEWPID concerns later children only.
pub fn join_namespace(fd: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: changes namespaces of the calling thread; memory is untouched.
    check(unsafe { libc::setns(fd.as_raw_fd(), kind) })
}

/// New namespaces for the calling process.
pub fn unshare(kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: only CLONE_NEW… flags are passed by our callers; CLONE_FILES and CLONE_VM are cut off.
    check(unsafe { libc::unshare(kinds & (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWUSER | CLONE_NEWTIME)) })
}

/// A descriptor of a process, which no other process can take the number of.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// The execution domain: `PER_LINUX` (0) or `PER_LINUX32` (8), with flags.
pub fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: a flag of this process.
    let r = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// I/O class (1 real time, 2 best effort, 3 idle) and priority 0..7 of this process. Source: ioprio_set(2).
pub fn set_io_priority(class: i32, priority: i32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: i32 = 13;
    // SAFETY: a system call without memory arguments.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT | priority) } as i32)
}

/// struct sched_attr of linux/sched/types.h, its first version. Times are in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SchedulerAttributes {
    /// Set by [`set_scheduler`].
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// Scheduling policy of this process. Source: sched_setattr(2).
pub fn set_scheduler(attributes: &SchedulerAttributes) -> io::Result<()> {
    let attributes = SchedulerAttributes { size: size_of::<SchedulerAttributes>() as u32, ..*attributes };
    // SAFETY: `attributes` carries its size and outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } as i32)
}

/// Names of resource limits as setrlimit(2) has them, with their numbers.
#[rustfmt::skip]
const LIMITS: &[(&str, i64)] = &[
    ("RLIMIT_AS", libc::RLIMIT_AS as i64), ("RLIMIT_CORE", libc::RLIMIT_CORE as i64), ("RLIMIT_CPU", libc::RLIMIT_CPU as i64), ("RLIMIT_DATA", libc::RLIMIT_DATA as i64),
    ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE as i64), ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS as i64), ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK as i64),
    ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE as i64), ("RLIMIT_NICE", libc::RLIMIT_NICE as i64), ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE as i64),
    ("RLIMIT_NPROC", libc::RLIMIT_NPROC as i64), ("RLIMIT_RSS", libc::RLIMIT_RSS as i64), ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO as i64),
    ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME as i64), ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING as i64), ("RLIMIT_STACK", libc::RLIMIT_STACK as i64),
];

/// Sets a resource limit of this process. Where the kernel refuses to raise the hard limit (no CAP_SYS_RESOURCE) both become the nearest
/// allowed; `Some((soft, hard))` is what they became then.
pub fn set_limit(name: &str, soft: u64, hard: u64) -> io::Result<Option<(u64, u64)>> {
    let (_, number) = *LIMITS.iter().find(|(n, _)| *n == name).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no resource limit")))?;
    let set = |soft: u64, hard: u64| {
        let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
        // SAFETY: `limit` outlives the call, no old value is asked for; the number is from the table above.
        check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, &raw const limit, std::ptr::null::<libc::rlimit64>()) } as i32)
    };
    match set(soft, hard) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: `now` is written by the call and outlives it.
            check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, std::ptr::null::<libc::rlimit64>(), &raw mut now) } as i32)?;
            let nearest = (soft.min(now.rlim_max), hard.min(now.rlim_max));
            set(nearest.0, nearest.1).map(|()| Some(nearest))
        }
        r => r.map(|()| None),
    }
}

/// Runs this program anew from a read-only mount of itself, unless it does so already: no process in a container can then write to the
/// host's program through /proc/PID/exe (CVE-2019-5736). Returns only when nothing was to do, or with the error.
pub fn run_from_read_only_mount() -> io::Result<()> {
    let own = std::path::Path::new("/proc/self/exe");
    if rustix::fs::statvfs(own)?.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let program = crate::mount::read_only_executable(own)?;
    let c = |s: std::ffi::OsString| CString::new(std::os::unix::ffi::OsStringExt::into_vec(s)).map_err(io::Error::from);
    let args = std::env::args_os().map(c).collect::<io::Result<Vec<_>>>()?;
    let env = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            c(name)
        })
        .collect::<io::Result<Vec<_>>>()?;
    // Close-on-exec would be right for the program too: the kernel has opened it by then.
    Err(exec(&c(format!("/proc/self/fd/{}", program.as_raw_fd()).into())?, &args, &env))
}

/// `listen` descriptors of socket activation and `--preserve-fds`: the first `count` after the standard streams survive exec.
pub fn keep_only(count: u32) -> io::Result<()> {
    for n in 3..3 + count {
        // SAFETY: changes a flag of a descriptor, none is closed; a number that is not open is refused with EBADF.
        if unsafe { libc::fcntl(n as i32, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("descriptor {n} is to be preserved but not open")));
        }
    }
    close_on_exec_from(3 + count)
}
