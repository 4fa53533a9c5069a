//! Frames in the order in which they go out, the first of them perhaps out in part.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf, Bytes};

use super::Socket;

/// Frames that go to the system in one call. Linux takes up to 1024; beyond a few dozen nothing is saved any more.
const FRAMES_AT_ONCE: usize = 64;
/// An empty queue with more room than this gives its memory back.
const ROOM_KEPT: usize = 4;

/// The frames, and how many bytes they have.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `bytes` more may wait where at most `most_bytes` may; one frame always may.
    pub(super) fn has_room(&self, bytes: usize, most_bytes: usize) -> bool {
        self.is_empty() || self.bytes + bytes <= most_bytes
    }

    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Gives the socket what it takes at the moment; tells how many bytes that is.
    pub(super) fn write_to(&self, socket: &dyn Socket) -> io::Result<usize> {
        let mut frames = self.frames.iter().map(|frame| IoSlice::new(frame));
        if self.frames.len() == 1 {
            return socket.try_write(frames.next().as_slice());
        }
        let mut slices = [IoSlice::new(&[]); FRAMES_AT_ONCE];
        let count = slices.iter_mut().zip(frames).map(|(slice, frame)| *slice = frame).count();
        socket.try_write(slices.get(..count).unwrap_or(&slices))
    }

    /// Drops `bytes` that were written from the front. Returns how many frames ended.
    pub(super) fn sent(&mut self, mut bytes: usize) -> u64 {
        self.bytes = self.bytes.saturating_sub(bytes);
        let mut ended = 0;
        while let Some(front) = self.frames.front_mut() {
            if front.len() > bytes {
                front.advance(bytes);
                break;
            }
            bytes -= front.len();
            self.frames.pop_front();
            ended += 1;
        }
        ended
    }

    pub(super) fn drop_unsent(&mut self) {
        // A server's frame begins with the bit FIN; what is out in part begins in the middle. Whether it does is not
        // known here, so the first is kept: one frame more does no harm.
        self.frames.truncate(1);
        self.bytes = self.frames.front().map_or(0, Bytes::len);
    }

    /// Gives much room back, where nothing waits.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.frames.capacity() > ROOM_KEPT {
            self.frames = VecDeque::new();
        }
    }

    /// Gives all room back, where nothing waits.
    pub(super) fn shrink_wholly(&mut self) {
        if self.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}
