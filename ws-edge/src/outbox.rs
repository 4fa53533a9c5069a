//! What waits to be sent to one session: bounded in bytes, filled without ever waiting.

use std::{collections::VecDeque, task::Context};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The queue of one session. The fan-out pushes, the session's task pops.
#[derive(Debug)]
pub struct Outbox {
    most_bytes: usize,
    queue: Mutex<Queue>,
    reader: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Utf8Bytes>,
    bytes: usize,
    overrun: bool,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits to be sent.
    Queued,
    /// It was the first that did not fit: the session will be closed.
    Overran,
    /// It came after that one.
    Dropped,
}

impl Outbox {
    /// A queue that holds at most `most_bytes`; one frame always fits.
    pub fn new(most_bytes: usize) -> Outbox {
        Outbox { most_bytes, queue: Mutex::default(), reader: AtomicWaker::new() }
    }

    /// Adds a frame.
    pub fn push(&self, frame: Utf8Bytes) -> Pushed {
        let pushed = {
            let mut queue = self.queue.lock();
            if queue.overrun {
                return Pushed::Dropped;
            }
            let bytes = queue.bytes + frame.len();
            if bytes > self.most_bytes && !queue.frames.is_empty() {
                // What waits would reach the client with a hole behind it.
                *queue = Queue { overrun: true, ..Queue::default() };
                Pushed::Overran
            } else {
                queue.bytes = bytes;
                queue.frames.push_back(frame);
                Pushed::Queued
            }
        };
        self.reader.wake();
        pushed
    }

    /// The next frame. An empty queue gives its memory back.
    pub fn pop(&self) -> Option<Utf8Bytes> {
        let mut queue = self.queue.lock();
        let frame = queue.frames.pop_front();
        match &frame {
            Some(frame) => queue.bytes -= frame.len(),
            None => queue.frames = VecDeque::new(),
        }
        frame
    }

    /// Whether a frame did not fit.
    pub fn is_overrun(&self) -> bool {
        self.queue.lock().overrun
    }

    /// Has the task woken at the next push. To be called before the queue is looked at.
    pub fn register(&self, context: &Context<'_>) {
        self.reader.register(context.waker());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Utf8Bytes {
        "x".repeat(bytes).into()
    }

    #[test]
    fn frames_come_out_in_order() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push("a".into()), Pushed::Queued);
        assert_eq!(outbox.push("b".into()), Pushed::Queued);
        assert_eq!(outbox.pop().as_deref(), Some("a"));
        assert_eq!(outbox.pop().as_deref(), Some("b"));
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn a_single_large_frame_fits_but_no_second() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push(frame(100)), Pushed::Queued);
        assert_eq!(outbox.push(frame(1)), Pushed::Overran);
        assert_eq!(outbox.push(frame(1)), Pushed::Dropped);
        assert!(outbox.is_overrun());
        assert_eq!(outbox.pop(), None, "nothing is sent after a hole");
    }

    #[test]
    fn what_was_sent_makes_room() {
        let outbox = Outbox::new(10);
        for _ in 0..100 {
            assert_eq!(outbox.push(frame(6)), Pushed::Queued);
            assert!(outbox.pop().is_some());
        }
        assert!(!outbox.is_overrun());
    }
}
