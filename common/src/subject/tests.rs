use proptest::prelude::*;

use super::*;

fn encoded(key: &[u8]) -> String {
    let mut subject = String::new();
    push_key(&mut subject, key);
    subject.trim_start_matches('.').to_owned()
}

/// Reference implementation of AMQP 0-9-1's topic matching. The empty key has no words.
fn amqp_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", rest)), _) => {
            amqp_matches(rest, key) || key.split_first().is_some_and(|(_, tail)| amqp_matches(pattern, tail))
        }
        (Some((&"*", rest)), Some((_, tail))) => amqp_matches(rest, tail),
        (Some((word, rest)), Some((first, tail))) => word == first && amqp_matches(rest, tail),
        _ => false,
    }
}

#[test]
fn keys_written_by_kazoo_do_not_change() {
    for key in [
        "call.CHANNEL_CREATE.1f3c9a%2E77e2%4010%2E0%2E4%2E17",
        "doc_edited.account%2F0b%2Fb9%2Fc3fe24f5a8c2b40fbf24d1e1ba17-202611.user.e1-~_+",
    ] {
        assert_eq!(encoded(key.as_bytes()), key);
    }
}

#[test]
fn words_that_nats_does_not_allow_are_escaped() {
    assert_eq!(encoded(b""), "");
    assert_eq!(encoded(b"a..b"), "a.=.b");
    assert_eq!(encoded(b"a b.*.>.=.\x00\xff"), "a=20b.=2A.=3E.=3D.=00=FF");
}

#[test]
fn subjects_that_are_not_escaped_keys_are_rejected() {
    for text in ["=", "a.", "=2", "=2a", "=41", "=2E", "a b", "==", "*", "x.>", "=é"] {
        assert_eq!(decode_key(text), Err(SubjectError::NotEscaped(text.to_owned())));
    }
}

#[test]
fn a_trailing_hash_gives_two_subjects() {
    let words = [Word::Exactly("call".into()), Word::Any, Word::Rest];
    assert_eq!(pattern_subjects("e.t", &words).unwrap(), ["e.t.call.*", "e.t.call.*.>"]);
    assert_eq!(pattern_subjects("e.t", &[Word::Rest]).unwrap(), ["e.t", "e.t.>"]);
    assert_eq!(pattern_subjects("e.t", &[Word::Rest, Word::Any]), Err(SubjectError::RestNotLast));
}

#[test]
fn patterns_that_are_too_long_are_rejected() {
    let words = |length| vec![Word::Exactly("x".repeat(length)), Word::Rest];
    let longest = MAX_SUBJECT_BYTES - "e.t.".len() - ".>".len();
    let subjects = pattern_subjects("e.t", &words(longest)).unwrap();
    assert_eq!(subjects[1].len(), MAX_SUBJECT_BYTES);
    let error = pattern_subjects("e.t", &words(longest + 1)).unwrap_err();
    assert_eq!(error, SubjectError::TooLong(MAX_SUBJECT_BYTES + 1));
}

#[test]
fn words_are_written_as_in_amqp() {
    let words = [Word::Exactly("a b".into()), Word::Any, Word::Rest];
    assert_eq!(words.each_ref().map(Word::as_amqp), ["a b", "*", "#"]);
}

proptest! {
    #[test]
    fn keys_round_trip_and_give_valid_subjects(key in prop::collection::vec(any::<u8>(), 0..255)) {
        let subject = encoded(&key);
        prop_assert!(key.is_empty() || subject.split('.').all(|word| !word.is_empty() && word != "*" && word != ">"));
        prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(decode_key(&subject).unwrap(), key);
    }

    #[test]
    fn every_key_has_only_one_encoding(
        parts in prop::collection::vec(
            prop::sample::select(vec!["a", "=", ".", "=2A", "=3D", "=00", "=FF", "=2a", "=41", "=2E", "*", "é"]), 0..6,
        ),
    ) {
        let text = parts.concat();
        match decode_key(&text) {
            Ok(key) => prop_assert_eq!(encoded(&key), text),
            Err(error) => prop_assert_eq!(error, SubjectError::NotEscaped(text)),
        }
    }

    #[test]
    fn patterns_match_the_same_keys_as_in_amqp(
        pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "=", "*"]), 1..5),
        rest in any::<bool>(),
        key in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "=", "*", ">"]), 1..6),
    ) {
        let mut pattern = pattern;
        let mut words: Vec<Word> = pattern
            .iter()
            .map(|&word| if word == "*" { Word::Any } else { Word::Exactly(word.to_owned()) })
            .collect();
        if rest {
            pattern.push("#");
            words.push(Word::Rest);
        }
        let key = key.join(".");
        let mut subject = "e.t".to_owned();
        push_key(&mut subject, key.as_bytes());
        let key: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
        let matching = pattern_subjects("e.t", &words)
            .unwrap()
            .iter()
            .filter(|pattern| subject_matches(pattern, &subject))
            .count();
        prop_assert!(matching <= 1, "an event would be delivered twice");
        prop_assert_eq!(matching == 1, amqp_matches(&pattern, &key));
    }
}
