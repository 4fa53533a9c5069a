//! What the tests of the dispatcher and of replays share.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    dispatcher::{Dispatcher, Membership, SubscribeRequest},
    frame::{
        builder::EventFrames, builder::tests::payload, event::Event, shown_key::ShownKey,
        template::FrameTemplate,
    },
};
use crate::{
    ids::SubjectNumber,
    limits::accounts::Share,
    outbox::{Outbox, flusher::Flusher, tests::Kept},
    protocol::{
        cursor::{EventPosition, StreamId},
        view::View,
    },
};

pub(crate) const LINGER: Duration = Duration::from_secs(5);
pub(crate) const ROOM: usize = 1 << 20;

pub(crate) fn dispatcher() -> Arc<Dispatcher> {
    Arc::new(Dispatcher::new("ev", LINGER, Arc::new(Flusher::new(Arc::default())), Arc::default()))
}

pub(crate) fn template(binding: &str) -> Arc<FrameTemplate> {
    Arc::new(FrameTemplate::new(View::Args, None, "acc", binding, binding, ShownKey::AsPublished))
}

pub(crate) fn request(binding: &str, subjects: &[&str]) -> SubscribeRequest {
    let subjects = subjects.iter().map(|&subject| subject.to_owned()).collect();
    SubscribeRequest {
        template: template(binding),
        subjects,
        since: None,
        realms_after: 0,
        share: Share::default(),
    }
}

/// An event at a position of the stream; 0 for none.
pub(crate) fn event(subject: &str, sequence: u64) -> Event {
    let position = (sequence > 0).then(|| EventPosition { stream: StreamId::new("t"), sequence });
    let name = Bytes::from(format!("n{sequence}"));
    Event {
        subject: subject.to_owned().into(),
        name,
        body: Bytes::from_static(b"{}"),
        owner: Bytes::new(),
        position,
    }
}

pub(crate) fn deliver(dispatcher: &Dispatcher, number: SubjectNumber, event: &Event) {
    dispatcher.deliver(number, event, &EventFrames::read("ev", event).unwrap());
}

pub(crate) fn deliver_missed(dispatcher: &Dispatcher, event: &Event, late: bool) {
    dispatcher.deliver_missed(event, &EventFrames::read("ev", event).unwrap(), late);
}

/// The frames that a session was sent since it was last asked.
pub(crate) fn received(outbox: &Outbox, kept: &Kept) -> Vec<String> {
    outbox.flush();
    let bytes = kept.take();
    let mut rest = bytes.as_slice();
    let mut frames = Vec::new();
    while let Some(&length) = rest.get(1) {
        let size = if length < 126 {
            2 + usize::from(length)
        } else {
            4 + usize::from(u16::from_be_bytes([rest[2], rest[3]]))
        };
        frames.push(payload(&rest[..size]));
        rest = &rest[size..];
    }
    frames
}

/// The names of the events in [`received`], with the bindings they came for.
pub(crate) fn names(outbox: &Outbox, kept: &Kept) -> Vec<String> {
    let name = |frame: String| {
        let frame: serde_json::Value = serde_json::from_str(&frame).unwrap();
        format!("{} {}", frame["subscribed_key"].as_str().unwrap(), frame["name"].as_str().unwrap())
    };
    received(outbox, kept).into_iter().map(name).collect()
}

/// Subscribes and confirms everything, as the event reader does.
pub(crate) fn settle(dispatcher: &Dispatcher) -> HashMap<String, SubjectNumber> {
    let new = dispatcher.take_new();
    let waiting = dispatcher.take_unconfirmed();
    let refused = dispatcher.confirm(&new.iter().map(|(number, _)| *number).collect::<Vec<_>>(), &waiting, 0);
    waiting.into_iter().for_each(|session| session.end(&refused));
    new.into_iter().map(|(number, text)| (text.to_string(), number)).collect()
}

pub(crate) fn join(
    dispatcher: &Arc<Dispatcher>,
    outbox: &Arc<Outbox>,
    requests: Vec<SubscribeRequest>,
) -> Vec<Membership> {
    dispatcher.join(outbox, requests, vec![]).memberships
}

/// The same request with past events.
pub(crate) fn since(position: u64, request: SubscribeRequest) -> SubscribeRequest {
    SubscribeRequest { since: Some(position), ..request }
}
