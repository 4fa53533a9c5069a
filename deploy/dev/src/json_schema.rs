//! The part of JSON Schema that `docs/asyncapi.yaml` uses, for the tests. A whole validator would bring dozens of crates.

use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value};

/// Keywords that say nothing about validity.
const ANNOTATIONS: [&str; 3] = ["description", "title", "examples"];

/// A document with schemas.
#[derive(Clone, Debug)]
pub struct Document {
    document: Value,
    patterns: HashMap<String, Regex>,
}

impl Document {
    /// Reads it.
    ///
    /// # Errors
    /// If a pattern is no regular expression.
    pub fn new(document: Value) -> Result<Document, regex::Error> {
        let mut patterns = HashMap::new();
        find_patterns(&document, &mut patterns)?;
        Ok(Document { document, patterns })
    }

    /// What stands at a place, such as `#/components/schemas/event`.
    pub fn get(&self, at: &str) -> Option<&Value> {
        self.document.pointer(at.strip_prefix('#')?)
    }

    /// Whether a value is valid, by the schema at a place.
    pub fn accepts(&self, at: &str, value: &Value) -> bool {
        self.check(at, value).is_ok()
    }

    /// Whether a value is valid, by the schema at a place.
    ///
    /// # Errors
    /// Says where and why it is not, or which keyword of the schema is not known here.
    pub fn check(&self, at: &str, value: &Value) -> Result<(), String> {
        self.reference(at, value, "")
    }

    fn reference(&self, to: &str, value: &Value, path: &str) -> Result<(), String> {
        self.value(self.get(to).ok_or_else(|| format!("there is no {to}"))?, value, path)
    }

    fn value(&self, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
        let Some(keywords) = schema.as_object() else { return Err(format!("{path}: {schema} is no schema")) };
        for (keyword, wanted) in keywords {
            self.keyword(keywords, keyword, wanted, value, path)?;
        }
        Ok(())
    }

    fn keyword<'a>(
        &self,
        schema: &Map<String, Value>,
        keyword: &str,
        wanted: &'a Value,
        value: &Value,
        path: &str,
    ) -> Result<(), String> {
        let all = |schemas: &'a Value| schemas.as_array().map(Vec::as_slice).unwrap_or_default();
        let number = wanted.as_u64().and_then(|number| usize::try_from(number).ok());
        let at_most =
            |length: Option<usize>| length.is_none_or(|length| number.is_some_and(|most| length <= most));
        let at_least =
            |length: Option<usize>| length.is_none_or(|length| number.is_some_and(|least| length >= least));
        let letters = || value.as_str().map(|text| text.chars().count());
        let items = || value.as_array().map(Vec::len);
        let is_valid = match keyword {
            "$ref" => return self.reference(wanted.as_str().unwrap_or_default(), value, path),
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is_of_type(one, value)),
                one => is_of_type(one, value),
            },
            "const" => value == wanted,
            "enum" => all(wanted).contains(value),
            "pattern" => {
                let pattern = wanted.as_str().and_then(|text| self.patterns.get(text));
                value.as_str().is_none_or(|text| pattern.is_some_and(|pattern| pattern.is_match(text)))
            }
            "maxLength" => at_most(letters()),
            "minLength" => at_least(letters()),
            "maxItems" => at_most(items()),
            "minItems" => at_least(items()),
            "maxProperties" => at_most(value.as_object().map(Map::len)),
            "minimum" => value.as_f64().zip(wanted.as_f64()).is_none_or(|(is, least)| is >= least),
            "required" => value.as_object().is_none_or(|members| {
                all(wanted).iter().all(|name| name.as_str().is_some_and(|name| members.contains_key(name)))
            }),
            "properties" => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    if let Some(member) = value.get(name) {
                        self.value(schema, member, &format!("{path}/{name}"))?;
                    }
                }
                true
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    self.value(wanted, item, &format!("{path}/-"))?;
                }
                true
            }
            "allOf" => {
                for schema in all(wanted) {
                    self.value(schema, value, path)?;
                }
                true
            }
            "anyOf" => all(wanted).iter().any(|schema| self.value(schema, value, path).is_ok()),
            other if ANNOTATIONS.contains(&other) => true,
            other => return Err(format!("{path}: the keyword {other} is not known here")),
        };
        if is_valid {
            Ok(())
        } else {
            Err(format!("{path}: not {keyword} {}", schema.get(keyword).unwrap_or(wanted)))
        }
    }
}

fn find_patterns(value: &Value, found: &mut HashMap<String, Regex>) -> Result<(), regex::Error> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| find_patterns(item, found)),
        Value::Object(members) => {
            if let Some(Value::String(pattern)) = members.get("pattern") {
                found.insert(pattern.clone(), Regex::new(pattern)?);
            }
            members.values().try_for_each(|member| find_patterns(member, found))
        }
        _ => Ok(()),
    }
}

fn is_of_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: &Value, value: &Value) -> Result<(), String> {
        let document = Document::new(json!({ "a": schema, "text": { "type": "string" } })).unwrap();
        document.check("#/a", value)
    }

    #[test]
    fn every_keyword_refuses_something() {
        for (schema, valid, invalid) in [
            (json!({ "$ref": "#/text" }), json!("a"), json!(1)),
            (json!({ "type": ["integer", "null"] }), json!(null), json!(1.5)),
            (json!({ "type": "number" }), json!(1.5), json!("1")),
            (json!({ "const": "a" }), json!("a"), json!("b")),
            (json!({ "enum": ["a", 1] }), json!(1), json!(2)),
            (json!({ "pattern": "^a\\.(b|c)$" }), json!("a.c"), json!("a.d")),
            (json!({ "minLength": 1, "maxLength": 2 }), json!("éé"), json!("")),
            (json!({ "maxLength": 2 }), json!("éé"), json!("abc")),
            (json!({ "minItems": 1 }), json!([1]), json!([])),
            (json!({ "maxItems": 1 }), json!([1]), json!([1, 2])),
            (json!({ "maxProperties": 0 }), json!({}), json!({ "a": 1 })),
            (json!({ "minimum": 0 }), json!(0), json!(-1)),
            (json!({ "required": ["a"] }), json!({ "a": null }), json!({ "b": 1 })),
            (json!({ "properties": { "a": { "type": "object" } } }), json!({ "b": 1 }), json!({ "a": 1 })),
            (json!({ "items": { "type": "boolean" } }), json!([true]), json!([true, 1])),
            (json!({ "allOf": [{ "type": "array" }, { "minItems": 1 }] }), json!([1]), json!([])),
            (json!({ "anyOf": [{ "const": 1 }, { "const": 2 }] }), json!(2), json!(3)),
        ] {
            assert_eq!(check(&schema, &valid), Ok(()), "{schema}");
            assert!(check(&schema, &invalid).is_err(), "{schema}");
        }
    }

    #[test]
    fn errors_say_where() {
        let schema = json!({ "properties": { "a": { "items": { "type": "string" } } } });
        assert_eq!(check(&schema, &json!({ "a": ["x", 1] })), Err("/a/-: not type \"string\"".to_owned()));
        let unknown = check(&json!({ "uniqueItems": true }), &json!([]));
        assert_eq!(unknown, Err(": the keyword uniqueItems is not known here".to_owned()));
    }
}
