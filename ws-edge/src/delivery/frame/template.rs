//! What the frames of one subscription have in common.

use std::hash::{DefaultHasher, Hash, Hasher};

use blackhole_common::{owner::Own, wire};

use super::shown_key::ShownKey;
use crate::{
    delivery::family_switch::FamilySwitch,
    protocol::{cursor::Rank, event_stream::Framing, view::View},
};

/// What the frames of one binding have in common. Sessions with equal templates share frames.
#[derive(Debug, PartialEq, Eq)]
pub struct FrameTemplate {
    /// Different templates rarely have the same hash.
    hash: u64,
    /// The order of an event's frames.
    rank: Rank,
    /// The frame from behind the cursor to the start quote of `name`'s value.
    head: Box<str>,
    view: View,
    framing: Framing,
    shown_key: ShownKey,
    family: FamilySwitch,
    /// The only events that the session may have, if it is restricted to one user's.
    only: Option<Own>,
}

impl FrameTemplate {
    /// The template for a binding of an account (`*`: all). `subscribed_key` is the client's text, `subscription_key` the
    /// AMQP side, `request_id` that of the subscribing request.
    pub fn new(
        view: View,
        request_id: Option<&serde_json::Value>,
        account: &str,
        subscribed_key: &str,
        subscription_key: &str,
        shown_key: ShownKey,
    ) -> FrameTemplate {
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
        let mut template = FrameTemplate {
            hash: 0,
            rank: Rank::of(account, subscribed_key),
            head: head.into(),
            view,
            framing: Framing::default(),
            shown_key,
            family: FamilySwitch::default(),
            only: None,
        };
        template.hash = template.computed_hash();
        template
    }

    fn computed_hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.head, self.view, self.framing, &self.shown_key, self.rank, &self.only).hash(&mut hasher);
        hasher.finish()
    }

    /// The same with the switch of its family.
    #[must_use]
    pub fn of(self, family: &FamilySwitch) -> FrameTemplate {
        FrameTemplate { family: family.clone(), ..self }
    }

    /// The same for sessions with this framing.
    #[must_use]
    pub fn framed(self, framing: Framing) -> FrameTemplate {
        let mut template = FrameTemplate { framing, ..self };
        template.hash = template.computed_hash();
        template
    }

    /// The same for these events of one user only, or for all.
    #[must_use]
    pub fn only(&self, only: Option<Own>) -> FrameTemplate {
        let mut template = FrameTemplate {
            hash: 0,
            rank: self.rank,
            head: self.head.clone(),
            view: self.view,
            framing: self.framing,
            shown_key: self.shown_key.clone(),
            family: self.family.clone(),
            only,
        };
        template.hash = template.computed_hash();
        template
    }

    pub(super) fn head(&self) -> &str {
        &self.head
    }

    /// About how many bytes of memory its parts take.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.only.as_ref().map_or(0, Own::bytes)
    }

    pub(super) fn view(&self) -> View {
        self.view
    }

    /// How the frames go over the wire.
    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    pub(super) fn shown_key(&self) -> &ShownKey {
        &self.shown_key
    }

    /// The order of an event's frames for a session: lower ranks go out first.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Whether its sessions may have an event with this owner at all: its family is not stopped, and the event is their
    /// user's own if they are restricted to that.
    pub(crate) fn admits(&self, owner: &[u8]) -> bool {
        self.family.is_running() && self.only.as_ref().is_none_or(|own| own.has(owner))
    }
}
