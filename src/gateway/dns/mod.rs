//! The pure half of the DNS forwarder (RFC 5625): who asks what, who waits for which answer.
//!
//! The other half, `src/control/dns.rs`, talks to the upstreams.
#![forbid(unsafe_code)]

/// By which way a question came, and is to be asked upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// A datagram; the answer may be cut (TC).
    Udp,
    /// A connection; the answer is whole, up to 64 KiB.
    Tcp,
}

/// A question for the upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsQuestion {
    /// By which the answer finds back.
    pub token: u64,
    /// How to ask.
    pub transport: DnsTransport,
    /// The message as the member sent it, but its id is 0: who asks takes a random one for each try.
    pub message: Vec<u8>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsAnswer {
    /// Of the question.
    pub token: u64,
    /// The message as it came, whatever its id; `None`: no upstream answered.
    pub message: Option<Vec<u8>>,
}

/// The forwarder, as configured. A limit of 0 means any number, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// Whether questions for AAAA get the answer that there is none.
    pub withhold_aaaa: bool,
    /// Questions of a session each second, in bursts of as many.
    pub questions_per_sec: u32,
    /// Questions of a session that may wait for an answer; at least 1.
    pub waiting_per_session: u32,
    /// Questions at the upstreams; at least 1.
    pub flights_max: usize,
    /// Askers who wait for answers, all together; at least 1.
    pub waiting_max: usize,
    /// Answers kept; 0: none.
    pub cache_entries: usize,
    /// Bytes of the answers kept.
    pub cache_bytes: usize,
    /// Zone in which members have their DHCP host names (`hub.internal`); `None`: nowhere.
    pub zone: Option<String>,
    /// Whether each question is an event.
    pub log_questions: bool,
    /// TCP connections; 0: none.
    pub connections_max: usize,
    /// TCP connections of a session; at least 1.
    pub connections_per_session: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            withhold_aaaa: false,
            // Loading a page full of advertisements asks some dozens at once.
            questions_per_sec: 100,
            waiting_per_session: 100,
            flights_max: 4096,
            waiting_max: 16_384,
            cache_entries: 0,
            cache_bytes: 8 << 20,
            zone: None,
            log_questions: false,
            connections_max: 128,
            connections_per_session: 4,
        }
    }
}
