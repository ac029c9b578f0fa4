//! What this kernel can do, found by trying it: versions lie, because distributions move features
//! back and hosts forbid them.
//!
//! A [`FeatureMask`] hides what was found, so that tests run as on users' kernels.
#![allow(unsafe_code)]

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::time::Duration;

use io_uring::{Probe, opcode, types};

use super::bufring::{self, BufRing};
use super::ring::{Cqe, Ring};
use crate::worker::io::Wait;

/// Which features may be used, whatever the kernel has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FeatureMask {
    /// All that are there.
    #[default]
    All,
    /// Those of Linux 6.1: io_uring without bundles, incremental buffers, NAPI, minimal wait and no-iowait.
    K6_1,
    /// Those of Linux 5.15: io_uring lacks multishot receive, so epoll.
    K5_15,
}

impl FromStr for FeatureMask {
    type Err = UnknownMask;

    fn from_str(text: &str) -> Result<Self, UnknownMask> {
        match text {
            "all" => Ok(Self::All),
            "6.1" => Ok(Self::K6_1),
            "5.15" => Ok(Self::K5_15),
            _ => Err(UnknownMask(text.to_owned())),
        }
    }
}

impl fmt::Display for FeatureMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::K6_1 => "6.1",
            Self::K5_15 => "5.15",
        })
    }
}

/// Text that names no [`FeatureMask`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel features \"{0}\" are not known; say all, 6.1 or 5.15")]
pub struct UnknownMask(String);

/// When completions are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRun {
    /// Only in `turn` (SINGLE_ISSUER and DEFER_TASKRUN, Linux 6.1): nothing interrupts the worker.
    Deferred,
    /// At any switch to the kernel (COOP_TASKRUN, 5.19).
    Cooperative,
    /// At any time, by interrupting the worker.
    Plain,
}

/// What io_uring offers beyond what the back end needs (multishot receive into buffer rings,
/// cancellation by descriptor, waiting with a timeout, no lost completions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringFeatures {
    /// The best mode there is.
    pub task_run: TaskRun,
    /// One completion for several receive buffers (6.10).
    pub bundles: bool,
    /// Buffers that are filled bit by bit (6.12).
    pub incremental_buffers: bool,
    /// Busy polling of the NIC queue (6.9).
    pub napi: bool,
    /// Waiting a little for more than one completion (6.12).
    pub min_wait: bool,
    /// Waiting that does not count as waiting for a disk (6.15).
    pub no_iowait: bool,
}

/// Why io_uring is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoUring {
    /// The kernel refuses a ring.
    #[error(
        "io_uring is refused here ({0}): see sysctl kernel.io_uring_disabled, the seccomp profile of the container and the limit of locked memory (ulimit -l)"
    )]
    Forbidden(String),
    /// The kernel is too old or built without.
    #[error("this kernel's io_uring has no {0}")]
    Missing(&'static str),
    /// [`FeatureMask`] hides it.
    #[error("io_uring is hidden by --kernel-features {0}")]
    Masked(FeatureMask),
}

/// What this kernel can do, as far as the mask lets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFeatures {
    /// io_uring, or why epoll must do.
    pub uring: Result<UringFeatures, NoUring>,
}

impl KernelFeatures {
    /// Tries everything, which takes a few milliseconds, and hides what `mask` hides.
    pub fn probe(mask: FeatureMask) -> Self {
        let uring = match mask {
            FeatureMask::All => probe_uring(),
            FeatureMask::K6_1 => probe_uring().map(|found| UringFeatures {
                bundles: false,
                incremental_buffers: false,
                napi: false,
                min_wait: false,
                no_iowait: false,
                ..found
            }),
            FeatureMask::K5_15 => Err(NoUring::Masked(mask)),
        };
        Self { uring }
    }

