//! Making children without threads: clone3, exec, descriptors, identity of the calling process.
//!
//! Entry point: [`clone_child`]. Only for single-threaded processes (the pod's shim): it refuses in any other, because a
//! child of a process with threads may find locks taken for ever. Source: clone(2), execve(2), close_range(2), prctl(2).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

pub use libc::{CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS};

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
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) as i32)?;
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
    check(unsafe { libc::unshare(kinds & (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID)) })
}
