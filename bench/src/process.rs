//! What another process of this machine has used.

use std::error::Error;
use std::fs;

/// A process by its number.
pub(crate) struct Process(u32);

impl Process {
    /// The process `pid`.
    pub(crate) fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// CPU time of all its threads, user and system, in seconds; counted in ticks of 10 ms (proc(5)).
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0))?;
        ticks(&stat)
            .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
            .ok_or_else(|| "/proc/PID/stat has another form".into())
    }
}

/// utime and stime, fields 14 and 15. The name, field 2, may hold anything but ends with the last bracket.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// `USER_HZ` of every architecture Linux runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_may_hold_brackets_and_blanks() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a"), None);
    }
}
