//! A frame on its way to sessions, and its compression.
//!
//! A frame that is to be compressed is queued as it is, and compressed by the first thread that flushes it: never where
//! frames are built, because that happens under the lock of the dispatcher's table, and hardly ever in the event reader's
//! thread, because the [`Flusher`](super::flusher::Flusher) gives the outboxes of compressing sessions to its tasks. All
//! sessions that get the frame share it; and frames that differ in their head only, as in a subscription's `request_id`,
//! share the rest, which is nearly all. So an event is compressed once for all who get it in the same view.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{
    metrics::Metrics,
    protocol::{
        deflate,
        frame::{frame_len, text_frame},
    },
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
    head: Box<[u8]>,
    rest: Arc<SharedText>,
    /// The frame as it goes out.
    done: OnceLock<Bytes>,
}

/// A text with which several frames end, compressed once for all of them.
#[derive(Debug)]
pub struct SharedText {
    text: Bytes,
    compressed: OnceLock<Option<Bytes>>,
}

impl SharedText {
    pub(crate) fn new(text: Bytes) -> SharedText {
        SharedText { text, compressed: OnceLock::new() }
    }

    /// The text as [`deflate::compressed`] returns it. Another thread that compresses it at the same time is waited for:
    /// doing it twice would take as long.
    fn compressed(&self) -> Option<&[u8]> {
        self.compressed.get_or_init(|| deflate::compressed(&self.text)).as_deref()
    }
}

impl From<Bytes> for Frame {
    fn from(frame: Bytes) -> Frame {
        Frame::Ready(frame)
    }
}

impl Frame {
    /// A text frame, which is compressed if the rest is long enough to save something.
    pub(crate) fn compressible(head: Vec<u8>, rest: &Arc<SharedText>) -> Frame {
        if rest.text.len() < deflate::MIN_BYTES {
            return Frame::Ready(text_frame(&[&head, &rest.text]));
        }
        let (head, rest) = (head.into(), Arc::clone(rest));
        Frame::Compressible(Arc::new(Compressible { head, rest, done: OnceLock::new() }))
    }

    /// How many bytes it takes in a queue.
    pub(super) fn len(&self) -> usize {
        match self {
            Frame::Ready(frame) => frame.len(),
            Frame::Compressible(frame) => frame.len(),
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
    /// Its length without compression.
    fn len(&self) -> usize {
        frame_len(self.head.len() + self.rest.text.len())
    }

    /// Compresses the frame, unless that was done before.
    pub(super) fn compress(&self, metrics: &Metrics) {
        self.done.get_or_init(|| {
            let frame = self.rest.compressed().map(|rest| deflate::compressed_frame(&self.head, rest));
            let frame = frame
                .filter(|frame| frame.len() < self.len())
                .unwrap_or_else(|| text_frame(&[&self.head, &self.rest.text]));
            metrics.compressed(self.len(), frame.len());
            frame
        });
    }

    /// The frame as it goes out, if it is known; not if it is being compressed at the moment.
    pub(super) fn done(&self) -> Option<Bytes> {
        self.done.get().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a compressed frame of 126 to 65,535 bytes.
    fn text(frame: &[u8]) -> String {
        assert_eq!(frame[..2], [0xc1, 126]);
        String::from_utf8(deflate::decompress(&frame[4..], 10_000).unwrap()).unwrap()
    }

    #[test]
    fn frames_that_end_alike_have_their_end_compressed_once() {
        let rest = "the same ".repeat(100);
        let shared = Arc::new(SharedText::new(rest.clone().into()));
        let metrics = Metrics::default();
        let mut compressed_at = Vec::new();
        for number in 0..3 {
            let head = format!("one's own head, number {number} ").repeat(5);
            let Frame::Compressible(frame) = Frame::compressible(head.clone().into(), &shared) else {
                panic!("it is long enough")
            };
            frame.compress(&metrics);
            assert_eq!(text(&frame.done().unwrap()), head + &rest);
            compressed_at.push(shared.compressed().unwrap().as_ptr());
        }
        assert!(compressed_at.iter().all(|at| *at == compressed_at[0]));
    }
}
