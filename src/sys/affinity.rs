//! Which thread runs on which CPU.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::str::FromStr;

use core_affinity::CoreId;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// CPUs by number, ascending, each once, at least one. Written as the kernel does: `0-3,5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

/// Why a CPU list could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuListError {
    /// Neither a number nor a range.
    #[error("\"{0}\" is neither a CPU number nor a range such as 0-3")]
    Syntax(String),
    /// A range that ends before it begins.
    #[error("range \"{0}\" ends before it begins")]
    Backwards(String),
    /// A number no system has.
    #[error("CPU {0} is above {max}, the highest number supported", max = CpuList::NUMBER_MAX)]
    TooHigh(usize),
}

impl CpuList {
    /// Highest CPU number: `cpu_set_t` of the C library has 1024 bits.
    pub const NUMBER_MAX: usize = 1023;

    /// The numbers, ascending.
    pub fn numbers(&self) -> &[usize] {
        &self.0
    }

    /// CPUs this thread may run on.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn available() -> io::Result<Self> {
        let cores = core_affinity::get_core_ids().ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self::sorted(cores.into_iter().map(|core| core.id).collect()))
    }

    fn sorted(mut numbers: Vec<usize>) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        Self(numbers)
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    fn from_str(text: &str) -> Result<Self, CpuListError> {
        let mut numbers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first, part)?, number(last, part)?);
            if last < first {
                return Err(CpuListError::Backwards(part.to_owned()));
            }
            numbers.extend(first..=last);
        }
        Ok(Self::sorted(numbers))
    }
}

/// One CPU number out of `part`.
fn number(digits: &str, part: &str) -> Result<usize, CpuListError> {
    // `parse` alone would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CpuListError::Syntax(part.to_owned()));
    }
    let number = digits.parse().map_err(|_| CpuListError::Syntax(part.to_owned()))?;
    if number > CpuList::NUMBER_MAX { Err(CpuListError::TooHigh(number)) } else { Ok(number) }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match run {
                [one] => write!(f, "{comma}{one}")?,
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

/// Lets the calling thread run on CPU `cpu` only.
///
/// # Errors
/// If there is no such CPU or the process may not use it.
pub fn pin_current_thread(cpu: usize) -> io::Result<()> {
    if cpu <= CpuList::NUMBER_MAX && core_affinity::set_for_current(CoreId { id: cpu }) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("cannot run on CPU {cpu}")))
    }
}

/// Lets the calling thread run on the CPUs of `list` only.
///
/// # Errors
/// If the process may use none of them.
pub fn confine_current_thread(list: &CpuList) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in list.numbers() {
        set.set(*cpu)?;
    }
    // Process 0 means the calling thread.
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written() {
        for (text, numbers, canonical) in [
            ("0", vec![0], "0"),
            ("0-3,5", vec![0, 1, 2, 3, 5], "0-3,5"),
            ("7, 2 ,2-3", vec![2, 3, 7], "2-3,7"),
            ("1023", vec![1023], "1023"),
        ] {
            let list: CpuList = text.parse().unwrap();
            assert_eq!(list.numbers(), numbers, "{text}");
            assert_eq!(list.to_string(), canonical);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ",", "1,", "a", "-1", "+1", "1-", "-", "1-2-3", "99999999999999999999999"] {
            assert!(matches!(text.parse::<CpuList>(), Err(CpuListError::Syntax(_))), "{text:?}");
        }
        assert_eq!("3-1".parse::<CpuList>(), Err(CpuListError::Backwards("3-1".into())));
        assert_eq!("0-4000000000".parse::<CpuList>(), Err(CpuListError::TooHigh(4_000_000_000)));
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let cpu = CpuList::available().unwrap().numbers()[0];
        let there = std::thread::spawn(move || {
            pin_current_thread(cpu).unwrap();
            CpuList::available().unwrap()
        });
        assert_eq!(there.join().unwrap().numbers(), [cpu]);
        assert!(pin_current_thread(CpuList::NUMBER_MAX).is_err());
        assert!(pin_current_thread(usize::MAX).is_err());
    }
}
