//! Seccomp: a profile (in the OCI runtime specification's JSON) becomes one BPF program, and is installed.
//!
//! Entry points: [`Profile::from_json`], [`crate::seccomp_default::profile`], [`Profile::compile`], [`install`]. The program
//! first answers system calls with conditions on arguments, then runs of neighbouring numbers that share an answer, so that
//! it stays short; the kernel caches the unconditional answers. Programs of the instruction sets that the profile lists (on x86-64 also
//! i386 and x32) are answered by their own tables; all others are killed, or get the default answer when it lists none. Calls newer than
//! all that a refusing profile names get ENOSYS, so that C libraries fall back. Absent: notify; the 32-bit table of arm. Why not `seccompiler`: it knows two answers, a profile has many (EPERM by
//! default, ENOSYS for clone3). Source: seccomp(2), linux/bpf_common.h, OCI runtime-spec config-linux "Seccomp".

use crate::syscalls;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;

/// The kernel's own limit of a program.
const MAX_INSTRUCTIONS: usize = 4096;
const MAX_ERRNO: u32 = 4095;
const EPERM: u32 = libc::EPERM as u32;

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("seccomp profile: {0}")]
    Json(#[from] serde_json::Error),
    #[error("seccomp profile: action {0} is not supported")]
    Action(String),
    #[error("seccomp profile: action SCMP_ACT_NOTIFY and listenerPath are not supported: this runtime hands no listener over")]
    Notify,
    #[error("seccomp profile: flag {0} is not supported")]
    Flag(String),
    #[error("seccomp profile: architecture {0} is not known")]
    Architecture(String),
    #[error("seccomp profile: operator {0} is not supported")]
    Operator(String),
    #[error("seccomp profile: argument index {0} is over 5")]
    Argument(u32),
    #[error("seccomp profile: {0} instructions are over the kernel's limit of {MAX_INSTRUCTIONS}")]
    TooLong(usize),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_X86_64`, …; the machine's own is always one of them.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// `SECCOMP_FILTER_FLAG_LOG`, …
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub listener_path: String,
    #[serde(default)]
    pub syscalls: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    #[serde(default)]
    pub names: Vec<String>,
    /// Docker's old form.
    pub name: Option<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub args: Vec<Condition>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<Condition>, D::Error> {
    Ok(Option::<Vec<Condition>>::deserialize(d)?.unwrap_or_default())
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

/// One BPF instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06;
/// Placeholder of a jump out of a condition that does not hold.
const FAIL: u8 = 0xff;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "x86_64")]
const ARCH_I386: u32 = 0x4000_0003;
/// x86-64's second table of numbers.
#[cfg(target_arch = "x86_64")]
const X32_BIT: u32 = 0x4000_0000;
/// Every name of the specification; programs of those without a table here are killed, as they cannot run on this machine.
const ARCHITECTURES: &[&str] = &[
    "X86",
    "X86_64",
    "X32",
    "ARM",
    "AARCH64",
    "MIPS",
    "MIPS64",
    "MIPS64N32",
    "MIPSEL",
    "MIPSEL64",
    "MIPSEL64N32",
    "PPC",
    "PPC64",
    "PPC64LE",
    "S390",
    "S390X",
    "PARISC",
    "PARISC64",
    "RISCV64",
    "LOONGARCH64",
    "M68K",
    "SH",
    "SHEB",
];
const FLAGS: &[(&str, u32)] = &[
    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC as u32),
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
];

fn at(code: u16, k: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, k }
}

fn answer(action: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    Ok(match action {
        "SCMP_ACT_ALLOW" => libc::SECCOMP_RET_ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | errno.unwrap_or(EPERM).min(MAX_ERRNO),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | errno.unwrap_or(EPERM).min(MAX_ERRNO),
        "SCMP_ACT_NOTIFY" => return Err(SeccompError::Notify),
        other => return Err(SeccompError::Action(other.into())),
    })
}

impl Profile {
    pub fn from_json(text: &[u8]) -> Result<Profile, SeccompError> {
        Ok(serde_json::from_slice(text)?)
    }

    /// The flags to install it with.
    pub fn install_flags(&self) -> Result<u32, SeccompError> {
        if !self.listener_path.is_empty() {
            return Err(SeccompError::Notify);
        }
        let known = |name: &String| FLAGS.iter().find(|(n, _)| n == name).map(|(_, bit)| *bit).ok_or_else(|| SeccompError::Flag(name.clone()));
        self.flags.iter().try_fold(0, |all, name| Ok(all | known(name)?))
    }

    pub fn compile(&self) -> Result<Vec<Instruction>, SeccompError> {
        if let Some(unknown) = self.architectures.iter().find(|a| !a.strip_prefix("SCMP_ARCH_").is_some_and(|n| ARCHITECTURES.contains(&n))) {
            return Err(SeccompError::Architecture(unknown.clone()));
        }
        let default = answer(&self.default_action, self.default_errno_ret)?;
        let strange = if self.architectures.is_empty() { default } else { libc::SECCOMP_RET_KILL_THREAD };
        let mut out = vec![at(LOAD_WORD, OFFSET_ARCH, 0, 0)];
        for (arch, section) in self.sections(default, strange)? {
            out.extend([at(JUMP_EQUAL, arch, 1, 0), at(JUMP, section.len() as u32 + 1, 0, 0), at(LOAD_WORD, OFFSET_NUMBER, 0, 0)]);
            out.extend(section);
        }
        out.push(at(RETURN, strange, 0, 0));
        if out.len() > MAX_INSTRUCTIONS { Err(SeccompError::TooLong(out.len())) } else { Ok(out) }
    }

    /// Per instruction set what answers its calls.
    #[cfg(not(target_arch = "x86_64"))]
    fn sections(&self, default: u32, _strange: u32) -> Result<Vec<(u32, Vec<Instruction>)>, SeccompError> {
        Ok(vec![(ARCH, self.section(default, syscalls::number)?)])
    }

    #[cfg(target_arch = "x86_64")]
    fn sections(&self, default: u32, strange: u32) -> Result<Vec<(u32, Vec<Instruction>)>, SeccompError> {
        let lists = |name: &str| self.architectures.iter().any(|a| a == name);
        let x32 = if lists("SCMP_ARCH_X32") { self.section(default, |n| syscalls::x32_number(n).map(|v| v | X32_BIT))? } else { vec![at(RETURN, strange, 0, 0)] };
        let own = self.section(default, syscalls::number)?;
        let mut both = vec![at(JUMP_GREATER_EQUAL, X32_BIT, 0, 1), at(JUMP, own.len() as u32, 0, 0)];
        both.extend(own);
        both.extend(x32);
        let mut all = vec![(ARCH, both)];
        if lists("SCMP_ARCH_X86") {
            all.push((ARCH_I386, self.section(default, syscalls::i386_number)?));
        }
        Ok(all)
    }

    /// Answers the call whose number was loaded; `number` is the instruction set's table.
    fn section(&self, default: u32, number: impl Fn(&str) -> Option<u32>) -> Result<Vec<Instruction>, SeccompError> {
        // Per number: rules with conditions, then the answer without one. The first of several unconditional rules counts.
        let mut conditional: BTreeMap<u32, Vec<(&[Condition], u32)>> = BTreeMap::new();
        let mut plain: BTreeMap<u32, u32> = BTreeMap::new();
        for rule in &self.syscalls {
            let answer = answer(&rule.action, rule.errno_ret)?;
            for number in rule.names.iter().chain(&rule.name).filter_map(|n| number(n)) {
                if rule.args.is_empty() {
                    plain.entry(number).or_insert(answer);
                } else if rule.names_an_argument_twice() {
                    // Conditions on one argument are alternatives, as in runc.
                    conditional.entry(number).or_default().extend(rule.args.chunks(1).map(|one| (one, answer)));
                } else {
                    conditional.entry(number).or_default().push((&rule.args, answer));
                }
            }
        }
        let mut out = newer_calls(default, conditional.keys().chain(plain.keys()).max());
        for (number, rules) in &conditional {
            let body = conditional_body(rules, plain.get(number).copied().unwrap_or(default))?;
            out.push(at(JUMP_EQUAL, *number, 1, 0));
            out.push(at(JUMP, body.len() as u32, 0, 0));
            out.extend(body);
        }
        plain.retain(|n, _| !conditional.contains_key(n));
        for (first, last, answer) in runs(&plain) {
            out.extend([at(JUMP_GREATER_EQUAL, first, 0, 2), at(JUMP_GREATER, last, 1, 0), at(RETURN, answer, 0, 0)]);
        }
        out.push(at(RETURN, default, 0, 0));
        Ok(out)
    }
}

impl Rule {
    fn names_an_argument_twice(&self) -> bool {
        self.args.iter().enumerate().any(|(i, a)| self.args[..i].iter().any(|b| b.index == a.index))
    }
}

/// A profile that refuses what it does not name was written before the calls that came after its newest: those do not exist for it.
fn newer_calls(default: u32, newest: Option<&u32>) -> Vec<Instruction> {
    let refuses = !matches!(default, libc::SECCOMP_RET_ALLOW | libc::SECCOMP_RET_LOG);
    match newest {
        Some(newest) if refuses => vec![at(JUMP_GREATER, *newest, 0, 1), at(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0)],
        _ => Vec::new(),
    }
}

/// Neighbouring numbers with one answer: (first, last, answer).
fn runs(plain: &BTreeMap<u32, u32>) -> Vec<(u32, u32, u32)> {
    let mut out: Vec<(u32, u32, u32)> = Vec::new();
    for (&number, &answer) in plain {
        match out.last_mut() {
            Some((_, last, a)) if *last + 1 == number && *a == answer => *last = number,
            _ => out.push((number, number, answer)),
        }
    }
    out
}

/// For one number: each rule's conditions, its answer; in the end `otherwise`.
fn conditional_body(rules: &[(&[Condition], u32)], otherwise: u32) -> Result<Vec<Instruction>, SeccompError> {
    let mut out = Vec::new();
    for (conditions, answer) in rules {
        let mut rule = Vec::new();
        for c in *conditions {
            rule.extend(condition(c)?);
        }
        rule.push(at(RETURN, *answer, 0, 0));
        let len = rule.len();
        for (i, ins) in rule.iter_mut().enumerate() {
            let to_next_rule = u8::try_from(len - i - 1).map_err(|_| SeccompError::TooLong(len))?;
            for jump in [&mut ins.jump_true, &mut ins.jump_false] {
                if *jump == FAIL {
                    *jump = to_next_rule;
                }
            }
        }
        out.extend(rule);
    }
    out.push(at(RETURN, otherwise, 0, 0));
    Ok(out)
}

/// Falls through when it holds, jumps to [`FAIL`] when not. Arguments are 64 bit, loads 32 bit: high word, then low word.
fn condition(c: &Condition) -> Result<Vec<Instruction>, SeccompError> {
    if c.index > 5 {
        return Err(SeccompError::Argument(c.index));
    }
    let words = |v: u64| ((v >> 32) as u32, v as u32);
    let (high_offset, low_offset) = if cfg!(target_endian = "little") { (4, 0) } else { (0, 4) };
    let high = at(LOAD_WORD, OFFSET_ARGS + 8 * c.index + high_offset, 0, 0);
    let low = at(LOAD_WORD, OFFSET_ARGS + 8 * c.index + low_offset, 0, 0);
    let (vh, vl) = words(c.value);
    Ok(match c.op.as_str() {
        "SCMP_CMP_EQ" => vec![high, at(JUMP_EQUAL, vh, 0, FAIL), low, at(JUMP_EQUAL, vl, 0, FAIL)],
        "SCMP_CMP_NE" => vec![high, at(JUMP_EQUAL, vh, 0, 2), low, at(JUMP_EQUAL, vl, FAIL, 0)],
        "SCMP_CMP_GE" => vec![high, at(JUMP_GREATER, vh, 3, 0), at(JUMP_EQUAL, vh, 0, FAIL), low, at(JUMP_GREATER_EQUAL, vl, 0, FAIL)],
        "SCMP_CMP_GT" => vec![high, at(JUMP_GREATER, vh, 3, 0), at(JUMP_EQUAL, vh, 0, FAIL), low, at(JUMP_GREATER, vl, 0, FAIL)],
        "SCMP_CMP_LT" => vec![high, at(JUMP_GREATER, vh, FAIL, 0), at(JUMP_EQUAL, vh, 0, 2), low, at(JUMP_GREATER_EQUAL, vl, FAIL, 0)],
        "SCMP_CMP_LE" => vec![high, at(JUMP_GREATER, vh, FAIL, 0), at(JUMP_EQUAL, vh, 0, 2), low, at(JUMP_GREATER, vl, FAIL, 0)],
        "SCMP_CMP_MASKED_EQ" => {
            let (mask, (wh, wl)) = (words(c.value), words(c.value_two));
            vec![high, at(AND, mask.0, 0, 0), at(JUMP_EQUAL, wh, 0, FAIL), low, at(AND, mask.1, 0, 0), at(JUMP_EQUAL, wl, 0, FAIL)]
        }
        other => return Err(SeccompError::Operator(other.into())),
    })
}

/// Names of the instruction sets whose programs profiles can filter here.
pub fn architectures() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") { &["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"] } else { &["SCMP_ARCH_AARCH64"] }
}

pub fn flag_names() -> Vec<&'static str> {
    FLAGS.iter().map(|(n, _)| *n).collect()
}

/// Installs it for the calling thread and all it becomes, with [`Profile::install_flags`]. Without no_new_privs this needs CAP_SYS_ADMIN.
pub fn install(program: &[Instruction], flags: u32) -> io::Result<()> {
    let header = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    // SAFETY: `Instruction` has the layout of sock_filter (u16, u8, u8, u32; repr(C)); the kernel copies `len` of them, at
    // most 4096, during the call and writes none.
    let r = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const header) };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a program for a call of this machine's instruction set.
    pub(crate) fn answer_of(program: &[Instruction], name: &str, args: [u64; 6]) -> u32 {
        run(program, ARCH, number(name), args)
    }
    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_ne_bytes());
        data.extend(arch.to_ne_bytes());
        data.extend(0u64.to_ne_bytes());
        args.iter().for_each(|a| data.extend(a.to_ne_bytes()));
        let (mut pc, mut a) = (0usize, 0u32);
        loop {
            let i = program[pc];
            pc += 1;
            let jump = |yes: bool| usize::from(if yes { i.jump_true } else { i.jump_false });
            match i.code {
                LOAD_WORD => a = u32::from_ne_bytes(data[i.k as usize..i.k as usize + 4].try_into().unwrap()),
                AND => a &= i.k,
                JUMP => pc += i.k as usize,
                JUMP_EQUAL => pc += jump(a == i.k),
                JUMP_GREATER => pc += jump(a > i.k),
                JUMP_GREATER_EQUAL => pc += jump(a >= i.k),
                RETURN => return i.k,
                other => panic!("code {other}"),
            }
        }
    }
    fn number(name: &str) -> u32 {
        syscalls::number(name).unwrap()
    }
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    fn errno(e: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | e as u32
    }

    #[test]
    fn runtime_default_refuses_what_escapes_and_allows_what_programs_need() {
        let p = crate::seccomp_default::profile(crate::capabilities::Set::default_of_containers()).compile().unwrap();
        for allowed in ["read", "execve", "openat", "clock_gettime", "chroot", "futex", "statx", "accept4"] {
            assert_eq!(run(&p, ARCH, number(allowed), [0; 6]), ALLOW, "{allowed}");
        }
        for refused in ["mount", "unshare", "setns", "reboot", "init_module", "bpf", "keyctl", "add_key", "kexec_load", "open_by_handle_at", "io_uring_setup", "userfaultfd"] {
            assert_eq!(run(&p, ARCH, number(refused), [0; 6]), errno(libc::EPERM), "{refused}");
        }
        assert_eq!(run(&p, ARCH, number("clone3"), [0; 6]), errno(libc::ENOSYS), "programs must fall back to clone");
        assert_eq!(run(&p, ARCH, number("clone"), [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&p, ARCH, number("clone"), [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(run(&p, ARCH, number("socket"), [libc::AF_INET as u64, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&p, ARCH, number("socket"), [libc::AF_VSOCK as u64, 0, 0, 0, 0, 0]), errno(libc::EPERM));
        assert_eq!(run(&p, ARCH, number("personality"), [8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&p, ARCH, number("personality"), [9, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    }

    #[test]
    fn runtime_default_answers_32_bit_programs_by_their_own_numbers() {
        let p = crate::seccomp_default::profile(crate::capabilities::Set::default_of_containers()).compile().unwrap();
        #[cfg(target_arch = "x86_64")]
        {
            let i386 = |name: &str| run(&p, ARCH_I386, syscalls::i386_number(name).unwrap(), [0; 6]);
            for name in ["read", "mmap2", "_llseek", "socketcall", "futex_time64", "clock_gettime64", "stat64"] {
                assert_eq!(i386(name), ALLOW, "{name}");
            }
            for name in ["mount", "umount", "init_module", "vm86", "reboot"] {
                assert_eq!(i386(name), errno(libc::EPERM), "{name}");
            }
            assert_eq!(run(&p, ARCH, number("read") | X32_BIT, [0; 6]), ALLOW);
            assert_eq!(run(&p, ARCH, syscalls::x32_number("execve").unwrap() | X32_BIT, [0; 6]), ALLOW);
            assert_eq!(run(&p, ARCH, number("mount") | X32_BIT, [0; 6]), errno(libc::EPERM));
        }
        assert_eq!(run(&p, 0x1234, number("read"), [0; 6]), libc::SECCOMP_RET_KILL_THREAD, "an instruction set that is not listed");
    }

    #[test]
    fn a_profile_that_lists_no_32_bit_instruction_set_answers_it_with_the_default() {
        let p = Profile::from_json(br#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#).unwrap().compile().unwrap();
        assert_eq!(run(&p, 0x4000_0003, number("read"), [0; 6]), errno(libc::EPERM));
        assert_eq!(run(&p, ARCH, number("read"), [0; 6]), ALLOW);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(run(&p, ARCH, number("read") | X32_BIT, [0; 6]), errno(libc::EPERM));
    }

    #[test]
    fn calls_newer_than_a_profile_do_not_exist_for_its_programs() {
        let p = crate::seccomp_default::profile(crate::capabilities::Set::default_of_containers()).compile().unwrap();
        assert_eq!(run(&p, ARCH, 2000, [0; 6]), errno(libc::ENOSYS));
    }

    #[test]
    fn conditions_on_one_argument_are_alternatives_and_on_two_all_must_hold() {
        let json = |second: u32| {
            format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{{"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":7,
                "args":[{{"index":0,"value":1,"op":"SCMP_CMP_EQ"}},{{"index":{second},"value":2,"op":"SCMP_CMP_EQ"}}]}}]}}"#
            )
        };
        let answers = |second| {
            let p = Profile::from_json(json(second).as_bytes()).unwrap().compile().unwrap();
            [[1, 0], [2, 0], [1, 2], [3, 2]].map(|[a, b]| run(&p, ARCH, number("read"), [a, b, 0, 0, 0, 0]) == libc::SECCOMP_RET_TRACE | 7)
        };
        assert_eq!(answers(0), [true, true, true, false]);
        assert_eq!(answers(1), [false, false, true, false]);
    }

    #[test]
    fn flags_and_listeners_are_taken_or_refused_by_name() {
        let flags = |text: &str| Profile::from_json(text.as_bytes()).unwrap().install_flags();
        assert_eq!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#).unwrap(), 6);
        assert!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#).is_err());
        assert!(flags(r#"{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/run/x"}"#).is_err());
        let unknown = Profile::from_json(br#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_VAX"]}"#).unwrap();
        assert!(unknown.compile().is_err());
    }

    #[test]
    fn an_added_capability_opens_its_calls() {
        let caps = crate::capabilities::Set::default_of_containers().changed(&["SYS_ADMIN".into()], &[]).unwrap();
        let p = crate::seccomp_default::profile(caps).compile().unwrap();
        for c in ["mount", "unshare", "clone3", "bpf"] {
            assert_eq!(run(&p, ARCH, number(c), [u64::MAX; 6]), ALLOW, "{c}");
        }
    }

    #[test]
    fn every_operator_compares_64_bits() {
        let big = 0x1_0000_0005u64;
        for (op, holds, fails) in [
            ("SCMP_CMP_EQ", vec![big], vec![5, big + 1]),
            ("SCMP_CMP_NE", vec![5, big + 1], vec![big]),
            ("SCMP_CMP_GE", vec![big, big + 1, 0x2_0000_0000], vec![big - 1, 6]),
            ("SCMP_CMP_GT", vec![big + 1, 0x2_0000_0000], vec![big, 6]),
            ("SCMP_CMP_LT", vec![big - 1, 6], vec![big, 0x2_0000_0000]),
            ("SCMP_CMP_LE", vec![big, 6], vec![big + 1, 0x2_0000_0000]),
        ] {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_KILL_PROCESS","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{{"index":1,"value":{big},"op":"{op}"}}]}}]}}"#
            );
            let p = Profile::from_json(json.as_bytes()).unwrap().compile().unwrap();
            for v in holds {
                assert_eq!(run(&p, ARCH, number("read"), [0, v, 0, 0, 0, 0]), ALLOW, "{op} {v:#x}");
            }
            for v in fails {
                assert_eq!(run(&p, ARCH, number("read"), [0, v, 0, 0, 0, 0]), libc::SECCOMP_RET_KILL_PROCESS, "{op} {v:#x}");
            }
        }
    }

    #[test]
    fn a_profile_with_an_unknown_action_is_refused_not_ignored() {
        let p = Profile::from_json(br#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#).unwrap();
        assert!(p.compile().is_err());
        assert!(Profile::from_json(b"{").is_err());
    }
}
