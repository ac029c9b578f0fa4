//! TCP headers (RFC 9293).
#![forbid(unsafe_code)]

use super::checksum::{self, Sum};

/// Protocol number.
pub const PROTOCOL: u8 = 6;
/// Length of a header without options.
pub const HEADER_BYTES_MIN: usize = 20;
/// Where the checksum stands.
pub const CHECKSUM_AT: usize = 16;
/// The sender has no more to send.
pub const FLAG_FIN: u8 = 0x01;
/// Synchronise: opens a connection.
pub const FLAG_SYN: u8 = 0x02;
/// Ends the connection at once.
pub const FLAG_RST: u8 = 0x04;
/// Push: the sender has nothing more for now.
pub const FLAG_PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const FLAG_ACK: u8 = 0x10;
/// Echo of a congestion mark (RFC 3168).
pub const FLAG_ECE: u8 = 0x40;
/// The congestion window was reduced (RFC 3168).
pub const FLAG_CWR: u8 = 0x80;

/// The eight flags; `None` if `segment` ends before.
#[inline]
pub fn flags(segment: &[u8]) -> Option<u8> {
    segment.get(13).copied()
}

/// Length of the header, options included; `None` if `segment` ends before or the field lies.
#[inline]
pub fn header_bytes(segment: &[u8]) -> Option<usize> {
    let bytes = usize::from(segment.get(12)? >> 4) * 4;
    (HEADER_BYTES_MIN..=segment.len()).contains(&bytes).then_some(bytes)
}

/// Makes of the header of a super-packet that of the segment `offset` bytes on in its payload. What begins a stretch
/// stands in its first segment (CWR), what ends it in its last.
///
/// # Panics
/// If `header` is shorter than a header is.
#[inline]
pub fn move_on(header: &mut [u8], offset: usize, is_first: bool, is_last: bool) {
    let seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    // A packet is shorter than 64 KiB.
    let seq = seq.wrapping_add(u32::try_from(offset).unwrap_or(0));
    header[4..8].copy_from_slice(&seq.to_be_bytes());
    if !is_first {
        header[13] &= !FLAG_CWR;
    }
    if !is_last {
        header[13] &= !(FLAG_FIN | FLAG_PSH);
    }
}

/// Lowers the maximum segment size that a SYN names to `mss`. With `finished`, the checksum is updated too; an
/// unfinished one does not cover the options yet.
pub fn clamp_mss(segment: &mut [u8], mss: u16, finished: bool) {
    let Some(header) = header_bytes(segment) else { return };
    let Some(at) = mss_at(&segment[..header]) else { return };
    let old = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if old <= mss {
        return;
    }
    segment[at..at + 2].copy_from_slice(&mss.to_be_bytes());
    if finished {
        // A word at an odd offset counts with its bytes exchanged.
        let order = |word: u16| if at % 2 == 0 { word } else { word.swap_bytes() };
        let field = u16::from_be_bytes([segment[CHECKSUM_AT], segment[CHECKSUM_AT + 1]]);
        let field = checksum::update(field, Sum::ZERO.without(order(old)).word(order(mss)));
        segment[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&field.to_be_bytes());
    }
}

/// Where in the header the value of the MSS option (kind 2, length 4) stands.
fn mss_at(header: &[u8]) -> Option<usize> {
    let mut at = HEADER_BYTES_MIN;
    while at < header.len() {
        match header[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*header.get(at + 1)?);
                if length < 2 || at + length > header.len() {
                    return None;
                }
                if kind == 2 && length == 4 {
                    return Some(at + 2);
                }
                at += length;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn(options: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; HEADER_BYTES_MIN];
        segment[12] = u8::try_from((HEADER_BYTES_MIN + options.len()) / 4).unwrap() << 4;
        segment[13] = FLAG_SYN;
        segment.extend(options);
        let checksum = Sum::ZERO.bytes(&segment).finish();
        segment[CHECKSUM_AT..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    #[test]
    fn mss_is_lowered_and_never_raised() {
        for (options, mss, want) in [
            (&[2, 4, 5, 180][..], 1400, Some(&[2, 4, 5, 120][..])),
            (&[2, 4, 2, 0], 1400, None),
            (&[1, 2, 4, 5, 180, 1, 1, 1], 1400, Some(&[1, 2, 4, 5, 120, 1, 1, 1])),
            (&[3, 3, 7, 2, 4, 5, 180, 0], 1400, Some(&[3, 3, 7, 2, 4, 5, 120, 0])),
            (&[0, 2, 4, 5, 180, 0, 0, 0], 1400, None),
            (&[3, 1, 2, 4, 5, 180, 0, 0], 1400, None),
            (&[3, 60, 2, 4], 1400, None),
            (&[1, 1, 1, 2], 1400, None),
        ] {
            let mut segment = syn(options);
            clamp_mss(&mut segment, mss, true);
            assert_eq!(segment[20..], *want.unwrap_or(options), "{options:?}");
            assert_eq!(Sum::ZERO.bytes(&segment).finish(), 0, "{options:?}");
        }
    }

    #[test]
    fn an_unfinished_checksum_stays() {
        let mut segment = syn(&[2, 4, 5, 180]);
        let field = segment[16..18].to_vec();
        clamp_mss(&mut segment, 1400, false);
        assert_eq!((&segment[16..18], &segment[20..]), (&field[..], &[2, 4, 5, 120][..]));
    }

    #[test]
    fn lying_lengths() {
        let mut segment = syn(&[2, 4, 5, 180]);
        for first in [0x40, 0x70, 0xf0] {
            segment[12] = first;
            assert_eq!(header_bytes(&segment), None);
            let before = segment.clone();
            clamp_mss(&mut segment, 500, true);
            assert_eq!(segment, before);
        }
        assert_eq!(header_bytes(&segment[..12]), None);
    }
}
