//! Writes one scene of the simulation: its account, its clock, its random numbers, and its events.

use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use serde_json::{Map, Value, json};

use super::accounts::{Account, Person, hex};
use super::words::{encode_word, unix};

/// One message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// When it is due, from the start of the plan.
    pub at: Duration,
    /// The exchange.
    pub exchange: &'static str,
    /// The routing key, with encoded words.
    pub routing_key: String,
    /// The id of its account.
    pub account_id: String,
    /// The body's `Event-Name`.
    pub name: &'static str,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// One scene: a call, a conference, an edit.
pub(super) struct Script<'a> {
    pub(super) account: &'a Account,
    pub(super) rng: &'a mut StdRng,
    plan_start: SystemTime,
    now: Duration,
    events: Vec<Publication>,
}

impl<'a> Script<'a> {
    /// A scene of `account` that starts `now` after the start of the plan.
    pub(super) fn new(
        account: &'a Account,
        rng: &'a mut StdRng,
        plan_start: SystemTime,
        now: Duration,
    ) -> Self {
        Self { account, rng, plan_start, now, events: Vec::new() }
    }

    /// Advances the clock by `from` to `to` seconds.
    pub(super) fn wait(&mut self, from: f64, to: f64) {
        self.now += Duration::from_secs_f64(self.rng.random_range(from..to));
    }

    /// The clock, from the start of the plan.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// The clock as time of day.
    pub(super) fn time(&self) -> SystemTime {
        self.plan_start + self.now
    }

    /// True with a probability of `percent` %.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent.min(100), 100)
    }

    /// A random element; `otherwise` if there is none.
    pub(super) fn one_of<T: Copy>(&mut self, all: &[T], otherwise: T) -> T {
        let at = self.rng.random_range(0..all.len().max(1));
        all.get(at).copied().unwrap_or(otherwise)
    }

    /// Up to `count` different people of the account.
    pub(super) fn people(&mut self, count: usize) -> Vec<Person> {
        let people = &self.account.people;
        let first = self.rng.random_range(0..people.len().max(1));
        people.iter().cycle().skip(first).take(count.min(people.len())).cloned().collect()
    }

    /// The JSON members that every KAZOO message has.
    pub(super) fn header(&mut self, app: &'static str, category: &'static str, name: &'static str) -> Object {
        let body = json!({
            "App-Name": app,
            "App-Version": "4.3.142",
            "Event-Category": category,
            "Event-Name": name,
            "Msg-ID": format!("{}{}", unix(self.time()).as_micros(), hex(self.rng, 16)),
            "Node": format!("{app}@apps01.{}", super::calls::CLUSTER),
            "System-Log-ID": format!("{}-{}", hex(self.rng, 8), self.rng.next_u32()),
        });
        object(body)
    }

    /// Adds an event. Encodes the words of the key, except those that are encoded already.
    pub(super) fn publish(
        &mut self,
        exchange: &'static str,
        key: &[Word<'_>],
        name: &'static str,
        body: Object,
    ) {
        let words: Vec<String> = key.iter().map(Word::encoded).collect();
        self.events.push(Publication {
            at: self.now,
            exchange,
            routing_key: words.join("."),
            account_id: self.account.id.clone(),
            name,
            body: Value::Object(body).to_string().into_bytes(),
        });
    }

    /// The events in chronological order.
    pub(super) fn finish(self) -> Vec<Publication> {
        self.events
    }
}

/// A word of a routing key.
pub(super) enum Word<'a> {
    /// Not encoded.
    Plain(&'a str),
    /// Encoded: the name of a database.
    Encoded(&'a str),
}

impl Word<'_> {
    fn encoded(&self) -> String {
        match self {
            Self::Plain(word) => encode_word(word),
            Self::Encoded(word) => (*word).to_owned(),
        }
    }
}

/// The object in a `json!` value.
pub(super) fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => Object::new(),
    }
}
