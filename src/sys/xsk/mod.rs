//! An AF_XDP socket: frames of one queue of a device, past the kernel's stack.
//!
//! Frames lie in memory that is shared with the kernel (`src/sys/umem.rs`), and rings (`rings.rs`) say which. Which
//! frames come is decided by the XDP program of the device, which names the socket in a map; without it none do.
//!
//! With a driver that can do so, the device itself reads and writes that memory (zero-copy). Otherwise the kernel copies, which
//! saves nothing over a packet socket; then a system call sends 32 descriptors at most, and [`Xsk::kick`] makes as many
//! calls as it takes.
#![allow(unsafe_code)]

mod checksum;
mod frames;
mod open;
mod options;
mod rings;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use frames::Frames;
pub use frames::TxRefused;
pub use options::{BusyPoll, Copying, NoXsk, XskFacts, XskOptions, XskStatistics};

/// See the module text.
#[derive(Debug)]
pub struct Xsk {
    /// Closed first: see [`crate::sys::umem::Umem`] for why the memory may go then.
    fd: OwnedFd,
    frames: Frames,
    facts: XskFacts,
    tx_chunks: usize,
}

impl Xsk {
    /// Opens a socket on a queue. Frames come to it once it stands in the map of an XDP program.
    ///
    /// [`Copying::Auto`] tries zero-copy before copying, and frames in several pieces before none. A queue stays busy for some
    /// milliseconds after its last socket was closed: who opens it again tries again.
    ///
    /// # Errors
    /// [`NoXsk`] says what to do.
    pub fn open(options: &XskOptions) -> Result<Self, NoXsk> {
        open::open(options)
    }

    /// What was found out when it was opened.
    pub fn facts(&self) -> &XskFacts {
        &self.facts
    }

    /// Gives back to the kernel what the last call lent, then takes whole frames, at most `max`; how many. Never waits.
    ///
    /// # Errors
    /// `ENETDOWN`, `ENXIO` or `ENODEV` if the device is down or gone, as far as the kernel had to be called at all: see
    /// [`Self::trouble`].
    pub fn receive(&mut self, max: usize) -> io::Result<usize> {
        let got = self.frames.receive(max);
        self.frames.reap();
        // With busy polling, the call is what makes the device look at its queue.
        if self.frames.rings.fill.needs_wakeup() || self.facts.busy_poll && got == 0 {
            self.wake(Direction::Receive)?;
        }
        Ok(got)
    }

    /// The bytes of the frame number `index` of those received last.
    #[inline]
    pub fn peek(&self, index: usize) -> Option<&[u8]> {
        self.frames.peek(index)
    }

    /// The same, to be changed.
    #[inline]
    pub fn frame(&mut self, index: usize) -> Option<&mut [u8]> {
        self.frames.frame(index)
    }

    /// Copies a frame of `bytes`, given in `pieces`, and queues it for [`Self::kick`].
    ///
    /// `checksum`: where the checksum of TCP or UDP begins to count, and how far behind stands its field, which holds the
    /// folded sum of the pseudo-header. It is finished here, or by who sends the frame, if that was found to be possible.
    ///
    /// # Errors
    /// [`TxRefused`]; nothing is queued then.
    #[inline]
    pub fn push<'a>(
        &mut self,
        bytes: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
        checksum: Option<(usize, usize)>,
    ) -> Result<(), TxRefused> {
        self.frames.push(bytes, pieces, checksum)
    }

    /// Makes the kernel send what is queued. Never waits: what could not be sent yet stays queued for the next kick.
    ///
    /// # Errors
    /// `ENETDOWN`, `ENXIO` or `ENODEV` if the device is down or gone.
    pub fn kick(&mut self) -> io::Result<()> {
        self.frames.rings.tx.submit();
        // A call takes 32 descriptors, or what is left of a frame in several; some may be refused for a moment.
        for _ in 0..self.tx_chunks.div_ceil(KICK_DESCRIPTORS) + 1 {
            let before = self.queued();
            // With busy polling the call is what makes the device send.
            let is_asleep = self.frames.rings.tx.needs_wakeup() || self.facts.busy_poll;
            if before == 0 || !is_asleep {
                break;
            }
            self.wake(Direction::Send)?;
            self.frames.reap();
            if self.facts.zero_copy || self.queued() == before {
                // The device goes on by itself; or there is no room, which another call would not make.
                break;
            }
        }
        self.frames.reap();
        Ok(())
    }

    /// Descriptors that the kernel has not taken.
    #[inline]
    pub fn queued(&self) -> usize {
        self.frames.rings.tx.waiting() as usize
    }

    /// What went wrong with frames, since the socket was opened.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn statistics(&self) -> io::Result<XskStatistics> {
        // SAFETY: integers, for which zeros are values.
        let mut said: libc::xdp_statistics = unsafe { std::mem::zeroed() };
        open::get(self.fd.as_fd(), libc::XDP_STATISTICS, &mut said)?;
        let faults = self.frames.faults();
        Ok(XskStatistics {
            rx_dropped: said.rx_dropped,
            rx_ring_full: said.rx_ring_full,
            rx_no_chunk: said.rx_fill_ring_empty_descs,
            rx_invalid: said.rx_invalid_descs,
            tx_invalid: said.tx_invalid_descs,
            tx_ring_empty: said.tx_ring_empty_descs,
            bad_descriptors: faults.bad_descriptors,
            oversize: faults.oversize,
        })
    }

    /// What happened to the socket behind our back, once: `ENETDOWN` if its device is gone. In copy mode receiving needs no
    /// system call, so who only receives asks this from time to time.
    ///
    /// # Errors
    /// See above.
    pub fn trouble(&self) -> io::Result<()> {
        match nix::sys::socket::getsockopt(&self.fd, nix::sys::socket::sockopt::SocketError)? {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Calls the kernel, which looks at the rings then.
    fn wake(&self, direction: Direction) -> io::Result<()> {
        let (fd, flags) = (self.fd.as_raw_fd(), libc::MSG_DONTWAIT);
        let done = match direction {
            Direction::Send => {
                // SAFETY: no bytes and no address.
                unsafe { libc::sendto(fd, std::ptr::null(), 0, flags, std::ptr::null(), 0) }
            }
            Direction::Receive => {
                let nowhere = std::ptr::null_mut();
                // SAFETY: room for no bytes and no address.
                unsafe { libc::recvfrom(fd, nowhere, 0, flags, std::ptr::null_mut(), std::ptr::null_mut()) }
            }
        };
        if done >= 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            // More is left than one call takes; the device, its queue or the socket's share of memory is full.
            error
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::ENOMEM | libc::EINTR)
                ) =>
            {
                Ok(())
            }
            error => Err(error),
        }
    }
}

impl AsFd for Xsk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Receive,
    Send,
}

/// What the kernel sends in one call in copy mode (`TX_BATCH_SIZE` of net/xdp/xsk.c).
const KICK_DESCRIPTORS: usize = 32;
