//! What comes out of a connection: blocks, inflated and checked, become frames and super-frames.
#![forbid(unsafe_code)]

use super::codec::Codec;
use super::deframe::Block;
use super::link::Carried;
use crate::metrics::drops::DropReason;
use crate::wire::ethernet::{FRAME_BYTES_MAX, HEADER_BYTES};
use crate::wire::super_frame::SuperFrame;

/// Who takes the frames of [`super::link::Link::receive`].
pub trait FrameSink {
    /// A frame of 14 to 1600 bytes.
    fn frame(&mut self, frame: &[u8]);

    /// A super-frame. Who cannot take it whole gets its segments.
    fn super_frame(&mut self, frame: &SuperFrame<'_>) {
        frame.cut(&mut |frame| self.frame(frame));
    }

    /// A block that is no frame.
    fn dropped(&mut self, reason: DropReason);
}

/// Turns blocks into frames.
pub(super) struct Taker<'a, K> {
    pub(super) inflate: Option<(&'a mut Codec, &'a mut Box<[u8; FRAME_BYTES_MAX]>)>,
    pub(super) carried: &'a mut Carried,
    pub(super) sink: &'a mut K,
}

impl<K: FrameSink> Taker<'_, K> {
    pub(super) fn take(&mut self, block: Block<'_>) {
        let bytes = match block {
            Block::Data(bytes) => bytes,
            Block::Super { bytes, segment_bytes } => return self.take_super(bytes, segment_bytes),
            Block::KeepAlive => return,
        };
        let frame = match &mut self.inflate {
            None => Ok(bytes),
            Some((codec, inflated)) => codec.inflate(bytes, inflated).map(|len| &inflated[..len]),
        };
        match frame.and_then(|frame| check_frame(frame).map(|()| frame)) {
            Ok(frame) => {
                self.carried.frames_in += 1;
                self.carried.bytes_in += frame.len() as u64;
                self.sink.frame(frame);
            }
            Err(reason) => self.sink.dropped(reason),
        }
    }

    #[inline(never)]
    fn take_super(&mut self, bytes: &[u8], segment_bytes: u16) {
        let Some(frame) = SuperFrame::new_checked(bytes, segment_bytes) else {
            return self.sink.dropped(DropReason::FrameNotCuttable);
        };
        let (frames, bytes) = frame.on_wire();
        self.carried.frames_in += frames;
        self.carried.bytes_in += bytes;
        self.sink.super_frame(&frame);
    }
}

/// Whether `frame` has a length that the tunnel carries.
///
/// # Errors
/// The reason to count it under.
pub fn check_frame(frame: &[u8]) -> Result<(), DropReason> {
    match frame.len() {
        0..HEADER_BYTES => Err(DropReason::FrameTooShort),
        HEADER_BYTES..=FRAME_BYTES_MAX => Ok(()),
        _ => Err(DropReason::FrameTooLong),
    }
}
