//! The two clocks. Only the outermost loops read them; everything below gets the time as an argument.
#![allow(unsafe_code)]

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::tick::Tick;

/// Now on `CLOCK_MONOTONIC`. The origin is the start of the host, the same for all its processes, so
/// a tick stays valid when a process hands its connections to a successor.
#[inline]
pub fn monotonic() -> Tick {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a writable timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    debug_assert_eq!(result, 0, "CLOCK_MONOTONIC always exists");
    // Neither part is ever negative.
    Tick(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
}

/// CPU time of the calling thread, in nanoseconds since its start.
pub fn thread_cpu_ns() -> u64 {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `used` is a writable timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut used) };
    debug_assert_eq!(result, 0, "CLOCK_THREAD_CPUTIME_ID always exists");
    // Neither part is ever negative.
    used.tv_sec.unsigned_abs() * 1_000_000_000 + used.tv_nsec.unsigned_abs()
}

/// CPU time of all threads of the process `pid`, living and ended, in nanoseconds since its start. Any
/// process of this machine can be asked.
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    // 0 is the caller in clock_getcpuclockid(3), a number beyond `pid_t` is no process.
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0).ok_or(Errno::ESRCH)?;
    let used = clock_gettime(clock_getcpuclockid(Pid::from_raw(pid))?)?;
    // Neither part is ever negative.
    Ok(used.tv_sec().unsigned_abs() * 1_000_000_000 + used.tv_nsec().unsigned_abs())
}

/// Nanoseconds since 1970-01-01 00:00 UTC on the wall clock, which may jump; zero before that moment.
/// Good until the year 2554.
pub fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn monotonic_advances_with_real_time() {
        let before = monotonic();
        std::thread::sleep(Duration::from_millis(5));
        let elapsed = monotonic().since(before);
        assert!(elapsed >= Duration::from_millis(5) && elapsed < Duration::from_secs(5), "{elapsed:?}");
    }

    #[test]
    fn cpu_time_of_a_process_grows_by_what_its_threads_use() {
        let before = process_cpu_ns(std::process::id()).unwrap();
        let own = thread_cpu_ns();
        while thread_cpu_ns() < own + 5_000_000 {}
        let used = process_cpu_ns(std::process::id()).unwrap() - before;
        assert!(used >= 5_000_000, "{used} ns");
    }

    #[test]
    fn a_process_that_is_not_there_has_no_cpu_time() {
        assert!(process_cpu_ns(0).is_err());
        assert!(process_cpu_ns(u32::MAX).is_err());
        // Beyond the greatest pid Linux gives.
        assert!(process_cpu_ns(1 << 23).is_err());
    }

    #[test]
    fn wall_clock_is_in_this_century() {
        let years = wall_ns() / 1_000_000_000 / 31_556_952;
        assert!((50..130).contains(&years), "{years} years after 1970");
    }
}
