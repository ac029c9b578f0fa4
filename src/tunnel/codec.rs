//! Compression of single frames (protocol note §5.4): each frame is a zlib stream of its own.
//!
//! One [`Codec`] serves a whole worker; its state is reset for each frame and nothing is allocated.
#![forbid(unsafe_code)]

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::metrics::drops::DropReason;
use crate::wire::ethernet::FRAME_BYTES_MAX;

/// Scratch of the two directions, about 300 KiB.
pub struct Codec {
    compress: Compress,
    decompress: Decompress,
}

impl Default for Codec {
    fn default() -> Self {
        Self::new()
    }
}

impl Codec {
    /// Allocates the scratch.
    pub fn new() -> Self {
        // Stock ends use the default level. The level is not visible to the receiver, and on
        // frames of 1500 bytes the higher ones cost several times as much for a few percent.
        Self { compress: Compress::new(Compression::fast(), true), decompress: Decompress::new(true) }
    }

    /// Writes the zlib form of `frame` to the start of `out`; `None` if it does not fit. 1664 bytes
    /// are enough for any frame of [`FRAME_BYTES_MAX`].
    pub fn deflate(&mut self, frame: &[u8], out: &mut [u8]) -> Option<usize> {
        self.compress.reset();
        match self.compress.compress(frame, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(self.compress.total_out()).ok(),
            _ => None,
        }
    }

    /// Writes the frame whose zlib form is `bytes` to the start of `out`. No more than `out` is ever
    /// produced, so that a bomb costs no more than a frame.
    ///
    /// # Errors
    /// If `bytes` is damaged or incomplete or the frame is longer than `out`.
    pub fn inflate(&mut self, bytes: &[u8], out: &mut [u8; FRAME_BYTES_MAX]) -> Result<usize, DropReason> {
        self.decompress.reset(true);
        match self.decompress.decompress(bytes, out, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(self.decompress.total_out()).map_err(|_| DropReason::FrameInflate),
            _ => Err(DropReason::FrameInflate),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIRE_BYTES: usize = 1664;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        (0..bytes)
            .map(|_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x.to_le_bytes()[3]
            })
            .collect()
    }

    #[test]
    fn frames_of_every_length_come_back() {
        let mut codec = Codec::new();
        let mut wire = [0; WIRE_BYTES];
        let mut out = [0; FRAME_BYTES_MAX];
        for frame in [noise(FRAME_BYTES_MAX), vec![0; FRAME_BYTES_MAX]] {
            for len in [0, 1, 14, 60, 1514, 1599, 1600] {
                let n = codec.deflate(&frame[..len], &mut wire).unwrap();
                assert_eq!(codec.inflate(&wire[..n], &mut out), Ok(len));
                assert_eq!(out[..len], frame[..len]);
            }
        }
    }

    /// zlib.compress(b"hello hello hello hello") of another implementation, level 6.
    #[test]
    fn a_stream_of_another_implementation() {
        let wire = [0x78, 0x9c, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 0x57, 0xc8, 0x40, 0x27, 0x01, 0x68, 0x03, 0x08, 0xb1];
        let mut out = [0; FRAME_BYTES_MAX];
        let n = Codec::new().inflate(&wire, &mut out).unwrap();
        assert_eq!(&out[..n], b"hello hello hello hello");
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut codec = Codec::new();
        for len in [1601, 100_000] {
            let mut wire = vec![0; 4096];
            let n = codec.deflate(&vec![0; len], &mut wire).unwrap();
            assert_eq!(codec.inflate(&wire[..n], &mut [0; FRAME_BYTES_MAX]), Err(DropReason::FrameInflate));
        }
    }

    #[test]
    fn an_incomplete_or_damaged_stream_is_refused_and_the_next_one_works() {
        let mut codec = Codec::new();
        let mut wire = [0; WIRE_BYTES];
        let n = codec.deflate(b"some frame, some frame", &mut wire).unwrap();
        let mut out = [0; FRAME_BYTES_MAX];
        for end in 0..n {
            assert!(codec.inflate(&wire[..end], &mut out).is_err(), "cut at {end}");
        }
        let mut damaged = wire;
        damaged[n - 1] ^= 1;
        assert!(codec.inflate(&damaged[..n], &mut out).is_err());
        assert_eq!(codec.inflate(&wire[..n], &mut out), Ok(22));
    }

    #[test]
    fn no_room_is_none() {
        assert_eq!(Codec::new().deflate(&noise(1000), &mut [0; 500]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_inflate_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Codec::new().inflate(&bytes, &mut [0; FRAME_BYTES_MAX]);
        }
    }
}
