//! The stream of the simulated NATS: what it stores, what it has dropped, and how it describes itself.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How long copies of a message are recognised.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// A message in the stream.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    /// As it was published.
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
    /// By the server's clock.
    pub(crate) at: SystemTime,
}

impl Stored {
    fn bytes(&self) -> u64 {
        (self.subject.len() + self.headers.len() + self.payload.len()) as u64
    }
}

/// A stream.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) created: SystemTime,
    pub(crate) config: Value,
    pub(crate) messages: BTreeMap<u64, Stored>,
    pub(crate) last: u64,
    pub(crate) last_at: SystemTime,
    first: u64,
    bytes: u64,
    ids: VecDeque<(String, u64, SystemTime)>,
    /// The id of the last message.
    pub(crate) last_id: Option<String>,
}

impl Stream {
    pub(crate) fn new(config: Value, now: SystemTime) -> Stream {
        Stream {
            created: now,
            config,
            messages: BTreeMap::new(),
            last: 0,
            last_at: SystemTime::UNIX_EPOCH,
            first: 1,
            bytes: 0,
            ids: VecDeque::new(),
            last_id: None,
        }
    }

    /// The position of the oldest message; one more than the last if there is none.
    pub(crate) fn first(&self) -> u64 {
        self.messages.keys().next().copied().unwrap_or(self.first)
    }

    pub(crate) fn max_age(&self) -> Duration {
        Duration::from_nanos(self.config["max_age"].as_u64().unwrap_or_default())
    }

    /// Where a copy of the message with this id is.
    pub(crate) fn duplicate_of(&mut self, id: &str, now: SystemTime) -> Option<u64> {
        let window = self.config["duplicate_window"].as_u64().map_or(DUPLICATE_WINDOW, Duration::from_nanos);
        self.ids.retain(|(_, _, at)| now.duration_since(*at).is_ok_and(|age| age < window));
        self.ids.iter().find(|(known, ..)| known == id).map(|(_, sequence, _)| *sequence)
    }

    /// Stores a message, and drops what is too much.
    pub(crate) fn store(&mut self, message: Stored, id: Option<&str>) -> u64 {
        self.last += 1;
        self.last_at = message.at;
        self.last_id = id.map(str::to_owned);
        if let Some(id) = id {
            self.ids.push_back((id.to_owned(), self.last, message.at));
        }
        self.bytes += message.bytes();
        let now = message.at;
        self.messages.insert(self.last, message);
        self.retain(now);
        self.last
    }

    /// Drops what is too old or too much. Returns whether that was anything.
    pub(crate) fn retain(&mut self, now: SystemTime) -> bool {
        let (max_age, max_bytes) = (self.max_age(), self.config["max_bytes"].as_u64().unwrap_or(u64::MAX));
        let mut dropped = false;
        while let Some((_, oldest)) = self.messages.first_key_value()
            && (self.bytes > max_bytes || now.duration_since(oldest.at).is_ok_and(|age| age > max_age))
        {
            self.drop_oldest();
            dropped = true;
        }
        dropped
    }

    fn drop_oldest(&mut self) {
        if let Some((sequence, message)) = self.messages.pop_first() {
            self.first = sequence + 1;
            self.bytes -= message.bytes();
        }
    }

    /// Keeps the newest `keep` messages.
    pub(crate) fn purge(&mut self, keep: usize) {
        while self.messages.len() > keep {
            self.drop_oldest();
        }
    }

    /// Loses its newest `count` messages, as after a power loss. Returns them.
    pub(crate) fn lose(&mut self, count: usize) -> Vec<Stored> {
        let mut lost = Vec::new();
        for _ in 0..count {
            let Some((_, message)) = self.messages.pop_last() else { break };
            self.last -= 1;
            self.bytes -= message.bytes();
            lost.push(message);
        }
        self.ids.retain(|(_, sequence, _)| *sequence <= self.last);
        self.last_id = self.ids.back().map(|(id, ..)| id.clone());
        self.first = self.first.min(self.last + 1);
        lost
    }

    /// Whether it has an event with this id in its body.
    pub(crate) fn has(&self, id: u64) -> bool {
        let member = format!("\"Msg-ID\":\"{id}\"");
        let has_it = |payload: &Bytes| payload.windows(member.len()).any(|bytes| bytes == member.as_bytes());
        self.messages.values().any(|message| has_it(&message.payload))
    }

    /// The messages from `from` on that match `filter`, at most `max`.
    pub(crate) fn read(&self, from: u64, filter: &str, max: usize) -> Vec<(u64, Stored)> {
        let messages = self.messages.range(from..);
        let wanted = messages.filter(|(_, message)| filter.is_empty() || matches(filter, &message.subject));
        wanted.take(max).map(|(sequence, message)| (*sequence, message.clone())).collect()
    }

    /// The position of the newest message before `time`.
    pub(crate) fn position_at(&self, time: SystemTime) -> u64 {
        let next = self.messages.iter().find(|(_, message)| message.at >= time);
        next.map_or(self.last, |(sequence, _)| sequence - 1)
    }

    /// What the server tells of it. `cluster` has the leader and the other servers.
    pub(crate) fn info(&self, cluster: Option<(&str, Vec<String>)>) -> Value {
        let first_at = self.messages.values().next().map_or(SystemTime::UNIX_EPOCH, |message| message.at);
        let cluster = match cluster {
            None => json!({ "leader": "n0" }),
            Some((leader, others)) => {
                let replicas: Vec<Value> = others.iter().map(|name| json!({ "name": name })).collect();
                json!({ "name": "blackhole", "leader": leader, "replicas": replicas })
            }
        };
        json!({
            "type": "io.nats.jetstream.api.v1.stream_info_response",
            "created": rfc3339(self.created),
            "config": self.config,
            "state": {
                "messages": self.messages.len(),
                "bytes": self.bytes,
                "first_seq": self.first(),
                "first_ts": rfc3339(first_at),
                "last_seq": self.last,
                "last_ts": rfc3339(self.last_at),
                "consumer_count": 0,
            },
            "cluster": cluster,
        })
    }
}

pub(crate) fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

/// NATS matching: `*` is one word, `>` at the end one or more.
pub(crate) fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut words) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), words.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(own), Some(word)) if own == word => {}
            _ => return false,
        }
    }
}
