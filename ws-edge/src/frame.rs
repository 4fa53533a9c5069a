//! Event frames: an event's body spliced between texts that are known beforehand, never parsed and printed again.

mod normalize;

use std::{
    borrow::Cow,
    cell::OnceCell,
    hash::{DefaultHasher, Hash, Hasher},
    str::FromStr,
};

use blackhole_common::{
    catalogue::{self, ACCOUNT, Part, Template},
    subject::decode_key,
    wire,
};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    cursor::{Cursor, Place, Rank},
    families::Switch,
};
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
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tells most shapes apart at once.
    hash: u64,
    /// The order of an event's frames.
    rank: Rank,
    /// The frame from behind the cursor to the opening quote of `name`'s value.
    head: Box<str>,
    view: View,
    shown_key: ShownKey,
    family: Switch,
}

impl Shape {
    /// The shape for a binding of an account (`*` for all) that the client wrote as `subscribed_key` and whose AMQP side is
    /// `subscription_key`, subscribed by a request with this id, if it had one.
    pub fn new(
        view: View,
        request_id: Option<&serde_json::Value>,
        account: &str,
        subscribed_key: &str,
        subscription_key: &str,
        shown_key: ShownKey,
    ) -> Shape {
        let mut head = String::new();
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
        let mut hasher = DefaultHasher::new();
        let rank = Rank::of(account, subscribed_key);
        (&head, view, &shown_key, rank).hash(&mut hasher);
        Shape { hash: hasher.finish(), rank, head: head.into(), view, shown_key, family: Switch::default() }
    }

    /// The same, of a family that this switch stops.
    #[must_use]
    pub fn of(self, family: &Switch) -> Shape {
        Shape { family: family.clone(), ..self }
    }

    /// The order of an event's frames: those of a lower rank go out first.
    pub fn rank(&self) -> Rank {
        self.rank
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
    pub fn of(event: &catalogue::Event, account: Option<&str>) -> ShownKey {
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
    fn show<'k>(&self, tenant: &str, key: &'k str) -> Cow<'k, str> {
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
                    _ => text.push_str(tenant),
                },
                ShownPart::KeyWord(position) => {
                    text.push_str(key.split('.').nth(*position).unwrap_or_default());
                }
            }
        }
        Cow::Owned(text)
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

/// An event as it came from NATS: slices of what was read.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its subject below [`Edge::event_root`](crate::Edge::event_root).
    pub subject: Bytes,
    /// Its name, as header text.
    pub name: Bytes,
    /// The AMQP body.
    pub body: Bytes,
    /// Its place in the history; `None` without one.
    pub place: Option<Place>,
}

impl Event {
    /// The same with memory of its own, so that it may be kept without what was read beside it.
    pub fn detached(&self) -> Event {
        Event {
            subject: Bytes::copy_from_slice(&self.subject),
            name: Bytes::copy_from_slice(&self.name),
            body: Bytes::copy_from_slice(&self.body),
            place: self.place,
        }
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Event>() + self.subject.len() + self.name.len() + self.body.len()
    }
}

/// An event, checked and ready to become frames.
pub struct EventFrames<'e> {
    tenant: &'e str,
    /// The routing key and the event's name, as header texts.
    key: Cow<'e, str>,
    name: &'e str,
    body: &'e str,
    place: Option<Place>,
    data: OnceCell<Option<String>>,
}

impl<'e> EventFrames<'e> {
    /// Reads what the frames need.
    ///
    /// `None` where the event is none that amqp-ingest published.
    pub fn read(event_root: &str, event: &'e Event) -> Option<EventFrames<'e>> {
        let subject = std::str::from_utf8(&event.subject).ok()?;
        let below = subject.strip_prefix(event_root)?.strip_prefix('.')?;
        let (tenant, escaped) = below.split_once('.')?;
        let key = if escaped.contains('=') {
            Cow::Owned(wire::header_text(&String::from_utf8_lossy(&decode_key(escaped).ok()?)))
        } else if wire::is_header_text(escaped) && !escaped.contains('\\') {
            Cow::Borrowed(escaped)
        } else {
            Cow::Owned(wire::header_text(escaped))
        };
        let name = std::str::from_utf8(&event.name).ok().filter(|name| wire::is_header_text(name))?;
        let body = std::str::from_utf8(&event.body).ok()?;
        Some(EventFrames { tenant, key, name, body, place: event.place, data: OnceCell::new() })
    }

    /// The tenant's word.
    pub fn tenant(&self) -> &'e str {
        self.tenant
    }

    /// The frame for subscriptions of this shape, as it goes over the wire; `None` where the body cannot be shown in
    /// that view. `is_last` says that the event has no further frame for the session.
    pub fn frame(&self, shape: &Shape, is_last: bool) -> Option<Bytes> {
        let args = if shape.view == View::Data { "" } else { self.body };
        let data = if shape.view == View::Args { "" } else { self.data()? };
        let cursor = self
            .place
            .map(|place| Cursor { place, rank: if is_last { Rank::LAST } else { shape.rank } }.to_text());
        let shown_key = shape.shown_key.show(self.tenant, &self.key);
        let only = |is_there: bool, text: &'static str| if is_there { text } else { "" };
        let parts: [&[u8]; 13] = [
            br#"{"action":"event","#,
            only(cursor.is_some(), r#""cursor":""#).as_bytes(),
            cursor.as_ref().map_or(&[][..], |text| text),
            only(cursor.is_some(), r#"","#).as_bytes(),
            shape.head.as_bytes(),
            self.name.as_bytes(),
            br#"","routing_key":""#,
            shown_key.as_bytes(),
            only(!args.is_empty(), r#"","args":"#).as_bytes(),
            args.as_bytes(),
            only(!data.is_empty(), if args.is_empty() { r#"","data":"# } else { r#","data":"# }).as_bytes(),
            data.as_bytes(),
            b"}",
        ];
        Some(text_frame(&parts))
    }

    fn data(&self) -> Option<&str> {
        self.data.get_or_init(|| normalize(self.body.as_bytes()).ok()).as_deref()
    }
}

/// A WebSocket text frame of these parts (RFC 6455, 5.2): final, not masked, since it comes from the server.
fn text_frame(parts: &[&[u8]]) -> Bytes {
    const FINAL_TEXT: u8 = 0x81;
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(bytes + 10);
    frame.put_u8(FINAL_TEXT);
    match (u8::try_from(bytes), u16::try_from(bytes)) {
        (Ok(length @ ..126), _) => frame.put_u8(length),
        (_, Ok(length)) => {
            frame.put_u8(126);
            frame.put_u16(length);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(bytes as u64);
        }
    }
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

#[cfg(test)]
pub(crate) mod tests;
