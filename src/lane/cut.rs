//! The opposite of merging: a super-packet, or one whose checksum is unfinished, becomes complete packets for members.
//!
//! Happens in place: the headers of each segment are written directly in front of its payload, over the end of the
//! segment before, which has gone by then.
#![forbid(unsafe_code)]

use super::merge::{L4Place, pseudo, set_total_bytes};
use crate::wire::offload::{L4Checksum, Offload};
use crate::wire::{tcp, udp};

/// Calls `sink` with complete packets of at most `mtu` bytes that together are `packet`, in order; says how many.
///
/// 0: nothing could be made of it. It is longer than `mtu` without being a super-packet, or its headers do not fit.
pub fn cut(packet: &mut [u8], offload: Offload, mtu: usize, sink: &mut impl FnMut(&[u8])) -> usize {
    let is_finished = offload.checksum == L4Checksum::Complete && offload.segment_bytes == 0;
    if is_finished && packet.len() <= mtu {
        sink(packet);
        return 1;
    }
    let Some(place) = L4Place::of(packet) else {
        // A fragment or another protocol: its checksum, if it has one, is not of our concern.
        let fits = packet.len() <= mtu && offload.segment_bytes == 0;
        if fits {
            sink(packet);
        }
        return usize::from(fits);
    };
    let payload = packet.len() - place.headers();
    let segment_bytes = match usize::from(offload.segment_bytes) {
        0 => payload,
        bytes => bytes,
    };
    if segment_bytes >= payload && packet.len() <= mtu {
        finish(packet, place);
        sink(packet);
        return 1;
    }
    let room = mtu.saturating_sub(place.headers());
    let segment_bytes = match place.protocol {
        // Bytes of a stream may be cut anywhere.
        tcp::PROTOCOL if offload.segment_bytes > 0 => segment_bytes.min(room),
        // A datagram may not.
        _ if segment_bytes <= room => segment_bytes,
        _ => 0,
    };
    if segment_bytes == 0 { 0 } else { cut_payload(packet, place, segment_bytes, sink) }
}

fn cut_payload(packet: &mut [u8], place: L4Place, segment_bytes: usize, sink: &mut impl FnMut(&[u8])) -> usize {
    let headers = place.headers();
    let mut kept = [0; HEADERS_BYTES_MAX];
    let template = &mut kept[..headers];
    template.copy_from_slice(&packet[..headers]);
    let is_tcp = place.protocol == tcp::PROTOCOL;
    let mut id = u16::from_be_bytes([template[4], template[5]]);
    let (mut at, mut count) = (headers, 0);
    while at < packet.len() {
        let end = (at + segment_bytes).min(packet.len());
        let is_last = end == packet.len();
        let segment = &mut packet[at - headers..end];
        segment[..headers].copy_from_slice(template);
        segment[4..6].copy_from_slice(&id.to_be_bytes());
        if is_tcp {
            tcp::move_on(&mut segment[place.at..], at - headers, count == 0, is_last);
        }
        let total = segment.len();
        set_total_bytes(segment, total);
        finish(segment, place);
        sink(segment);
        id = id.wrapping_add(1);
        at = end;
        count += 1;
    }
    count
}

/// Computes the checksum of a whole packet, and the length in a header of UDP.
fn finish(packet: &mut [u8], place: L4Place) {
    let l4_bytes = packet.len() - place.at;
    if place.protocol == udp::PROTOCOL {
        let length = u16::try_from(l4_bytes).unwrap_or(u16::MAX);
        packet[place.at + 4..][..2].copy_from_slice(&length.to_be_bytes());
    }
    let field = place.at + place.checksum_at;
    packet[field..field + 2].fill(0);
    let checksum = match pseudo(packet, place.protocol, l4_bytes).bytes(&packet[place.at..]).finish() {
        // Zero says that there is none (RFC 768).
        0 if place.protocol == udp::PROTOCOL => 0xffff,
        checksum => checksum,
    };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Headers of IPv4 and TCP with all options they can have.
const HEADERS_BYTES_MAX: usize = 120;
