//! Where a flow stands: for TCP the machine of RFC 6146 §3.5.2 as amended by RFC 7857 §2, without sequence numbers.
//!
//! Nothing that anybody sends ends a connection at once: a reset (perhaps forged) leaves it four minutes, and any
//! packet but another reset brings it back.
#![forbid(unsafe_code)]

use super::plan::Timeouts;
use crate::wire::tcp::{FLAG_FIN, FLAG_RST, FLAG_SYN};

/// State of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// UDP.
    #[default]
    Udp,
    /// A question by UDP to port 53 that has an answer.
    UdpAnswered,
    /// ICMP query.
    Icmp,
    /// SYN from inside.
    SynOut,
    /// SYN from outside.
    SynIn,
    /// SYN from both sides.
    Established,
    /// FIN from inside.
    FinOut,
    /// FIN from outside.
    FinIn,
    /// FIN from both sides.
    FinBoth,
    /// Reset by somebody.
    Reset,
    /// Ended early; its external port towards that destination rests.
    Resting,
}

impl State {
    /// Name in lists.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::UdpAnswered => "udp_answered",
            Self::Icmp => "icmp",
            Self::SynOut => "syn_out",
            Self::SynIn => "syn_in",
            Self::Established => "established",
            Self::FinOut => "fin_out",
            Self::FinIn => "fin_in",
            Self::FinBoth => "fin_both",
            Self::Reset => "reset",
            Self::Resting => "resting",
        }
    }
}

/// The state after a TCP segment, and whether the flow's time begins anew.
#[inline]
pub(super) fn next(state: State, flags: u8, outbound: bool) -> (State, bool) {
    use State::{Established, FinBoth, FinIn, FinOut, Reset, SynIn, SynOut};
    if flags & (FLAG_RST | FLAG_SYN | FLAG_FIN) == 0 {
        return match state {
            Reset => (Established, true),
            // The time of what is closed runs, whoever still sends (RFC 6146: no packet resets it).
            FinBoth => (state, false),
            SynIn => (state, outbound),
            _ => (state, true),
        };
    }
    if flags & FLAG_RST != 0 {
        return match state {
            Established | FinOut | FinIn => (Reset, true),
            _ => (state, false),
        };
    }
    if flags & FLAG_SYN != 0 {
        return match (state, outbound) {
            (SynOut, false) | (SynIn, true) => (Established, true),
            // Somebody outside does not keep alive what nobody inside has answered.
            (SynIn, false) => (state, false),
            (FinBoth | Reset, true) => (SynOut, true),
            (FinBoth | Reset, false) => (SynIn, true),
            _ => (state, true),
        };
    }
    match (state, outbound) {
        (Established | Reset, true) => (FinOut, true),
        (Established | Reset, false) => (FinIn, true),
        (FinOut, false) | (FinIn, true) => (FinBoth, true),
        (FinBoth, _) => (state, false),
        (SynIn, false) => (state, false),
        _ => (state, true),
    }
}

/// How long a flow in each state lives without being refreshed, in units of [`coarse`] time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes([u32; 11]);

impl Lifetimes {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        // Times are cut to whole units; one more unit keeps every flow its full time.
        let units = |span: std::time::Duration| {
            u32::try_from((span.as_nanos() >> COARSE_BITS) + 2).unwrap_or(u32::MAX).min(LIFETIME_MAX)
        };
        let mut table = [0; 11];
        for (state, span) in [
            (State::Udp, timeouts.udp),
            (State::UdpAnswered, timeouts.udp_dns),
            (State::Icmp, timeouts.icmp),
            (State::SynOut, timeouts.tcp_partial_open),
            (State::SynIn, timeouts.tcp_partial_open),
            (State::Established, timeouts.tcp_established),
            (State::FinOut, timeouts.tcp_established),
            (State::FinIn, timeouts.tcp_established),
            (State::FinBoth, timeouts.tcp_closing),
            (State::Reset, timeouts.tcp_closing),
            (State::Resting, timeouts.quarantine),
        ] {
            table[state as usize] = units(span);
        }
        Self(table)
    }

    #[inline]
    pub(super) fn of(&self, state: State) -> u32 {
        self.0[state as usize]
    }
}

/// Coarse time: units of 2^28 ns, about a quarter of a second. They last 36 years in 32 bits.
#[inline]
pub(super) fn coarse(now: crate::tick::Tick) -> u32 {
    ((now.0 >> COARSE_BITS) & 0xffff_ffff) as u32
}

/// The moment at which a unit begins.
pub(super) fn from_coarse(units: u32) -> crate::tick::Tick {
    crate::tick::Tick(u64::from(units) << COARSE_BITS)
}

const COARSE_BITS: u32 = 28;
/// Ten years.
const LIFETIME_MAX: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::State::{Established, FinBoth, FinIn, FinOut, Reset, SynIn, SynOut};
    use super::*;
    use crate::wire::tcp::FLAG_ACK;

    /// Every transition of RFC 6146 §3.5.2.2 and RFC 7857 §2.
    #[test]
    fn transitions() {
        let (syn, fin, rst, ack) = (FLAG_SYN, FLAG_FIN | FLAG_ACK, FLAG_RST, FLAG_ACK);
        for (state, flags, out, in_) in [
            (SynOut, syn, (SynOut, true), (Established, true)),
            (SynOut, syn | ack, (SynOut, true), (Established, true)),
            (SynOut, ack, (SynOut, true), (SynOut, true)),
            (SynOut, rst, (SynOut, false), (SynOut, false)),
            (SynIn, syn | ack, (Established, true), (SynIn, false)),
            (SynIn, ack, (SynIn, true), (SynIn, false)),
            (SynIn, fin, (SynIn, true), (SynIn, false)),
            (Established, ack, (Established, true), (Established, true)),
            (Established, syn, (Established, true), (Established, true)),
            (Established, fin, (FinOut, true), (FinIn, true)),
            (Established, rst | ack, (Reset, true), (Reset, true)),
            (FinOut, fin, (FinOut, true), (FinBoth, true)),
            (FinOut, ack, (FinOut, true), (FinOut, true)),
            (FinOut, rst, (Reset, true), (Reset, true)),
            (FinIn, fin, (FinBoth, true), (FinIn, true)),
            (FinBoth, ack, (FinBoth, false), (FinBoth, false)),
            (FinBoth, fin, (FinBoth, false), (FinBoth, false)),
            (FinBoth, rst, (FinBoth, false), (FinBoth, false)),
            (FinBoth, syn, (SynOut, true), (SynIn, true)),
            (Reset, ack, (Established, true), (Established, true)),
            (Reset, fin, (FinOut, true), (FinIn, true)),
            (Reset, rst, (Reset, false), (Reset, false)),
            (Reset, syn, (SynOut, true), (SynIn, true)),
        ] {
            assert_eq!(next(state, flags, true), out, "{state:?} {flags:#x} outbound");
            assert_eq!(next(state, flags, false), in_, "{state:?} {flags:#x} inbound");
        }
    }
}
