//! Routing keys as clients see them: KAZOO shows some of them rearranged.

use std::borrow::Cow;

use blackhole_common::{
    catalogue::{self, ACCOUNT, Part, Template},
    wire,
};

/// How an account sees the routing keys of one kind of event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShownKey {
    /// As they were published.
    AsPublished,
    /// Rearranged.
    Parts(Vec<ShownPart>),
}

/// One word of a shown key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShownPart {
    /// This text.
    Text(String),
    /// The event's account; if the event names none, this one, if it is known.
    Account(Option<String>),
    /// A word of the routing key, by its position.
    KeyWord(usize),
}

impl ShownKey {
    /// How clients see keys of `event` that subscribed for `account` (`None`: all).
    pub fn of(event: &catalogue::Event, account: Option<&str>) -> ShownKey {
        let Some(shown) = &event.shown else { return ShownKey::AsPublished };
        let part = |part: &Part| match part {
            Part::Literal(text) => ShownPart::Text(text.clone()),
            Part::Parameter(name) => match event.key.position(name) {
                Some(position) => ShownPart::KeyWord(position),
                // In a checked catalogue, a parameter that the key does not have is the account.
                None => ShownPart::Account(account.map(str::to_owned)),
            },
        };
        ShownKey::Parts(shown.parts().iter().map(part).collect())
    }

    /// The routing key as it is shown, as header text.
    pub(super) fn show<'k>(&self, tenant: &str, key: &'k str) -> Cow<'k, str> {
        let ShownKey::Parts(parts) = self else { return Cow::Borrowed(key) };
        let mut text = String::with_capacity(key.len() + 40);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                text.push('.');
            }
            match part {
                ShownPart::Text(word) => text.push_str(word),
                ShownPart::Account(asked) => match asked {
                    Some(account) if tenant.starts_with('@') => text.push_str(&wire::header_text(account)),
                    // A subject's word may have quotes.
                    _ => wire::push_header_text(&mut text, tenant),
                },
                ShownPart::KeyWord(position) => {
                    text.push_str(key.split('.').nth(*position).unwrap_or_default());
                }
            }
        }
        Cow::Owned(text)
    }
}

/// The AMQP side of a binding as it is shown: `template` with these words.
pub fn shown_pattern(template: &Template, account: &str, word: impl Fn(&str) -> Option<String>) -> String {
    let words: Vec<(String, String)> = template
        .parameters()
        .map(|name| {
            let shown = if name == ACCOUNT {
                account.to_owned()
            } else {
                word(name).unwrap_or_else(|| "*".to_owned())
            };
            (name.to_owned(), shown)
        })
        .collect();
    template.fill(|name| words.iter().find(|(own, _)| own == name).map_or("*", |(_, word)| word.as_str()))
}
