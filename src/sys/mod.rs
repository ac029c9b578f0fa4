//! Everything `unsafe`, and every system call the standard library and `nix` do not wrap.
//!
//! Each file wraps one kernel object in safe types; nothing above sees a raw pointer.

pub mod affinity;
pub mod clock;
pub mod epoll;
pub mod features;
pub mod limits;
pub mod socket;
pub mod uring;
pub mod waker;

mod bufring;
mod mmap;
mod ring;

#[cfg(test)]
mod conformance;
