//! What a socket shall be, what it came to be, and why there is none.
#![forbid(unsafe_code)]

use std::io;

/// Who moves the bytes of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Copying {
    /// The device if its driver can, else the kernel.
    #[default]
    Auto,
    /// The device, or there is no socket.
    ZeroCopy,
    /// The kernel.
    Copy,
}

/// Who receives looks at the device's queue itself, and interrupts stay off meanwhile. Worth it with `napi_defer_hard_irqs`
/// and `gro_flush_timeout` set on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long a look may take.
    pub micros: u32,
    /// How many frames it may take.
    pub budget: u32,
}

/// How a socket shall be.
#[derive(Clone, Debug)]
pub struct XskOptions {
    /// The device.
    pub ifindex: u32,
    /// Which of its queues, from 0 on.
    pub queue: u32,
    /// Who moves the bytes.
    pub copying: Copying,
    /// Chunks to receive into. With zero-copy at least twice as many as the device's ring has places, which it fills first.
    pub rx_chunks: u32,
    /// Chunks to send from.
    pub tx_chunks: u32,
    /// Size of a chunk: 2048, or 4096. A received frame has 256 less.
    pub chunk_bytes: u32,
    /// The longest frame that may come, with its headers. If it does not fit into a chunk, a driver that moves only whole
    /// frames is not asked to.
    pub frame_bytes: usize,
    /// Whether and how to poll.
    pub busy_poll: Option<BusyPoll>,
    /// The driver says that it finishes checksums in zero-copy mode. When the kernel copies, it does so anyway.
    pub trust_driver_checksum: bool,
}

/// What was found out when a socket was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XskFacts {
    /// The device reads and writes our memory.
    pub zero_copy: bool,
    /// If it does not, why; goes on after "zero-copy: no, ".
    pub why_copy: Option<String>,
    /// For other [`XskOptions::frame_bytes`] somebody else might have to move the bytes.
    pub length_matters: bool,
    /// Frames longer than a chunk pass, in several.
    pub multi_buffer: bool,
    /// Checksums are finished by kernel or device.
    pub tx_checksum: bool,
    /// Polling was granted.
    pub busy_poll: bool,
}

/// What went wrong with frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XskStatistics {
    /// Frames that did not fit, or for another reason of the kernel.
    pub rx_dropped: u64,
    /// Frames that found the RX ring full.
    pub rx_ring_full: u64,
    /// Frames that found no chunk.
    pub rx_no_chunk: u64,
    /// Chunks that the kernel did not like.
    pub rx_invalid: u64,
    /// Descriptors that the kernel did not like.
    pub tx_invalid: u64,
    /// How often the kernel found nothing to send.
    pub tx_ring_empty: u64,
    /// Descriptors that we did not like.
    pub bad_descriptors: u64,
    /// Received frames with more pieces or bytes than a frame may have.
    pub oversize: u64,
}

/// Why there is no socket, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum NoXsk {
    /// A size is impossible.
    #[error("{0}")]
    Options(&'static str),
    /// The kernel was built without it, or is older than 5.4.
    #[error(
        "this kernel has no AF_XDP (CONFIG_XDP_SOCKETS), or the unit forbids it (RestrictAddressFamilies=AF_XDP): use the lane mode \"packet\""
    )]
    NoKernelSupport,
    /// A capability is missing.
    #[error("no right to open AF_XDP sockets: run as root, or give CAP_NET_RAW and CAP_NET_ADMIN")]
    NoRight,
    /// RLIMIT_MEMLOCK.
    #[error(
        "AF_XDP locks {need_kib} KiB of memory for this queue, and RLIMIT_MEMLOCK allows {allowed}: give CAP_IPC_LOCK, or raise \
         the limit to at least that for all queues together (LimitMEMLOCK= of the unit, `ulimit -l`), or take fewer chunks"
    )]
    MemoryLock {
        /// What this socket needs.
        need_kib: u64,
        /// The limit, as a text.
        allowed: String,
    },
    /// Somebody has it.
    #[error(
        "another AF_XDP socket has queue {0} of the device: end the program that it belongs to (`ss --xdp -p` shows it)"
    )]
    Busy(u32),
    /// The device has fewer queues.
    #[error("the device has no queue {0}: `ethtool -l` shows how many it has, `ethtool -L` sets it")]
    NoQueue(u32),
    /// It was switched off.
    #[error("the device is down: `ip link set … up`")]
    DeviceDown,
    /// There is none with that number.
    #[error("the device is gone")]
    DeviceGone,
    /// Zero-copy was demanded.
    #[error("zero-copy is not to be had ({0}): let the kernel copy, or use the lane mode \"packet\"")]
    NoZeroCopy(String),
    /// Something else.
    #[error("AF_XDP: {what}: {source}")]
    Kernel {
        /// What was asked of the kernel.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl XskOptions {
    /// Whether each frame is received into one chunk.
    pub fn fits(&self) -> bool {
        self.frame_bytes + HEADROOM_BYTES <= self.chunk_bytes as usize
    }

    /// Whether sizes are possible.
    pub(super) fn check(&self) -> Result<(), NoXsk> {
        if !matches!(self.chunk_bytes, 2048 | 4096) {
            return Err(NoXsk::Options("chunks have 2048 or 4096 bytes"));
        }
        if [self.rx_chunks, self.tx_chunks].iter().any(|count| !(CHUNKS_MIN..=CHUNKS_MAX).contains(count)) {
            return Err(NoXsk::Options("a queue has 64 to 65536 chunks for each direction"));
        }
        Ok(())
    }
}

/// `XDP_PACKET_HEADROOM`, which the kernel keeps free in front of what it receives.
const HEADROOM_BYTES: usize = 256;
/// With fewer, bursts would be lost; a frame in 18 pieces must fit.
const CHUNKS_MIN: u32 = 64;
/// 256 MiB.
const CHUNKS_MAX: u32 = 65_536;
