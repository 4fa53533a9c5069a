//! Subjects with wildcards, by their words: finding those that match an event costs the depth of its subject, not the
//! number of patterns.

use crate::ids::SubjectNumber;

/// The patterns below one tenant. A path of words leads to each.
#[derive(Debug, Default)]
pub(super) struct PatternTree {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// The pattern that ends here.
    here: Option<SubjectNumber>,
    /// The pattern that ends here with `>`.
    rest: Option<SubjectNumber>,
    /// `*`.
    any: Option<Box<Node>>,
    /// Other words, in order.
    words: Vec<(Box<str>, Node)>,
}

impl PatternTree {
    /// Adds a pattern, given without its root and tenant.
    pub(super) fn insert(&mut self, pattern: &str, number: SubjectNumber) {
        let mut node = &mut self.root;
        for word in words(pattern) {
            node = match word {
                ">" => {
                    node.rest = Some(number);
                    return;
                }
                "*" => node.any.get_or_insert_default(),
                word => {
                    let index = node.find(word).unwrap_or_else(|index| {
                        // Most nodes have one.
                        node.words.reserve_exact(1);
                        node.words.insert(index, (word.into(), Node::default()));
                        index
                    });
                    match node.words.get_mut(index) {
                        Some((_, next)) => next,
                        None => return,
                    }
                }
            };
        }
        node.here = Some(number);
    }

    /// Removes a pattern.
    pub(super) fn remove(&mut self, pattern: &str) {
        self.root.remove(words(pattern));
    }

    /// Whether there are no patterns.
    pub(super) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds to `found` the patterns that match a subject, given without its root and tenant.
    pub(super) fn find(&self, subject: &str, found: &mut Vec<SubjectNumber>) {
        self.root.matching(words(subject), found);
    }
}

impl Node {
    fn find(&self, word: &str) -> Result<usize, usize> {
        self.words.binary_search_by(|(own, _)| (**own).cmp(word))
    }

    fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.any.is_none() && self.words.is_empty()
    }

    fn matching<'w>(&self, mut words: impl Iterator<Item = &'w str> + Clone, found: &mut Vec<SubjectNumber>) {
        let Some(word) = words.next() else {
            found.extend(self.here);
            return;
        };
        found.extend(self.rest);
        if let Some(any) = &self.any {
            any.matching(words.clone(), found);
        }
        if let Some((_, next)) = self.find(word).ok().and_then(|index| self.words.get(index)) {
            next.matching(words, found);
        }
    }

    fn remove<'w>(&mut self, mut words: impl Iterator<Item = &'w str>) {
        match words.next() {
            None => self.here = None,
            Some(">") => self.rest = None,
            Some("*") => {
                if let Some(any) = &mut self.any {
                    any.remove(words);
                    if any.is_empty() {
                        self.any = None;
                    }
                }
            }
            Some(word) => {
                let Ok(index) = self.find(word) else { return };
                let Some((_, next)) = self.words.get_mut(index) else { return };
                next.remove(words);
                if next.is_empty() {
                    self.words.remove(index);
                }
            }
        }
    }
}

fn words(subject: &str) -> impl Iterator<Item = &str> + Clone {
    // No words at all are no word, not one empty one.
    subject.split('.').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use blackhole_common::subject::subject_matches;
    use proptest::prelude::*;

    use super::*;

    fn found(tree: &PatternTree, subject: &str) -> Vec<SubjectNumber> {
        let mut found = Vec::new();
        tree.find(subject, &mut found);
        found.sort_unstable();
        found
    }

    #[test]
    fn a_pattern_is_found_until_it_is_removed() {
        let mut tree = PatternTree::default();
        let patterns = [">", "*", "a.*", "a.>", "*.b", "a.*.c"];
        (1..).zip(patterns).for_each(|(number, pattern)| tree.insert(pattern, number));
        assert_eq!(found(&tree, "a.b"), [1, 3, 4, 5]);
        assert_eq!(found(&tree, "a"), [1, 2]);
        assert_eq!(found(&tree, ""), [0; 0], "`>` stands for one word at least");
        tree.remove("a.>");
        tree.remove("b.>");
        assert_eq!(found(&tree, "a.b"), [1, 3, 5]);
        patterns.iter().for_each(|pattern| tree.remove(pattern));
        assert!(tree.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_matches_word_by_word(
            patterns in prop::collection::vec("([ab*]\\.){0,3}[ab*>]", 0..20),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
            subject in "[ab](\\.[ab]){0,4}",
        ) {
            let mut tree = PatternTree::default();
            let mut patterns: Vec<String> = patterns;
            patterns.sort();
            patterns.dedup();
            for (number, pattern) in (0..).zip(&patterns) {
                tree.insert(pattern, number);
            }
            let removed: Vec<String> = removed.iter().filter(|_| !patterns.is_empty()).map(|index| index.get(&patterns).clone()).collect();
            removed.iter().for_each(|pattern| tree.remove(pattern));
            let expected: Vec<SubjectNumber> = (0..)
                .zip(&patterns)
                .filter(|(_, pattern)| !removed.contains(pattern) && subject_matches(pattern, &subject))
                .map(|(number, _)| number)
                .collect();
            prop_assert_eq!(found(&tree, &subject), expected);
        }
    }
}
