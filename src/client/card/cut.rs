//! Frames of the card as the tunnel takes them: super-packets cut into segments, unfinished checksums finished.
//!
//! Where TCP or UDP begins stands in the virtio-net header.
#![forbid(unsafe_code)]

use crate::sys::vnet::{Segments, VnetHeader};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::FRAME_BYTES_MAX;
use crate::wire::super_frame::{Kind, Place, SuperFrame};

/// Calls `sink` with complete frames that together are `frame`, in order; says how many. 0: nothing could be made of it.
pub(super) fn cut(frame: &mut [u8], header: VnetHeader, sink: &mut impl FnMut(&[u8])) -> usize {
    let kind = match header.segments {
        Segments::None => return whole(frame, header, sink),
        _ if header.segment_bytes == 0 => return whole(frame, header, sink),
        Segments::Tcp4 => Kind::Tcp4,
        Segments::Tcp6 => Kind::Tcp6,
        Segments::Udp => Kind::Udp,
        Segments::Other => return 0,
    };
    match Place::at(frame, kind, usize::from(header.checksum_start)) {
        // The card has the MTU of the tunnel, so the kernel asks for no segment that is longer.
        Some(place) => place.cut(frame, usize::from(header.segment_bytes), sink),
        None => 0,
    }
}

/// The super-frame that `frame` is, if it is one and can cross as such.
pub(super) fn whole_super(frame: &[u8], header: VnetHeader) -> Option<SuperFrame<'_>> {
    let is_cut = header.segments != Segments::None && header.segment_bytes > 0 && header.needs_checksum;
    let found = is_cut.then(|| SuperFrame::new_checked(frame, header.segment_bytes))??;
    (found.checksum().0 == usize::from(header.checksum_start)).then_some(found)
}

/// A frame that is one already.
fn whole(frame: &mut [u8], header: VnetHeader, sink: &mut impl FnMut(&[u8])) -> usize {
    let fits = frame.len() <= FRAME_BYTES_MAX && (!header.needs_checksum || finish(frame, header).is_some());
    if fits {
        sink(frame);
    }
    usize::from(fits)
}

