//! The JSON of clients.
//!
//! `serde_json::Value` alone would read more into it than other parsers: its feature `raw_value`, which reply and token
//! need, makes it parse the text in a member named `$serde_json::private::RawValue` as JSON again, with a recursion limit of
//! its own, and only where that member comes first. So what a client writes could be one thing here, and another or none in
//! the service that reads it next. Nobody has such members: they are refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Begins the names that serde_json keeps for itself.
const PRIVATE: &str = "$serde_json::private::";

/// Parses a text.
///
/// # Errors
/// If it is not JSON, nested too deeply, or has one of those members.
pub(super) fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Tree>(text).map(|Tree(value)| value)
}

struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Tree, D::Error> {
        json.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Tree(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Tree(value))) = map.next_entry::<String, Tree>()? {
            if name.starts_with(PRIVATE) {
                return Err(A::Error::custom("a member has a reserved name"));
            }
            members.insert(name, value);
        }
        Ok(members.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn members_that_serde_json_would_parse_again_are_refused() {
        for text in [
            r#"{"$serde_json::private::RawValue":"[1]"}"#,
            r#"{"a":1,"$serde_json::private::RawValue":5}"#,
            r#"{"a":[{"\u0024serde_json::private::RawValue":"{}"}]}"#,
            r#"{"$serde_json::private::Number":"1"}"#,
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("a member has a reserved name at line 1 column "), "{error}");
        }
        assert_eq!(parse(r#"{"$serde_json":"[1]"}"#).unwrap(), json!({ "$serde_json": "[1]" }));
    }

    #[test]
    fn the_last_of_repeated_members_counts() {
        assert_eq!(parse(r#"{"a":1,"a":{"b":2}}"#).unwrap(), json!({ "a": { "b": 2 } }));
    }

    /// What a client sends to Crossbar or KAZOO passes through here.
    #[test]
    fn a_number_is_the_nearest_that_a_double_can_be() {
        let number = parse("1844674407370000000000000000000000000000").unwrap();
        assert_eq!(number, json!(1844674407370000000000000000000000000000.0));
        assert_eq!(parse(&number.to_string()).unwrap(), number);
    }

    proptest! {
        /// Anything else is what it is for serde_json.
        #[test]
        fn json_like_text_is_what_serde_json_finds(text in r#"[\[\]{}",:0-9eE.+\-tnul\\ ]{0,16}|\{("[ab]":(1|-1|0\.5|"\\n"|\[\{\}\]|null|true),){0,4}"c":1\}"#) {
            let expected = serde_json::from_str::<Value>(&text);
            match (parse(&text), expected) {
                (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
                (Err(ours), Err(theirs)) => prop_assert_eq!(ours.to_string(), theirs.to_string()),
                (ours, theirs) => prop_assert!(false, "{ours:?} {theirs:?}"),
            }
        }
    }
}
