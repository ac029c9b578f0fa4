//! Wakes a worker that sleeps in [`StreamIo::turn`](crate::worker::io::StreamIo::turn).
//!
//! Made before the worker's thread exists, so that everybody who may ring has a clone; the back end
//! watches it and tells [`Completion::Woken`](crate::worker::io::Completion::Woken). Ringing costs the sleeper about 24 µs, so
//! ring once per batch and only who sleeps ([`Doorbell`](crate::worker::exchange::Doorbell)).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Rings one worker. Clones ring the same one; the eventfd inside is closed with the last of them.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// If the process or the system is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let fd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Ends the sleep of the worker, or its next one if it is awake.
    pub fn wake(&self) {
        // Fails only if the counter is full, and then the worker has been rung often enough.
        let _ = self.0.write(1);
    }

    /// Takes back all rings so far; whether there were any.
    pub(crate) fn drain(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
