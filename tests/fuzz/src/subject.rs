//! Routing keys, patterns and subjects.

use blackhole_common::subject::{
    MAX_SUBJECT_BYTES, Word, decode_key, pattern_subjects, push_key, subject_matches,
};

use crate::patterns::{matches, words};

/// Lines: a routing key or its subject, and a pattern. Keys and subjects are one to one, and NATS matches as AMQP does.
pub(crate) fn run(input: &[u8]) -> bool {
    let mut lines = input.splitn(2, |byte| *byte == b'\n');
    let (key, pattern) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut subject = "ev".to_owned();
    push_key(&mut subject, key);
    assert!(subject.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte)), "{subject}");
    assert_eq!(decode_key(subject.strip_prefix("ev.").unwrap_or_default()), Ok(key.to_vec()));
    let decoded = std::str::from_utf8(key).ok().and_then(|text| decode_key(text).ok());
    if let Some(decoded) = decoded.filter(|decoded| !decoded.is_empty()) {
        let mut encoded = Vec::new();
        let mut text = String::new();
        push_key(&mut text, &decoded);
        encoded.extend_from_slice(text.strip_prefix('.').unwrap().as_bytes());
        assert_eq!(encoded, key);
    }
    let Ok(pattern) = std::str::from_utf8(pattern) else { return false };
    let as_word = |word: &&[u8]| match *word {
        b"*" => Word::Any,
        b"#" => Word::Rest,
        word => Word::Exactly(String::from_utf8(word.to_vec()).unwrap()),
    };
    let pattern: Vec<Word> = words(pattern.as_bytes()).iter().map(as_word).collect();
    let Ok(subjects) = pattern_subjects("ev", &pattern) else {
        return false;
    };
    let got = subjects.iter().filter(|pattern| subject_matches(pattern, &subject)).count();
    assert_eq!(got, usize::from(matches(&pattern, &words(key))), "{subject} and {subjects:?}");
    assert!(subjects.iter().all(|subject| subject.len() <= MAX_SUBJECT_BYTES));
    got == 1
}
