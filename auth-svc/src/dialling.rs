//! Which number was dialled, and how KAZOO writes it in its databases: `system_config/stepswitch` and
//! `system_config/number_manager`, or what KAZOO does without them.

use std::{collections::BTreeMap, fmt};

use blackhole_common::wire::{MAX_NUMBER_BYTES, NumberRequest};
use regex::bytes::{Regex, RegexBuilder};
use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Further patterns do not count.
const MAX_CONVERTERS: usize = 100;
/// How large a pattern may be, compiled.
const MAX_PATTERN_BYTES: usize = 256 * 1024;
/// The name of a database has the first five characters of a number.
const MIN_DIGITS: usize = 5;
/// What KAZOO does if nothing is configured: patterns with the prefix of what their last group matches.
const DEFAULT_CONVERTERS: [(&str, &str); 3] = [
    (r"^(\+?1)?([2-9][0-9]{2}[2-9][0-9]{6})$", "+1"),
    (r"^011(\d{5,})$|^00(\d{5,})$", "+"),
    (r"^[2-9]\d{7,}$", "+"),
];

/// Which number was dialled, and how it is written.
#[derive(Clone, Debug)]
pub struct Dialling {
    /// `inbound_user_field` is `To`.
    to_is_first: bool,
    /// `assume_inbound_e164`.
    only_lacks_plus: bool,
    /// `e164_converters`, in order.
    converters: Vec<Converter>,
}

#[derive(Clone, Debug)]
struct Converter {
    pattern: Regex,
    prefix: String,
    suffix: String,
}

impl Default for Dialling {
    fn default() -> Dialling {
        let converters = DEFAULT_CONVERTERS.iter();
        let converters = converters.filter_map(|(pattern, prefix)| Converter::new(pattern, prefix, "").ok());
        Dialling { to_is_first: false, only_lacks_plus: false, converters: converters.collect() }
    }
}

impl Dialling {
    /// What the documents `stepswitch` and `number_manager` of `system_config` say: of each setting, the value in the first of
    /// these sections that has it. What is odd there does not count.
    pub fn read(stepswitch: Option<&[u8]>, number_manager: Option<&[u8]>, sections: &[String]) -> Dialling {
        let mut dialling = Dialling::default();
        let field = setting::<String>(stepswitch, sections, "inbound_user_field");
        dialling.to_is_first = field.is_some_and(|field| field == "To");
        let flag = setting::<serde_json::Value>(stepswitch, sections, "assume_inbound_e164");
        dialling.only_lacks_plus = flag.is_some_and(|flag| flag == true || flag == "true");
        if let Some(Ordered(converters)) = setting(number_manager, sections, "e164_converters") {
            dialling.converters.clear();
            for (pattern, value) in converters.iter().take(MAX_CONVERTERS) {
                let affixes: Affixes = serde_json::from_str(value.get()).unwrap_or_default();
                match Converter::new(pattern, &affixes.prefix, &affixes.suffix) {
                    Ok(converter) => dialling.converters.push(converter),
                    Err(error) => {
                        let error = error.to_string().replace('\n', " ");
                        tracing::warn!(%error, "a pattern of e164_converters in system_config/number_manager is not usable");
                    }
                }
            }
        }
        dialling
    }

    /// The number that was dialled, as it was.
    pub fn dialled<'r>(&self, request: &'r NumberRequest) -> Option<&'r str> {
        let NumberRequest { request, to, to_did } = request;
        let [first, second] = if self.to_is_first { [to, request] } else { [request, to] };
        first.as_deref().or(second.as_deref()).or(to_did.as_deref())
    }

    /// A number as KAZOO writes it; `None` if no database can have it.
    pub fn normalized(&self, number: &str) -> Option<String> {
        let number = if number.starts_with('+') {
            number.to_owned()
        } else if self.only_lacks_plus {
            format!("+{number}")
        } else {
            let mut converted = self.converters.iter().filter_map(|converter| converter.convert(number));
            converted.next().unwrap_or_else(|| number.to_owned())
        };
        let digits = number.strip_prefix('+').unwrap_or(&number);
        let is_number = digits.len() >= MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && number.len() <= MAX_NUMBER_BYTES).then_some(number)
    }
}

impl Converter {
    fn new(pattern: &str, prefix: &str, suffix: &str) -> Result<Converter, regex::Error> {
        // As in KAZOO, patterns match bytes.
        let pattern = RegexBuilder::new(pattern).unicode(false).size_limit(MAX_PATTERN_BYTES).build()?;
        Ok(Converter { pattern, prefix: prefix.to_owned(), suffix: suffix.to_owned() })
    }

    /// The number with prefix and suffix, if the pattern matches: of it, what the last group has matched.
    fn convert(&self, number: &str) -> Option<String> {
        let captures = self.pattern.captures(number.as_bytes())?;
        let root = captures.iter().flatten().last()?;
        let root = str::from_utf8(root.as_bytes()).ok()?;
        Some([&self.prefix, root, &self.suffix].concat())
    }
}

