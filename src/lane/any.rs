//! The back end of a lane, chosen once, at its start.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::mem::MemLane;
use super::merge::TxBurst;
use super::packet::PacketLane;
use super::report::LaneReport;
use super::xdp::XdpLane;
use super::{LaneIo, Link, SendFault};
use crate::wire::offload::Offload;

/// Any back end.
#[derive(Debug)]
pub enum AnyLaneIo {
    /// AF_XDP sockets.
    Xdp(Box<XdpLane>),
    /// Packet sockets.
    Packet(PacketLane),
    /// Memory, for tests.
    Mem(MemLane),
}

macro_rules! each {
    ($self:ident, $io:ident => $call:expr) => {
        match $self {
            Self::Xdp($io) => $call,
            Self::Packet($io) => $call,
            Self::Mem($io) => $call,
        }
    };
}

impl LaneIo for AnyLaneIo {
    fn link(&self) -> Link {
        each!(self, io => io.link())
    }

    fn look(&mut self) -> bool {
        each!(self, io => io.look())
    }

    fn receive(&mut self, frames_max: usize) -> io::Result<usize> {
        each!(self, io => io.receive(frames_max))
    }

    fn peek(&self, index: usize) -> Option<&[u8]> {
        each!(self, io => io.peek(index))
    }

    fn frame(&mut self, index: usize) -> Option<(&mut [u8], Offload)> {
        each!(self, io => io.frame(index))
    }

    fn send(&mut self, burst: &TxBurst, from: usize) -> (usize, Option<SendFault>) {
        each!(self, io => io.send(burst, from))
    }

    fn takes_super_packets(&self) -> bool {
        each!(self, io => io.takes_super_packets())
    }

    fn overflowed(&mut self) -> u64 {
        each!(self, io => io.overflowed())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        each!(self, io => io.fd())
    }

    fn linger(&self) -> Duration {
        each!(self, io => io.linger())
    }

    #[inline]
    fn relay(&self) -> Option<usize> {
        each!(self, io => io.relay())
    }

    fn report(&self) -> LaneReport {
        each!(self, io => io.report())
    }
}
