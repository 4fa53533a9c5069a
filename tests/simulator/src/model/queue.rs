//! What the ingest owes: each message of RabbitMQ's queue is stored once, in order, before it is acknowledged.

use std::collections::BTreeMap;

use super::Model;
use crate::rabbitmq::Left;

/// The messages that were published, by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    messages: Vec<Message>,
    /// The numbers of equal messages, by the id in their bodies.
    equal: BTreeMap<u64, Equal>,
    /// All messages before this one have left [`State::Waiting`].
    first_waiting: usize,
}

#[derive(Debug)]
struct Message {
    id: u64,
    /// It is of a call whose events may wait for its account: others may be stored before it.
    may_wait: bool,
    state: State,
}

/// Messages that are equal byte for byte.
#[derive(Debug, Default)]
struct Equal {
    numbers: Vec<usize>,
    stored: u64,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Stored,
    /// The stream has lost it, with its disk or as a whole.
    Lost,
    /// The queue had no room for it.
    Dropped,
}

impl Queue {
    /// A message is published.
    pub(crate) fn publish(&mut self, id: u64, may_wait: bool) {
        self.equal.entry(id).or_default().numbers.push(self.messages.len());
        self.messages.push(Message { id, may_wait, state: State::Waiting });
    }

    /// The stream has lost a message with this id.
    pub(super) fn lost(&mut self, id: u64) {
        let Some(equal) = self.equal.get(&id) else { return };
        let stored = equal.numbers.iter().rev().find(|number| self.messages[**number].state == State::Stored);
        if let Some(number) = stored.copied() {
            self.messages[number].state = State::Lost;
        }
    }

    /// The stream was deleted.
    pub(super) fn deleted(&mut self) {
        for message in self.messages.iter_mut().filter(|message| message.state == State::Stored) {
            message.state = State::Lost;
        }
    }

    /// The first message that is not stored.
    pub(crate) fn first_waiting(&self) -> Option<u64> {
        let rest = self.messages.iter().skip(self.first_waiting);
        rest.into_iter().find(|message| message.state == State::Waiting).map(|message| message.id)
    }

    /// The stream stores a message with this id. Returns what is wrong with that.
    pub(super) fn stored(
        &mut self,
        id: u64,
        may_reorder: bool,
        is_there: impl FnOnce() -> bool,
    ) -> Option<String> {
        let Some(equal) = self.equal.get_mut(&id) else {
            return Some(format!("a message with id {id} is stored, which was never published"));
        };
        equal.stored += 1;
        let find = |state| equal.numbers.iter().copied().find(|number| self.messages[*number].state == state);
        let number = find(State::Waiting).or_else(|| find(State::Dropped)).or_else(|| find(State::Lost));
        let Some(number) = number else {
            return is_there().then(|| format!("the message with id {id} is stored twice"));
        };
        let was_waiting = self.messages[number].state == State::Waiting;
        self.messages[number].state = State::Stored;
        while self.messages.get(self.first_waiting).is_some_and(|message| message.state != State::Waiting) {
            self.first_waiting += 1;
        }
        if !was_waiting || may_reorder {
            return None;
        }
        let message = &self.messages[number];
        let before = self.messages.get(self.first_waiting..number).unwrap_or_default();
        let first = before
            .iter()
            .find(|earlier| earlier.state == State::Waiting && (!earlier.may_wait || message.may_wait))?;
        Some(format!("the message with id {id} is stored before the one with id {}", first.id))
    }

    /// A message has left the queue. Returns what is wrong with that.
    fn left(&mut self, number: usize, how: Left) -> Option<String> {
        let message = self.messages.get_mut(number)?;
        let id = message.id;
        match how {
            Left::Dropped if message.state == State::Waiting => message.state = State::Dropped,
            Left::Dropped => {}
            Left::Rejected => return Some(format!("the message with id {id} is rejected")),
            Left::Acknowledged => {
                let equal = self.equal.get_mut(&id)?;
                equal.acknowledged += 1;
                if equal.acknowledged > equal.stored {
                    return Some(format!("the message with id {id} is acknowledged, but not stored"));
                }
            }
        }
        None
    }
}

impl Model {
    /// A message has left RabbitMQ's queue.
    pub(crate) fn left(&mut self, number: u64, how: Left) {
        self.say(|| format!("the message with number {number} leaves the queue: {how:?}"));
        if let Some(text) = self.queue.left(number as usize, how) {
            self.blame(text);
        }
    }
}
