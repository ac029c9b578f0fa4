//! Reading: the structure is checked once, then values are lent from the message.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use super::{Kind, NAME_BYTES_MAX, unix_ms};

/// How much a PACK may hold. The stock limits (§2) are hundreds of megabytes; a stranger gets
/// [`PackLimits::LOGIN`].
#[derive(Clone, Copy, Debug)]
pub struct PackLimits {
    /// Size of the whole message in bytes.
    pub bytes: usize,
    /// Elements of the message.
    pub elements: usize,
    /// Values of one element.
    pub values: usize,
    /// Size of one value in bytes.
    pub value_bytes: usize,
}

impl PackLimits {
    /// For peers that have not logged in; a real login has about 75 elements in 4 KiB.
    pub const LOGIN: Self = Self { bytes: 65_536, elements: 256, values: 256, value_bytes: 32_768 };
}

/// Why bytes are not a PACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PackError {
    /// A length or count goes beyond the end of the message.
    #[error("PACK ends inside an element")]
    Truncated,
    /// More than the limits allow.
    #[error("PACK exceeds a limit")]
    TooLarge,
    /// Name empty, too long, or with bytes that are not printable ASCII.
    #[error("PACK element with a bad name")]
    BadName,
    /// Type number that does not exist.
    #[error("PACK element of unknown type")]
    BadType,
    /// Element without values.
    #[error("PACK element without values")]
    NoValues,
    /// Two elements with the same name.
    #[error("PACK element twice")]
    Duplicate,
}

/// A received PACK. Getters read a missing element, a missing index and a wrong type alike as
/// absent, as the stock reader does.
#[derive(Debug)]
pub struct Pack<'a> {
    /// Sorted by name, so that duplicates are neighbours and a lookup is a binary search.
    elements: Vec<Element<'a>>,
}

#[derive(Clone, Copy)]
struct Element<'a> {
    name: &'a [u8],
    kind: Kind,
    count: usize,
    /// The values as they stand on the wire, lengths checked.
    values: &'a [u8],
}

impl std::fmt::Debug for Element<'_> {
    /// Without the values: they may be secrets.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {:?}[{}]", self.name.escape_ascii(), self.kind, self.count)
    }
}

impl<'a> Pack<'a> {
    /// Checks `bytes`. What follows the last element is ignored.
    ///
    /// # Errors
    /// If the structure is damaged or a limit is exceeded.
    pub fn parse(bytes: &'a [u8], limits: &PackLimits) -> Result<Self, PackError> {
        if bytes.len() > limits.bytes {
            return Err(PackError::TooLarge);
        }
        let mut rest = bytes;
        let count = take_u32(&mut rest)?;
        // An element takes at least 17 bytes, so that the count cannot make us reserve more than the
        // message could fill.
        if count > limits.elements {
            return Err(PackError::TooLarge);
        }
        let mut elements = Vec::with_capacity(count.min(bytes.len() / 17));
        for _ in 0..count {
            elements.push(take_element(&mut rest, limits)?);
        }
        elements.sort_unstable_by(|a, b| compare(a.name, b.name));
        if elements.windows(2).any(|pair| compare(pair[0].name, pair[1].name) == Ordering::Equal) {
            return Err(PackError::Duplicate);
        }
        Ok(Self { elements })
    }

    /// Values of the element `name`, whatever its type; 0 if there is none.
    pub fn count(&self, name: &str) -> usize {
        self.find(name).map_or(0, |element| element.count)
    }

    /// First value of an int.
    pub fn int(&self, name: &str) -> Option<u32> {
        self.int_at(name, 0)
    }

    /// Value `index` of an int array.
    pub fn int_at(&self, name: &str, index: usize) -> Option<u32> {
        let element = self.typed(name, Kind::Int)?;
        let (words, _) = element.values.as_chunks::<4>();
        words.get(index).map(|word| u32::from_be_bytes(*word))
    }

    /// True if the int is there and not 0.
    pub fn bool(&self, name: &str) -> bool {
        self.int(name).is_some_and(|value| value != 0)
    }

    /// First value of an int64.
    pub fn int64(&self, name: &str) -> Option<u64> {
        self.int64_at(name, 0)
    }

    /// Value `index` of an int64 array.
    pub fn int64_at(&self, name: &str, index: usize) -> Option<u64> {
        let element = self.typed(name, Kind::Int64)?;
        let (words, _) = element.values.as_chunks::<8>();
        words.get(index).map(|word| u64::from_be_bytes(*word))
    }

    /// A time in milliseconds since the Unix epoch; absent also if it is "never".
    pub fn time(&self, name: &str) -> Option<u64> {
        self.int64(name).and_then(unix_ms)
    }

