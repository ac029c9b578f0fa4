//! Keeps the host's stack away from what belongs to the lane: a program at the ingress of a device.
//!
//! Packet sockets get a copy of each frame, and the original goes on to the stack, which would answer packets to our
//! ports with a reset. The program drops those. It hangs on a link of BPF that is held open by us alone: when the process
//! ends, however it ends, link and program are gone.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use super::bpf::{Program, TcProgram, programs_at_ingress};

/// Holds the program in place. Dropping it takes the program away.
#[derive(Debug)]
pub struct HostGuard {
    _link: OwnedFd,
}

/// Why the host's stack cannot be kept away.
#[derive(Debug, thiserror::Error)]
pub enum NoGuard {
    /// The kernel refuses the program itself.
    #[error(
        "the kernel refuses a filter at the ingress of the device ({0}): CAP_BPF and CAP_NET_ADMIN are needed, or root; without it the host would answer packets for the NAT's ports with resets"
    )]
    Load(io::Error),
    /// It cannot be attached: no links at tc.
    #[error(
        "this kernel cannot attach a filter that goes with the process ({0}): Linux 6.6 is needed (tcx links); with an older one use a dedicated address on a device of its own without an IPv4 address"
    )]
    TooOld(io::Error),
    /// It cannot be attached for another reason.
    #[error("the filter cannot be attached to the device ({0}): is it still there, and is CAP_NET_ADMIN granted?")]
    Attach(io::Error),
}

impl HostGuard {
    /// Puts `program` before everything else at the ingress of the device with this index.
    ///
    /// # Errors
    /// Without the rights, on kernels before 6.6, without the device.
    pub fn attach(program: &Program, ifindex: u32) -> Result<Self, NoGuard> {
        let program = TcProgram::load(program).map_err(NoGuard::Load)?;
        let link = program.attach(ifindex).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP) => NoGuard::TooOld(error),
            _ => NoGuard::Attach(error),
        })?;
        Ok(Self { _link: link })
    }
}

/// How many programs, of whoever, stand at the ingress of the device with this index.
///
/// # Errors
/// Without the rights, on kernels before 6.6, without the device.
pub fn programs_at(ifindex: u32) -> io::Result<u32> {
    programs_at_ingress(ifindex)
}
