//! Which devices a v2 control group may use: a small eBPF program, as v2 has no `devices` controller.
//!
//! Entry point: [`attach`]. Rules are v1's words (`c 1:3 rwm`, `a *:* rwm`). The kernel drops the program with the group.
//! Without it a container with CAP_MKNOD (one of the default fourteen) could make and read the host's disks.
//! Source: bpf(2), linux/bpf.h `struct bpf_cgroup_dev_ctx`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Groups above and below may have programs of their own; all must agree.
const ALLOW_MULTI: u32 = 2;

const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// eBPF opcodes used here.
const LOAD_WORD: u8 = 0x61;
const COPY_32: u8 = 0xbc;
const AND_32_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_32_IMMEDIATE: u8 = 0x74;
const JUMP_NOT_EQUAL_IMMEDIATE: u8 = 0x55;
const JUMP_EQUAL_IMMEDIATE: u8 = 0x15;
const MOVE_IMMEDIATE: u8 = 0xb7;
const EXIT: u8 = 0x95;

const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// struct bpf_insn.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

fn at(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rule {
    /// `None`: any.
    kind: Option<i32>,
    major: Option<i32>,
    minor: Option<i32>,
    /// mknod 1, read 2, write 4.
    access: i32,
}

fn parse(rule: &str) -> Option<Rule> {
    let mut words = rule.split(' ');
    let kind = match words.next()? {
        "a" => None,
        "b" => Some(BLOCK),
        "c" => Some(CHARACTER),
        _ => return None,
    };
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |s: &str| if s == "*" { Some(None) } else { s.parse().ok().map(Some) };
    let access = words.next()?.chars().map(|c| match c {
        'm' => Some(1),
        'r' => Some(2),
        'w' => Some(4),
        _ => None,
    });
    Some(Rule { kind, major: number(major)?, minor: number(minor)?, access: access.sum::<Option<i32>>()? })
}

/// The last rule that matches counts, so the program asks them from the last to the first.
fn compile(rules: &[(bool, String)]) -> io::Result<Vec<Instruction>> {
    let mut out = vec![
        at(LOAD_WORD, KIND, CONTEXT, 0, 0),
        at(COPY_32, ACCESS, KIND, 0, 0),
        at(AND_32_IMMEDIATE, KIND, 0, 0, 0xffff),
        at(SHIFT_RIGHT_32_IMMEDIATE, ACCESS, 0, 0, 16),
        at(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        at(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for (allow, text) in rules.iter().rev() {
        let rule = parse(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is not a device rule")))?;
        out.extend(compile_rule(*allow, rule));
    }
    out.extend([at(MOVE_IMMEDIATE, 0, 0, 0, 0), at(EXIT, 0, 0, 0, 0)]);
    Ok(out)
}

/// Answers when it matches, else falls to the next rule. Allowed is what asks for nothing beyond the rule's access; refused is what asks
/// for any of it.
fn compile_rule(allow: bool, rule: Rule) -> Vec<Instruction> {
    let (mask, jump) = if allow { (!rule.access, JUMP_NOT_EQUAL_IMMEDIATE) } else { (rule.access, JUMP_EQUAL_IMMEDIATE) };
    let mut body = vec![at(COPY_32, SCRATCH, ACCESS, 0, 0), at(AND_32_IMMEDIATE, SCRATCH, 0, 0, mask), at(jump, SCRATCH, 0, 0, 0)];
    for (register, wanted) in [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(value) = wanted {
            body.push(at(JUMP_NOT_EQUAL_IMMEDIATE, register, 0, 0, value));
        }
    }
    body.extend([at(MOVE_IMMEDIATE, 0, 0, 0, i32::from(allow)), at(EXIT, 0, 0, 0, 0)]);
    let len = body.len();
    for (i, instruction) in body.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_NOT_EQUAL_IMMEDIATE | JUMP_EQUAL_IMMEDIATE) {
            instruction.offset = (len - i - 1) as i16;
        }
    }
    body
}

/// The part of union bpf_attr that BPF_PROG_LOAD reads.
#[repr(C)]
struct LoadArgs {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of union bpf_attr that BPF_PROG_ATTACH reads.
#[repr(C)]
struct AttachArgs {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// Refuses all devices but what the rules (allow, `c 1:3 rwm`) give to the v2 group whose folder is `group`; the last that matches counts.
pub fn attach(group: BorrowedFd<'_>, rules: &[(bool, String)]) -> io::Result<()> {
    let program = load(&compile(rules)?)?;
    let args = AttachArgs { target: group.as_raw_fd() as u32, program: program.as_raw_fd() as u32, attach_type: ATTACH_CGROUP_DEVICE, flags: ALLOW_MULTI };
    // SAFETY: `args` is the attr of PROG_ATTACH with its size and outlives the call.
    let r = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const args, size_of::<AttachArgs>()) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let args = LoadArgs {
        program_type: PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: `args` is the attr of PROG_LOAD with its size; the instructions and the license string outlive the call, which
    // copies them; a result that is not negative is a descriptor that we own.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const args, size_of::<LoadArgs>());
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn rules_are_read_in_v1s_words() {
        assert_eq!(parse("c 136:* rwm"), Some(Rule { kind: Some(CHARACTER), major: Some(136), minor: None, access: 7 }));
        assert_eq!(parse("a *:* rwm"), Some(Rule { kind: None, major: None, minor: None, access: 7 }));
        assert_eq!((parse("c 1 rwm"), parse("x 1:1 r"), parse("c 1:1 q")), (None, None, None));
    }

    /// Needs root and a v2 tree, here the bare one of a hybrid host.
    #[test]
    fn a_group_can_use_the_devices_of_its_rules_and_no_other() {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let tree = mountinfo.lines().find(|l| l.contains(" - cgroup2 ")).and_then(|l| l.split(' ').nth(4)).expect("a v2 tree is mounted");
        let folder = std::path::Path::new(tree).join(format!("keles-device-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let group = std::fs::File::open(&folder).unwrap();
        attach(group.as_fd(), &[(true, "a *:* rwm".into()), (false, "a *:* rwm".into()), (true, "c 1:3 rwm".into()), (true, "c 1:5 rw".into()), (false, "c 1:5 w".into())])
            .unwrap();
        let script = format!(
            "echo 0 > {}/cgroup.procs; cat /dev/null && echo null; head -c1 /dev/zero > /dev/null && echo zero; head -c1 /dev/urandom > /dev/null || echo no-urandom; (echo > /dev/zero) || echo no-write",
            folder.display()
        );
        let out = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let removed = std::fs::remove_dir(&folder);
        assert_eq!(String::from_utf8_lossy(&out.stdout), "null\nzero\nno-urandom\nno-write\n", "{}", String::from_utf8_lossy(&out.stderr));
        removed.unwrap();
    }
}
