//! What a session gets of what the client asked for (protocol note §3.6).
#![forbid(unsafe_code)]

use super::{CONNECTIONS_MAX, Wants};

/// Shortest and longest session timeout, the stock range.
const TIMEOUT_MS_MIN: u32 = 5_000;
const TIMEOUT_MS_MAX: u32 = 60_000;

/// What the server allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one session; taken as 1 to [`CONNECTIONS_MAX`].
    pub max_connection: u8,
    /// May frames be compressed?
    pub compress: bool,
    /// May connections be one-way?
    pub half_duplex: bool,
    /// May urgent frames have a connection of their own?
    pub qos: bool,
    /// Session timeout in ms; taken as 5,000 to 60,000.
    pub timeout_ms: u32,
}

/// What both ends will do. Encryption is always on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Connections, 1 to [`CONNECTIONS_MAX`].
    pub max_connection: u8,
    /// zlib per frame, both ways.
    pub compress: bool,
    /// Super-frames cross whole. Compression is for single frames, so not with it.
    pub supers: bool,
    /// Each connection carries data one way only.
    pub half_duplex: bool,
    /// The newest connection is for urgent frames.
    pub qos: bool,
    /// Session timeout in ms.
    pub timeout_ms: u32,
}

/// Brings wishes and limits together. One-way connections need two of them, and so does a connection for urgent frames:
/// they raise a wish for fewer, and are refused where fewer are allowed.
pub fn negotiate(wants: &Wants, limits: &Limits) -> Negotiated {
    let allowed = limits.max_connection.clamp(1, CONNECTIONS_MAX);
    let half_duplex = wants.half_duplex && limits.half_duplex && allowed >= 2;
    let compress = wants.compress && limits.compress;
    let one_each_way = if half_duplex { 2 } else { 1 };
    let qos = wants.qos && limits.qos && allowed >= 2 * one_each_way;
    let least = if qos { 2 * one_each_way } else { one_each_way };
    Negotiated {
        max_connection: wants.max_connection.clamp(least, allowed),
        compress,
        supers: wants.supers && !compress,
        half_duplex,
        qos,
        timeout_ms: limits.timeout_ms.clamp(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let limits = |max_connection, compress, half_duplex| Limits {
            max_connection,
            compress,
            half_duplex,
            qos: false,
            timeout_ms: 20_000,
        };
        let wants = |max_connection, compress, half_duplex| Wants {
            max_connection,
            compress,
            half_duplex,
            qos: true,
            encrypt: false,
            ..Wants::default()
        };
        let table = [
            (wants(1, false, false), limits(32, true, true), (1, false, false)),
            (wants(8, true, false), limits(4, true, true), (4, true, false)),
            (wants(8, true, true), limits(32, false, true), (8, false, true)),
            (wants(1, false, true), limits(32, true, true), (2, false, true)),
            (wants(1, false, true), limits(1, true, true), (1, false, false)),
            (wants(4, false, true), limits(8, true, false), (4, false, false)),
            (wants(0, false, false), limits(0, true, true), (1, false, false)),
            (wants(255, false, false), limits(255, true, true), (32, false, false)),
        ];
        for (wants, limits, (max_connection, compress, half_duplex)) in table {
            let expected =
                Negotiated { max_connection, compress, supers: false, half_duplex, qos: false, timeout_ms: 20_000 };
            assert_eq!(negotiate(&wants, &limits), expected, "{wants:?} {limits:?}");
            let wants = Wants { supers: true, ..wants };
            assert_eq!(
                negotiate(&wants, &limits),
                Negotiated { supers: !compress, ..expected },
                "{wants:?} {limits:?}"
            );
        }
        // Asked for, allowed, connections allowed: granted, connections. Beside one-way ones it takes four.
        let qos = [
            ((true, 1, false), (true, 32), (true, 2)),
            ((true, 8, false), (true, 32), (true, 8)),
            ((true, 8, false), (true, 1), (false, 1)),
            ((true, 1, false), (false, 32), (false, 1)),
            ((false, 1, false), (true, 32), (false, 1)),
            ((true, 1, true), (true, 4), (true, 4)),
            ((true, 1, true), (true, 3), (false, 2)),
        ];
        for ((qos, wanted, half_duplex), (allowed, most), expected) in qos {
            let wants = Wants { qos, ..wants(wanted, false, half_duplex) };
            let found = negotiate(&wants, &Limits { qos: allowed, ..limits(most, false, true) });
            assert_eq!((found.qos, found.max_connection), expected, "{wants:?}");
        }
        for (asked, given) in [(0, 5_000), (8_000, 8_000), (u32::MAX, 60_000)] {
            let limits = Limits { timeout_ms: asked, ..limits(1, false, false) };
            assert_eq!(negotiate(&Wants::default(), &limits).timeout_ms, given);
        }
    }
}
