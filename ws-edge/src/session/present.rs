//! Subscribing with the state: the last event of each living thing, and then what follows.
//!
//! The kept events are complete up to a position, and what follows is what follows on a cursor of that position: the
//! session resumes there. Until they are sent, it is held; a client that reads slowly delays only itself.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{clock, subject::subject_matches};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    access::binding::ParsedBinding,
    delivery::{
        dispatcher::SubscribeRequest,
        frame::{builder::EventFrames, template::FrameTemplate},
    },
    edge::Edge,
    outbox::Outbox,
    protocol::cursor::{Cursor, EventPosition, Rank},
    session::resume::{self, ResumeFrom},
    upstream::kept::{Filter, NoState, Snapshot},
};

/// A client that has not read its kept events after this time is closed.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// A state that cannot be read is asked for again after this time.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Kept events that are queued before others get the thread.
const BATCH: usize = 500;

/// Why there is no state. Clients match on these texts.
const NOTHING: &str = "nothing is kept of these bindings";
const NOT_KEPT: &str = "the state is not kept";
/// Who keeps it has been away for longer than the history.
pub(super) const OUTDATED: &str = "the state is not up to date";
const TOO_LARGE: &str = "the state is too large";
const UNAVAILABLE: &str = "the state is not available at the moment";

/// The kept events that a client is to get.
#[derive(Debug)]
pub(super) struct Present {
    /// `None`: its client has everything, because it resumed.
    snapshot: Option<Snapshot>,
    bindings: Vec<Part>,
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

/// How a subscription begins.
#[derive(Default)]
pub(super) struct Begin {
    /// Where past events begin; `None`: it gets only live events.
    pub(super) from: Option<ResumeFrom>,
    /// The kept events that come before them.
    pub(super) snapshot: Option<Snapshot>,
    /// Why the events after the client's cursor cannot be sent; the state makes up for it.
    pub(super) lost: Option<&'static str>,
    /// Why there is no state.
    pub(super) no_state: Option<&'static str>,
}

/// Finds how a subscription begins. Who resumes and gets everything since needs no state.
pub(super) async fn begin(
    edge: &Edge,
    wants_state: bool,
    since: Option<ResumeFrom>,
    parsed: &[ParsedBinding<'_>],
    requests: &[SubscribeRequest],
) -> Begin {
    if !wants_state {
        return Begin { from: since, ..Begin::default() };
    }
    let snapshot = match read(edge, parsed, requests).await {
        Ok(snapshot) => snapshot,
        Err(reason) => return Begin { from: since, no_state: Some(reason), ..Begin::default() },
    };
    let lost = match since {
        None => None,
        Some(since) => match resume::check(edge, since, requests).await {
            Ok(()) => return Begin { from: Some(since), ..Begin::default() },
            Err(reason) => Some(reason),
        },
    };
    let position = EventPosition { stream: snapshot.stream, sequence: snapshot.position };
    let from = ResumeFrom::Cursor(Cursor { position, rank: Rank::LAST });
    Begin { from: Some(from), snapshot: Some(snapshot), lost, no_state: None }
}

/// Reads what is kept of some bindings.
///
/// # Errors
/// Why there is no state.
async fn read(
    edge: &Edge,
    parsed: &[ParsedBinding<'_>],
    requests: &[SubscribeRequest],
) -> Result<Snapshot, &'static str> {
    let mut filters = BTreeSet::new();
    for (parsed, request) in parsed.iter().zip(requests) {
        let Some(family) = parsed.family_with_state() else { continue };
        // Subjects are below the granted tenants, and so is what is kept.
        for subject in &request.subjects {
            let below = subject.strip_prefix(&edge.event_root).and_then(|rest| rest.strip_prefix('.'));
            let Some(tenant) = below.and_then(|below| below.split('.').next()) else { continue };
            filters.insert(Filter { tenant: tenant.to_owned(), family: family.to_owned() });
        }
    }
    if filters.is_empty() {
        return Err(NOTHING);
    }
    let Some(kept) = &edge.kept else { return Err(NOT_KEPT) };
    // Without a history nothing follows, and what was kept is old.
    let has_history = edge.stream.borrow().is_some();
    if !has_history && !edge.history.info().await.is_ok_and(|info| info.is_some()) {
        return Err(NOT_KEPT);
    }
    let filters: Vec<Filter> = filters.into_iter().collect();
    // Perhaps a leader is being elected.
    let read = async {
        loop {
            match kept.read(&filters).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(NoState::NotKept) => return Err(NOT_KEPT),
                Err(NoState::TooLarge) => return Err(TOO_LARGE),
                Err(NoState::Unavailable(error)) => tracing::debug!(%error, "the state cannot be read"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    let limit = edge.config.request_timeout / 2;
    tokio::time::timeout(limit, read).await.unwrap_or(Err(UNAVAILABLE))
}

impl Present {
    /// What is to be sent of a snapshot to these bindings; nothing but its end without one.
    pub(super) fn new(
        requests: &[SubscribeRequest],
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
        Present { snapshot, bindings, request_id, next: 0, sent: 0, deadline }
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
                outbox.push_own(text_frame(&self.end()));
                return true;
            };
            self.next += 1;
            let Some(frames) = EventFrames::read(event_root, event).map(EventFrames::kept) else { continue };
            let frames =
                frames_of(&self.bindings, &frames, event.sequence().unwrap_or_default(), &event.subject);
            self.sent += u64::from(!frames.is_empty());
            frames.into_iter().for_each(|frame| outbox.push_own(frame));
        }
        false
    }

    /// The message after the last of them.
    fn end(&self) -> String {
        let mut message = Map::from_iter([
            ("action".to_owned(), json!("state")),
            ("complete".to_owned(), json!(true)),
            ("events".to_owned(), json!(self.sent)),
        ]);
        if let Some(request_id) = &self.request_id {
            message.insert("request_id".to_owned(), request_id.clone());
        }
        if let Some(snapshot) = &self.snapshot {
            let position = EventPosition { stream: snapshot.stream, sequence: snapshot.position };
            let cursor = Cursor { position, rank: Rank::LAST }.to_text();
            message.insert("cursor".to_owned(), json!(String::from_utf8_lossy(&cursor)));
            message.insert("kept_since".to_owned(), json!(snapshot.since_ms));
        }
        Value::Object(message).to_string()
    }
}

/// An event's frames, in the order of the ranks of `bindings`, for those that it matches.
fn frames_of(bindings: &[Part], frames: &EventFrames<'_>, position: u64, subject: &[u8]) -> Vec<Bytes> {
    let Ok(subject) = std::str::from_utf8(subject) else { return Vec::new() };
    let is_of_realm = frames.tenant().starts_with('@');
    let is_owed = |binding: &&Part| {
        binding.template.is_running()
            && !(is_of_realm && position <= binding.realms_after)
            && binding.subjects.iter().any(|pattern| subject_matches(pattern, subject))
    };
    let matching: Vec<&Part> = bindings.iter().filter(is_owed).collect();
    let last = matching.len().saturating_sub(1);
    let build = |(index, binding): (usize, &&Part)| frames.frame(&binding.template, index == last);
    matching.iter().enumerate().filter_map(build).collect()
}

fn text_frame(text: &str) -> Bytes {
    crate::delivery::frame::builder::text_frame(&[text.as_bytes()])
}
