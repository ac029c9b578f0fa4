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
    /// Programs and maps of BPF.
    Bpf = 39,
}

/// Whether this process has the right now. `None`: the kernel does not say.
pub fn has_capability(capability: Capability) -> Option<bool> {
    effective(&fs::read_to_string("/proc/self/status").ok()?).map(|set| set & (1 << capability as u32) != 0)
}

fn effective(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

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
        let status = "Name:\thublane\nCapPrm:\t0000000000000000\nCapEff:\t0000008000003000\n";
        let set = effective(status).unwrap();
        let has = |capability: Capability| set & (1 << capability as u32) != 0;
        assert!(has(Capability::NetAdmin) && has(Capability::NetRaw) && has(Capability::Bpf));
        assert!(!has(Capability::IpcLock) && effective("").is_none());
        assert!(has_capability(Capability::NetRaw).is_some() && locked_memory().is_ok());
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
