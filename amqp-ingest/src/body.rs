//! Parses an event's body in one pass: checks that it is a JSON object and extracts its name and the members that the
//! tenant is resolved from. Nothing else is built, and the body is forwarded byte for byte, except what is not UTF-8.
//!
//! Validation is as strict as parsing into a `serde_json::Value`, for skipped values too: nesting beyond 127 levels,
//! lone surrogates, numbers that do not fit a double and invalid UTF-8 are rejected. Every consumer downstream can
//! therefore parse any event with any ordinary parser.
//!
//! The last of several members with one name counts, as in `JSON.parse`: the account that the ingest resolves is the
//! account that clients see.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The member with the event's name.
const NAME: &str = "Event-Name";

/// Longer names are rejected: the name becomes a header. KAZOO's have about 30 bytes.
const MAX_NAME_BYTES: usize = 256;

/// Why an event is rejected to the dead-letter exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not JSON, or JSON that some parsers do not accept.
    NotJson,
    /// JSON, but not an object.
    NotAnObject,
    /// `Event-Name` is missing, not a string, empty or too long.
    NoName,
    /// Larger than the NATS server's `max_payload`.
    TooLarge,
    /// The stream will never accept it.
    Refused,
    /// Its exchange or routing key is not UTF-8.
    Unreadable,
}

impl Rejection {
    /// All reasons.
    pub const ALL: [Rejection; 6] = [
        Rejection::NotJson,
        Rejection::NotAnObject,
        Rejection::NoName,
        Rejection::TooLarge,
        Rejection::Refused,
        Rejection::Unreadable,
    ];

    /// The reason as shown in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Rejection::NotJson => "not_json",
            Rejection::NotAnObject => "not_an_object",
            Rejection::NoName => "no_name",
            Rejection::TooLarge => "too_large",
            Rejection::Refused => "refused",
            Rejection::Unreadable => "unreadable",
        }
    }
}

/// The extracted parts of a body.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedBody<'b> {
    /// The event's name: not empty, at most `MAX_NAME_BYTES`.
    pub name: Cow<'b, str>,
    /// The strings at the requested paths, in their order; `None` where there is no string.
    pub members: Vec<Option<Cow<'b, str>>>,
}

/// A body with U+FFFD in place of the bytes that are not UTF-8; `None` if there are none. KAZOO passes on what telephones
/// send, such as a `User-Agent` in Latin-1.
pub(crate) fn repair(body: &[u8]) -> Option<String> {
    match String::from_utf8_lossy(body) {
        Cow::Owned(repaired) => Some(repaired),
        Cow::Borrowed(_) => None,
    }
}

/// Parses a body and extracts the members at `paths`, in which dots separate the names of nested members.
///
/// # Errors
/// [`Rejection::NotJson`], [`Rejection::NotAnObject`] and [`Rejection::NoName`].
pub fn parse<'b>(body: &'b [u8], paths: &[&str]) -> Result<ParsedBody<'b>, Rejection> {
    // serde_json checks only the strings that it builds.
    let text = std::str::from_utf8(body).map_err(|_| Rejection::NotJson)?;
    let mut found = vec![None; paths.len() + 1];
    let wanted = std::iter::once(NAME).chain(paths.iter().copied()).enumerate().collect();
    let mut json = serde_json::Deserializer::from_str(text);
    let top = ExtractFromObject(Extract { wanted, found: &mut found });
    top.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
        // Only the top level requires a type.
        if error.is_data() { Rejection::NotAnObject } else { Rejection::NotJson }
    })?;
    let mut found = found.into_iter();
    match found.next().flatten() {
        Some(name) if !name.is_empty() && name.len() <= MAX_NAME_BYTES => {
            Ok(ParsedBody { name, members: found.collect() })
        }
        _ => Err(Rejection::NoName),
    }
}

/// Visits a value and extracts the `wanted` members: each with its index in `found` and the rest of its path, which is
/// empty if the value itself is wanted.
struct Extract<'p, 'f, 'b> {
    wanted: Vec<(usize, &'p str)>,
    found: &'f mut [Option<Cow<'b, str>>],
}

/// [`Extract`] for a value that must be an object.
struct ExtractFromObject<'p, 'f, 'b>(Extract<'p, 'f, 'b>);

impl<'b> DeserializeSeed<'b> for ExtractFromObject<'_, '_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(ObjectVisitor(self.0))
    }
}

struct ObjectVisitor<'p, 'f, 'b>(Extract<'p, 'f, 'b>);

impl<'b> Visitor<'b> for ObjectVisitor<'_, '_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, map: A) -> Result<(), A::Error> {
        self.0.visit_map(map)
    }
}

impl<'b> DeserializeSeed<'b> for Extract<'_, '_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Extract<'_, '_, 'b> {
    fn store(self, text: Cow<'b, str>) {
        for (index, rest) in self.wanted {
            if rest.is_empty()
                && let Some(found) = self.found.get_mut(index)
            {
                *found = Some(text.clone());
            }
        }
    }
}

impl<'b> Visitor<'b> for Extract<'_, '_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'b str) -> Result<(), E> {
        self.store(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.store(Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        let Extract { wanted, found } = self;
        while let Some(nested) = map.next_key_seed(WantedBelow(&wanted))? {
            // The last of several members with one name counts: discard what an earlier one held.
            for (index, _) in &nested {
                if let Some(found) = found.get_mut(*index) {
                    *found = None;
                }
            }
            if nested.is_empty() {
                map.next_value_seed(Skip)?;
            } else {
                map.next_value_seed(Extract { wanted: nested, found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'b>>(self, seq: A) -> Result<(), A::Error> {
        Skip.visit_seq(seq)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a member's name and returns what is wanted in the value that follows.
struct WantedBelow<'w, 'p>(&'w [(usize, &'p str)]);

impl<'b, 'p> DeserializeSeed<'b> for WantedBelow<'_, 'p> {
    type Value = Vec<(usize, &'p str)>;

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for WantedBelow<'_, 'p> {
    type Value = Vec<(usize, &'p str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let nested = |&(index, path): &(usize, &'p str)| {
            let rest = path.strip_prefix(name).filter(|_| !path.is_empty() && !name.contains('.'))?;
            if rest.is_empty() { Some((index, rest)) } else { Some((index, rest.strip_prefix('.')?)) }
        };
        Ok(self.0.iter().filter_map(nested).collect())
    }
}

/// Skips a value. Unlike serde's `IgnoredAny`, it validates the value in full and counts its depth.
struct Skip;

impl<'b> DeserializeSeed<'b> for Skip {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Visitor<'b> for Skip {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Skip)?.is_some() {
            map.next_value_seed(Skip)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'b>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Skip)?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
