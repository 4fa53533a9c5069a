//! The members of a token's header or claims. What is nested in a member stays text: nothing in a token decides how deep
//! a parser recurses.
//!
//! `serde_json::Value` is no match for that: its feature `raw_value`, which other crates switch on, makes it parse the
//! text in a member named `$serde_json::private::RawValue` as JSON again, with a recursion limit of its own.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Number, value::RawValue};

use crate::refusal::Refusal;

/// KAZOO's claims are flat. Identity providers nest roles four deep.
const MAX_DEPTH: usize = 16;

/// The members of a JSON object. The last of repeated members counts, as in KAZOO's own JSON decoder.
#[derive(Clone, Debug, Default)]
pub struct Members(BTreeMap<String, Box<RawValue>>);

/// The value of a member.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// A string.
    Text(String),
    /// A number.
    Number(Number),
    /// `null`.
    Null,
    /// Anything else.
    Other,
}

impl Members {
    /// Decodes the JSON object in a token's part.
    ///
    /// # Errors
    /// If it is none, or nested deeper than the limit.
    pub fn decode(part: &str) -> Result<Members, Refusal> {
        let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
        if !is_shallow(&json) {
            return Err(Refusal::Malformed);
        }
        serde_json::from_slice(&json).map(Members).map_err(|_| Refusal::Malformed)
    }

    /// The value of a member, `None` if there is no such member.
    pub fn get(&self, name: &str) -> Option<Member> {
        let json = self.0.get(name)?.get();
        let member = match json.as_bytes().first() {
            Some(b'"') => serde_json::from_str(json).map(Member::Text),
            Some(b'-' | b'0'..=b'9') => serde_json::from_str(json).map(Member::Number),
            Some(b'n') => Ok(Member::Null),
            _ => Ok(Member::Other),
        };
        // A string with half of a surrogate pair, a number too large to represent.
        Some(member.unwrap_or(Member::Other))
    }

    /// The value of a member, if it is a non-empty string.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.get(name) {
            Some(Member::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The strings of a member that is a list of nothing else.
    pub fn texts(&self, name: &str) -> Vec<String> {
        self.0.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
    }

    /// The members as JSON text, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.get()))
    }
}

/// Whether no value is nested deeper than [`MAX_DEPTH`]. Brackets in strings do not count.
fn is_shallow(json: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut bytes = json.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'"' => break,
                        b'\\' => drop(bytes.next()),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if depth > MAX_DEPTH {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn decode(json: &str) -> Result<Members, Refusal> {
        Members::decode(&URL_SAFE_NO_PAD.encode(json))
    }

    #[test]
    fn members_have_the_types_that_rules_need() {
        let members = decode(
            r#" { "text" : "a\u0062", "empty": "", "number": -1.5, "null": null, "true": true, "half": "\ud800",
                  "huge": 1e999, "list": ["x"], "object": {"a": 1} } "#,
        )
        .unwrap();
        for (name, expected) in [
            ("text", Some(Member::Text("ab".into()))),
            ("empty", Some(Member::Text(String::new()))),
            ("number", Some(Member::Number(Number::from_f64(-1.5).unwrap()))),
            ("null", Some(Member::Null)),
            ("true", Some(Member::Other)),
            ("half", Some(Member::Other)),
            ("huge", Some(Member::Other)),
            ("list", Some(Member::Other)),
            ("object", Some(Member::Other)),
            ("absent", None),
        ] {
            assert_eq!(members.get(name), expected, "{name}");
        }
        assert_eq!((members.text("text").as_deref(), members.text("empty")), (Some("ab"), None));
        assert_eq!((members.texts("list"), members.texts("text")), (vec!["x".to_owned()], vec![]));
        assert!(members.iter().any(|member| member == ("object", r#"{"a": 1}"#)));
    }

    #[test]
    fn the_last_of_repeated_members_counts() {
        let members = decode(r#"{"iss":"other","exp":1,"i\u0073s":"kazoo"}"#).unwrap();
        assert_eq!(members.text("iss").as_deref(), Some("kazoo"));
    }

    #[test]
    fn only_objects_have_members() {
        for json in ["", "[]", "5", "\"a\"", "null", "{", "{}x", "{\"a\":}", "{1:2}", "\u{feff}{}"] {
            assert_eq!(decode(json).unwrap_err(), Refusal::Malformed, "{json}");
        }
        assert_eq!(Members::decode("e30=").unwrap_err(), Refusal::Malformed);
        assert_eq!(Members::decode("e30").unwrap().iter().count(), 0);
    }

    #[test]
    fn the_depth_has_a_limit() {
        let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(decode(&nested(MAX_DEPTH - 1)).is_ok());
        assert_eq!(decode(&nested(MAX_DEPTH)).unwrap_err(), Refusal::Malformed);
        // Side by side is not nested, and neither is text.
        assert!(
            decode(&format!("{{\"a\":[{}[]],\"b\":\"\\\"{}\"}}", "[],".repeat(99), "[".repeat(99))).is_ok()
        );
    }

    /// The text in this member would be parsed again, and again the one in it, each with the whole recursion limit.
    #[test]
    fn no_member_restarts_the_recursion_limit() {
        let mut json = json!(1);
        for _ in 0..4 {
            for _ in 0..4 {
                json = json!([json]);
            }
            json = json!({ "$serde_json::private::RawValue": json.to_string() });
        }
        let text = format!("{{\"a\":{json},\"$serde_json::private::RawValue\":\"{{}}\"}}");
        let members = decode(&text).unwrap();
        assert_eq!(members.get("a"), Some(Member::Other));
        assert_eq!(members.get("$serde_json::private::RawValue"), Some(Member::Text("{}".into())));
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(json in "[\\[\\]{}\"\\\\:,a1e. -]{0,60}") {
            if let Ok(members) = decode(&json) {
                for (name, _) in members.iter() {
                    members.get(name);
                }
            }
        }

        /// What is an object for serde_json is one here, with the same members.
        #[test]
        fn members_are_those_that_serde_json_finds(json in "\\{(\"[ab]\":([0-9]|\"[\\[{]\"|\\[\\{\\}\\]),){0,4}\"c\":1\\}") {
            let expected: BTreeMap<String, Value> = serde_json::from_str(&json).unwrap();
            let members = decode(&json).unwrap();
            let found: BTreeMap<String, Value> = members
                .iter()
                .map(|(name, value)| (name.to_owned(), serde_json::from_str(value).unwrap()))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
