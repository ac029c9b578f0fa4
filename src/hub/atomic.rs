//! The atomics of the shared tables, under one name: `tests/hub_loom.rs` compiles the same files
//! with loom's in this place.
#![forbid(unsafe_code)]

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

/// How often a worker looks again for the insertion token of a bucket before it gives up learning
/// from this frame. The holder needs some tens of nanoseconds, unless it is not running.
pub const TOKEN_SPINS: usize = 64;
