//! Dotted strings with parameters: `call.{event}.{call_id}`.

use serde::Deserialize;

/// The parameter for the account that a client requests.
pub const ACCOUNT: &str = "account";

/// A dotted string of literal words and parameters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// One word of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A literal word.
    Literal(String),
    /// A parameter with this name.
    Parameter(String),
}

impl Template {
    /// The words.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The names of the parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Literal(_) => None,
        })
    }

    /// The index of a parameter among the words.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|part| matches!(part, Part::Parameter(parameter) if parameter == name))
    }

    /// The text with each parameter replaced by the result of `word`.
    pub fn fill<'a>(&'a self, mut word: impl FnMut(&'a str) -> &'a str) -> String {
        let mut text = String::with_capacity(self.text.len() + 64);
        for (index, part) in self.parts.iter().enumerate() {
            if index > 0 {
                text.push('.');
            }
            text.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Parameter(name) => word(name),
            });
        }
        text
    }

    /// The original text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts: Vec<Part> = Vec::new();
        for word in text.split('.') {
            let name = word.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let plain = |text: &str| {
                !text.is_empty()
                    && text
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'~' | b'%'))
            };
            if !plain(name.unwrap_or(word)) {
                return Err(format!("`{word}` in `{text}` is neither a plain word nor a `{{parameter}}`"));
            }
            let part = match name {
                Some(name) => Part::Parameter(name.to_owned()),
                None => Part::Literal(word.to_owned()),
            };
            if name.is_some() && parts.contains(&part) {
                return Err(format!("`{word}` occurs twice in `{text}`"));
            }
            parts.push(part);
        }
        Ok(Template { text, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Result<Template, String> {
        Template::try_from(text.to_owned())
    }

    #[test]
    fn templates_have_parts_and_parameters() {
        let parsed = template("call.{event}.x-1_~%.call.{call_id}").unwrap();
        assert_eq!(parsed.as_str(), "call.{event}.x-1_~%.call.{call_id}");
        let parts = [
            Part::Literal("call".into()),
            Part::Parameter("event".into()),
            Part::Literal("x-1_~%".into()),
            Part::Literal("call".into()),
            Part::Parameter("call_id".into()),
        ];
        assert_eq!(parsed.parts(), parts);
        assert_eq!(parsed.parameters().collect::<Vec<_>>(), ["event", "call_id"]);
        let positions = ["event", "call_id", "call"].map(|name| parsed.position(name));
        assert_eq!(positions, [Some(1), Some(4), None]);
        assert_eq!(parsed.fill(|name| if name == "event" { "*" } else { "y" }), "call.*.x-1_~%.call.y");
    }

    #[test]
    fn malformed_templates_are_rejected() {
        for word in ["", "{}", "{a", "a}", "#", "*", "a b", "{a b}", "é"] {
            let text = format!("a.{word}");
            let expected = format!("`{word}` in `{text}` is neither a plain word nor a `{{parameter}}`");
            assert_eq!(template(&text), Err(expected));
        }
        assert_eq!(template("{a}.b.{a}"), Err("`{a}` occurs twice in `{a}.b.{a}`".into()));
    }
}
