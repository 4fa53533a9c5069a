//! Sending kept events: as many as there is room for, and then the message that ends them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{clock, subject::subject_matches};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    delivery::{
        dispatcher::SubscribeRequest,
        frame::{builder::EventFrames, event::Event, template::FrameTemplate},
    },
    outbox::{Outbox, frame::Frame},
    protocol::{
        cursor::{Cursor, EventPosition, Rank, TEXT_BYTES},
        event_stream::{self, Framing, Name},
        frame::text_frame,
    },
    upstream::kept::Snapshot,
};

/// A client that has not read its kept events after this time is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Kept events that are queued before others get the thread.
const BATCH: usize = 500;

/// The kept events that a client is to get.
#[derive(Debug)]
pub(super) struct Present {
    /// `None`: its client has everything, because it resumed.
    snapshot: Option<Snapshot>,
    bindings: Vec<Part>,
    framing: Framing,
    request_id: Option<Value>,
    /// The number of the next event.
    next: usize,
    sent: u64,
    deadline: Instant,
}

/// What a binding gets of them.
#[derive(Debug)]
struct Part {
    template: Arc<FrameTemplate>,
    subjects: Vec<String>,
    /// Events of realms from before this position are another account's.
    realms_after: u64,
}

impl Present {
    /// What is to be sent of a snapshot to these bindings; nothing but its end without one.
    pub(super) fn new(
        requests: &[SubscribeRequest],
        framing: Framing,
        request_id: Option<&Value>,
        snapshot: Option<Snapshot>,
    ) -> Present {
        let mut bindings: Vec<Part> = requests
            .iter()
            .map(|request| Part {
                template: Arc::clone(&request.template),
                subjects: request.subjects.clone(),
                realms_after: request.realms_after,
            })
            .collect();
        bindings.sort_by_key(|binding| binding.template.rank());
        let deadline = clock::now() + SEND_TIMEOUT;
        let request_id = request_id.cloned();
        Present { snapshot, bindings, framing, request_id, next: 0, sent: 0, deadline }
    }

    /// Whether the client reads too slowly.
    pub(super) fn is_late(&self) -> bool {
        clock::now() >= self.deadline
    }

    /// Queues some of the events, as many as there is room for. Returns whether these were the last.
    pub(super) fn push(&mut self, event_root: &str, outbox: &Outbox) -> bool {
        for _ in 0..BATCH {
            if !outbox.has_room() {
                return false;
            }
            let Some(event) = self.snapshot.as_ref().and_then(|snapshot| snapshot.event(self.next)) else {
                outbox.push_own(self.end());
                return true;
            };
            self.next += 1;
            let Some(frames) = EventFrames::read(event_root, event).map(EventFrames::kept) else { continue };
            let frames = frames_of(&self.bindings, &frames, event);
            self.sent += u64::from(!frames.is_empty());
            frames.into_iter().for_each(|frame| outbox.push_own(frame));
        }
        false
    }

    /// The message after the last of them.
    fn end(&self) -> Bytes {
        let cursor = self.cursor();
        let mut message = Map::from_iter([
            ("action".to_owned(), json!("state")),
            ("complete".to_owned(), json!(true)),
            ("events".to_owned(), json!(self.sent)),
        ]);
        if let Some(request_id) = &self.request_id {
            message.insert("request_id".to_owned(), request_id.clone());
        }
        if let (Some(snapshot), Some(cursor)) = (&self.snapshot, &cursor) {
            message.insert("cursor".to_owned(), json!(String::from_utf8_lossy(cursor)));
            message.insert("kept_since".to_owned(), json!(snapshot.since_ms));
        }
        let message = Value::Object(message).to_string();
        match self.framing {
            Framing::WebSocket | Framing::CompressedWebSocket => text_frame(&[message.as_bytes()]),
            Framing::EventStream => {
                let id = cursor.as_ref().map(|text| &text[..]);
                event_stream::event(Some(Name::State), id, &[message.as_bytes()])
            }
        }
    }

    /// Where the events continue that come after the kept ones.
    fn cursor(&self) -> Option<[u8; TEXT_BYTES]> {
        let snapshot = self.snapshot.as_ref()?;
        let position = EventPosition { stream: snapshot.stream, sequence: snapshot.position };
        Some(Cursor { position, rank: Rank::LAST }.to_text())
    }
}

/// An event's frames, in the order of the ranks of `bindings`, for those that it matches.
///
/// As in `delivery::deliver`, users are kept apart from each other.
fn frames_of(bindings: &[Part], frames: &EventFrames<'_>, event: &Event) -> Vec<Frame> {
    let Ok(subject) = std::str::from_utf8(&event.subject) else { return Vec::new() };
    let position = event.sequence().unwrap_or_default();
    let is_of_realm = frames.tenant().starts_with('@');
    let is_owed = |binding: &&Part| {
        binding.template.admits(&event.owner)
            && !(is_of_realm && position <= binding.realms_after)
            && binding.subjects.iter().any(|pattern| subject_matches(pattern, subject))
    };
    let matching: Vec<&Part> = bindings.iter().filter(is_owed).collect();
    let last = matching.len().saturating_sub(1);
    let build = |(index, binding): (usize, &&Part)| frames.frame(&binding.template, index == last);
    matching.iter().enumerate().filter_map(build).collect()
}

#[cfg(test)]
mod tests {
    use blackhole_common::owner::{Own, Owner};

    use super::*;
    use crate::delivery::testing;

    #[test]
    fn a_user_gets_only_its_own_kept_events() {
        let owner = Owner::Document("u1".into());
        let only: Own = [owner.clone()].into_iter().collect();
        let request = testing::request("call.*.*", &["t.a.call.*.*"]);
        let mut event = testing::event("t.a.call.X.1", 5);
        for (only, owner, frames) in [
            (None, String::new(), 1),
            (None, owner.to_text(), 1),
            (Some(only.clone()), owner.to_text(), 1),
            (Some(only.clone()), String::new(), 0),
            (Some(only), Owner::Document("u2".into()).to_text(), 0),
        ] {
            event.owner = owner.into();
            let template = Arc::new(request.template.only(only));
            let part = Part { template, subjects: request.subjects.clone(), realms_after: 0 };
            let read = EventFrames::read("t", &event).unwrap();
            assert_eq!(frames_of(&[part], &read, &event).len(), frames);
        }
    }
}
