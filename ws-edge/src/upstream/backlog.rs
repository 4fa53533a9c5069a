//! Live messages that are held back while it is not known whether something before them is missing.

use std::collections::VecDeque;

use blackhole_common::nats::protocol::Message;

/// The most that is held back; what comes beyond it is dropped, and read from the stream later.
const MAX_BYTES: usize = 16 << 20;

/// Messages in the order in which they came.
#[derive(Default)]
pub(super) struct Backlog {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Backlog {
    /// Holds a message. Returns `false` if there is too much: all messages are dropped then.
    pub(super) fn push(&mut self, message: Message) -> bool {
        self.bytes += message.payload.len() + message.headers.len() + size_of::<Message>();
        if self.bytes > MAX_BYTES {
            *self = Backlog::default();
            return false;
        }
        self.messages.push_back(message);
        true
    }

    /// Takes all messages out.
    pub(super) fn take(&mut self) -> VecDeque<Message> {
        std::mem::take(self).messages
    }
}
