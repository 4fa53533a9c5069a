//! What is read from an event's body, in one pass: that it is a JSON object, its name, and the members that may
//! tell whose it is. Nothing else is built, and the body itself goes on byte for byte.
//!
//! Everything is read as strictly as serde_json reads a `Value`, also what is skipped: nesting beyond 127 levels,
//! lone surrogates, numbers beyond a double and bytes that are no UTF-8 are refused. So whatever comes after the
//! ingest may parse any event, with any ordinary parser, without a care.
//!
//! Of a member that stands twice the last counts, as in every browser's `JSON.parse`: what the ingest takes for
//! the account is what clients see as the account.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The member that holds an event's name.
const NAME: &str = "Event-Name";

/// Longer names are not usable: KAZOO's have some 30 bytes, and it goes into a header.
const MAX_NAME_BYTES: usize = 256;

/// Why an event cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    /// No JSON, or JSON that not every parser takes.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// No `Event-Name`, or one that is no text, empty or too long.
    NoName,
    /// Larger than the NATS server's `max_payload` allows.
    TooLarge,
    /// The stream will never take it.
    Refused,
    /// Its routing key or properties are no text.
    Unreadable,
}

impl Rejection {
    /// All reasons.
    pub(crate) const ALL: [Rejection; 6] = [
        Rejection::NotJson,
        Rejection::NotAnObject,
        Rejection::NoName,
        Rejection::TooLarge,
        Rejection::Refused,
        Rejection::Unreadable,
    ];

    /// The reason in metrics and logs.
    pub(crate) fn label(self) -> &'static str {
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

/// What was found in a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts<'b> {
    /// The event's name: not empty, not too long.
    pub(crate) name: Cow<'b, str>,
    /// The texts at the wanted paths, in their order; `None` where there is nothing or no text.
    pub(crate) members: Vec<Option<Cow<'b, str>>>,
}

/// Reads a body; `paths` are the wanted members, dots between the names of nested ones.
///
/// # Errors
/// [`Rejection::NotJson`], [`Rejection::NotAnObject`] and [`Rejection::NoName`].
pub(crate) fn read<'b>(body: &'b [u8], paths: &[&str]) -> Result<Facts<'b>, Rejection> {
    // serde_json itself checks only those texts that it has to build.
    let text = std::str::from_utf8(body).map_err(|_| Rejection::NotJson)?;
    let mut found = vec![None; paths.len() + 1];
    let wanted = std::iter::once(NAME).chain(paths.iter().copied()).enumerate().collect();
    let mut json = serde_json::Deserializer::from_str(text);
    let top = Object(Members { wanted, found: &mut found });
    top.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
        // Only the top level insists on a type.
        if error.is_data() { Rejection::NotAnObject } else { Rejection::NotJson }
    })?;
    let mut found = found.into_iter();
    match found.next().flatten() {
        Some(name) if !name.is_empty() && name.len() <= MAX_NAME_BYTES => {
            Ok(Facts { name, members: found.collect() })
        }
        _ => Err(Rejection::NoName),
    }
}

/// A value in which some members are wanted: each with its place in `found` and the rest of its path, which is
/// empty where the value itself is wanted.
struct Members<'p, 'f, 'b> {
    wanted: Vec<(usize, &'p str)>,
    found: &'f mut [Option<Cow<'b, str>>],
}

/// [`Members`] of what must be an object.
struct Object<'p, 'f, 'b>(Members<'p, 'f, 'b>);

impl<'b> DeserializeSeed<'b> for Object<'_, '_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(ObjectOnly(self.0))
    }
}

struct ObjectOnly<'p, 'f, 'b>(Members<'p, 'f, 'b>);

impl<'b> Visitor<'b> for ObjectOnly<'_, '_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'b>>(self, map: A) -> Result<(), A::Error> {
        self.0.visit_map(map)
    }
}

impl<'b> DeserializeSeed<'b> for Members<'_, '_, 'b> {
    type Value = ();

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'b> Members<'_, '_, 'b> {
    fn keep(self, text: Cow<'b, str>) {
        for (place, rest) in self.wanted {
            if rest.is_empty()
                && let Some(found) = self.found.get_mut(place)
            {
                *found = Some(text.clone());
            }
        }
    }
}

impl<'b> Visitor<'b> for Members<'_, '_, 'b> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'b str) -> Result<(), E> {
        self.keep(Cow::Borrowed(text));
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.keep(Cow::Owned(text.to_owned()));
        Ok(())
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        let Members { wanted, found } = self;
        while let Some(below) = map.next_key_seed(Below(&wanted))? {
            // The last of several members of one name counts, so what an earlier one brought is void.
            for (place, _) in &below {
                if let Some(found) = found.get_mut(*place) {
                    *found = None;
                }
            }
            if below.is_empty() {
                map.next_value_seed(Skip)?;
            } else {
                map.next_value_seed(Members { wanted: below, found })?;
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

/// A member's name; gives what is wanted in the value that follows.
struct Below<'w, 'p>(&'w [(usize, &'p str)]);

impl<'b, 'p> DeserializeSeed<'b> for Below<'_, 'p> {
    type Value = Vec<(usize, &'p str)>;

    fn deserialize<D: Deserializer<'b>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Below<'_, 'p> {
    type Value = Vec<(usize, &'p str)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        let below = |&(place, path): &(usize, &'p str)| {
            let rest = path.strip_prefix(name).filter(|_| !path.is_empty() && !name.contains('.'))?;
            if rest.is_empty() { Some((place, rest)) } else { Some((place, rest.strip_prefix('.')?)) }
        };
        Ok(self.0.iter().filter_map(below).collect())
    }
}

/// A value of no interest. Unlike serde's `IgnoredAny` it is read in full and counts its depth.
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
