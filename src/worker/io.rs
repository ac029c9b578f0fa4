//! The seam between a worker and the kernel: sockets of members as streams of bytes.
//!
//! One back end per worker, created and used by the worker's own thread. The worker names each
//! socket by a [`ConnKey`] of its choice. Nothing happens between two calls of [`StreamIo::turn`]:
//! `send` and the rest only note what is wanted, `turn` hands everything to the kernel at once and
//! collects what has happened, [`StreamIo::next`] tells it piece by piece.
//!
//! Implemented by io_uring and epoll (`sys`) and by memory pipes (tests).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::ids::ConnKey;
use crate::tunnel::buffer::SendBuf;

/// Bytes received, lent by the back end: read them with [`StreamIo::bytes`], then give them back by
/// [`StreamIo::recycle`]. Not `Clone`: giving it back moves it away.
#[derive(Debug, PartialEq, Eq)]
pub struct RecvBuf {
    /// Which buffer of the back end.
    pub id: u32,
    /// Where in that buffer the bytes begin.
    pub start: u32,
    /// How many bytes there are, at least one.
    pub len: u32,
}

/// Something that happened to the socket of `key`.
#[derive(Debug)]
pub enum Completion {
    /// Bytes arrived.
    Received {
        /// Whose.
        key: ConnKey,
        /// The bytes.
        buf: RecvBuf,
    },
    /// The peer has closed its direction; nothing more will be received.
    Eof {
        /// Whose.
        key: ConnKey,
    },
    /// Receiving failed; nothing more will be received.
    RecvFailed {
        /// Whose.
        key: ConnKey,
        /// What the kernel said.
        error: io::ErrorKind,
    },
    /// The send in flight ended.
    Sent {
        /// Whose.
        key: ConnKey,
        /// Given back. Still has what was not sent.
        buf: SendBuf,
        /// `Ok`: everything is in the hands of the kernel.
        result: Result<(), io::ErrorKind>,
    },
    /// The socket is closed and the key is free. Last completion of this key; a send in flight was
    /// answered by `Sent` before it.
    Closed {
        /// Which key.
        key: ConnKey,
    },
    /// A device that is watched may have become readable.
    Ready {
        /// Which, as named in [`StreamIo::watch`].
        watch: u8,
    },
    /// Somebody rang the waker.
    Woken,
}

/// How to close a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseHow {
    /// Let the kernel deliver what was sent (linger off).
    Orderly,
    /// Reset the peer.
    Abort,
}

/// How long [`StreamIo::turn`] may wait for the first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Poll,
    /// This long at most.
    For(Duration),
    /// Until something happens.
    Forever,
}

/// The sockets of one worker.
pub trait StreamIo {
    /// What [`Self::open`] takes: a descriptor, or one end of a memory pipe.
    type Socket: Send + 'static;

    /// Takes a connected socket and starts receiving from it.
    ///
    /// # Errors
    /// If the back end cannot take another socket; the socket is closed then and `key` stays free.
    fn open(&mut self, key: ConnKey, socket: Self::Socket) -> io::Result<()>;

    /// From now on tells by [`Completion::Ready`] whenever `device` becomes readable, in place of the device that was
    /// watched under this number. Who reads must read until nothing is left, or look again by himself.
    ///
    /// # Errors
    /// If the back end cannot watch it.
    fn watch(&mut self, watch: u8, device: OwnedFd) -> io::Result<()>;

    /// Sends what is pending in `buf`, all of it. At most one send per key may be in flight.
    fn send(&mut self, key: ConnKey, buf: SendBuf);

    /// Has the kernel take more only while fewer than `bytes` wait unsent for `key` (`TCP_NOTSENT_LOWAT`).
    fn limit_unsent(&mut self, key: ConnKey, bytes: u32);

    /// Ends our direction (TCP FIN) once the send in flight is done.
    fn shutdown_write(&mut self, key: ConnKey);

    /// Ends everything about `key`; [`Completion::Closed`] follows in this or a later turn. Bytes
    /// received meanwhile may still be reported before it.
    fn close(&mut self, key: ConnKey, how: CloseHow);

    /// Hands over all that was asked for, waits as `wait` allows, collects completions.
    ///
    /// # Errors
    /// If the kernel object itself failed; the worker cannot go on then.
    fn turn(&mut self, wait: Wait) -> io::Result<()>;

    /// The next thing that happened; `None` once everything was told. What the caller leaves stays for later
    /// turns, and as long as something is left, [`Self::turn`] does not wait.
    fn next(&mut self) -> Option<Completion>;

    /// Whether there is nothing to tell, nor anything else for which [`Self::turn`] would not wait.
    fn is_quiet(&self) -> bool;

    /// The bytes of `buf`.
    fn bytes(&self, buf: &RecvBuf) -> &[u8];

    /// Gives `buf` back for receiving.
    fn recycle(&mut self, buf: RecvBuf);
}