/// What is put around the number.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Affixes {
    prefix: String,
    suffix: String,
}

/// The members of an object, in their order.
struct Ordered(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ordered, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Ordered;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Ordered(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A setting of a document of `system_config`.
fn setting<T: for<'de> Deserialize<'de>>(json: Option<&[u8]>, sections: &[String], name: &str) -> Option<T> {
    let document: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(json?).ok()?;
    if document.get("pvt_deleted").is_some_and(|deleted| !matches!(deleted.get(), "false" | "null")) {
        return None;
    }
    sections.iter().find_map(|section| {
        let section: BTreeMap<String, Box<RawValue>> =
            serde_json::from_str(document.get(section)?.get()).ok()?;
        serde_json::from_str(section.get(name)?.get()).ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(stepswitch: &str, number_manager: &str) -> Dialling {
        let sections = ["node@a".to_owned(), "default".to_owned()];
        Dialling::read(Some(stepswitch.as_bytes()), Some(number_manager.as_bytes()), &sections)
    }

    #[test]
    fn numbers_are_written_as_kazoo_does_by_default() {
        let dialling = Dialling::default();
        assert_eq!(dialling.converters.len(), DEFAULT_CONVERTERS.len());
        for (number, expected) in [
            ("+14155550123", Some("+14155550123")),
            ("14155550123", Some("+14155550123")),
            ("4155550123", Some("+14155550123")),
            ("0114930123456", Some("+4930123456")),
            ("004930123456", Some("+4930123456")),
            ("4930123456789", Some("+4930123456789")),
            ("030123456", Some("030123456")),
            ("+493012345", Some("+493012345")),
            ("+4930", None),
            ("1002", None),
            ("", None),
            ("+", None),
            ("+1415555012x", None),
            ("+1415555/../accounts", None),
            ("415555012\u{0661}", None),
        ] {
            assert_eq!(dialling.normalized(number).as_deref(), expected, "{number}");
        }
        assert_eq!(dialling.normalized(&format!("+{}", "1".repeat(MAX_NUMBER_BYTES))), None);
    }

    #[test]
    fn system_config_says_which_number_counts_and_how_it_is_written() {
        let stepswitch = r#"{"default":{"inbound_user_field":"To","assume_inbound_e164":"true"},"node@a":{"assume_inbound_e164":false}}"#;
        let manager = r#"{"default":{"e164_converters":{"^0([1-9]\\d+)$":{"prefix":"+49"},"^(\\d+)#$":{"prefix":"+","suffix":"0"},"(?=x)":{},"^0":5}}}"#;
        let dialling = read(stepswitch, manager);
        assert!(dialling.to_is_first && !dialling.only_lacks_plus);
        for (number, expected) in [
            ("030123456", Some("+4930123456")),
            ("12345#", Some("+123450")),
            ("4155550123", Some("4155550123")),
        ] {
            assert_eq!(dialling.normalized(number).as_deref(), expected, "{number}");
        }
        let dialling = read(r#"{"default":{"assume_inbound_e164":true}}"#, "[]");
        assert_eq!(dialling.normalized("4155550123").as_deref(), Some("+4155550123"));
        assert_eq!(dialling.converters.len(), DEFAULT_CONVERTERS.len());
        for document in [
            "{",
            "[]",
            "{\"default\":7}",
            r#"{"default":{"e164_converters":[]}}"#,
            r#"{"pvt_deleted":true,"default":{"e164_converters":{}}}"#,
        ] {
            assert_eq!(read(document, document).converters.len(), DEFAULT_CONVERTERS.len(), "{document}");
        }
        let bomb =
            json!({ "default": { "e164_converters": { "(((a{100}){100}){100}){100}": {} } } }).to_string();
        assert!(read("{}", &bomb).converters.is_empty());
    }

    #[test]
    fn the_first_place_that_names_a_number_counts() {
        let numbers = |request: Option<&str>, to: Option<&str>, to_did: Option<&str>| {
            let [request, to, to_did] = [request, to, to_did].map(|number| number.map(str::to_owned));
            NumberRequest { request, to, to_did }
        };
        let (default, to_first) =
            (Dialling::default(), read(r#"{"default":{"inbound_user_field":"To"}}"#, "{}"));
        for (numbers, expected, with_to) in [
            (numbers(Some("1"), Some("2"), Some("3")), Some("1"), Some("2")),
            (numbers(None, Some("2"), Some("3")), Some("2"), Some("2")),
            (numbers(Some("1"), None, None), Some("1"), Some("1")),
            (numbers(Some(""), Some("2"), None), Some(""), Some("2")),
            (numbers(None, None, Some("3")), Some("3"), Some("3")),
            (numbers(None, None, None), None, None),
        ] {
            assert_eq!((default.dialled(&numbers), to_first.dialled(&numbers)), (expected, with_to));
        }
    }
}