    /// Name of the back end that workers use.
    pub const fn back_end(&self) -> &'static str {
        match self.uring {
            Ok(_) => "io_uring",
            Err(_) => "epoll",
        }
    }

    /// Each optional feature by name, and whether it is there.
    pub fn list(&self) -> Vec<(&'static str, bool)> {
        let found = self.uring.as_ref().ok();
        let has = |feature: fn(&UringFeatures) -> bool| found.is_some_and(feature);
        vec![
            ("io_uring", found.is_some()),
            ("deferred task work", has(|f| f.task_run == TaskRun::Deferred)),
            ("cooperative task work", has(|f| f.task_run != TaskRun::Plain)),
            ("receive bundles", has(|f| f.bundles)),
            ("incremental buffers", has(|f| f.incremental_buffers)),
            ("NAPI busy polling", has(|f| f.napi)),
            ("minimal wait", has(|f| f.min_wait)),
            ("no iowait", has(|f| f.no_iowait)),
        ]
    }
}

impl fmt::Display for KernelFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.uring {
            Err(reason) => write!(f, "epoll ({reason})"),
            Ok(_) => {
                let names = |wanted: bool| {
                    let list: Vec<_> =
                        self.list().into_iter().filter(|(_, has)| *has == wanted).map(|(n, _)| n).collect();
                    if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
                };
                write!(f, "{}; without {}", names(true), names(false))
            }
        }
    }
}

fn probe_uring() -> Result<UringFeatures, NoUring> {
    // Two operations and their completions; the smallest ring there is will do.
    let ring = |task_run| Ring::new(PROBE_ENTRIES, PROBE_ENTRIES * 2, task_run, false);
    let (task_run, ring) = match ring(TaskRun::Deferred) {
        Ok(deferred) => (TaskRun::Deferred, deferred),
        Err(_) => match ring(TaskRun::Cooperative) {
            Ok(cooperative) => (TaskRun::Cooperative, cooperative),
            Err(_) => (TaskRun::Plain, ring(TaskRun::Plain).map_err(refusal)?),
        },
    };
    require_basics(&ring)?;
    let incremental_buffers = BufRing::register(&ring, PROBE_BUFFERS, PROBE_BUFFER_BYTES, INCREMENTAL).is_ok();
    if incremental_buffers {
        // The group is used again below; if it could not be freed, registering says so.
        let _ = ring.inner().submitter().unregister_buf_ring(bufring::GROUP);
    }
    let napi = {
        let mut settings = types::Napi::new();
        let submitter = ring.inner().submitter();
        submitter.register_napi(&mut settings).is_ok() && submitter.unregister_napi(&mut settings).is_ok()
    };
    let parameters = ring.inner().params();
    let found = UringFeatures {
        task_run,
        bundles: parameters.is_feature_recvsend_bundle(),
        incremental_buffers,
        napi,
        min_wait: parameters.is_feature_min_timeout(),
        no_iowait: parameters.is_feature_no_iowait(),
    };
    require_multishot(ring)?;
    Ok(found)
}

/// What to say when no ring can be had.
fn refusal(error: io::Error) -> NoUring {
    match error.raw_os_error() {
        Some(libc::EINVAL) => NoUring::Missing("way to go on after a failing operation (Linux 5.18)"),
        _ => NoUring::Forbidden(error.to_string()),
    }
}

/// Operations and promises that cannot be done without.
fn require_basics(ring: &Ring) -> Result<(), NoUring> {
    let parameters = ring.inner().params();
    if !parameters.is_feature_nodrop() {
        return Err(NoUring::Missing("promise to lose no completion (Linux 5.5)"));
    }
    if !parameters.is_feature_ext_arg() {
        return Err(NoUring::Missing("waiting with a timeout (Linux 5.11)"));
    }
    let mut probe = Probe::new();
    ring.inner().submitter().register_probe(&mut probe).map_err(refusal)?;
    for (code, name) in [
        (opcode::RecvMulti::CODE, "receiving"),
        (opcode::Send::CODE, "sending"),
        (opcode::AsyncCancel2::CODE, "cancellation"),
        (opcode::PollAdd::CODE, "polling"),
    ] {
        if !probe.is_supported(code) {
            return Err(NoUring::Missing(name));
        }
    }
    Ok(())
}

