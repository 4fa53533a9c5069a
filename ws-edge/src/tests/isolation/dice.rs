//! The dice of one world: random bytes, but not too random, or hardly any binding would ever match an event.

use std::ops::Range;

use rand::{RngExt, rngs::StdRng};

use super::{bindings::FORMS, events::KINDS};

/// Forms of bindings, and the kinds of events that are for them.
const TOPICS: &[(Range<u8>, Range<u8>)] = &[
    (0..2, 0..4),
    (2..4, 4..6),
    (4..5, 6..8),
    (5..8, 8..13),
    (8..9, 13..14),
    (9..11, 14..18),
    (11..12, 18..19),
    (12..13, 19..20),
    (13..14, 20..22),
    (14..15, 22..23),
    (15..16, 23..24),
    (16..17, 24..25),
    (0..FORMS, 0..KINDS),
];

/// A world's dice.
#[derive(Debug)]
pub(super) struct Dice {
    topics: [usize; 2],
    words: [u8; 4],
}

impl Dice {
    /// Selects what the world is about.
    pub(super) fn new(rng: &mut StdRng) -> Dice {
        Dice { topics: [(); 2].map(|()| rng.random_range(0..TOPICS.len())), words: rng.random() }
    }

    /// Dice for a binding.
    pub(super) fn binding(&self, rng: &mut StdRng) -> [u8; 4] {
        let (forms, _) = self.topic(rng);
        [rng.random_range(forms), self.word(rng), self.word(rng), rng.random()]
    }

    /// Dice for an event.
    pub(super) fn event(&self, rng: &mut StdRng) -> [u8; 6] {
        let (_, kinds) = self.topic(rng);
        [rng.random_range(kinds), rng.random(), self.word(rng), self.word(rng), rng.random(), rng.random()]
    }

    fn topic(&self, rng: &mut StdRng) -> (Range<u8>, Range<u8>) {
        let topic =
            if rng.random_ratio(1, 8) { TOPICS.len() - 1 } else { self.topics[rng.random_range(0..2)] };
        TOPICS[topic].clone()
    }

    fn word(&self, rng: &mut StdRng) -> u8 {
        if rng.random_ratio(1, 8) { rng.random() } else { self.words[rng.random_range(0..self.words.len())] }
    }
}
