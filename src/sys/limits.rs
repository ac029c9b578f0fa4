//! What the process may use and what it leaves behind.
#![forbid(unsafe_code)]

use std::fs;
use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of descriptors to what the hard limit allows and says how many that is.
/// Each member takes at least one.
///
/// # Errors
/// If the kernel refuses.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// No core dumps and no ptrace by others: memory holds session keys.
///
/// # Errors
/// If the kernel refuses.
pub fn forbid_core_dumps() -> io::Result<()> {
    Ok(prctl::set_dumpable(false)?)
}

/// Lets the calling thread wake from a wait as soon as its time is over: by default the kernel adds up to 50 µs to
/// find others that wake at the same time.
///
/// # Errors
/// If the kernel refuses.
pub fn exact_timers() -> io::Result<()> {
    // Nanoseconds; 0 would mean the default.
    Ok(prctl::set_timerslack(1)?)
}

/// A right that root has and others may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Settings of devices, programs on them.
    NetAdmin = 12,
    /// Packet sockets, AF_XDP.
    NetRaw = 13,
    /// Memory locked beyond the limit.
    IpcLock = 14,
    /// Programs of BPF that reckon with pointers.
    PerfMon = 38,
    /// Programs and maps of BPF.
    Bpf = 39,
}

impl Capability {
    /// As units and manuals call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::PerfMon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    fn is_in(self, effective: u64) -> bool {
        let has = |number: u32| effective & (1 << number) != 0;
        // Once there was one right for all of that, and the kernel still takes it.
        has(self as u32) || (matches!(self, Self::Bpf | Self::PerfMon) && has(SYS_ADMIN))
    }
}

/// Names of those of `needed` that this thread does not have; none if the kernel does not say.
pub fn lacking(needed: &[Capability]) -> Vec<&'static str> {
    let effective = fs::read_to_string("/proc/thread-self/status").ok().and_then(|status| effective(&status));
    lacking_in(needed, effective.unwrap_or(u64::MAX))
}

fn lacking_in(needed: &[Capability], effective: u64) -> Vec<&'static str> {
    needed.iter().filter(|capability| !capability.is_in(effective)).map(|capability| capability.name()).collect()
}

fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// `CAP_SYS_ADMIN`.
const SYS_ADMIN: u32 = 21;

/// Bytes this process may lock in memory.
///
/// # Errors
/// If the kernel does not say.
pub fn locked_memory() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_MEMLOCK)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read() {
        let needed = [Capability::NetAdmin, Capability::PerfMon, Capability::Bpf, Capability::IpcLock];
        for (bits, lacks) in [
            ("000001ffffffffff", &[][..]),
            ("000000c000005000", &[]),
            ("0000000000205000", &[]),
            ("0000008000005000", &["CAP_PERFMON"]),
            ("000000c000004000", &["CAP_NET_ADMIN"]),
            ("000000c000001000", &["CAP_IPC_LOCK"]),
            ("0000000000000000", &["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF", "CAP_IPC_LOCK"]),
        ] {
            let set = effective(&format!("Name:\tx\nCapEff:\t{bits}\nCapBnd:\t0\n")).unwrap();
            assert_eq!(lacking_in(&needed, set), lacks, "{bits}");
        }
        assert!(effective("nothing of the kind").is_none() && locked_memory().is_ok());
    }

    #[test]
    fn open_files_reach_the_hard_limit() {
        let raised = raise_open_files().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((soft, hard), (raised, raised));
    }

    #[test]
    fn timers_have_no_slack_afterwards() {
        std::thread::spawn(|| {
            exact_timers().unwrap();
            assert_eq!(prctl::get_timerslack().unwrap(), 1);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn process_is_not_dumpable_afterwards() {
        forbid_core_dumps().unwrap();
        let dumpable = prctl::get_dumpable().unwrap();
        // Other tests share this process.
        prctl::set_dumpable(true).unwrap();
        assert!(!dumpable);
    }
}
