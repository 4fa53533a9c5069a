//! A member of a document, whatever its type: KAZOO's own code converts where it reads.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess},
};

/// A value of a type that is needed, or another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::couchdb) enum Loose {
    Text(String),
    Flag(bool),
    /// A list of strings only.
    Texts(Vec<String>),
    Null,
    Other,
}

impl Loose {
    pub(in crate::couchdb) fn text(self) -> Option<String> {
        match self {
            Loose::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(in crate::couchdb) fn texts(self) -> Option<Vec<String>> {
        match self {
            Loose::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// As KAZOO's `is_true`: the text counts, too.
    pub(in crate::couchdb) fn is_true(&self) -> bool {
        match self {
            Loose::Flag(flag) => *flag,
            Loose::Text(text) => text == "true",
            _ => false,
        }
    }

    /// Whether it says no.
    pub(in crate::couchdb) fn is_false(&self) -> bool {
        match self {
            Loose::Flag(flag) => !flag,
            Loose::Text(text) => text == "false",
            Loose::Null => true,
            _ => false,
        }
    }
}

/// One element of a list.
struct Element(Option<String>);

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor { is_element: true }).map(|value| Element(value.text()))
    }
}

struct Visitor {
    /// Whether elements of a list matter. Those of a list in a list do not, so nothing recurses.
    is_element: bool,
}

impl<'de> de::Visitor<'de> for Visitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Loose, E> {
        Ok(Loose::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Loose, E> {
        Ok(Loose::Text(text))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Loose, E> {
        Ok(Loose::Flag(flag))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Loose, E> {
        Ok(Loose::Null)
    }

    fn visit_i64<E: de::Error>(self, _number: i64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_u64<E: de::Error>(self, _number: u64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_f64<E: de::Error>(self, _number: f64) -> Result<Loose, E> {
        Ok(Loose::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose, A::Error> {
        if self.is_element {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Loose::Other);
        }
        let mut texts = Some(Vec::new());
        while let Some(Element(text)) = list.next_element()? {
            texts = texts.zip(text).map(|(mut texts, text)| {
                texts.push(text);
                texts
            });
        }
        Ok(texts.map_or(Loose::Other, Loose::Texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor { is_element: false })
    }
}
