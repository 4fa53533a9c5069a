//! The NATS protocol.

use std::iter::once;

use blackhole_common::nats::protocol::{Op, header, next};

use crate::pieces::{pieces, read_all};

/// The first byte chooses the pieces that the rest arrives in. They make no difference.
pub(crate) fn run(input: &[u8]) -> bool {
    let Some((seed, input)) = input.split_first() else { return false };
    let ops = read_all(once(input), next);
    assert_eq!(read_all(pieces(*seed, input), next), ops);
    let mut is_message = false;
    for op in ops {
        let Ok(Op::Message(message)) = op else { continue };
        is_message = true;
        assert_eq!(message.subject().as_bytes(), message.subject);
        assert!(!message.subject.is_empty() && !message.subject.contains(&b' '));
        let _ = message.status();
        let value = header(&message.headers, b"Bh-Key");
        assert_eq!(message.header("Bh-Key"), value.and_then(|value| std::str::from_utf8(value).ok()));
        assert!(value.is_none_or(|value| value.trim_ascii() == value));
    }
    is_message
}
