//! Writing: elements are appended in the order of the calls.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::{Kind, NAME_BYTES_MAX, wire_time};

/// Builds a PACK. Names must be unique, printable ASCII and at most [`NAME_BYTES_MAX`] long; they
/// come from the program, never from a peer. An array without values is left out, because readers
/// refuse an element without values.
#[derive(Default)]
pub struct PackWriter {
    /// Elements without the count that stands before them; wiped when dropped, for a login may carry a password.
    elements: Zeroizing<Vec<u8>>,
    count: u32,
}

impl PackWriter {
    /// An empty PACK.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an int.
    pub fn int(&mut self, name: &str, value: u32) -> &mut Self {
        self.ints(name, &[value])
    }

    /// Appends an array of ints.
    pub fn ints(&mut self, name: &str, values: &[u32]) -> &mut Self {
        if self.begin(name, Kind::Int, values.len()) {
            values.iter().for_each(|value| self.u32(*value));
        }
        self
    }

    /// Appends a truth value: int 1 or 0.
    pub fn bool(&mut self, name: &str, value: bool) -> &mut Self {
        self.int(name, u32::from(value))
    }

    /// Appends an int64.
    pub fn int64(&mut self, name: &str, value: u64) -> &mut Self {
        self.int64s(name, &[value])
    }

    /// Appends an array of int64.
    pub fn int64s(&mut self, name: &str, values: &[u64]) -> &mut Self {
        if self.begin(name, Kind::Int64, values.len()) {
            values.iter().for_each(|value| self.elements.extend_from_slice(&value.to_be_bytes()));
        }
        self
    }

    /// Appends a time given in milliseconds since the Unix epoch; `None` is "never" (§2.3).
    pub fn time(&mut self, name: &str, unix_ms: Option<u64>) -> &mut Self {
        self.int64(name, wire_time(unix_ms))
    }

    /// Appends bytes.
    pub fn data(&mut self, name: &str, value: &[u8]) -> &mut Self {
        if self.begin(name, Kind::Data, 1) {
            self.blob(value);
        }
        self
    }

    /// Appends a string.
    pub fn str(&mut self, name: &str, value: &str) -> &mut Self {
        self.strs(name, &[value])
    }

    /// Appends an array of strings.
    pub fn strs(&mut self, name: &str, values: &[&str]) -> &mut Self {
        if self.begin(name, Kind::Str, values.len()) {
            values.iter().for_each(|value| self.blob(value.as_bytes()));
        }
        self
    }

    /// Appends a Unicode string; the NUL that readers expect is added.
    pub fn unistr(&mut self, name: &str, value: &str) -> &mut Self {
        if self.begin(name, Kind::Unistr, 1) {
            self.u32(length(value.len() + 1));
            self.elements.extend_from_slice(value.as_bytes());
            self.elements.push(0);
        }
        self
    }

    /// Appends an IP address as the four elements of §2.4. `name` at most 50 bytes, for the suffixes.
    pub fn ip(&mut self, name: &str, address: IpAddr) -> &mut Self {
        let (is_v6, v6, v4) = match address {
            // The four bytes stand in reversed order.
            IpAddr::V4(v4) => (false, [0; 16], u32::from_le_bytes(v4.octets())),
            IpAddr::V6(v6) => (true, v6.octets(), 0),
        };
        self.bool(&format!("{name}@ipv6_bool"), is_v6)
            .data(&format!("{name}@ipv6_array"), &v6)
            .int(&format!("{name}@ipv6_scope_id"), 0)
            .int(name, v4)
    }

    /// The message.
    pub fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(4 + self.elements.len());
        bytes.extend_from_slice(&self.count.to_be_bytes());
        bytes.extend_from_slice(&self.elements);
        bytes
    }

    /// Writes the head of an element; false if it would have no values.
    fn begin(&mut self, name: &str, kind: Kind, values: usize) -> bool {
        debug_assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "PACK element name {name:?}");
        if values == 0 {
            return false;
        }
        self.count += 1;
        // The stored length counts a NUL that does not follow (§2).
        self.u32(length(name.len() + 1));
        self.elements.extend_from_slice(name.as_bytes());
        self.u32(kind.number());
        self.u32(length(values));
        true
    }

    fn blob(&mut self, value: &[u8]) {
        self.u32(length(value.len()));
        self.elements.extend_from_slice(value);
    }

    fn u32(&mut self, value: u32) {
        self.elements.extend_from_slice(&value.to_be_bytes());
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("what we write into a PACK is far below 4 GiB")
}
