//! Why the XDP program cannot be had or cannot be attached, in words for the operator.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use nix::net::if_::if_indextoname;
use nix::sys::resource::{Resource, getrlimit};

use super::object::BadObject;
use crate::sys::limits::{self, Capability};

/// Why there is no XDP here.
#[derive(Debug, thiserror::Error)]
pub enum NoXdp {
    /// The process may not.
    #[error(
        "the kernel does not permit XDP ({error}): CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed, or root; {missing}. A unit of systemd names them in AmbientCapabilities=; containers need them from whoever starts them"
    )]
    NoRights {
        /// What the kernel said.
        error: io::Error,
        /// Which capabilities this process lacks, as half a sentence.
        missing: String,
    },
    /// Kernels before 5.11 count maps and programs as locked memory.
    #[error(
        "the kernel does not permit XDP ({error}): before Linux 5.11 maps and programs count as locked memory, of which this process may have {limit} bytes (RLIMIT_MEMLOCK); set LimitMEMLOCK=infinity in the unit of systemd, or `ulimit -l unlimited`"
    )]
    Memlock {
        /// What the kernel said.
        error: io::Error,
        /// Bytes.
        limit: u64,
    },
    /// The verifier does not like the program.
    #[error("the kernel refuses the XDP program ({error}); the end of what its verifier says:\n{log}")]
    Refused {
        /// What the kernel said.
        error: io::Error,
        /// The last lines.
        log: String,
    },
    /// Another program is at the device already.
    #[error(
        "another XDP program is attached to the device ({0}); it stays. `ip link show` names it; take it away, or use --lane-mode packet"
    )]
    Occupied(io::Error),
    /// No native XDP.
    #[error(
        "the driver of the device has no native XDP, or not with the offloads that are on ({0}); where LRO is on, `ethtool -K DEVICE lro off` helps"
    )]
    NotSupported(io::Error),
    /// Native XDP, but not so.
    #[error(
        "the driver of the device does not take an XDP program as the device is set now ({0}): most often its MTU is too large for one receive buffer, or that of the other end of a veth pair is (`ip link set DEVICE mtu 1500`; with many drivers 3498 or less), or it has fewer receive queues than the program needs (`ethtool -L`)"
    )]
    DoesNotFit(io::Error),
    /// No such device.
    #[error("the device for XDP is gone ({0})")]
    Gone(io::Error),
    /// The program in this binary is not usable on this machine.
    #[error(transparent)]
    Object(#[from] BadObject),
    /// Anything else.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl NoXdp {
    /// Of the verifier's refusal, whose last words are `log`: it refuses much to who lacks a right.
    pub(super) fn refused(error: io::Error, log: String) -> Self {
        if own_lacks().is_empty() { Self::Refused { error, log } } else { not_permitted(error) }
    }

    /// Of an error of map creation or program loading.
    pub(super) fn loading(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => not_permitted(error),
            Some(libc::ENOSYS) => Self::Io("this kernel has no bpf(2)", error),
            _ => Self::Io("maps and program for XDP cannot be made", error),
        }
    }

    /// Of an error of attaching to the device with this index.
    pub(super) fn attaching(error: io::Error, ifindex: u32) -> Self {
        match error.raw_os_error() {
            // The kernel has no error of its own for a device that does not exist.
            Some(libc::EINVAL | libc::ENODEV) if !exists(ifindex) => Self::Gone(error),
            Some(libc::EPERM | libc::EACCES) => not_permitted(error),
            Some(libc::EBUSY | libc::EEXIST) => Self::Occupied(error),
            Some(libc::EOPNOTSUPP) => Self::NotSupported(error),
            Some(libc::ERANGE | libc::EINVAL | libc::ENOSPC) => Self::DoesNotFit(error),
            _ => Self::Io("the XDP program cannot be attached", error),
        }
    }
}

fn exists(ifindex: u32) -> bool {
    // An error comes as an empty name: nix takes a null pointer for success here.
    if_indextoname(ifindex).is_ok_and(|name| !name.is_empty())
}

/// Capabilities that this process would need. Without CAP_PERFMON the verifier allows no reckoning with pointers into packets.
fn own_lacks() -> Vec<&'static str> {
    limits::lacking(&[Capability::Bpf, Capability::PerfMon, Capability::NetAdmin])
}

fn not_permitted(error: io::Error) -> NoXdp {
    let lacks = own_lacks();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(soft, _)| soft);
    if lacks.is_empty() && counts_locked_memory(&release) && limit < LOCKED_BYTES {
        return NoXdp::Memlock { error, limit };
    }
    let missing = if lacks.is_empty() {
        "this process has them, so it is in a user namespace, or a security module or the lockdown of the kernel forbids it".to_owned()
    } else {
        format!("this process has no {}", lacks.join(" and no "))
    };
    NoXdp::NoRights { error, missing }
}

/// Whether a kernel of this release is older than 5.11.
fn counts_locked_memory(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0u32));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 11)
}

/// The last lines of a verifier's log.
pub(super) fn end_of_log(log: &[u8]) -> String {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    // The very last line counts instructions.
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES);
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

const LOG_LINES: usize = 12;
/// What the maps would cost on a kernel that counts: 65,536 prefixes of at most 64 bytes, and less than that for the rest.
const LOCKED_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: &NoXdp) -> String {
        error.to_string()
    }

    #[test]
    fn releases_are_compared_by_number() {
        for (release, counts) in [("5.10.0-28-amd64", true), ("5.11.0", false), ("6.1.0", false), ("4.19.1", true)] {
            assert_eq!(counts_locked_memory(release), counts, "{release}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        // The loopback device is there, the last number is not.
        let refused = |number, index| said(&NoXdp::attaching(io::Error::from_raw_os_error(number), index));
        let attaching = |number| refused(number, 1);
        for (number, hint) in [
            (libc::EBUSY, "another XDP program"),
            (libc::EEXIST, "another XDP program"),
            (libc::EOPNOTSUPP, "no native XDP"),
            (libc::ERANGE, "MTU"),
            (libc::EINVAL, "MTU"),
            (libc::EPERM, "CAP_NET_ADMIN"),
        ] {
            assert!(attaching(number).contains(hint), "{}", attaching(number));
        }
        assert!(refused(libc::EINVAL, u32::MAX).contains("gone"));
        assert!(said(&NoXdp::loading(io::Error::from_raw_os_error(libc::ENOSYS))).contains("bpf(2)"));
    }

    #[test]
    fn of_a_log_the_end_is_shown() {
        let log: String = (0..100).map(|n| format!("line {n}\n")).collect();
        let shown = end_of_log(&[log.as_bytes(), &[0; 100]].concat());
        assert_eq!(shown.lines().count(), LOG_LINES);
        assert!(shown.starts_with("  line 88") && shown.ends_with("  line 99"), "{shown}");
        assert_eq!(end_of_log(&[0; 10]), "");
    }
}
