//! What another process of this machine uses.

use std::error::Error;
use std::fs;

use hublane::sys::clock::process_cpu_ns;

/// A process by its number.
pub(crate) struct Process(u32);

impl Process {
    /// The process `pid`.
    pub(crate) fn new(pid: u32) -> Self {
        Self(pid)
    }

    /// CPU time of all its threads, user and system, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Result<u64, Box<dyn Error>> {
        process_cpu_ns(self.0).map_err(|error| format!("process {}: {error}", self.0).into())
    }

    /// The same in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64, Box<dyn Error>> {
        Ok(self.cpu_ns()? as f64 / 1e9)
    }

    /// Memory that is resident, in KiB.
    pub(crate) fn rss_kib(&self) -> Result<u64, Box<dyn Error>> {
        self.status("VmRSS")
    }

    /// Threads.
    pub(crate) fn threads(&self) -> Result<u64, Box<dyn Error>> {
        self.status("Threads")
    }

    fn status(&self, field: &str) -> Result<u64, Box<dyn Error>> {
        let path = format!("/proc/{}/status", self.0);
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        number(&text, field).ok_or_else(|| format!("{path} has no number for {field}").into())
    }
}

/// The number after `field:` in the form of proc_pid_status(5).
fn number(status: &str, field: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let status = "Name:\thub\nVmRSSx:\t1 kB\nVmRSS:\t  1234 kB\nThreads:\t7\n";
        assert_eq!(number(status, "VmRSS"), Some(1234));
        assert_eq!(number(status, "Threads"), Some(7));
        assert_eq!(number(status, "Name"), None);
        assert_eq!(number(status, "VmR"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_cpu_time() {
        let own = Process::new(std::process::id());
        assert!(own.rss_kib().unwrap() > 100);
        assert!(own.threads().unwrap() >= 1);
        assert!(own.cpu_ns().unwrap() > 0);
    }
}
