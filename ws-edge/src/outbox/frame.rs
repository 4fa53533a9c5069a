//! A frame on its way to sessions, and its compression.
//!
//! A frame that is to be compressed is queued as it is, and compressed by the first thread that flushes it: never where
//! frames are built, because that happens under the lock of the dispatcher's table, and hardly ever in the event reader's
//! thread, because the [`Flusher`](super::flusher::Flusher) gives the outboxes of compressing sessions to its tasks. All
//! sessions that get the frame share it, so it is compressed once.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    metrics::Metrics,
    protocol::{deflate, frame::MAX_HEADER_BYTES},
};

/// A frame that waits in outboxes.
#[derive(Clone, Debug)]
pub enum Frame {
    /// It goes out as it is.
    Ready(Bytes),
    /// It is to be compressed before it goes out.
    Compressible(Arc<Compressible>),
}

/// A text frame that is to be compressed, once for all its sessions.
#[derive(Debug)]
pub struct Compressible {
    /// The length of the frame before.
    bytes: usize,
    /// Of these, the header.
    header: usize,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    /// As it was built.
    Before(Bytes),
    /// As it goes out.
    After(Bytes),
}

impl From<Bytes> for Frame {
    fn from(frame: Bytes) -> Frame {
        Frame::Ready(frame)
    }
}

impl Frame {
    /// A text frame with a payload of this length, which is compressed if it is long enough to save something.
    pub(crate) fn compressible(frame: Bytes, payload: usize) -> Frame {
        if payload < deflate::MIN_BYTES {
            return Frame::Ready(frame);
        }
        let (bytes, header) = (frame.len(), frame.len().saturating_sub(payload).min(MAX_HEADER_BYTES));
        Frame::Compressible(Arc::new(Compressible { bytes, header, stage: Mutex::new(Stage::Before(frame)) }))
    }

    /// How many bytes it takes in a queue.
    pub(super) fn len(&self) -> usize {
        match self {
            Frame::Ready(frame) => frame.len(),
            Frame::Compressible(frame) => frame.bytes,
        }
    }

    /// The bytes that go out, if they are known.
    pub fn ready(&self) -> Option<&Bytes> {
        match self {
            Frame::Ready(frame) => Some(frame),
            Frame::Compressible(_) => None,
        }
    }
}

impl Compressible {
    /// Compresses the frame, unless that was done before. Another thread that does it at the same time is waited for:
    /// compressing it twice would take as long.
    pub(super) fn compress(&self, metrics: &Metrics) {
        let mut stage = self.stage.lock();
        if let Stage::Before(frame) = &*stage {
            let text = frame.get(self.header..).unwrap_or_default();
            let after = deflate::compressed_frame(text).unwrap_or_else(|| frame.clone());
            metrics.compressed(self.bytes, after.len());
            *stage = Stage::After(after);
        }
    }

    /// The frame as it goes out, if it is known; not if it is being compressed at the moment.
    pub(super) fn done(&self) -> Option<Bytes> {
        match &*self.stage.try_lock()? {
            Stage::Before(_) => None,
            Stage::After(frame) => Some(frame.clone()),
        }
    }
}
