//! The hot functions, each with input as in production.

use std::{hint::black_box, io, io::IoSlice, sync::Arc, time::Duration};

use amqp_ingest::state::living::{Changes, Living, StreamEvent};
use blackhole_common::{
    catalogue::Catalogue,
    subject::{push_key, subject_matches},
    wire::{Access, Bearer},
};
use bytes::Bytes;
use serde_json::Value;
use ws_edge::{
    access::{binding, families::Families},
    delivery::{
        dispatcher::{Dispatcher, SubscribeRequest},
        frame::{
            builder::EventFrames, event::Event, normalize::normalize, shown_key::ShownKey,
            template::FrameTemplate,
        },
    },
    limits::accounts::Share,
    outbox::{Outbox, flusher::Flusher, queue::OutboundSocket},
    protocol::{
        cursor::{EventPosition, StreamId},
        event_stream::Framing,
        view::View,
    },
};

/// Runs a function this many times.
type Run = fn(u64);

/// The counted functions, by their names in `counts.toml`.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("routing key to subject", key_to_subject),
    ("binding to subjects", binding_to_subjects),
    ("match of a subject and a pattern", matching),
    ("frame, view args", |times| frames(times, View::Args)),
    ("frame, view data", |times| frames(times, View::Data)),
    ("normalized body", normalized),
    ("delivery to 1 of 1000 subjects", |times| deliver(times, 1000, 1, Framing::WebSocket, None)),
    ("delivery to 100 sessions", |times| deliver(times, 1, 100, Framing::WebSocket, None)),
    ("compressed delivery to 1 session", |times| deliver(times, 1, 1, Framing::CompressedWebSocket, None)),
    ("compressed delivery to 100 sessions", |times| {
        deliver(times, 1, 100, Framing::CompressedWebSocket, None);
    }),
    ("compressed delivery to 100 request_ids", |times| {
        deliver(times, 1, 100, Framing::CompressedWebSocket, Some(|session| session.into()));
    }),
    ("state of one call of 1000", state),
];

const ROOT: &str = "blackhole.v1.event";
const ACCOUNT: &str = "a391d64a083b99232f6d2633c47432e3";
const KEY: &str = "call.CHANNEL_CREATE.c62a4ddb-5d4639ef-5253%40203%2E0%2E113%2E7";
const BODY: &str = include_str!("event.json");

fn key_to_subject(times: u64) {
    for _ in 0..times {
        let mut subject = String::with_capacity(256);
        push_key(&mut subject, black_box(KEY).as_bytes());
        black_box(subject);
    }
}

fn matching(times: u64) {
    let subject = format!("{ROOT}.{ACCOUNT}.{KEY}");
    let pattern = format!("{ROOT}.{ACCOUNT}.call.*.*");
    for _ in 0..times {
        black_box(subject_matches(black_box(&pattern), black_box(&subject)));
    }
}

fn normalized(times: u64) {
    for _ in 0..times {
        black_box(normalize(black_box(BODY.as_bytes())).is_ok());
    }
}

/// Takes in events of 1000 calls, as the keeper of the state does.
#[allow(clippy::unwrap_used)] // The built-in catalogue is valid.
fn state(times: u64) {
    let catalogue = Catalogue::load(None).unwrap();
    let (mut living, mut changes) = (Living::default(), Changes::default());
    for position in 1..=times {
        let event = StreamEvent {
            position,
            below: format!("{ACCOUNT}.call.CHANNEL_CREATE.call-{}", position % 1000),
            at_ms: position,
            headers: Vec::new(),
            body: Bytes::from_static(BODY.as_bytes()),
        };
        living.apply(&catalogue, black_box(&event), false, &mut changes);
    }
    black_box(changes.is_empty());
}

#[allow(clippy::unwrap_used)] // The built-in catalogue is valid.
fn binding_to_subjects(times: u64) {
    let catalogue = Catalogue::load(None).unwrap();
    let families = Families::new(&catalogue, Arc::default());
    let bearer =
        Bearer { account_id: ACCOUNT.into(), expires_at: u64::MAX, superduper_admin: false, token_id: None };
    let access = Access::Account {
        account_id: ACCOUNT.into(),
        realm: Some("sip.example.com".into()),
        realm_since_ms: None,
    };
    for _ in 0..times {
        let asked = binding::parse(&catalogue, &families, black_box("call.CHANNEL_CREATE.*"), &bearer);
        black_box(asked.unwrap().resolve(ROOT, &access).unwrap());
    }
}

fn event(account: &str, sequence: u64) -> Event {
    Event {
        subject: format!("{ROOT}.{account}.{KEY}").into(),
        name: Bytes::from_static(b"CHANNEL_CREATE"),
        body: Bytes::from_static(BODY.as_bytes()),
        owner: Bytes::new(),
        position: Some(EventPosition { stream: StreamId::new("t"), sequence }),
    }
}

fn template(view: View, account: &str, request_id: Option<&Value>) -> FrameTemplate {
    FrameTemplate::new(view, request_id, account, "call.*.*", "call.*.*", ShownKey::AsPublished)
}

fn frames(times: u64, view: View) {
    let (event, template) = (event(ACCOUNT, 1), template(view, ACCOUNT, None));
    for _ in 0..times {
        let frames = EventFrames::read(ROOT, black_box(&event));
        black_box(frames.and_then(|frames| frames.frame(&template, false)));
    }
}

/// A connection that accepts all bytes.
struct Nowhere;

impl OutboundSocket for Nowhere {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(frames.iter().map(|frame| frame.len()).sum())
    }
}

/// The `request_id` of a session with this number.
type RequestId = fn(u64) -> Value;

/// Delivers events to the sessions of one of `accounts` accounts, and writes their frames.
fn deliver(times: u64, accounts: u64, sessions: u64, framing: Framing, request_id: Option<RequestId>) {
    let flusher = Arc::new(Flusher::new(Arc::default()));
    let dispatcher = Arc::new(Dispatcher::new(ROOT, Duration::from_secs(5), flusher, Arc::default()));
    let account = |number: u64| format!("{number:032x}");
    let mut held = Vec::new();
    for (index, number) in
        (0..accounts).flat_map(|account| (0..sessions).map(move |session| (account, session))).enumerate()
    {
        let of = account(number.0);
        let request_id = request_id.map(|of| of(number.1));
        let outbox = Outbox::new(index as u64, 1 << 20, Arc::new(Nowhere), Arc::default());
        let outbox = Arc::new(outbox.compressed(framing == Framing::CompressedWebSocket));
        let request = SubscribeRequest {
            template: Arc::new(template(View::Args, &of, request_id.as_ref()).framed(framing)),
            subjects: vec![format!("{ROOT}.{of}.call.*.*")],
            since: None,
            realms_after: 0,
            share: Share::default(),
        };
        let joined = dispatcher.join(&outbox, vec![request], Vec::new());
        held.push((outbox, joined));
    }
    let numbers = dispatcher.take_new();
    let Some((number, _)) = numbers.first() else { return };
    let mut event = event(&account(0), 0);
    for sequence in 1..=times {
        event.position = event.position.map(|position| EventPosition { sequence, ..position });
        if let Some(frames) = EventFrames::read(ROOT, &event) {
            dispatcher.deliver(*number, &event, &frames);
        }
        for (outbox, _) in held.iter().take(sessions as usize) {
            outbox.flush();
        }
    }
}