    /// First value of a data element.
    pub fn data(&self, name: &str) -> Option<&'a [u8]> {
        self.data_at(name, 0)
    }

    /// Value `index` of a data array.
    pub fn data_at(&self, name: &str, index: usize) -> Option<&'a [u8]> {
        self.typed(name, Kind::Data)?.blob(index)
    }

    /// First value of a data element of exactly `N` bytes.
    pub fn data_array<const N: usize>(&self, name: &str) -> Option<[u8; N]> {
        self.data(name)?.try_into().ok()
    }

    /// First value of a string without surrounding blanks; absent if it is not UTF-8.
    pub fn str(&self, name: &str) -> Option<&'a str> {
        self.str_at(name, 0).map(|text| text.trim_matches(' '))
    }

    /// Value `index` of a string array, with its blanks; absent if it is not UTF-8.
    pub fn str_at(&self, name: &str, index: usize) -> Option<&'a str> {
        std::str::from_utf8(self.typed(name, Kind::Str)?.blob(index)?).ok()
    }

    /// First value of a string in whatever encoding.
    pub fn str_bytes(&self, name: &str) -> Option<&'a [u8]> {
        self.typed(name, Kind::Str)?.blob(0)
    }

    /// First value of a Unicode string.
    pub fn unistr(&self, name: &str) -> Option<&'a str> {
        self.unistr_at(name, 0)
    }

    /// Value `index` of an array of Unicode strings, without the NUL that ends it on the wire.
    pub fn unistr_at(&self, name: &str, index: usize) -> Option<&'a str> {
        let bytes = self.typed(name, Kind::Unistr)?.blob(index)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }

    /// An IP address (§2.4). Writers give four elements; the plain int alone is an IPv4 address.
    pub fn ip(&self, name: &str) -> Option<IpAddr> {
        if self.bool(&format!("{name}@ipv6_bool")) {
            let address = self.data_array::<16>(&format!("{name}@ipv6_array"))?;
            return Some(IpAddr::V6(Ipv6Addr::from(address)));
        }
        // The four bytes stand in reversed order.
        self.int(name).map(|value| IpAddr::V4(Ipv4Addr::from(value.to_le_bytes())))
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        // Names were checked to be ASCII.
        self.elements.iter().filter_map(|element| std::str::from_utf8(element.name).ok())
    }

    fn find(&self, name: &str) -> Option<&Element<'a>> {
        let index = self.elements.binary_search_by(|element| compare(element.name, name.as_bytes())).ok()?;
        self.elements.get(index)
    }

    fn typed(&self, name: &str, kind: Kind) -> Option<&Element<'a>> {
        self.find(name).filter(|element| element.kind == kind)
    }
}

impl<'a> Element<'a> {
    /// Value `index` of an element whose values carry their length.
    fn blob(&self, index: usize) -> Option<&'a [u8]> {
        if index >= self.count {
            return None;
        }
        let mut rest = self.values;
        for _ in 0..index {
            take_blob(&mut rest).ok()?;
        }
        take_blob(&mut rest).ok()
    }
}

fn take_element<'a>(rest: &mut &'a [u8], limits: &PackLimits) -> Result<Element<'a>, PackError> {
    // The stored length counts a NUL that does not follow (§2).
    let name_bytes = take_u32(rest)?.checked_sub(1).ok_or(PackError::BadName)?;
    if name_bytes == 0 || name_bytes > NAME_BYTES_MAX {
        return Err(PackError::BadName);
    }
    let name = take(rest, name_bytes)?;
    if !name.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(PackError::BadName);
    }
    let number = u32::try_from(take_u32(rest)?).map_err(|_| PackError::BadType)?;
    let kind = Kind::from_number(number).ok_or(PackError::BadType)?;
    let count = take_u32(rest)?;
    match count {
        0 => return Err(PackError::NoValues),
        n if n > limits.values => return Err(PackError::TooLarge),
        _ => {}
    }
    let start = *rest;
    match kind {
        Kind::Int => take_fixed(rest, count, 4)?,
        Kind::Int64 => take_fixed(rest, count, 8)?,
        Kind::Data | Kind::Str | Kind::Unistr => {
            for _ in 0..count {
                if take_blob(rest)?.len() > limits.value_bytes {
                    return Err(PackError::TooLarge);
                }
            }
        }
    }
    let values = &start[..start.len() - rest.len()];
    Ok(Element { name, kind, count, values })
}

fn take_fixed(rest: &mut &[u8], count: usize, width: usize) -> Result<(), PackError> {
    let bytes = count.checked_mul(width).ok_or(PackError::Truncated)?;
    take(rest, bytes).map(|_| ())
}

fn take_blob<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], PackError> {
    let bytes = take_u32(rest)?;
    take(rest, bytes)
}

fn take_u32(rest: &mut &[u8]) -> Result<usize, PackError> {
    let (word, after) = rest.split_first_chunk::<4>().ok_or(PackError::Truncated)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*word)).map_err(|_| PackError::Truncated)
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], PackError> {
    let (taken, after) = rest.split_at_checked(bytes).ok_or(PackError::Truncated)?;
    *rest = after;
    Ok(taken)
}

/// Order of names without regard to ASCII case.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}
