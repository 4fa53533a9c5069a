//! Forged cursors. A cursor is not signed, because it grants nothing: it says where to start, and the token says whose
//! events.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use blackhole_dev::simulator::Publisher;
use blackhole_tests::{accounts::Account, client::Client, events, stack::Stack};
use serde_json::{Value, json};

const EVENTS: u64 = 40;
const RANDOM_CURSORS: usize = 30;

/// What a cursor contains.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    stream: [u8; 5],
    sequence: u64,
    rank: u32,
}

impl Cursor {
    fn of(event: &Value) -> Cursor {
        let bytes = URL_SAFE_NO_PAD.decode(event["cursor"].as_str().unwrap()).unwrap();
        assert_eq!(check_byte(&bytes[..17]), bytes[17], "a forged cursor would not be a cursor");
        Cursor {
            stream: bytes[..5].try_into().unwrap(),
            sequence: u64::from_be_bytes(bytes[5..13].try_into().unwrap()),
            rank: u32::from_be_bytes(bytes[13..17].try_into().unwrap()),
        }
    }

    fn text(self) -> String {
        let mut bytes = [&self.stream[..], &self.sequence.to_be_bytes(), &self.rank.to_be_bytes()].concat();
        bytes.push(check_byte(&bytes));
        URL_SAFE_NO_PAD.encode(bytes)
    }
}

/// CRC-8 with the polynomial 7.
fn check_byte(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0xFF, |check, byte| {
        (0..8).fold(check ^ byte, |check, _| (check << 1) ^ if check & 0x80 == 0 { 0 } else { 7 })
    })
}

async fn publish(publisher: &Publisher, account: &Account, call_id: &str) {
    events::call(account, "CHANNEL_CREATE", call_id).publish(publisher).await;
}

fn call_id(event: &Value) -> &str {
    event["args"]["Call-ID"].as_str().unwrap()
}

#[tokio::test]
async fn a_forged_cursor_delivers_the_own_accounts_events_after_it_and_nothing_else() {
    // A stream of its own, whose beginning is still there and whose end is known.
    let stack = Stack::start("forged-cursors").await;
    let publisher = stack.publisher().await;
    let (own, other) = (Account::fresh(), Account::fresh());
    let mut watchers = Vec::new();
    for account in [&own, &other] {
        let mut watcher = Client::connect(&stack.edge.url("view=args")).await;
        watcher.subscribe(account, &["call.*.*"]).await;
        watchers.push(watcher);
    }
    // The position and call of each own event; the other account's are between them.
    let mut calls = Vec::new();
    let (mut stream, mut last) = ([0; 5], 0);
    for number in 0..EVENTS {
        let of_own = number % 3 != 1;
        let (account, watcher) = if of_own { (&own, 0) } else { (&other, 1) };
        publish(&publisher, account, &format!("call-{number}")).await;
        let event = watchers[watcher].event().await;
        let cursor = Cursor::of(&event);
        (stream, last) = (cursor.stream, cursor.sequence);
        if of_own {
            calls.push((cursor.sequence, call_id(&event).to_owned()));
        }
    }
    assert_eq!(last, EVENTS, "the stream has nothing else");

    let mut forged: Vec<Cursor> = Vec::new();
    for sequence in (0..=last + 1).chain([u64::MAX - 1, u64::MAX]) {
        forged.extend([0, u32::MAX].map(|rank| Cursor { stream, sequence, rank }));
    }
    for _ in 0..RANDOM_CURSORS {
        let sequence = rand::random_range(0..=last);
        forged.push(Cursor { stream, sequence, rank: rand::random() });
        forged.push(Cursor { stream, sequence: rand::random(), rank: rand::random() });
        forged.push(Cursor { stream: rand::random(), sequence, rank: rand::random() });
    }
    let mut sessions = Vec::new();
    for cursor in forged {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        let data = json!({ "bindings": ["call.*.*"], "since": cursor.text() });
        let request = json!({ "action": "subscribe", "auth_token": own.token(), "data": data });
        let reply = client.request(request).await;
        let is_possible = cursor.stream == stream && cursor.sequence <= last;
        assert_eq!(reply["data"]["recovered"], json!(is_possible), "{cursor:?}: {reply}");
        if !is_possible {
            assert_eq!(reply["data"]["reason"], "unknown stream", "{cursor:?}: {reply}");
        }
        sessions.push((client, cursor, is_possible));
    }
    publish(&publisher, &other, "last").await;
    publish(&publisher, &own, "last").await;
    for (mut client, cursor, is_possible) in sessions {
        let received = client.events_until("last").await;
        for event in &received {
            let account = &event["args"]["Custom-Channel-Vars"]["Account-ID"];
            assert_eq!(account, own.id.as_str(), "{cursor:?}: {event}");
        }
        let mut received: Vec<&str> = received.iter().map(call_id).collect();
        let at_cursor = calls.iter().find(|(sequence, _)| is_possible && *sequence == cursor.sequence);
        if let Some((_, call_id)) = at_cursor {
            // A lower rank than the binding's asks for the event at the position too.
            let has_it = received.first() == Some(&call_id.as_str());
            assert!(cursor.rank != 0 || has_it, "{cursor:?}: {received:?}");
            assert!(cursor.rank != u32::MAX || !has_it, "{cursor:?}: {received:?}");
            if has_it {
                received.remove(0);
            }
        }
        let after = calls.iter().filter(|(sequence, _)| is_possible && *sequence > cursor.sequence);
        let expected: Vec<&str> = after.map(|(_, call_id)| call_id.as_str()).collect();
        assert_eq!(received, expected, "{cursor:?}");
    }
}
