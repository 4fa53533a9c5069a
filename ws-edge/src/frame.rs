//! Event frames: an event's body spliced between texts that are known beforehand, never parsed and printed again.

mod normalize;

use std::{cell::OnceCell, str::FromStr};

use blackhole_common::{
    catalogue::{ACCOUNT, Event, Part, Template},
    subject::decode_key,
    wire,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::families::Switch;
pub use normalize::{Malformed, normalize};

/// Which member holds the event's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// `args`: the AMQP body as it was published.
    Args,
    /// `data`: the body normalized, as KAZOO 4.3 and 5 send it.
    Data,
    /// Both members.
    Both,
}

impl FromStr for View {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "args" => Ok(View::Args),
            "data" => Ok(View::Data),
            "both" => Ok(View::Both),
            _ => Err("view is one of args, data and both".to_owned()),
        }
    }
}

/// What the frames of one subscription have in common. Sessions with equal shapes share frames.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// The frame up to the opening quote of `name`'s value.
    head: String,
    view: View,
    shown_key: ShownKey,
    family: Switch,
}

impl Shape {
    /// The shape for a binding that the client wrote as `subscribed_key` and whose AMQP side is
    /// `subscription_key`, subscribed by a request with this id, if it had one.
    pub fn new(
        view: View,
        request_id: Option<&serde_json::Value>,
        subscribed_key: &str,
        subscription_key: &str,
        shown_key: ShownKey,
    ) -> Shape {
        let mut head = String::from("{\"action\":\"event\",");
        if let Some(request_id) = request_id {
            head.push_str("\"request_id\":");
            head.push_str(&request_id.to_string());
            head.push(',');
        }
        for (name, value) in [("subscribed_key", subscribed_key), ("subscription_key", subscription_key)] {
            head.push('"');
            head.push_str(name);
            head.push_str("\":\"");
            head.push_str(&wire::header_text(value));
            head.push_str("\",");
        }
        head.push_str("\"name\":\"");
        Shape { head, view, shown_key, family: Switch::default() }
    }

    /// The same, of a family that this switch stops.
    #[must_use]
    pub fn of(self, family: &Switch) -> Shape {
        Shape { family: family.clone(), ..self }
    }

    /// Whether events of this shape are sent: its family has not been stopped.
    pub fn is_running(&self) -> bool {
        self.family.is_running()
    }
}

/// How the routing keys of one kind of events are shown to one account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShownKey {
    /// As they are.
    AsPublished,
    /// Rearranged.
    Parts(Vec<ShownPart>),
}

/// One word of a shown key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShownPart {
    /// This text.
    Text(String),
    /// The event's account; where the event names none, this one, if it is known.
    Account(Option<String>),
    /// A word of the routing key, by its position.
    KeyWord(usize),
}

impl ShownKey {
    /// How keys of `event` are shown to clients that asked for `account` (`None` for all).
    pub fn of(event: &Event, account: Option<&str>) -> ShownKey {
        let Some(shown) = &event.shown else { return ShownKey::AsPublished };
        let part = |part: &Part| match part {
            Part::Literal(text) => ShownPart::Text(text.clone()),
            Part::Parameter(name) => match event.key.position(name) {
                Some(position) => ShownPart::KeyWord(position),
                // The catalogue is checked: what is no parameter of the key is the account.
                None => ShownPart::Account(account.map(str::to_owned)),
            },
        };
        ShownKey::Parts(shown.parts().iter().map(part).collect())
    }

    /// The text for a routing key, as header text.
    fn show(&self, tenant: &str, key: &str) -> String {
        let ShownKey::Parts(parts) = self else { return key.to_owned() };
        let mut text = String::with_capacity(key.len() + 40);
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                text.push('.');
            }
            match part {
                ShownPart::Text(word) => text.push_str(word),
                ShownPart::Account(asked) => match asked {
                    Some(account) if tenant.starts_with('@') => text.push_str(&wire::header_text(account)),
                    _ => text.push_str(tenant),
                },
                ShownPart::KeyWord(position) => {
                    text.push_str(key.split('.').nth(*position).unwrap_or_default());
                }
            }
        }
        text
    }
}

/// The AMQP-side pattern of a binding as it is shown: `template` with the words that are asked for.
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

/// An event as it came from NATS, ready to become frames.
pub struct EventFrames {
    tenant: String,
    /// The routing key and the event's name, as header texts.
    key: String,
    name: String,
    body: Bytes,
    data: OnceCell<Option<String>>,
}

impl EventFrames {
    /// Reads what the frames need from a message: its subject, its `Bh-Name` header and its payload.
    ///
    /// `None` where the message is none that amqp-ingest published.
    pub fn read(event_root: &str, subject: &str, name: &str, body: Bytes) -> Option<EventFrames> {
        let (tenant, escaped) = subject.strip_prefix(event_root)?.strip_prefix('.')?.split_once('.')?;
        let key = if escaped.contains('=') {
            wire::header_text(&String::from_utf8_lossy(&decode_key(escaped).ok()?))
        } else {
            wire::header_text(escaped)
        };
        if !wire::is_header_text(name) || std::str::from_utf8(&body).is_err() {
            return None;
        }
        Some(EventFrames {
            tenant: tenant.to_owned(),
            key,
            name: name.to_owned(),
            body,
            data: OnceCell::new(),
        })
    }

    /// The frame for subscriptions of this shape; `None` where the body cannot be shown in that view.
    pub fn frame(&self, shape: &Shape) -> Option<Utf8Bytes> {
        // Checked in `read`, and the check is cheap beside the copy below.
        let body = std::str::from_utf8(&self.body).ok()?;
        let args = (shape.view != View::Data).then_some(body);
        let data = if shape.view == View::Args { None } else { Some(self.data()?) };
        let shown_key = shape.shown_key.show(&self.tenant, &self.key);
        let mut frame = String::with_capacity(
            shape.head.len()
                + self.name.len()
                + shown_key.len()
                + args.map_or(0, str::len)
                + data.map_or(0, str::len)
                + r#"","routing_key":"","args":,"data":}"#.len(),
        );
        frame.push_str(&shape.head);
        frame.push_str(&self.name);
        frame.push_str("\",\"routing_key\":\"");
        frame.push_str(&shown_key);
        frame.push('"');
        for (member, value) in [(",\"args\":", args), (",\"data\":", data)] {
            if let Some(value) = value {
                frame.push_str(member);
                frame.push_str(value);
            }
        }
        frame.push('}');
        Some(frame.into())
    }

    fn data(&self) -> Option<&str> {
        self.data.get_or_init(|| normalize(&self.body).ok()).as_deref()
    }
}

#[cfg(test)]
mod tests;
