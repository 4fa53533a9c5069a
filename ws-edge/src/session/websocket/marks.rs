//! The marks of compressed messages (RFC 7692): tungstenite refuses RSV1, and expects UTF-8 in every text. So the bytes of a
//! client that may compress pass here first: the mark is taken from the first frame of a message, which becomes a binary
//! one, and is remembered until tungstenite has put the message together.
//!
//! A mark anywhere else stays, and is refused.

use std::collections::VecDeque;

const RSV1: u8 = 0x40;
const OPCODE: u8 = 0x0f;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const MASKED: u8 = 0x80;
/// A client's mask for the payload.
const MASK_BYTES: u64 = 4;

/// How a client sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// As it is.
    Plain,
    /// As a compressed text, of which tungstenite makes a binary message.
    CompressedText,
    /// Compressed.
    CompressedBinary,
}

/// Which messages of a client are compressed, and where in its bytes the next frame begins.
#[derive(Debug, Default)]
pub(super) struct Marks {
    next: Next,
    /// Of the messages that have begun.
    messages: VecDeque<Sent>,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum Next {
    /// The first of a frame.
    #[default]
    First,
    /// Its second: whether the payload is masked, and its length or that of its length.
    Second,
    /// One of this many bytes of the length.
    Length { left: u8, read: u64, mask: u64 },
    /// One of this many bytes of mask and payload.
    Rest(u64),
}

impl Marks {
    /// Takes the marks out of the bytes that were read next.
    pub(super) fn take(&mut self, mut bytes: &mut [u8]) {
        while let Some((byte, others)) = std::mem::take(&mut bytes).split_first_mut() {
            bytes = others;
            self.next = match self.next {
                Next::First => {
                    self.begin(byte);
                    Next::Second
                }
                Next::Second => {
                    let mask = if *byte & MASKED == 0 { 0 } else { MASK_BYTES };
                    match *byte & !MASKED {
                        126 => Next::Length { left: 2, read: 0, mask },
                        127 => Next::Length { left: 8, read: 0, mask },
                        length => rest(u64::from(length), mask),
                    }
                }
                Next::Length { left, read, mask } => {
                    let read = read << 8 | u64::from(*byte);
                    if left > 1 { Next::Length { left: left - 1, read, mask } } else { rest(read, mask) }
                }
                Next::Rest(left) => {
                    // This byte, and as many of the others as are here.
                    let more = others_within(left, bytes.len());
                    bytes = std::mem::take(&mut bytes).get_mut(more..).unwrap_or_default();
                    rest(left - 1 - more as u64, 0)
                }
            };
        }
    }

    fn begin(&mut self, first: &mut u8) {
        let opcode = *first & OPCODE;
        if !matches!(opcode, TEXT | BINARY) {
            return;
        }
        self.messages.push_back(match (*first & RSV1 != 0, opcode) {
            (false, _) => Sent::Plain,
            (true, TEXT) => Sent::CompressedText,
            (true, _) => Sent::CompressedBinary,
        });
        if *first & RSV1 != 0 {
            *first = *first & !RSV1 & !OPCODE | BINARY;
        }
    }

    /// How the next text or binary message was sent.
    pub(super) fn next_message(&mut self) -> Sent {
        self.messages.pop_front().unwrap_or(Sent::Plain)
    }
}

fn rest(payload: u64, mask: u64) -> Next {
    match payload.saturating_add(mask) {
        0 => Next::First,
        rest => Next::Rest(rest),
    }
}

/// Of the bytes that follow one, how many belong to the `left` that begin with it.
fn others_within(left: u64, others: usize) -> usize {
    usize::try_from(left - 1).map_or(others, |left| left.min(others))
}