/// Finishes the checksum of a frame that stays whole.
fn finish(frame: &mut [u8], header: VnetHeader) -> Option<()> {
    let start = usize::from(header.checksum_start);
    let field = start + usize::from(header.checksum_offset);
    // The field holds the sum of the pseudo-header.
    let checksum = match Sum::ZERO.bytes(frame.get(start..)?).finish() {
        // Zero says that there is none (RFC 768); TCP takes either form of zero.
        0 => 0xffff,
        checksum => checksum,
    };
    frame.get_mut(field..field + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tcp;
    use proptest::prelude::*;

    fn word(frame: &[u8], at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]))
    }

    fn short(length: usize) -> u16 {
        u16::try_from(length).unwrap()
    }

    const TAG: [u8; 4] = [0x81, 0, 0, 7];

    /// A frame with `payload` behind headers of the kind asked for, its checksum unfinished as the kernel leaves it.
    struct Built {
        v6: bool,
        tcp: bool,
        tags: usize,
        /// Bytes of options or of extension headers.
        more: usize,
        flags: u8,
        payload: Vec<u8>,
    }

    impl Built {
        fn new(v6: bool, tcp: bool, payload: usize) -> Self {
            let payload = (0..payload).map(|i| u8::try_from(i % 251).unwrap()).collect();
            Self { v6, tcp, tags: 0, more: 0, flags: 0x10, payload }
        }

        fn l3(&self) -> usize {
            14 + 4 * self.tags
        }

        fn l4(&self) -> usize {
            self.l3() + self.more + if self.v6 { 40 } else { 20 }
        }

        fn header(&self, segment_bytes: u16) -> VnetHeader {
            let segments = match (self.tcp, self.v6) {
                (true, false) => Segments::Tcp4,
                (true, true) => Segments::Tcp6,
                (false, _) => Segments::Udp,
            };
            VnetHeader {
                needs_checksum: true,
                segments: if segment_bytes == 0 { Segments::None } else { segments },
                header_bytes: 0,
                segment_bytes,
                checksum_start: short(self.l4()),
                checksum_offset: if self.tcp { 16 } else { 6 },
            }
        }

        fn frame(&self) -> Vec<u8> {
            let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
            (0..self.tags).for_each(|_| frame.extend(TAG));
            let l4_bytes = if self.tcp { 20 } else { 8 } + self.payload.len();
            let protocol = if self.tcp { 6 } else { 17 };
            let addresses: Vec<u8>;
            if self.v6 {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                frame.extend(short(self.more + l4_bytes).to_be_bytes());
                frame.extend([if self.more > 0 { 60 } else { protocol }, 64]);
                addresses = (0..32).collect();
                frame.extend(&addresses);
                if self.more > 0 {
                    frame.extend([protocol, u8::try_from(self.more / 8 - 1).unwrap()]);
                    frame.extend(vec![0; self.more - 2]);
                }
            } else {
                frame.extend([8, 0, 0x45 + u8::try_from(self.more / 4).unwrap(), 0]);
                frame.extend(short(20 + self.more + l4_bytes).to_be_bytes());
                frame.extend([0xff, 0xff, 0x40, 0, 64, protocol, 0, 0]);
                addresses = vec![10, 0, 0, 1, 10, 0, 0, 2];
                frame.extend(&addresses);
                frame.extend(vec![1; self.more]);
                let header = self.l3()..frame.len();
                let checksum = Sum::ZERO.bytes(&frame[header]).finish();
                frame[self.l3() + 10..][..2].copy_from_slice(&checksum.to_be_bytes());
            }
            frame.extend([0x12, 0x34, 0, 80]);
            let pseudo = Sum::ZERO.bytes(&addresses).word(protocol.into()).word(short(l4_bytes)).partial();
            if self.tcp {
                frame.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 9, 0x50, self.flags, 1, 0]);
                frame.extend(pseudo.to_be_bytes());
                frame.extend([0, 0]);
            } else {
                frame.extend(short(l4_bytes).to_be_bytes());
                frame.extend(pseudo.to_be_bytes());
            }
            frame.extend(&self.payload);
            frame
        }

        /// Checks a frame that was cut out; its payload.
        fn check(&self, frame: &[u8]) -> Vec<u8> {
            let (l3, l4) = (self.l3(), self.l4());
            let l4_bytes = short(frame.len() - l4);
            let packet = &frame[l3..];
            let addresses = if self.v6 { &packet[8..40] } else { &packet[12..20] };
            let pseudo = Sum::ZERO.bytes(addresses).word(if self.tcp { 6 } else { 17 }).word(l4_bytes);
            assert_eq!(pseudo.bytes(&frame[l4..]).finish(), 0, "checksum");
            if self.v6 {
                assert_eq!(usize::from(word(frame, l3 + 4).unwrap()), packet.len() - 40);
            } else {
                assert_eq!(usize::from(word(frame, l3 + 2).unwrap()), packet.len());
                assert_eq!(Sum::ZERO.bytes(&packet[..l4 - l3]).finish(), 0, "checksum of IPv4");
            }
            if !self.tcp {
                assert_eq!(word(frame, l4 + 4), Some(l4_bytes));
            }
            frame[l4 + if self.tcp { 20 } else { 8 }..].to_vec()
        }
    }

    fn all(built: &Built, segment_bytes: u16) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let count = cut(&mut built.frame(), built.header(segment_bytes), &mut |frame| found.push(frame.to_vec()));
        assert_eq!(count, found.len());
        found
    }

    #[test]
    fn numbers_and_flags_stand_where_they_belong() {
        for v6 in [false, true] {
            let built = Built { flags: 0x10 | tcp::FLAG_PSH | 0x01 | tcp::FLAG_CWR, ..Built::new(v6, true, 2500) };
            let parts = all(&built, 1000);
            let l4 = built.l4();
            let seqs: Vec<_> =
                parts.iter().map(|part| [part[l4 + 4], part[l4 + 5], part[l4 + 6], part[l4 + 7]]).collect();
            assert_eq!(seqs, [[0xff, 0xff, 0xff, 0], [0, 0, 2, 0xe8], [0, 0, 6, 0xd0]]);
            let flags: Vec<_> = parts.iter().map(|part| part[l4 + 13]).collect();
            assert_eq!(flags, [0x90, 0x10, 0x10 | tcp::FLAG_PSH | 0x01]);
            if !v6 {
                let ids: Vec<_> = parts.iter().map(|part| word(part, 18).unwrap()).collect();
                assert_eq!(ids, [0xffff, 0, 1]);
            }
        }
    }

    #[test]
    fn whole_frames_are_finished() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let built = Built::new(v6, tcp, 100);
            let parts = all(&built, 0);
            assert_eq!((parts.len(), built.check(&parts[0])), (1, built.payload.clone()));
        }
        let arp = [0xffu8; 42];
        let mut found = 0;
        assert_eq!(cut(&mut arp.to_vec(), VnetHeader::default(), &mut |frame| found += usize::from(*frame == arp)), 1);
        assert_eq!(found, 1);
    }

    #[test]
    fn what_cannot_be_carried_is_refused() {
        let tcp = |payload| Built::new(false, true, payload);
        let header = tcp(3000).header(1460);
        let cases: [(&str, Vec<u8>, VnetHeader); 7] = [
            ("too long and whole", tcp(1600).frame(), tcp(1600).header(0)),
            ("segments too long", tcp(4000).frame(), tcp(4000).header(1550)),
            ("another kind", tcp(3000).frame(), VnetHeader { segments: Segments::Other, ..header }),
            ("another version", tcp(3000).frame(), VnetHeader { segments: Segments::Tcp6, ..header }),
            ("no header there", tcp(3000).frame(), VnetHeader { checksum_start: 40, ..header }),
            ("behind the end", tcp(3000).frame(), VnetHeader { checksum_start: 4000, ..header }),
            ("cut off", tcp(3000).frame()[..50].to_vec(), header),
        ];
        for (name, mut frame, header) in cases {
            assert_eq!(cut(&mut frame, header, &mut |_| panic!("{name}")), 0, "{name}");
        }
    }

    proptest! {
        #[test]
        fn segments_are_sound_and_together_the_whole(
            v6: bool, tcp: bool, tags in 0usize..3, more in 0usize..3, payload in 1usize..9000, segment in 200u16..1400,
        ) {
            let built = Built { tags, more: more * 8, ..Built::new(v6, tcp, payload) };
            let parts = all(&built, segment);
            prop_assert_eq!(parts.len(), payload.div_ceil(segment.into()));
            let joined: Vec<u8> = parts.iter().flat_map(|part| built.check(part)).collect();
            prop_assert_eq!(joined, built.payload);
        }

        #[test]
        fn no_bytes_do_harm(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..3000),
            kind in 0usize..4, segment_bytes: u16, checksum_start in 0u16..200, checksum_offset in 0u16..40, v6: bool,
        ) {
            if bytes.len() > 20 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            let segments = [Segments::None, Segments::Tcp4, Segments::Tcp6, Segments::Udp][kind];
            let header = VnetHeader {
                needs_checksum: true, segments, header_bytes: 0, segment_bytes, checksum_start, checksum_offset,
            };
            cut(&mut bytes, header, &mut |frame| assert!(frame.len() <= FRAME_BYTES_MAX));
        }
    }
}
