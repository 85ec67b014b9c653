//! Signals as runtime.v1 numbers them: by name, as a kernel's own numbers differ between architectures.
//!
//! Source: runtime.v1 `Signal`; the kernel's numbers are those of x86-64 and arm64.

/// Real-time signals stand in one row, as the kernel has them: 34 (as C libraries count) is [`Signal::Sigrtmin`], 64 [`Signal::Sigrtmax`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Signal {
    /// The image's, else SIGTERM.
    RuntimeDefault = 0,
    Sigabrt = 1,
    Sigalrm = 2,
    Sigbus = 3,
    Sigchld = 4,
    Sigcld = 5,
    Sigcont = 6,
    Sigfpe = 7,
    Sighup = 8,
    Sigill = 9,
    Sigint = 10,
    Sigio = 11,
    Sigiot = 12,
    Sigkill = 13,
    Sigpipe = 14,
    Sigpoll = 15,
    Sigprof = 16,
    Sigpwr = 17,
    Sigquit = 18,
    Sigsegv = 19,
    Sigstkflt = 20,
    Sigstop = 21,
    Sigsys = 22,
    Sigterm = 23,
    Sigtrap = 24,
    Sigtstp = 25,
    Sigttin = 26,
    Sigttou = 27,
    Sigurg = 28,
    Sigusr1 = 29,
    Sigusr2 = 30,
    Sigvtalrm = 31,
    Sigwinch = 32,
    Sigxcpu = 33,
    Sigxfsz = 34,
    Sigrtmin = 35,
    SigrtminPlus1 = 36,
    SigrtminPlus2 = 37,
    SigrtminPlus3 = 38,
    SigrtminPlus4 = 39,
    SigrtminPlus5 = 40,
    SigrtminPlus6 = 41,
    SigrtminPlus7 = 42,
    SigrtminPlus8 = 43,
    SigrtminPlus9 = 44,
    SigrtminPlus10 = 45,
    SigrtminPlus11 = 46,
    SigrtminPlus12 = 47,
    SigrtminPlus13 = 48,
    SigrtminPlus14 = 49,
    SigrtminPlus15 = 50,
    SigrtmaxMinus14 = 51,
    SigrtmaxMinus13 = 52,
    SigrtmaxMinus12 = 53,
    SigrtmaxMinus11 = 54,
    SigrtmaxMinus10 = 55,
    SigrtmaxMinus9 = 56,
    SigrtmaxMinus8 = 57,
    SigrtmaxMinus7 = 58,
    SigrtmaxMinus6 = 59,
    SigrtmaxMinus5 = 60,
    SigrtmaxMinus4 = 61,
    SigrtmaxMinus3 = 62,
    SigrtmaxMinus2 = 63,
    SigrtmaxMinus1 = 64,
    Sigrtmax = 65,
}

/// The kernel's numbers of those that have a name of their own, from [`Signal::Sigabrt`] on; two names may share a number.
const NUMBERS: [i32; 34] = [6, 14, 7, 17, 17, 18, 8, 1, 4, 2, 29, 6, 9, 13, 29, 27, 30, 3, 11, 16, 19, 31, 15, 5, 20, 21, 22, 23, 10, 12, 26, 28, 24, 25];

/// The first real-time signal that programs may use, and how far behind it ours stands.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;
const RT_OFFSET: i32 = Signal::Sigrtmin as i32 - RTMIN;

impl Signal {
    /// The kernel's number; none where the runtime decides.
    pub fn number(self) -> Option<i32> {
        match self as i32 {
            0 => None,
            named @ 1..=34 => Some(NUMBERS[named as usize - 1]),
            real_time => Some(real_time - RT_OFFSET),
        }
    }

    /// Of a kernel's number; of two names the one that POSIX has, SIGABRT and SIGCHLD, and SIGIO.
    pub fn of_number(number: i32) -> Option<Signal> {
        if (RTMIN..=RTMAX).contains(&number) {
            return Signal::try_from(number + RT_OFFSET).ok();
        }
        NUMBERS.iter().position(|of| *of == number).and_then(|at| Signal::try_from(at as i32 + 1).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_the_kernel_has_its_signal_and_comes_back() {
        for number in (1..=31).chain(RTMIN..=RTMAX) {
            let signal = Signal::of_number(number).unwrap_or_else(|| panic!("{number} has no signal"));
            assert_eq!(signal.number(), Some(number));
        }
        assert_eq!([0, 32, 33, 65].map(Signal::of_number), [None; 4]);
    }

    #[test]
    fn numbers_are_those_of_the_service() {
        let of = [(Signal::Sigterm, 23, 15), (Signal::Sigxfsz, 34, 25), (Signal::Sigrtmin, 35, 34), (Signal::SigrtminPlus15, 50, 49), (Signal::SigrtmaxMinus14, 51, 50)];
        for (signal, wire, kernel) in of {
            assert_eq!((signal as i32, signal.number()), (wire, Some(kernel)));
        }
        assert_eq!((Signal::RuntimeDefault.number(), Signal::Sigrtmax as i32), (None, 65));
    }
}
