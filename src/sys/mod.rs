//! Everything `unsafe`, and every system call the standard library and `nix` do not wrap.
//!
//! Each file wraps one kernel object in safe types; nothing above sees a raw pointer.

pub mod affinity;
pub mod bpf;
pub mod clock;
pub mod congestion;
pub mod epoll;
pub mod ethtool;
pub mod features;
pub mod irq;
pub mod limits;
pub mod netdev;
pub mod netlink;
pub mod nic;
pub mod packet;
pub mod rsa;
pub mod signals;
pub mod socket;
pub mod steer;
pub mod tap;
pub mod tc;
pub mod tcp;
pub mod uring;
pub mod vnet;
pub mod waker;
pub mod xsk;

mod bufring;
mod mmap;
mod ring;
mod umem;

#[cfg(test)]
mod conformance;
