//! The signals that end a program, as a descriptor that becomes readable. They are caught, not blocked: a blocked one
//! would stay so in the programs that this one starts.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use nix::libc;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Where the handler writes to; 0: nowhere.
static BELL: AtomicI32 = AtomicI32::new(0);

/// From now on SIGINT, SIGTERM and SIGHUP do nothing but make the descriptor readable. Once in a process.
///
/// # Errors
/// If there is no descriptor, or this was called before.
pub fn catch() -> io::Result<OwnedFd> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let kept = bell.as_fd().try_clone_to_owned()?;
    if BELL.compare_exchange(0, bell.as_fd().as_raw_fd(), Relaxed, Relaxed).is_err() {
        return Err(io::Error::other("signals are caught already"));
    }
    // The handler has its number.
    std::mem::forget(bell);
    let action = SigAction::new(SigHandler::Handler(ring), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but an atomic load and write(2), which a handler may do.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(kept)
}

extern "C" fn ring(_signal: libc::c_int) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: eight bytes that live through the call, to a descriptor that is never closed; the handler interrupts no code
    // that looks at errno of write(2) on it.
    unsafe { libc::write(BELL.load(Relaxed), one.as_ptr().cast(), one.len()) };
}

/// What `command` starts is killed when the thread that starts it ends, however that comes.
pub fn end_with_us(command: &mut Command) {
    // SAFETY: between fork and exec nothing is called but prctl(2), which is a bare system call.
    unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn a_signal_makes_it_readable() {
        let bell = catch().unwrap();
        let readable = || {
            let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(5_000u16)).unwrap_or(0) == 1
        };
        nix::sys::signal::raise(Signal::SIGHUP).unwrap();
        assert!(readable());
        assert!(catch().is_err());
    }

    #[test]
    fn a_program_ends_with_its_thread() {
        let start = || {
            let mut command = Command::new("sleep");
            end_with_us(&mut command);
            command.arg("60").spawn()
        };
        let mut child = std::thread::spawn(start).join().unwrap().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
    }
}
