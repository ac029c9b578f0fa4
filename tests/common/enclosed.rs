//! A back end in memory whose own work can be told apart from the worker's.

use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use hublane::ids::ConnKey;
use hublane::tunnel::buffer::SendBuf;
use hublane::worker::io::{CloseHow, Completion, RecvBuf, StreamIo, Wait};
use hublane::worker::mem::{MemIo, MemSocket};

/// What to do around each call of the back end.
pub(crate) trait Enclosure {
    fn enclose<R>(work: impl FnOnce() -> R) -> R;
}

/// A back end in memory that does all of its work within `E`.
pub(crate) struct Enclosed<E>(MemIo, PhantomData<E>);

impl<E> Enclosed<E> {
    pub(crate) fn new(io: MemIo) -> Self {
        Self(io, PhantomData)
    }
}

impl<E: Enclosure> StreamIo for Enclosed<E> {
    type Socket = MemSocket;

    fn open(&mut self, key: ConnKey, socket: MemSocket) -> io::Result<()> {
        E::enclose(|| self.0.open(key, socket))
    }

    fn watch(&mut self, watch: u8, device: OwnedFd) -> io::Result<()> {
        E::enclose(|| self.0.watch(watch, device))
    }

    fn send(&mut self, key: ConnKey, buf: SendBuf) {
        E::enclose(|| self.0.send(key, buf));
    }

    fn limit_unsent(&mut self, key: ConnKey, bytes: u32) {
        E::enclose(|| self.0.limit_unsent(key, bytes));
    }

    fn shutdown_write(&mut self, key: ConnKey) {
        E::enclose(|| self.0.shutdown_write(key));
    }

    fn close(&mut self, key: ConnKey, how: CloseHow) {
        E::enclose(|| self.0.close(key, how));
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        E::enclose(|| self.0.turn(wait))
    }

    fn next(&mut self) -> Option<Completion> {
        E::enclose(|| self.0.next())
    }

    fn is_quiet(&self) -> bool {
        E::enclose(|| self.0.is_quiet())
    }

    fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        E::enclose(|| self.0.bytes(buf))
    }

    fn recycle(&mut self, buf: RecvBuf) {
        E::enclose(|| self.0.recycle(buf));
    }
}
