//! What a container's first process is by its image and what is asked for instead: command, variables, signal, hidden paths. The same for the
//! node agent's own pods and for the CRI.

/// Of containers whose image names none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Parts of /proc and /sys that tell of or reach the machine; hidden unless the container is privileged or asks for procMount Unmasked.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
pub const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// `command` replaces the image's entrypoint and cmd; `args` alone replace its cmd. None: nothing says what to run.
pub fn argv(entrypoint: &[String], cmd: &[String], command: &[String], args: &[String]) -> Option<Vec<String>> {
    let whole: Vec<String> = match (command.is_empty(), args.is_empty()) {
        (false, _) => command.iter().chain(args).cloned().collect(),
        (true, false) => entrypoint.iter().chain(args).cloned().collect(),
        (true, true) => entrypoint.iter().chain(cmd).cloned().collect(),
    };
    (!whole.is_empty()).then_some(whole)
}

/// PATH, HOSTNAME and with a terminal TERM, then the image's variables (`NAME=value`), then the container's, which win.
pub fn environment(hostname: &str, tty: bool, image: &[String], container: &[(String, String)]) -> Vec<(String, String)> {
    let term = tty.then(|| "TERM=xterm".to_owned());
    let first = [format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")].into_iter().chain(term).chain(image.iter().cloned());
    joined(&first.collect::<Vec<_>>(), container)
}

/// Variables as `NAME=value`, then others; the last of a name counts, in the first one's place.
pub fn joined(first: &[String], then: &[(String, String)]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::new();
    let pairs = first.iter().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    for (name, value) in pairs.chain(then.iter().map(|(name, value)| (name.as_str(), value.as_str()))) {
        match env.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.into(),
            None => env.push((name.into(), value.into())),
        }
    }
    env
}

/// `SIGTERM`, `TERM` or `15`.
pub fn signal_number(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 28] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("WINCH", 28),
        ("IO", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];
    const FIRST_REALTIME: i32 = 34;
    if let Ok(number) = name.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let short = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        return if offset.is_empty() { Some(FIRST_REALTIME) } else { offset.strip_prefix('+')?.parse::<i32>().ok().map(|offset| FIRST_REALTIME + offset) };
    }
    NAMES.iter().find(|(known, _)| *known == short).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [("SIGTERM", Some(15)), ("USR1", Some(10)), ("9", Some(9)), ("SIGRTMIN+3", Some(37)), ("99", None), ("NONE", None)] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }

    #[test]
    fn a_command_replaces_the_images_and_arguments_only_its_cmd() {
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let of = |command: &[&str], args: &[&str]| argv(&words(&["entry"]), &words(&["cmd"]), &words(command), &words(args)).map(|argv| argv.join(" "));
        assert_eq!((of(&["c"], &["a"]).as_deref(), of(&["c"], &[]).as_deref()), (Some("c a"), Some("c")));
        assert_eq!((of(&[], &["a"]).as_deref(), of(&[], &[]).as_deref()), (Some("entry a"), Some("entry cmd")));
        assert_eq!(argv(&[], &[], &[], &[]), None);
    }
}
