//! Maps AMQP routing keys to NATS subjects, word by word and one to one.
//!
//! AMQP allows words that NATS does not: spaces, control characters, `*`, `>`, empty words, non-ASCII bytes.
//! Such bytes are escaped as `=XX` (two upper-case hex digits), `=` itself as `=3D`, and an empty word as a
//! lone `=`. Keys from KAZOO's own encoder (`[A-Za-z0-9-~_%+.]`) do not change, so that the documented
//! `doc_edited.*.user.*` is literally the end of a subject.

use std::fmt::Write as _;

use thiserror::Error;

/// The maximum length of a subject.
///
/// nats-server's `max_control_line` is 4096 bytes by default, which must also fit the verb, a reply subject and two
/// sizes. The subjects of events are much shorter: an AMQP key has at most 255 bytes, or 765 if all are escaped.
pub const MAX_SUBJECT_BYTES: usize = 2048;

/// One word of an AMQP binding pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// Matches this word, given unescaped as in AMQP.
    Exactly(String),
    /// `*`: matches exactly one word.
    Any,
    /// `#`: matches zero or more words. Only valid as the last word.
    Rest,
}

impl Word {
    /// The word as written in an AMQP binding pattern.
    pub fn as_amqp(&self) -> &str {
        match self {
            Word::Exactly(word) => word,
            Word::Any => "*",
            Word::Rest => "#",
        }
    }
}

/// Why a pattern or subject cannot be converted.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SubjectError {
    /// `#` before the last word, which NATS cannot express.
    #[error("`#` is only possible as the last word")]
    RestNotLast,
    /// Longer than [`MAX_SUBJECT_BYTES`].
    #[error("the subject would have {0} bytes, more than {MAX_SUBJECT_BYTES}")]
    TooLong(usize),
    /// Not the result of escaping a routing key.
    #[error("`{0}` is not an escaped routing key")]
    NotEscaped(String),
}

/// Appends an AMQP word, escaped so that NATS treats it as one literal word. Dots are escaped too, for words
/// that are not from a routing key: account ids and realms.
pub fn push_word(subject: &mut String, word: &[u8]) {
    if word.is_empty() {
        subject.push('=');
        return;
    }
    let must_be_escaped = |byte: &u8| matches!(byte, b'*' | b'>' | b'=' | b'.' | 0..=b' ' | 0x7f..);
    // Few bytes need escaping, so copy the runs between them.
    for run in word.split_inclusive(must_be_escaped) {
        let (plain, escaped) = match run.split_last() {
            Some((last, plain)) if must_be_escaped(last) => (plain, Some(last)),
            _ => (run, None),
        };
        subject.push_str(std::str::from_utf8(plain).unwrap_or_default());
        if let Some(byte) = escaped {
            // Writing to a String cannot fail.
            let _ = write!(subject, "={byte:02X}");
        }
    }
}

/// Appends an AMQP routing key: for each word, a dot and the escaped word. The empty key has no words, as in
/// RabbitMQ: `#` matches it, `*` does not.
pub fn push_key(subject: &mut String, key: &[u8]) {
    if key.is_empty() {
        return;
    }
    for word in key.split(|&byte| byte == b'.') {
        subject.push('.');
        push_word(subject, word);
    }
}

/// Decodes a routing key that [`push_key`] has written, without the leading dot.
///
/// # Errors
/// [`SubjectError::NotEscaped`] if [`push_key`] would never write this.
pub fn decode_key(escaped: &str) -> Result<Vec<u8>, SubjectError> {
    let not_escaped = || SubjectError::NotEscaped(escaped.to_owned());
    if escaped.is_empty() {
        return Ok(Vec::new());
    }
    let mut key = Vec::with_capacity(escaped.len());
    for (index, word) in escaped.split('.').enumerate() {
        if index > 0 {
            key.push(b'.');
        }
        if word == "=" {
            continue;
        }
        let start = key.len();
        let mut bytes = word.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'=' {
                let digit = |byte: Option<u8>| match byte {
                    Some(b @ b'0'..=b'9') => Some(b - b'0'),
                    Some(b @ b'A'..=b'F') => Some(b - b'A' + 10),
                    _ => None,
                };
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err(not_escaped());
                };
                key.push(high << 4 | low);
            } else {
                key.push(byte);
            }
        }
        // The mapping is one to one: reject alternative encodings of the same word.
        let decoded = key.get(start..).unwrap_or_default();
        let mut canonical = String::with_capacity(word.len());
        push_word(&mut canonical, decoded);
        if canonical != word || decoded.contains(&b'.') {
            return Err(not_escaped());
        }
    }
    // A lone `=` would decode to the empty key, which is encoded as no words.
    if key.is_empty() { Err(not_escaped()) } else { Ok(key) }
}

/// The NATS subjects that together match the same keys as the AMQP pattern `words`, below `root` (a subject without a
/// trailing dot). There are two if the pattern ends in `#`, otherwise one.
///
/// # Errors
/// [`SubjectError::RestNotLast`] and [`SubjectError::TooLong`].
pub fn pattern_subjects(root: &str, words: &[Word]) -> Result<Vec<String>, SubjectError> {
    let mut subject = root.to_owned();
    let mut subjects = Vec::with_capacity(2);
    for (index, word) in words.iter().enumerate() {
        match word {
            Word::Rest if index + 1 < words.len() => return Err(SubjectError::RestNotLast),
            Word::Rest => {
                // AMQP's `#` also matches zero words; NATS's `>` does not.
                subjects.push(subject.clone());
                subject.push_str(".>");
            }
            Word::Any => subject.push_str(".*"),
            Word::Exactly(word) => {
                subject.push('.');
                push_word(&mut subject, word.as_bytes());
            }
        }
    }
    subjects.push(subject);
    match subjects.iter().map(String::len).max() {
        Some(longest) if longest > MAX_SUBJECT_BYTES => Err(SubjectError::TooLong(longest)),
        _ => Ok(subjects),
    }
}

/// Whether the subject of a NATS subscription, which may have wildcards, matches a concrete subject.
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let is_dot = |byte: &u8| *byte == b'.';
    let mut words = subject.as_bytes().split(is_dot);
    for expected in pattern.as_bytes().split(is_dot) {
        match (expected, words.next()) {
            (b">", Some(_)) => return true,
            (b"*", Some(_)) => {}
            (expected, Some(word)) if expected == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[cfg(test)]
mod tests;
