//! Events that wait for the account of a dialled number, and later events of their calls, which wait behind them.
//!
//! They have their ids already: numbers follow the order of the queue. Others overtake them, but not so many that the broker
//! would send no more, because it sends at most `amqp.prefetch` after the oldest unacknowledged one.

use std::collections::{HashMap, VecDeque};

use blackhole_common::wire::NumberRequest;
use tokio::time::{Duration, Instant};

use super::{Publisher, pending::PendingEvent};
use crate::numbers::{Found, Unknown};

/// How long an event waits for an answer.
const MAX_WAIT: Duration = Duration::from_millis(200);

/// How much may wait.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitLimits {
    /// How many deliveries of its broker may overtake an event.
    pub(crate) deliveries: u64,
    /// The bytes of the bodies that wait.
    pub(crate) bytes: u64,
}

/// A call: its broker, and the word of the routing key.
type Call = (usize, String);

#[derive(Debug)]
struct WaitingEvent {
    pending: PendingEvent,
    /// It waits for an answer; otherwise only for the events before it.
    asks: bool,
}

/// An event that waits for an answer.
#[derive(Debug)]
struct Asker {
    call: Call,
    /// Its delivery tag.
    tag: u64,
    until: Instant,
}

/// The events that wait.
#[derive(Debug)]
pub(super) struct Waiting {
    limits: WaitLimits,
    /// The events of each call in order. The first of each asks.
    calls: HashMap<Call, VecDeque<WaitingEvent>>,
    /// The events that ask, or have asked, in the order in which they came.
    askers: VecDeque<Asker>,
    /// The calls whose events ask for a number.
    asking: HashMap<NumberRequest, Vec<Call>>,
    bytes: u64,
}

impl Waiting {
    pub(super) fn new(limits: WaitLimits) -> Waiting {
        Waiting { limits, calls: HashMap::new(), askers: VecDeque::new(), asking: HashMap::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// When the first event has waited long enough.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.askers.front().map(|asker| asker.until)
    }

    fn has_room_for(&self, pending: &PendingEvent) -> bool {
        self.bytes + size(pending) <= self.limits.bytes
    }

    fn add(&mut self, call: Call, pending: PendingEvent, asks: bool) {
        self.bytes += size(&pending);
        if let Some(dialled) = pending.event.message.dialled.as_ref().filter(|_| asks) {
            let until = Instant::now() + MAX_WAIT;
            self.askers.push_back(Asker { call: call.clone(), tag: pending.event.settle_handle.tag, until });
            self.asking.entry(dialled.numbers.clone()).or_default().push(call.clone());
        }
        self.calls.entry(call).or_default().push_back(WaitingEvent { pending, asks });
    }

    /// Takes the first events of a call out, up to the next one that asks.
    fn release(&mut self, call: &Call) -> Vec<PendingEvent> {
        let Some(events) = self.calls.get_mut(call) else { return Vec::new() };
        let mut released = Vec::new();
        while let Some(event) = events.pop_front_if(|event| !event.asks) {
            self.bytes -= size(&event.pending);
            released.push(event.pending);
        }
        if events.is_empty() {
            self.calls.remove(call);
        }
        self.remove_done();
        released
    }

    /// Whether the event of this tag still asks.
    fn asks(&self, asker: &Asker) -> bool {
        self.calls.get(&asker.call).is_some_and(|events| {
            events.iter().any(|event| event.asks && event.pending.event.settle_handle.tag == asker.tag)
        })
    }

    /// Removes the oldest askers that have their answers.
    fn remove_done(&mut self) {
        while self.askers.front().is_some_and(|asker| !self.asks(asker)) {
            self.askers.pop_front();
        }
        if self.calls.is_empty() {
            self.asking.clear();
        }
    }

    /// The calls of the events for which `is_meant` holds, which ask no more: those wait for nothing now.
    fn resolve(
        &mut self,
        calls: &[Call],
        is_meant: impl Fn(&PendingEvent) -> bool,
        mut with: impl FnMut(&mut PendingEvent),
    ) -> Vec<PendingEvent> {
        let mut released = Vec::new();
        for call in calls {
            for event in self.calls.get_mut(call).into_iter().flatten() {
                if event.asks && is_meant(&event.pending) {
                    event.asks = false;
                    let before = size(&event.pending);
                    with(&mut event.pending);
                    self.bytes = self.bytes + size(&event.pending) - before;
                }
            }
            released.extend(self.release(call));
        }
        released
    }
}

fn size(pending: &PendingEvent) -> u64 {
    pending.event.message.body.len() as u64
}

impl Publisher {
    /// Whether something else comes before the publication of the event at this index, the first that is not published: it
    /// waits, or others are released.
    pub(super) fn must_wait(&mut self, index: usize) -> bool {
        let Some(pending) = self.pending.get(index) else { return false };
        let message = &pending.event.message;
        if pending.has_waited || (self.waiting.is_empty() && message.dialled.is_none()) {
            return false;
        }
        let (source, tag) = (pending.event.source, pending.event.settle_handle.tag);
        let call = message.call().map(|call| (source, call.to_owned()));
        let found = message.dialled.as_ref().and_then(|dialled| self.numbers.look_up(&dialled.numbers));
        let asks = message.dialled.is_some() && found.is_none();
        let has_room = self.waiting.has_room_for(pending);
        if let Some(found) = found
            && let Some(pending) = self.pending.get_mut(index)
        {
            self.metrics.number(&found);
            apply(pending, &found);
        }
        let released = self.release_overtaken(source, tag);
        if released || self.waiting.is_empty() && !asks {
            return released;
        }
        let Some(call) = call else { return false };
        let has_predecessor = self.waiting.calls.contains_key(&call);
        if !has_predecessor && !asks {
            return false;
        }
        if !has_room {
            if let Some(pending) = self.pending.get_mut(index).filter(|_| asks) {
                let found = Found::None(Unknown::Limit);
                self.metrics.number(&found);
                apply(pending, &found);
            }
            return has_predecessor && self.give_up(&[call], |_| true, Unknown::Limit);
        }
        let Some(mut pending) = self.pending.remove(index) else { return false };
        let since = pending.overtaken_since.map_or(self.stream_end, |since| since.min(self.stream_end));
        pending.overtaken_since = Some(since);
        if let (Some(id), Some(source)) = (pending.id, self.sources.get_mut(source)) {
            source.overtake(id.number);
        }
        self.waiting.add(call, pending, asks);
        true
    }

