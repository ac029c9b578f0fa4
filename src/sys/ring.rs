//! An io_uring: submission without loss, one system call per turn, completions as plain values.
//!
//! Knows nothing of sockets; `uring.rs` does. Whoever pushes an operation answers for its memory
//! until its last completion; [`Ring::quiesce`] waits for all of them.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::features::TaskRun;
use crate::worker::io::Wait;

/// One completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cqe {
    /// As given with the operation.
    pub(super) user_data: u64,
    /// Not negative: what the operation yields; negative: an error number.
    pub(super) result: i32,
    flags: u32,
}

impl Cqe {
    /// The operation goes on and more completions of it follow.
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }

    /// The provided buffer that the kernel took for it.
    pub(super) fn buffer(&self) -> Option<u16> {
        cqueue::buffer_select(self.flags)
    }
}

/// A ring of the calling thread; no other thread may use it.
pub(super) struct Ring {
    ring: IoUring,
    /// Operations that found the submission queue full, in order. While it has any, later ones queue
    /// behind them.
    backlog: VecDeque<squeue::Entry>,
    /// Operations whose last completion has not been reaped.
    in_flight: usize,
    enter_flags: EnterFlags,
}

impl Ring {
    /// Sets up a ring for `sq_entries` operations per system call and room for `cq_entries`
    /// completions (more are kept by the kernel); both are rounded up to a power of two.
    ///
    /// # Errors
    /// Those of io_uring_setup(2); `EINVAL` if the kernel does not know `task_run`.
    pub(super) fn new(sq_entries: u32, cq_entries: u32, task_run: TaskRun, no_iowait: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // A failing operation must not hold up those behind it.
        builder.dontfork().setup_clamp().setup_cqsize(cq_entries).setup_submit_all();
        match task_run {
            // The flag tells, without a system call, whether completions wait to be run.
            TaskRun::Deferred => builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag(),
            TaskRun::Cooperative => builder.setup_coop_taskrun().setup_taskrun_flag(),
            TaskRun::Plain => &mut builder,
        };
        let ring = builder.build(sq_entries)?;
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if no_iowait {
            // A worker that waits for members is idle, not blocked on a disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self { ring, backlog: VecDeque::new(), in_flight: 0, enter_flags })
    }

    /// The ring itself, for registering and for its parameters.
    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Queues `entry`, to be handed over by the next [`Self::enter`], earlier if the queue is full.
    /// Never loses it.
    ///
    /// # Safety
    /// Memory that `entry` points to must stay valid, and must not be written if the kernel reads it or
    /// touched at all if the kernel writes it, until the last completion of `entry` was reaped.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        if self.backlog.is_empty() {
            // SAFETY: the caller's promise.
            if unsafe { self.try_push(&entry) } {
                return;
            }
            // A failure shows again in `enter`, which reports it.
            let _ = self.ring.submit();
            // SAFETY: the caller's promise.
            if unsafe { self.try_push(&entry) } {
                return;
            }
        }
        self.backlog.push_back(entry);
    }

    /// # Safety
    /// As [`Self::push`].
    unsafe fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Hands over what was pushed, waits for the first completion as `wait` allows.
    ///
    /// # Errors
    /// If the ring itself failed.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            // SAFETY: the promise made to `push` when it put the entry into the backlog.
            if !unsafe { self.try_push(&entry) } {
                self.backlog.push_front(entry);
                break;
            }
        }
        let wait = if self.backlog.is_empty() { wait } else { Wait::Poll };
        let queue = self.ring.submission();
        let (to_submit, kernel_wants_us) = (queue.len(), queue.taskrun() || queue.cq_overflow());
        drop(queue);
        let timeout;
        let (want, args) = match wait {
            // Nothing to hand over and nothing to run: what has completed is visible already.
            Wait::Poll if to_submit == 0 && !kernel_wants_us => return Ok(()),
            Wait::Poll => (0, types::SubmitArgs::new()),
            Wait::Forever => (1, types::SubmitArgs::new()),
            Wait::For(span) => {
                // Relative: in a time namespace the kernel would take an absolute time for the host's.
                timeout = types::Timespec::from(span);
                (1, types::SubmitArgs::new().timespec(&timeout))
            }
        };
        let to_submit = u32::try_from(to_submit).expect("a ring has at most 32768 entries");
        // SAFETY: with EXT_ARG the kernel takes an `io_uring_getevents_arg`, which `SubmitArgs` is; it reads the
        // timespec that this may point to before it returns, and that lives until the end of this function.
        let entered = unsafe { self.ring.submitter().enter(to_submit, want, self.enter_flags.bits(), Some(&args)) };
        harmless(entered)
    }

    /// Appends the completions there are now.
    pub(super) fn reap(&mut self, into: &mut Vec<Cqe>) {
        for entry in self.ring.completion() {
            let cqe = Cqe { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() };
            self.in_flight -= usize::from(!cqe.more());
            into.push(cqe);
        }
    }

    /// Cancels everything and waits until it has ended. `false` if something did not end in a second:
    /// memory of operations may then never be freed.
    #[must_use]
    pub(super) fn quiesce(&mut self) -> bool {
        let cancel = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
        // SAFETY: points to no memory.
        unsafe { self.push(cancel) };
        let mut reaped = Vec::new();
        for _ in 0..100 {
            if self.in_flight == 0 {
                return true;
            }
            if self.enter(Wait::For(Duration::from_millis(10))).is_err() {
                return false;
            }
            self.reap(&mut reaped);
            reaped.clear();
        }
        self.in_flight == 0
    }
}

/// Whether entering the kernel has failed in earnest.
fn harmless(entered: io::Result<usize>) -> io::Result<()> {
    match entered.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) => Ok(()),
        // Time is up, or a signal came; or completions must be reaped, or memory is short, before
        // more can be handed over: the rest stays queued for the next turn.
        Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn rings() -> impl Iterator<Item = Ring> {
        [TaskRun::Deferred, TaskRun::Cooperative, TaskRun::Plain]
            .into_iter()
            .filter_map(|task_run| Ring::new(8, 64, task_run, false).ok())
    }

    #[test]
    fn a_wait_ends_in_its_time() {
        for mut ring in rings() {
            for span in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(50)] {
                let began = Instant::now();
                ring.enter(Wait::For(span)).unwrap();
                let took = began.elapsed();
                assert!(took >= span && took < span + Duration::from_secs(2), "{span:?}: {took:?}");
            }
        }
    }

    #[test]
    fn what_waits_in_the_backlog_is_handed_over_before_the_wait() {
        for mut ring in rings() {
            // What `push` leaves when the kernel is short of memory, and more than the queue holds.
            for number in 0..20 {
                ring.backlog.push_back(opcode::Nop::new().build().user_data(number));
                ring.in_flight += 1;
            }
            let (began, mut reaped) = (Instant::now(), Vec::new());
            while reaped.len() < 20 && began.elapsed() < Duration::from_secs(5) {
                ring.enter(Wait::For(Duration::from_secs(5))).unwrap();
                ring.reap(&mut reaped);
            }
            assert!(began.elapsed() < Duration::from_secs(5));
            assert_eq!(reaped.iter().map(|cqe| cqe.user_data).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
            assert!(ring.quiesce());
        }
    }
}
