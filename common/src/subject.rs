//! AMQP routing keys as NATS subjects, word by word and one to one.
//!
//! AMQP allows words that NATS does not: space, control characters, `*`, `>`, the empty word, any byte above
//! ASCII. Such bytes are written `=XX` (two upper-case hex digits), `=` itself is `=3D`, and an empty word is a
//! lone `=`. Every key that KAZOO's own encoder writes (`[A-Za-z0-9-~_%+.]`) passes unchanged, so that the
//! documented `doc_edited.*.user.*` is, literally, the tail of a subject.

use std::fmt::Write as _;

use thiserror::Error;

/// The longest subject that the services use, in bytes.
///
/// nats-server's `max_control_line` is 4096 bytes by default and has to hold the verb, a reply subject and two
/// sizes as well. An AMQP key has at most 255 bytes, which escape to 765, so events never come near.
pub const MAX_SUBJECT_BYTES: usize = 2048;

/// One word of an AMQP binding pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Word {
    /// This word and no other (as on AMQP's side: not escaped).
    Exactly(String),
    /// `*`: any one word.
    Any,
    /// `#`: any number of words, none included. Only as the last word.
    Rest,
}

impl Word {
    /// The word as AMQP writes it in a binding pattern.
    pub fn as_amqp(&self) -> &str {
        match self {
            Word::Exactly(word) => word,
            Word::Any => "*",
            Word::Rest => "#",
        }
    }
}

/// Why a text is no subject of ours.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SubjectError {
    /// `#` in the middle: NATS has nothing like it.
    #[error("`#` is only possible as the last word")]
    RestNotLast,
    /// Longer than [`MAX_SUBJECT_BYTES`].
    #[error("the subject would have {0} bytes, more than {MAX_SUBJECT_BYTES}")]
    TooLong(usize),
    /// An escape that this codec does not write.
    #[error("`{0}` is not an escaped routing key")]
    NotEscaped(String),
}

/// Appends one AMQP word, escaped so that NATS takes it as one literal word. A dot inside is escaped too, which
/// matters for words that come from elsewhere than a routing key (an account id, a realm).
pub fn push_word(subject: &mut String, word: &[u8]) {
    if word.is_empty() {
        subject.push('=');
        return;
    }
    let must_be_escaped = |byte: &u8| matches!(byte, b'*' | b'>' | b'=' | b'.' | 0..=b' ' | 0x7f..);
    // Hardly any byte has to be: runs of others are taken as they are.
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

/// Appends an AMQP routing key: a dot and the escaped word for each of its words. The empty key has none, as
/// RabbitMQ sees it: `#` matches it, `*` does not.
pub fn push_key(subject: &mut String, key: &[u8]) {
    if key.is_empty() {
        return;
    }
    for word in key.split(|&byte| byte == b'.') {
        subject.push('.');
        push_word(subject, word);
    }
}

/// The routing key that [`push_key`] wrote, given without the leading dot.
///
/// # Errors
/// [`SubjectError::NotEscaped`] for text that [`push_key`] never writes.
pub fn decode_key(escaped: &str) -> Result<Vec<u8>, SubjectError> {
    let refused = || SubjectError::NotEscaped(escaped.to_owned());
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
        let from = key.len();
        let mut bytes = word.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'=' {
                let digit = |byte: Option<u8>| match byte {
                    Some(b @ b'0'..=b'9') => Some(b - b'0'),
                    Some(b @ b'A'..=b'F') => Some(b - b'A' + 10),
                    _ => None,
                };
                let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
                    return Err(refused());
                };
                key.push(high << 4 | low);
            } else {
                key.push(byte);
            }
        }
        // One to one: what would have been written otherwise is not ours.
        let decoded = key.get(from..).unwrap_or_default();
        let mut again = String::with_capacity(word.len());
        push_word(&mut again, decoded);
        if again != word || decoded.contains(&b'.') {
            return Err(refused());
        }
    }
    // A single empty word would be the empty key, which has no words.
    if key.is_empty() { Err(refused()) } else { Ok(key) }
}

/// The NATS subjects that together match what the AMQP pattern `words` matches, each below `root` (a subject
/// without a trailing dot): one, or two where the pattern ends in `#`.
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
                // AMQP's `#` also matches no word at all.
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

/// Whether a NATS subscription subject matches a concrete subject, by NATS's rules.
pub fn subject_matches(pattern: &str, subject: &str) -> bool {
    let is_dot = |byte: &u8| *byte == b'.';
    let mut words = subject.as_bytes().split(is_dot);
    for wanted in pattern.as_bytes().split(is_dot) {
        match (wanted, words.next()) {
            (b">", Some(_)) => return true,
            (b"*", Some(_)) => {}
            (wanted, Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

#[cfg(test)]
mod tests;
