//! The few calls into the operating system that the standard library lacks.
//! Every `unsafe` block of the launcher is in this file.

use std::cell::Cell;
use std::io::{self, Read};
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A signal that the launcher sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Signal {
    Interrupt = libc::SIGINT,
    Kill = libc::SIGKILL,
    Quit = libc::SIGQUIT,
    Terminate = libc::SIGTERM,
}

/// The user this process acts as; 0 is root.
pub(crate) fn effective_uid() -> u32 {
    #[expect(unsafe_code, reason = "std has no geteuid")]
    // SAFETY: geteuid takes nothing, cannot fail and touches no memory of ours.
    unsafe {
        libc::geteuid()
    }
}

/// Sends a signal to one process. A process that is gone already is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = libc::pid_t::try_from(pid) {
        kill(pid, signal);
    }
}

/// Sends a signal to every process of the group that `leader` leads.
pub(crate) fn send_to_group(leader: u32, signal: Signal) {
    match libc::pid_t::try_from(leader) {
        // kill(-1) would mean "everything", kill(0) "my own group"
        Ok(leader) if leader > 1 => kill(-leader, signal),
        _ => {}
    }
}

fn kill(target: libc::pid_t, signal: Signal) {
    #[expect(unsafe_code, reason = "std can only send SIGKILL")]
    // SAFETY: kill takes two integers and touches no memory of ours.
    unsafe {
        libc::kill(target, signal as i32);
    }
}

/// Lets the kernel send `signal` to the program when the launcher dies, however it dies, so that no orphan is left.
/// The signal is tied to the *thread* that spawned the program: spawn from the main thread only.
#[cfg(target_os = "linux")]
pub(crate) fn die_with_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;

    let parent = std::process::id();
    let in_child = move || {
        #[expect(unsafe_code, reason = "std has no death signal")]
        // SAFETY: prctl and getppid take integers and touch no memory of ours.
        let (result, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong), libc::getppid()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // The launcher may have died before prctl: then the signal would never come.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "the death signal must be set in the child, between fork and exec")]
    // SAFETY: the closure makes only system calls that are async-signal-safe, and allocates nothing. std changes the
    // user (`uid`, `gid`) before it runs: a change of credentials would clear the setting.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Other systems have no death signal; see [`crate::children`] for what stands in for it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn die_with_parent(_: &mut Command, _: Signal) {}

/// How often the user asked to stop (SIGINT, SIGTERM, SIGHUP).
static STOP_REQUESTS: AtomicU32 = AtomicU32::new(0);
/// The socket that wakes [`Signals::wait`]; -1 before [`Signals::install`].
static WAKE: AtomicI32 = AtomicI32::new(-1);

/// The signals that come to the launcher: requests to stop, and news of children.
pub(crate) struct Signals {
    woken: UnixStream,
}

impl Signals {
    /// Takes over SIGINT, SIGTERM, SIGHUP and SIGCHLD of this process.
    pub(crate) fn install() -> io::Result<Self> {
        let (woken, wake) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        WAKE.store(wake.into_raw_fd(), Ordering::Relaxed);
        let handler = on_signal as extern "C" fn(i32) as libc::sighandler_t;
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD] {
            #[expect(unsafe_code, reason = "std has no signal handling")]
            // SAFETY: the handler does only what is async-signal-safe: atomics and write(2).
            let before = unsafe { libc::signal(signal, handler) };
            if before == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Signals { woken })
    }

    /// Sleeps until a signal comes (also the end of a child), at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        // A zero timeout would mean "for ever".
        if self.woken.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).is_ok() {
            let _timed_out_or_woken = (&self.woken).read(&mut [0; 64]);
        }
    }

    /// Whether the user asked to stop.
    pub(crate) fn stop_requested(&self) -> bool {
        STOP_REQUESTS.load(Ordering::Relaxed) > 0
    }

    /// Begins to stop things; who asks once more from now on does not want to wait.
    pub(crate) fn begin_stop(&self) -> Stop<'_> {
        let requests = Cell::new(STOP_REQUESTS.load(Ordering::Relaxed));
        Stop { signals: self, began: Instant::now(), requests }
    }
}

/// A stop in progress.
pub(crate) struct Stop<'a> {
    signals: &'a Signals,
    began: Instant,
    requests: Cell<u32>,
}

impl Stop<'_> {
    /// Whether the user asked again since it began. A request right behind the first is the same one: `timeout`, for
    /// example, signals the process and then its group.
    pub(crate) fn is_urgent(&self) -> bool {
        let requests = STOP_REQUESTS.load(Ordering::Relaxed);
        if self.began.elapsed() < Duration::from_millis(300) {
            self.requests.set(requests);
        }
        requests > self.requests.get()
    }

    /// Sleeps a little, or until a signal comes.
    pub(crate) fn wait(&self) {
        self.signals.wait(Duration::from_millis(100));
    }
}

extern "C" fn on_signal(signal: i32) {
    if signal != libc::SIGCHLD {
        STOP_REQUESTS.fetch_add(1, Ordering::Relaxed);
    }
    #[expect(unsafe_code, reason = "write(2) is the async-signal-safe way to wake the main thread")]
    // SAFETY: the descriptor stays open for the life of the process, the buffer is a constant of one byte. errno is
    // put back, since the interrupted code may be about to read it.
    unsafe {
        let errno = errno();
        let saved = *errno;
        libc::write(WAKE.load(Ordering::Relaxed), b"!".as_ptr().cast(), 1);
        *errno = saved;
    }
}

fn errno() -> *mut i32 {
    #[expect(unsafe_code, reason = "std can read errno, but not put it back")]
    // SAFETY: both return the address of this thread's errno, which is always valid.
    unsafe {
        #[cfg(target_os = "linux")]
        return libc::__errno_location();
        #[cfg(not(target_os = "linux"))]
        return libc::__error();
    }
}