/// Receives from a socket pair, then cancels.
fn require_multishot(mut ring: Ring) -> Result<(), NoUring> {
    let missing_buffers = NoUring::Missing("buffer rings (Linux 5.19)");
    let mut buffers = BufRing::register(&ring, PROBE_BUFFERS, PROBE_BUFFER_BYTES, 0).map_err(|_| missing_buffers)?;
    let works = try_multishot(&mut ring);
    if !ring.quiesce() {
        buffers.keep_mapped();
    }
    // The ring goes first: the kernel must not have buffers that are gone.
    drop(ring);
    drop(buffers);
    match works {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(NoUring::Missing(what)),
        Err(error) => Err(refusal(error)),
    }
}

/// What does not work, if anything.
fn try_multishot(ring: &mut Ring) -> io::Result<Option<&'static str>> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let fd = types::Fd(ours.as_raw_fd());
    let receive = opcode::RecvMulti::new(fd, bufring::GROUP).build().user_data(PROBE_RECEIVE);
    // SAFETY: points to no memory but the registered buffers, which the caller keeps.
    unsafe { ring.push(receive) };
    // Twice, because a single shot answers the first as well.
    for _ in 0..2 {
        theirs.write_all(b"x")?;
        match first_of(ring, PROBE_RECEIVE)? {
            Some(cqe) if cqe.result == 1 && cqe.more() && cqe.buffer().is_some() => {}
            _ => return Ok(Some("multishot receive (Linux 6.0)")),
        }
    }
    let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd).all()).build().user_data(PROBE_CANCEL);
    // SAFETY: points to no memory.
    unsafe { ring.push(cancel) };
    match first_of(ring, PROBE_RECEIVE)? {
        Some(cqe) if cqe.result == -libc::ECANCELED && !cqe.more() => Ok(None),
        _ => Ok(Some("cancellation by descriptor (Linux 5.19)")),
    }
}

/// The next completion of `user_data`; `None` if it does not come.
fn first_of(ring: &mut Ring, user_data: u64) -> io::Result<Option<Cqe>> {
    let mut reaped = Vec::new();
    for _ in 0..PROBE_TRIES {
        ring.enter(Wait::For(PROBE_PATIENCE))?;
        ring.reap(&mut reaped);
        if let Some(cqe) = reaped.iter().find(|cqe| cqe.user_data == user_data) {
            return Ok(Some(*cqe));
        }
    }
    Ok(None)
}

/// `IOU_PBUF_RING_INC`.
const INCREMENTAL: u16 = 2;
const PROBE_ENTRIES: u32 = 4;
const PROBE_BUFFERS: u16 = 4;
const PROBE_BUFFER_BYTES: u32 = 64;
const PROBE_RECEIVE: u64 = 1;
const PROBE_CANCEL: u64 = 2;
/// What is tried happens at once or not at all; only a stalled host needs more than a moment.
const PROBE_TRIES: u32 = 20;
const PROBE_PATIENCE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_and_written() {
        for mask in [FeatureMask::All, FeatureMask::K6_1, FeatureMask::K5_15] {
            assert_eq!(mask.to_string().parse(), Ok(mask));
        }
        assert!("6.2".parse::<FeatureMask>().is_err());
    }

    #[test]
    fn a_mask_hides_what_the_kernel_has() {
        let hidden = KernelFeatures::probe(FeatureMask::K5_15);
        assert_eq!(hidden.uring, Err(NoUring::Masked(FeatureMask::K5_15)));
        assert!(hidden.list().iter().all(|(_, has)| !has));
        assert!(hidden.to_string().starts_with("epoll (io_uring is hidden"), "{hidden}");

        let all = KernelFeatures::probe(FeatureMask::All);
        let old = KernelFeatures::probe(FeatureMask::K6_1);
        assert_eq!(all.uring.is_ok(), old.uring.is_ok());
        if let (Ok(all), Ok(old)) = (all.uring, old.uring) {
            assert_eq!(old.task_run, all.task_run);
            assert!(!old.bundles && !old.incremental_buffers && !old.napi && !old.min_wait && !old.no_iowait);
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let text = refusal(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.contains("kernel.io_uring_disabled"), "{text}");
        assert!(matches!(refusal(io::Error::from_raw_os_error(libc::ENOSYS)), NoUring::Forbidden(_)));
    }
}
