//! AMQP's patterns, as the specification describes them.

use blackhole_common::subject::Word;

/// Whether the words of a pattern match those of a routing key.
pub(crate) fn matches(pattern: &[Word], key: &[&[u8]]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, first) => first.is_none(),
        (Some((Word::Rest, rest)), None) => matches(rest, key),
        (Some((Word::Rest, rest)), Some((_, later))) => matches(rest, key) || matches(pattern, later),
        (Some(_), None) => false,
        (Some((Word::Any, rest)), Some((_, later))) => matches(rest, later),
        (Some((Word::Exactly(word), rest)), Some((first, later))) => {
            word.as_bytes() == *first && matches(rest, later)
        }
    }
}

/// The words of a routing key. The empty key has none.
pub(crate) fn words(key: &[u8]) -> Vec<&[u8]> {
    if key.is_empty() { Vec::new() } else { key.split(|byte| *byte == b'.').collect() }
}
