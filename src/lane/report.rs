//! What a back end says of itself to the operator.
#![forbid(unsafe_code)]

/// See the module text. Made when somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneReport {
    /// Which back end: `packet`, `xdp`, `xdp generic`, `memory`.
    pub mode: &'static str,
    /// How packets come to the worker that has their port: `fanout`, `ntuple`, `rss`, `handoff`.
    pub steer: &'static str,
    /// Receive queues of the device that are this worker's.
    pub queues: Vec<QueueReport>,
    /// Number of the worker that sends for this one, which has no queue.
    pub relay: Option<usize>,
    /// What the XDP program has decided, by name; only the first worker tells.
    pub decisions: Vec<(&'static str, u64)>,
    /// What the device has lost by the program, or why the lane is down, in words; only the first worker tells.
    pub remarks: Vec<String>,
}

/// A queue of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueReport {
    /// Its number.
    pub queue: u32,
    /// The device reads and writes our memory itself.
    pub zero_copy: bool,
    /// Why it does not.
    pub why_copy: Option<String>,
    /// Packets lost because the ring to us was full, or for want of a chunk where the kernel copies.
    pub ring_drops: u64,
    /// Times the kernel or the device found no chunk to receive into.
    pub starved: u64,
    /// Descriptors that the kernel refused, or that we did.
    pub bad_descriptors: u64,
}
