//! Signals by number, including the real-time ones, which `nix` has no names for. All unsafe calls
//! of this program that concern signals and children are here, and each does one thing.

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use tokio::io::unix::AsyncFd;

/// A set of signals as in `/proc/PID/status`: bit N - 1 stands for signal N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals(pub u64);

impl Signals {
    /// Every signal number from 1 to 64.
    pub const ALL: Signals = Signals(u64::MAX);

    /// The set of the signals with these numbers.
    pub fn of(numbers: &[i32]) -> Signals {
        Signals(numbers.iter().fold(0, |bits, number| bits | bit(*number)))
    }

    pub fn contains(self, number: i32) -> bool {
        self.0 & bit(number) != 0
    }

    #[must_use]
    pub fn with(self, others: Signals) -> Signals {
        Signals(self.0 | others.0)
    }

    #[must_use]
    pub fn without(self, others: Signals) -> Signals {
        Signals(self.0 & !others.0)
    }

    pub fn numbers(self) -> impl Iterator<Item = i32> {
        (1..=64).filter(move |number| self.contains(*number))
    }

    /// Converts the set for the C library, without the signals that only the C library uses.
    pub fn to_set(self) -> SigSet {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        #[expect(unsafe_code, reason = "nix's SigSet cannot name real-time signals")]
        // SAFETY: sigemptyset initialises the set; sigaddset refuses a number that is no signal,
        // and then changes nothing.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for number in self.numbers() {
                libc::sigaddset(set.as_mut_ptr(), number);
            }
            SigSet::from_sigset_t_unchecked(set.assume_init())
        }
    }

    /// Makes this set the blocked signals of this thread.
    pub fn block(self) -> nix::Result<()> {
        self.to_set().thread_set_mask()
    }

    /// Opens a descriptor to read these signals from, while they are blocked.
    pub fn descriptor(self) -> nix::Result<SignalFd> {
        SignalFd::with_flags(&self.to_set(), SfdFlags::SFD_CLOEXEC)
    }
}

/// Signals that an async task waits for.
#[derive(Debug)]
pub struct Heard(AsyncFd<SignalFd>);

impl Heard {
    /// Listens for these signals, which are blocked already.
    ///
    /// # Errors
    /// If no descriptor can be opened for them.
    pub fn listen(signals: Signals) -> io::Result<Heard> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&signals.to_set(), flags)?;
        #[expect(
            unsafe_code,
            reason = "tokio asks for a promise about a type that it does not know"
        )]
        // SAFETY: a SignalFd owns its descriptor and gives the same one for as long as it lives.
        let registered = unsafe { AsyncFd::register(descriptor) };
        registered.map(Heard).map_err(|error| io::Error::other(error.to_string()))
    }

    /// Waits for the next signal. A dropped future loses no signal.
    pub async fn next(&self) -> i32 {
        loop {
            let mut ready = self.0.readable().await.expect("the runtime lives while its tasks do");
            if let Ok(Some(info)) = self.0.get_ref().read_signal() {
                return info.ssi_signo as i32;
            }
            ready.clear_ready();
        }
    }
}

fn bit(number: i32) -> u64 {
    match number {
        1..=64 => 1 << (number - 1),
        _ => 0,
    }
}

/// Whether a signal ends a process that has no handler for it. The answer is also `true` for
/// faults, although no process sends a fault as a message.
pub fn ends(number: i32) -> bool {
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    !harmless.contains(&number) && !stops.contains(&number)
}

/// Sends a signal by kill(2).
///
/// # Errors
/// `EPERM`: the process belongs to another user. `ESRCH`: there is no such process.
pub fn send(pid: i32, number: i32) -> nix::Result<()> {
    assert!(pid > 0, "{pid} would be a group, or everything");
    #[expect(unsafe_code, reason = "nix's kill takes no real-time signals")]
    // SAFETY: kill touches no memory of ours.
    let done = unsafe { libc::kill(pid, number) };
    Errno::result(done).map(drop)
}

/// A process by descriptor. The kernel may reuse a process number, but the descriptor stays with
/// one process.
#[derive(Debug)]
pub struct Handle(OwnedFd);

impl Handle {
    /// Opens the process; `None` if it does not exist, or this kernel has no process descriptors.
    pub fn open(pid: i32) -> Option<Handle> {
        #[expect(unsafe_code, reason = "nix has no pidfd_open")]
        // SAFETY: pidfd_open touches no memory of ours, and returns a new descriptor without
        // another owner.
        let descriptor = unsafe {
            let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0);
            (descriptor >= 0).then(|| OwnedFd::from_raw_fd(descriptor as i32))
        };
        descriptor.map(Handle)
    }

    /// Sends a signal to this process, like [`send`].
    ///
    /// # Errors
    /// The same as those of [`send`].
    pub fn send(&self, number: i32) -> nix::Result<()> {
        let no_info = std::ptr::null::<libc::siginfo_t>();
        #[expect(unsafe_code, reason = "nix has no pidfd_send_signal")]
        // SAFETY: without a siginfo the call touches no memory of ours, and the descriptor is open.
        let done = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), number, no_info, 0)
        };
        Errno::result(done).map(drop)
    }
}

/// How a process without a handler reacts to a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Default,
    Ignore,
}

/// Sets the disposition of a signal. A number that is no signal changes nothing.
pub fn set_disposition(number: i32, disposition: Disposition) {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    #[expect(unsafe_code, reason = "nix calls it unsafe, for the sake of handlers")]
    // SAFETY: neither disposition runs code of ours.
    unsafe {
        libc::signal(number, handler);
    }
}

/// A change of state of one child, as wait(2) reports it.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    pub pid: i32,
    /// Whether the child has ended, stopped or continued.
    pub status: ExitStatus,
}

/// Returns any child that has ended, stopped or been continued; `None` if no child has done so now.
/// Ended children are reaped.
///
/// # Errors
/// `ECHILD`: there are no children.
pub fn wait_any() -> nix::Result<Option<Waited>> {
    let mut status = 0;
    let flags = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED | libc::__WALL;
    loop {
        #[expect(
            unsafe_code,
            reason = "nix reaps a child that a real-time signal ended, and then does not say which it was"
        )]
        // SAFETY: the call writes the status to a variable of ours that lives on.
        let pid = unsafe { libc::waitpid(-1, &mut status, flags) };
        match Errno::result(pid) {
            Ok(0) => return Ok(None),
            Ok(pid) => return Ok(Some(Waited { pid, status: ExitStatus::from_raw(status) })),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_the_kernels_and_hold_real_time_signals() {
        let set = Signals::of(&[libc::SIGHUP, 40, 64, 0, 65]);
        assert_eq!(set.0, 1 | 1 << 39 | 1 << 63);
        assert_eq!(set.numbers().collect::<Vec<_>>(), [1, 40, 64]);
        assert!(!set.without(Signals::of(&[40])).contains(40));
        assert!(Signals::ALL.to_set().contains(nix::sys::signal::Signal::SIGTERM));
    }

    #[test]
    fn what_a_supervisor_may_send_ends_a_process() {
        for number in
            [libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGALRM, libc::SIGPIPE, 34, 64]
        {
            assert!(ends(number), "{number}");
        }
        for number in [libc::SIGCONT, libc::SIGWINCH, libc::SIGTSTP] {
            assert!(!ends(number), "{number}");
        }
    }
}
