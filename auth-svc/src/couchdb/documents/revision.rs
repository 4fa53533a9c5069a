//! Revisions of documents, in the order in which CouchDB lets one of them win.

use serde::{Deserialize, Deserializer};

/// A document's revision: how often it was changed, and a hash. Of two with the same number, which were written in different
/// places at the same time, the one with the greater hash wins on every node. Zero if it is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    number: u64,
    /// Its first 64 bits: there is one of these for each account.
    hash: u64,
}

impl Revision {
    /// Reads `_rev`. What is no revision is older than all.
    pub fn of(text: &str) -> Revision {
        let parts = text.split_once('-').and_then(|(number, hash)| Some((number.parse().ok()?, hash)));
        let Some((number, hash)) = parts else { return Revision::default() };
        Revision { number, hash: u64::from_str_radix(hash.get(..16).unwrap_or(hash), 16).unwrap_or(0) }
    }

    /// Whether there is one.
    pub fn is_known(self) -> bool {
        self != Revision::default()
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Revision, D::Error> {
        String::deserialize(deserializer).map(|text| Revision::of(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_as_couchdb_lets_them_win() {
        let ordered = [
            "x",
            "1-a",
            "2-0000000000000001",
            "2-f967a00dff5e02add41819138abb3284",
            "9-zz",
            "10-0a",
            "10-0b",
        ];
        for pair in ordered.windows(2) {
            assert!(Revision::of(pair[0]) < Revision::of(pair[1]), "{pair:?}");
        }
        for text in ["", "-", "7", "a-b", "-1-a"] {
            assert!(!Revision::of(text).is_known(), "{text}");
        }
        assert!(Revision::of("1-967a00dff5e02add41819138abb3284d").is_known());
    }
}