    /// auth-svc has answered.
    pub(super) fn number_answered(&mut self, numbers: &NumberRequest, found: &Found) {
        let Some(calls) = self.waiting.asking.remove(numbers) else { return };
        let is_meant = |pending: &PendingEvent| {
            pending.event.message.dialled.as_ref().is_some_and(|dialled| dialled.numbers == *numbers)
        };
        let metrics = &self.metrics;
        let released = self.waiting.resolve(&calls, is_meant, |pending| {
            metrics.number(found);
            apply(pending, found);
        });
        self.publish_next(released, |pending| pending.has_waited);
    }

    /// Publishes as they are the events that have waited long enough.
    pub(super) fn waited_long_enough(&mut self) {
        let now = Instant::now();
        while let Some(asker) = self.waiting.askers.pop_front_if(|asker| asker.until <= now) {
            let Asker { call, tag, .. } = asker;
            let is_meant = |pending: &PendingEvent| pending.event.settle_handle.tag == tag;
            self.give_up(&[call], is_meant, Unknown::Unanswered);
        }
    }

    /// Publishes as they are the events of a broker that too many have overtaken. Returns whether there were any.
    fn release_overtaken(&mut self, source: usize, tag: u64) -> bool {
        let (mut released, limit) = (false, self.waiting.limits.deliveries);
        loop {
            let mut askers = self.waiting.askers.iter();
            let is_overtaken = |asker: &&Asker| asker.call.0 == source;
            let Some(asker) = askers.find(is_overtaken).filter(|asker| asker.tag + limit <= tag) else {
                return released;
            };
            let (call, tag) = (asker.call.clone(), asker.tag);
            let is_meant = |pending: &PendingEvent| pending.event.settle_handle.tag == tag;
            self.waiting.askers.retain(|asker| asker.call.0 != source || asker.tag != tag);
            released |= self.give_up(&[call], is_meant, Unknown::Limit);
        }
    }

    /// Publishes events as they are. Returns whether there were any.
    fn give_up(&mut self, calls: &[Call], is_meant: impl Fn(&PendingEvent) -> bool, why: Unknown) -> bool {
        let (metrics, found) = (&self.metrics, Found::None(why));
        let released = self.waiting.resolve(calls, is_meant, |pending| {
            metrics.number(&found);
            apply(pending, &found);
        });
        let has_some = !released.is_empty();
        self.publish_next(released, |pending| pending.has_waited);
        has_some
    }

    /// Puts events that have waited before those that are not published, but after those that `come_before` them.
    fn publish_next(&mut self, events: Vec<PendingEvent>, come_before: impl Fn(&PendingEvent) -> bool) {
        let mut index = self.published;
        while self.pending.get(index).is_some_and(&come_before) {
            index += 1;
        }
        for mut pending in events {
            pending.has_waited = true;
            self.pending.insert(index, pending);
            index += 1;
        }
    }

    /// The connection is lost: nothing waits any more, and all is looked up again on the next one.
    pub(super) fn stop_waiting(&mut self) {
        let calls = std::mem::take(&mut self.waiting.calls);
        self.waiting = Waiting::new(self.waiting.limits);
        let waiting = calls.into_values().flatten().map(|event| event.pending);
        // What has an id was published before, or was to be: in the order of the queue again, which is that of each call.
        let (mut next, rest): (Vec<_>, Vec<_>) =
            waiting.chain(std::mem::take(&mut self.pending)).partition(|pending| pending.id.is_some());
        next.sort_by_key(|pending| (pending.event.source, pending.id.map(|id| id.number)));
        self.pending = next.into_iter().chain(rest).collect();
        self.pending.iter_mut().for_each(|pending| pending.has_waited = false);
    }

    /// The broker delivers again what waits.
    pub(super) fn forget_waiting(&mut self, source: usize) {
        let waiting = &mut self.waiting;
        let of_source = |call: &Call| call.0 == source;
        for (_, events) in waiting.calls.extract_if(|call, _| of_source(call)) {
            waiting.bytes -= events.iter().map(|event| size(&event.pending)).sum::<u64>();
        }
        waiting.askers.retain(|asker| !of_source(&asker.call));
        waiting.asking.values_mut().for_each(|calls| calls.retain(|call| !of_source(call)));
        waiting.asking.retain(|_, calls| !calls.is_empty());
    }
}

/// Gives an event its account, if there is one.
fn apply(pending: &mut PendingEvent, found: &Found) {
    match found {
        Found::Account(account) => pending.event.message.give_to(account),
        Found::None(_) => pending.event.message.dialled = None,
    }
}

#[cfg(test)]
mod tests;
