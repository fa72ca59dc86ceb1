//! Records the state that this process was started with, so that the job starts with the same. The
//! state is the ignored and blocked signals, and the standard streams that are closed.
//!
//! Rust's runtime changes part of this state before `main`: it ignores SIGPIPE, and opens
//! `/dev/null` for closed standard streams. A constructor runs before the runtime and takes notes.

use crate::lock::signals::{Disposition, Signals, set_disposition};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// Taken before `main`: bits 0 to 2 mark closed standard streams; see also [`PIPE_IGNORED`].
static NOTES: AtomicU8 = AtomicU8::new(0);
const PIPE_IGNORED: u8 = 1 << 3;

#[used]
#[expect(unsafe_code, reason = "only a constructor runs before Rust's runtime")]
#[unsafe(link_section = ".init_array")]
static TAKE_NOTES: extern "C" fn() = take_notes;

extern "C" fn take_notes() {
    let mut notes = 0;
    for stream in 0..3 {
        #[expect(
            unsafe_code,
            reason = "the standard library answers only for streams that are open"
        )]
        // SAFETY: the call reads the flags of a descriptor; a closed descriptor is an error.
        let flags = unsafe { libc::fcntl(stream, libc::F_GETFD) };
        if flags == -1 {
            notes |= 1 << stream;
        }
    }
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    #[expect(unsafe_code, reason = "nix cannot read a disposition without setting one")]
    // SAFETY: the call sets nothing. It writes its answer to a variable of ours, which zeroes
    // initialise too.
    let handler = unsafe {
        libc::sigaction(libc::SIGPIPE, std::ptr::null(), action.as_mut_ptr());
        action.assume_init().sa_sigaction
    };
    if handler == libc::SIG_IGN {
        notes |= PIPE_IGNORED;
    }
    NOTES.store(notes, Ordering::Relaxed);
}

/// The signal state and streams that a process inherits from its caller and passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtStart {
    pub ignored: Signals,
    pub blocked: Signals,
    /// Bit N is set if descriptor N of the standard streams was closed.
    pub closed: u8,
}

impl AtStart {
    /// Reads the state of this process. Call it first, because it reads the current signal mask.
    ///
    /// # Errors
    /// If there is no `/proc`.
    pub fn of_this_process() -> io::Result<AtStart> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).ok().map(Signals)
        };
        let missing = || io::Error::other("/proc/self/status does not tell about signals");
        let notes = NOTES.load(Ordering::Relaxed);
        let pipe = Signals::of(&[libc::SIGPIPE]);
        let ignored = field("SigIgn").ok_or_else(missing)?;
        Ok(AtStart {
            ignored: if notes & PIPE_IGNORED != 0 {
                ignored.with(pipe)
            } else {
                ignored.without(pipe)
            },
            blocked: field("SigBlk").ok_or_else(missing)?,
            closed: notes & !PIPE_IGNORED,
        })
    }

    /// Restores this state in the current process, which becomes another program next.
    pub fn restore(self) {
        for number in self.ignored.numbers() {
            set_disposition(number, Disposition::Ignore);
        }
        if !self.ignored.contains(libc::SIGPIPE) {
            set_disposition(libc::SIGPIPE, Disposition::Default);
        }
        for stream in (0..3).filter(|stream| self.closed & 1 << stream != 0) {
            let _ = nix::unistd::close(stream);
        }
        // The mask comes last: signals sent meanwhile are delivered now, and meet the requested
        // dispositions.
        let _ = self.blocked.block();
    }
}

impl fmt::Display for AtStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.ignored.0, self.blocked.0, self.closed)
    }
}

impl FromStr for AtStart {
    type Err = String;

    fn from_str(text: &str) -> Result<AtStart, String> {
        let numbers: Option<Vec<u64>> =
            text.split('.').map(|part| u64::from_str_radix(part, 16).ok()).collect();
        match numbers.as_deref() {
            Some([ignored, blocked, closed @ 0..=7]) => Ok(AtStart {
                ignored: Signals(*ignored),
                blocked: Signals(*blocked),
                closed: *closed as u8,
            }),
            _ => Err("write three hexadecimal numbers with dots between".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_as_an_argument() {
        let start = AtStart { ignored: Signals(u64::MAX), blocked: Signals(1 << 14), closed: 4 };
        assert_eq!(start.to_string().parse(), Ok(start));
        for bad in ["", "1.2", "1.2.8", "1.2.3.4", "x.0.0"] {
            assert!(bad.parse::<AtStart>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_runtimes_own_ignoring_of_sigpipe_does_not_count() {
        // Test runners start their children with the default, and the runtime has ignored SIGPIPE
        // since.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        assert!(Signals(u64::from_str_radix(ignored, 16).unwrap()).contains(libc::SIGPIPE));
        assert!(!AtStart::of_this_process().unwrap().ignored.contains(libc::SIGPIPE));
    }
}
