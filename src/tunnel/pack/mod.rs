//! PACK, the message format of the login and of the management calls (protocol note §2).
//!
//! A PACK is a list of named, typed arrays. [`Pack`] is a checked view of received bytes that copies
//! no value, so that a secret stays where the caller can wipe it; [`PackWriter`] builds a message.
//! Names are compared without regard to ASCII case.
#![forbid(unsafe_code)]

mod read;
mod write;

pub use read::{Pack, PackError, PackLimits};
pub use write::PackWriter;

/// Longest element name in bytes.
pub const NAME_BYTES_MAX: usize = 63;

/// PACK times count from nine hours before the Unix epoch (§2.3): the original writes local time of Tokyo.
const EPOCH_OFFSET_MS: u64 = 32_400_000;

/// Type numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Data,
    Str,
    Unistr,
    Int64,
}

impl Kind {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Int,
            1 => Self::Data,
            2 => Self::Str,
            3 => Self::Unistr,
            4 => Self::Int64,
            _ => return None,
        })
    }

    const fn number(self) -> u32 {
        match self {
            Self::Int => 0,
            Self::Data => 1,
            Self::Str => 2,
            Self::Unistr => 3,
            Self::Int64 => 4,
        }
    }
}

/// The value of a PACK time for `unix_ms`; `None` is "never". 0 on the wire means "never", so that
/// instant itself, nine hours before 1970, cannot be told.
pub const fn wire_time(unix_ms: Option<u64>) -> u64 {
    match unix_ms {
        None => 0,
        Some(ms) => ms.saturating_sub(EPOCH_OFFSET_MS),
    }
}

/// Milliseconds since the Unix epoch of a PACK time; `None` is "never".
pub const fn unix_ms(wire: u64) -> Option<u64> {
    match wire {
        0 => None,
        ms => Some(ms.saturating_add(EPOCH_OFFSET_MS)),
    }
}

#[cfg(test)]
mod tests;
