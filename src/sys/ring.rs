//! An io_uring: submission without loss, one system call per turn, completions as plain values.
//!
//! Knows nothing of sockets; `uring.rs` does. Whoever pushes an operation answers for its memory
//! until its last completion; [`Ring::quiesce`] waits for all of them.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};

use super::clock::monotonic;
use super::features::TaskRun;
use crate::tick::Tick;
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
    /// Ends of the timeouts in flight; each is later than those behind it.
    alarms: Vec<Tick>,
    /// Length of the youngest; the kernel reads it when that is handed over.
    alarm_span: Box<types::Timespec>,
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
        let mut enter_flags = EnterFlags::GETEVENTS;
        if no_iowait {
            // A worker that waits for members is idle, not blocked on a disk.
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        Ok(Self {
            ring,
            backlog: VecDeque::new(),
            in_flight: 0,
            enter_flags,
            alarms: Vec::new(),
            alarm_span: Box::default(),
        })
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
        if let Wait::For(span) = wait {
            self.set_alarm(span);
        }
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
        let want = match wait {
            // Nothing to hand over and nothing to run: what has completed is visible already.
            Wait::Poll if to_submit == 0 && !kernel_wants_us => return Ok(()),
            Wait::Poll => 0,
            Wait::For(_) | Wait::Forever => 1,
        };
        let to_submit = u32::try_from(to_submit).expect("a ring has at most 32768 entries");
        // SAFETY: without EXT_ARG the last argument is a signal mask, and there is none.
        let entered = unsafe { self.ring.submitter().enter::<()>(to_submit, want, self.enter_flags.bits(), None) };
        harmless(entered)
    }

    /// Sees to it that a completion comes in `span` or before. A timeout that is in flight stays, and serves all later
    /// waits that may last longer: setting and taking back a timer of the kernel at each wait costs more than one
    /// waking in vain now and then.
    fn set_alarm(&mut self, span: Duration) {
        let at = monotonic() + span;
        if self.alarms.last().is_some_and(|next| *next <= at) {
            return;
        }
        // Relative: in a time namespace the kernel would take an absolute time for the host's.
        *self.alarm_span = types::Timespec::from(span);
        let entry = opcode::Timeout::new(&raw const *self.alarm_span).build();
        // SAFETY: the timespec lives as long as the ring. If several alarms that were not handed over share it, all get
        // the youngest one, which is the shortest.
        unsafe { self.push(entry.user_data(ALARM)) };
        self.alarms.push(at);
    }

    /// Appends the completions there are now, but those of alarms.
    pub(super) fn reap(&mut self, into: &mut Vec<Cqe>) {
        for entry in self.ring.completion() {
            let cqe = Cqe { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() };
            self.in_flight -= usize::from(!cqe.more());
            if cqe.user_data == ALARM {
                // The earliest one; they end in order.
                self.alarms.pop();
            } else {
                into.push(cqe);
            }
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
            // Alarms name no memory.
            if self.in_flight == self.alarms.len() {
                return true;
            }
            if self.enter(Wait::For(Duration::from_millis(10))).is_err() {
                return false;
            }
            self.reap(&mut reaped);
            reaped.clear();
        }
        self.in_flight == self.alarms.len()
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

/// Name of all alarms; no [`super::uring`] tag looks like it.
const ALARM: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns until no alarm is left, or `longest` is over; how long that took.
    fn alarm_after(ring: &mut Ring, longest: Duration) -> Duration {
        let began = monotonic();
        let mut others = Vec::new();
        while !ring.alarms.is_empty() && monotonic().since(began) < longest {
            ring.enter(Wait::Poll).unwrap();
            ring.reap(&mut others);
        }
        monotonic().since(began)
    }

    #[test]
    fn an_alarm_comes_in_its_time_also_behind_a_backlog() {
        for backlog in [0, 1] {
            let Ok(mut ring) = Ring::new(8, 64, TaskRun::Plain, false) else { return };
            for _ in 0..backlog {
                // What `push` leaves when the kernel is short of memory.
                ring.backlog.push_back(opcode::Nop::new().build());
                ring.in_flight += 1;
            }
            ring.set_alarm(Duration::from_millis(50));
            let took = alarm_after(&mut ring, Duration::from_secs(5));
            assert!(took >= Duration::from_millis(50) && took < Duration::from_secs(5), "backlog {backlog}: {took:?}");
        }
    }

    #[test]
    fn waits_of_one_length_share_an_alarm() {
        let Ok(mut ring) = Ring::new(8, 64, TaskRun::Plain, false) else { return };
        for _ in 0..1_000 {
            ring.set_alarm(Duration::from_secs(5));
        }
        assert_eq!(ring.alarms.len(), 1);
        ring.set_alarm(Duration::from_secs(1));
        assert_eq!(ring.alarms.len(), 2);
        assert!(ring.quiesce());
    }
}
