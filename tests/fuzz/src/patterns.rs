//! AMQP's patterns, as the specification describes them.

/// Whether the words of a pattern match those of a routing key.
pub(crate) fn matches<W: AsRef<[u8]>>(pattern: &[W], key: &[&[u8]]) -> bool {
    let Some((word, rest)) = pattern.split_first() else { return key.is_empty() };
    match (word.as_ref(), key.split_first()) {
        (b"#", None) => matches(rest, key),
        (b"#", Some((_, later))) => matches(rest, key) || matches(pattern, later),
        (_, None) => false,
        (word, Some((first, later))) => (word == b"*" || word == *first) && matches(rest, later),
    }
}

/// The words of a routing key. The empty key has none.
pub(crate) fn words(key: &[u8]) -> Vec<&[u8]> {
    if key.is_empty() { Vec::new() } else { key.split(|byte| *byte == b'.').collect() }
}
