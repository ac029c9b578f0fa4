//! What the process may use and what it leaves behind.
#![forbid(unsafe_code)]

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

#[cfg(test)]
mod tests {
    use super::*;

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
