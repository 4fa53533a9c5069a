//! Subscribing as fast as replies arrive: each session sends its next request when it gets a reply.

use std::time::Duration;

use memchr::memmem;
use serde_json::json;

use crate::clock;
use crate::control::Answer;
use crate::event;
use crate::load::{Load, account_id};

/// How long outstanding replies may take at the end, in nanoseconds.
const REPLY_TIMEOUT: u64 = 10_000_000_000;

/// The requests and replies of all sessions.
pub(crate) struct Subscriber {
    load: Load,
    fresh: bool,
    began: u64,
    until: u64,
    asked: u64,
    confirmed: u64,
    refused: u64,
    last: u64,
}

impl Subscriber {
    /// Starts now.
    pub(crate) fn new(load: Load, time: Duration, fresh: bool) -> Self {
        let began = clock::now();
        let until = began + time.as_nanos() as u64;
        Self { load, fresh, began, until, asked: 0, confirmed: 0, refused: 0, last: began }
    }

    /// The next request of a session.
    pub(crate) fn request(&mut self, session: u32) -> Vec<u8> {
        let account = self.load.account_of(session);
        let binding = match self.load.bindings(session).first() {
            Some(lane) if !self.fresh => event::binding(lane),
            _ => format!("fax.status.fresh-{session}-{}", self.asked),
        };
        self.asked += 1;
        let data = json!({ "account_id": account_id(account), "binding": binding });
        json!({ "action": "subscribe", "request_id": self.asked, "data": data }).to_string().into_bytes()
    }

    /// Counts a reply, and returns the next request of the session.
    pub(crate) fn handle_reply(&mut self, session: u32, text: &[u8]) -> Option<Vec<u8>> {
        match memmem::find(text, b"\"status\":\"success\"") {
            Some(_) => self.confirmed += 1,
            None => self.refused += 1,
        }
        self.last = clock::now();
        (self.last < self.until).then(|| self.request(session))
    }

    /// Whether all requests are answered, or the time is up.
    pub(crate) fn is_over(&self) -> bool {
        let now = clock::now();
        now > self.until && self.confirmed + self.refused >= self.asked || now > self.until + REPLY_TIMEOUT
    }

    /// The result.
    pub(crate) fn answer(&self) -> Answer {
        Answer::Subscribed {
            count: self.confirmed,
            refused: self.refused + self.asked - self.confirmed - self.refused,
            seconds: (self.last - self.began) as f64 / 1e9,
        }
    }
}
