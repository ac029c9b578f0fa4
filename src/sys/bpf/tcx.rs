//! A filter at the ingress of a device, before the host's stack (tcx).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{Base, Code, PROG_QUERY, ProgQuery, Program, bpf, link_create, prog_load, prog_test_run};

/// A program for tc that the kernel has checked. Gone when nothing refers to it.
#[derive(Debug)]
pub struct TcProgram(OwnedFd);

impl TcProgram {
    /// Loads `program`.
    ///
    /// # Errors
    /// Without CAP_BPF and CAP_NET_ADMIN; if the kernel has no bpf(2).
    pub fn load(program: &Program) -> io::Result<Self> {
        let code = Code {
            prog_type: PROG_TYPE_SCHED_CLS,
            name: "hublane_lane",
            license: c"MIT",
            insns: &program.extended(Base::Ethernet)?,
            flags: 0,
            expected_attach_type: 0,
        };
        Ok(Self(prog_load(&code, &mut [])?))
    }

    /// Runs it on `frame` as if the loopback device had received it; what it returned.
    ///
    /// # Errors
    /// If the kernel does not do that.
    pub fn try_on(&self, frame: &[u8]) -> io::Result<u32> {
        prog_test_run(self.0.as_fd(), frame, &[])
    }

    /// Puts it before all other programs at the ingress of the device with this index, for as long as the result lives.
    ///
    /// # Errors
    /// `EINVAL` on kernels before 6.6.
    pub(in crate::sys) fn attach(&self, ifindex: u32) -> io::Result<OwnedFd> {
        link_create(self.0.as_fd(), ifindex, TCX_INGRESS, F_BEFORE)
    }
}

/// How many programs stand at the ingress of the device with this index.
pub(in crate::sys) fn programs_at_ingress(ifindex: u32) -> io::Result<u32> {
    let mut attribute = ProgQuery { target_ifindex: ifindex, attach_type: TCX_INGRESS, ..ProgQuery::default() };
    // SAFETY: the attribute is that of the command and points to nothing.
    unsafe { bpf(PROG_QUERY, &mut attribute) }?;
    Ok(attribute.count)
}

const PROG_TYPE_SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const F_BEFORE: u32 = 8;
