//! The queue of an outbox: frames in the order in which they go out, the first perhaps partly sent.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::Buf;
use tokio::net::TcpStream;

use super::frame::{Compressible, Frame};

/// The socket that frames are written to.
pub trait OutboundSocket: Send + Sync {
    /// Writes what the socket takes at the moment. Returns the number of bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing; any other error is final.
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl OutboundSocket for TcpStream {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        match frames {
            // A plain write is cheaper than a vectored write of one buffer.
            [frame] => self.try_write(frame),
            frames => self.try_write_vectored(frames),
        }
    }
}

/// Frames per system call. Linux takes up to 1024; more than a few dozen save nothing.
const WRITE_BATCH: usize = 64;
/// An empty queue with a larger capacity than this frees its memory.
const KEPT_CAPACITY: usize = 4;

/// The frames, and how many bytes they have.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Frame>,
    bytes: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether `bytes` more fit into `max_bytes`. One frame always fits.
    #[inline]
    pub(super) fn has_room(&mut self, bytes: usize, max_bytes: usize) -> bool {
        // Frames may have become shorter since: other sessions have them, too.
        self.fits(bytes, max_bytes) || self.settle() && self.fits(bytes, max_bytes)
    }

    fn fits(&self, bytes: usize, max_bytes: usize) -> bool {
        self.is_empty() || self.bytes + bytes <= max_bytes
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Puts a frame before all others, of which nothing may have been written.
    pub(super) fn push_first(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_front(frame);
    }

    /// Those of the next frames to be written that are to be compressed first.
    pub(super) fn compressible(&self) -> Vec<Arc<Compressible>> {
        let next = self.frames.iter().take(WRITE_BATCH);
        next.filter_map(|frame| match frame {
            Frame::Ready(_) => None,
            Frame::Compressible(frame) => Some(Arc::clone(frame)),
        })
        .collect()
    }

    /// Takes frames as they go out that have been compressed meanwhile. Returns whether there were any.
    // Kept out of the way of sessions without compression.
    #[cold]
    pub(super) fn settle(&mut self) -> bool {
        let mut is_settled = false;
        for frame in &mut self.frames {
            if let Frame::Compressible(compressible) = frame
                && let Some(done) = compressible.done()
            {
                self.bytes = self.bytes.saturating_sub(frame.len()) + done.len();
                *frame = Frame::Ready(done);
                is_settled = true;
            }
        }
        is_settled
    }

    /// Writes what the socket takes at the moment of the frames before the first that is to be compressed. Returns the
    /// number of bytes.
    pub(super) fn write_to(&self, socket: &dyn OutboundSocket) -> io::Result<usize> {
        if self.frames.len() == 1 {
            let frame = self.frames.front().and_then(Frame::ready).map(|frame| IoSlice::new(frame));
            return socket.try_write(frame.as_slice());
        }
        let frames = self.frames.iter().map_while(Frame::ready).map(|frame| IoSlice::new(frame));
        let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
        let count = slices.iter_mut().zip(frames).map(|(slice, frame)| *slice = frame).count();
        socket.try_write(slices.get(..count).unwrap_or(&slices))
    }

    /// Drops the first `bytes`, which were written. Returns the number of frames that ended.
    pub(super) fn sent(&mut self, mut bytes: usize) -> u64 {
        self.bytes = self.bytes.saturating_sub(bytes);
        let mut ended = 0;
        while let Some(Frame::Ready(front)) = self.frames.front_mut() {
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

    /// Drops all frames but the first.
    pub(super) fn drop_unsent(&mut self) {
        // The first frame may be partly sent, which is not known here. Sending it whole does no harm.
        self.frames.truncate(1);
        self.bytes = self.frames.front().map_or(0, Frame::len);
    }

    /// Frees a large capacity if the queue is empty.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && self.frames.capacity() > KEPT_CAPACITY {
            self.frames = VecDeque::new();
        }
    }

    /// Frees all memory if the queue is empty.
    pub(super) fn shrink_wholly(&mut self) {
        if self.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}
