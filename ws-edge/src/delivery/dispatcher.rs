//! The dispatcher: sessions subscribe at it, and it gives them events.
//!
//! Sessions join through a [`Membership`], which leaves when it is dropped. The event reader asks which subjects to
//! subscribe at the NATS server and which are no longer used, and hands in the events. Everything happens under one lock,
//! which is never held across an await: counting references needs no protocol, and the reader never waits for a client.

mod replays;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    deliver::Mode,
    frame::{builder::EventFrames, event::Event, template::FrameTemplate},
    index::SubjectState,
    table::{Refused, Table, Unconfirmed},
    watermark::Positions,
};
use crate::{
    ids::SubjectNumber,
    limits::accounts::Share,
    metrics::Metrics,
    outbox::{Outbox, flusher::Flusher},
    protocol::close::Close,
};

/// Gives events to the sessions that have subscribed to them.
#[derive(Debug)]
pub struct Dispatcher {
    table: Mutex<Table>,
    /// Wakes the event reader: there are subjects to subscribe or to forget, or sessions that wait for confirmation.
    changed: Notify,
    event_root: Box<str>,
    linger: Duration,
    flusher: Arc<Flusher>,
    metrics: Arc<Metrics>,
}

/// A session's part in the events of one binding, until it is dropped.
#[derive(Debug)]
pub struct Membership {
    dispatcher: Arc<Dispatcher>,
    outbox: Arc<Outbox>,
    template: Arc<FrameTemplate>,
    subjects: Box<[SubjectNumber]>,
    share: Share,
}

impl Membership {
    /// What its frames look like.
    pub(crate) fn template(&self) -> &Arc<FrameTemplate> {
        &self.template
    }

    /// About how much memory its binding takes.
    pub(crate) fn bytes(&self) -> usize {
        self.share.bytes()
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.dispatcher.leave(&self.outbox, &self.template, &self.subjects);
        self.dispatcher.metrics.subscriptions.dec();
    }
}

/// A binding that a session subscribes to.
#[derive(Debug)]
pub struct SubscribeRequest {
    /// What its frames look like.
    pub template: Arc<FrameTemplate>,
    /// The subjects of its events.
    pub subjects: Vec<String>,
    /// The position after which its events begin; `None`: only new events.
    pub since: Option<u64>,
    /// Events of realms begin after this position at the earliest: before it, the realm was another account's.
    pub realms_after: u64,
    /// What it takes of its account's limits.
    pub share: Share,
}

/// The outcome of a join.
#[derive(Debug)]
pub struct Joined {
    /// A membership for each request.
    pub memberships: Vec<Membership>,
    /// Resolves when the server has confirmed every subject; `None`: it has already.
    pub(crate) confirmation: Option<oneshot::Receiver<Result<(), Refused>>>,
    /// The position up to which live sessions have been served.
    pub(crate) live: u64,
}

/// What sessions use.
impl Dispatcher {
    /// Without subscriptions, for subjects below `event_root`. A subject is unsubscribed at the server `linger` after its
    /// last member has left.
    pub fn new(
        event_root: &str,
        linger: Duration,
        flusher: Arc<Flusher>,
        metrics: Arc<Metrics>,
    ) -> Dispatcher {
        let table = Mutex::new(Table::new(event_root));
        Dispatcher { table, changed: Notify::new(), event_root: event_root.into(), linger, flusher, metrics }
    }

    /// Subscribes a session to all `requests`.
    ///
    /// If one has a `since`, the session is held until its reply is sent, and there is always a confirmation to wait
    /// for. A membership in `replaced` ends at the same instant in which its successor begins.
    pub fn join(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        requests: Vec<SubscribeRequest>,
        mut replaced: Vec<Membership>,
    ) -> Joined {
        let mut table = self.table.lock();
        let live = table.position;
        let since = requests.iter().filter_map(|request| request.since).min();
        if let Some(since) = since {
            let had = outbox.hold(since, live);
            table.raise_watermarks(outbox, had.unwrap_or_default());
        }
        let begin = if since.is_none() { outbox.begin_after(live) } else { live };
        let mut served = HashMap::new();
        for membership in &mut replaced {
            let subjects = std::mem::take(&mut membership.subjects);
            served.extend(table.leave(outbox, &membership.template, &subjects));
        }
        let mut all_confirmed = since.is_none();
        let mut memberships = Vec::with_capacity(requests.len());
        for request in requests {
            let mut subjects = Vec::with_capacity(request.subjects.len());
            for text in &request.subjects {
                let realms_after = if self.is_of_realm(text) { request.realms_after } else { 0 };
                let positions = |number| {
                    let goes_on = request.since.is_none() && served.contains_key(&number);
                    let positions = request.since.map(Positions::at).or_else(|| served.get(&number).copied());
                    (positions.unwrap_or(Positions::at(begin)).after(realms_after), goes_on)
                };
                let (number, is_confirmed) = table.join(outbox, &request.template, text, positions);
                all_confirmed &= is_confirmed;
                subjects.push(number);
            }
            self.metrics.subscriptions.inc();
            memberships.push(Membership {
                dispatcher: Arc::clone(self),
                outbox: Arc::clone(outbox),
                template: request.template,
                subjects: subjects.into(),
                share: request.share,
            });
        }
        let confirmation = (!all_confirmed).then(|| {
            let (confirmed, confirmation) = oneshot::channel();
            let subjects =
                memberships.iter().flat_map(|own: &Membership| own.subjects.iter().copied()).collect();
            let had = served.keys().copied().collect();
            table.unconfirmed.push(Unconfirmed { session: outbox.number, subjects, had, confirmed });
            confirmation
        });
        self.metrics.subjects.set(gauge(table.index.len()));
        drop(table);
        // A running replay does not know the new members.
        if since.is_none() && outbox.restart_replay() {
            self.flusher.lagging().add(Arc::clone(outbox));
        }
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        Joined { memberships, confirmation, live }
    }

    /// Whether a subject's tenant is a realm.
    fn is_of_realm(&self, subject: &str) -> bool {
        let rest = subject.strip_prefix(&*self.event_root);
        rest.is_some_and(|rest| rest.starts_with(".@"))
    }

    fn leave(&self, outbox: &Arc<Outbox>, template: &FrameTemplate, subjects: &[SubjectNumber]) {
        // A membership that was replaced has none any more.
        if !subjects.is_empty() {
            self.table.lock().leave(outbox, template, subjects);
            self.changed.notify_one();
        }
    }

    /// Lets memberships with a `since` begin after `end` instead. Their session, which is held, goes on where it was
    /// otherwise.
    pub(crate) fn forgo_past(&self, outbox: &Outbox, memberships: &[Membership], end: u64) {
        let table = self.table.lock();
        outbox.forgo_past(end);
        for membership in memberships {
            let subjects = membership.subjects.iter().filter_map(|number| table.index.subject(*number));
            subjects
                .filter_map(|subject| subject.member(&membership.outbox, &membership.template))
                .for_each(|member| member.watermark.set(end));
        }
    }

    /// The position up to which a live session has been given everything, and nothing after it; `None` if that is not
    /// known.
    pub(crate) fn position_of(&self, outbox: &Outbox) -> Option<u64> {
        let table = self.table.lock();
        Some(table.position).filter(|live| outbox.is_at(*live))
    }
}

/// What the event reader uses.
impl Dispatcher {
    /// Waits until there is something to subscribe, to confirm or to forget.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The subjects that are not subscribed yet. The caller subscribes them.
    pub fn take_new(&self) -> Vec<(SubjectNumber, Arc<str>)> {
        self.table.lock().take_new()
    }

    /// All subjects, for a new connection. The caller subscribes them.
    pub(crate) fn take_all(&self) -> Vec<(SubjectNumber, Arc<str>)> {
        self.table.lock().take_all()
    }

    /// The subjects that have been unused for longer than they linger. The caller unsubscribes them.
    pub(crate) fn take_unused(&self, now: Instant) -> Vec<SubjectNumber> {
        let mut table = self.table.lock();
        let unused = table.take_unused(now, self.linger);
        self.metrics.subjects.set(gauge(table.index.len()));
        unused
    }

    /// When [`Dispatcher::take_unused`] may next return something.
    pub(crate) fn next_unused(&self) -> Option<Instant> {
        self.table.lock().oldest_unused().map(|since| since + self.linger)
    }

    /// The sessions that wait for the confirmation of their subjects.
    pub(crate) fn take_unconfirmed(&self) -> Vec<Unconfirmed> {
        let mut waiting = std::mem::take(&mut self.table.lock().unconfirmed);
        waiting.retain(|session| !session.confirmed.is_closed());
        waiting
    }

    /// Returns sessions that [`Dispatcher::take_unconfirmed`] gave, for another attempt.
    pub(crate) fn put_back_unconfirmed(&self, sessions: Vec<Unconfirmed>) {
        self.table.lock().unconfirmed.extend(sessions);
    }

    /// The server has refused these subjects.
    pub(crate) fn refuse(&self, subjects: impl IntoIterator<Item = SubjectNumber>) {
        let mut table = self.table.lock();
        for number in subjects {
            if let Some(subject) = table.index.subject_mut(number) {
                subject.state = SubjectState::Refused;
            }
        }
    }

    /// The position up to which live sessions have been served.
    pub(crate) fn position(&self) -> u64 {
        self.table.lock().position
    }

    /// The number of a subject.
    pub(crate) fn number(&self, subject: &str) -> Option<SubjectNumber> {
        self.table.lock().index.number(subject)
    }

    /// The server has these subjects, but for those that it has refused, which are returned. `waiting` are the sessions
    /// that are told next; others that have members of what is refused are closed. New members are owed what comes after
    /// the position `last`, where the stream ended then.
    pub(crate) fn confirm(
        &self,
        subjects: &[SubjectNumber],
        waiting: &[Unconfirmed],
        last: u64,
    ) -> HashSet<SubjectNumber> {
        self.table.lock().confirm(subjects, waiting, last)
    }

    /// Delivers a live event, which came for the subject `number`, to the live members of every subject that it matches.
    /// It comes once for each of these; watermarks recognise all but the first. Without a history there are none, and
    /// each message is delivered to its own subject.
    pub fn deliver(&self, number: SubjectNumber, event: &Event, frames: &EventFrames<'_>) {
        let mut table = self.table.lock();
        match event.sequence() {
            Some(sequence) => {
                let numbers = table.index.matching(&self.event_root, &event.subject);
                table.deliver(&numbers, event, frames, Mode::Live, &self.metrics);
                table.reached(sequence);
            }
            None => table.deliver(&[number], event, frames, Mode::Live, &self.metrics),
        }
    }

    /// Delivers an event that was missed and read from the stream to the live members that did not have it. One that is
    /// `late` goes out after later ones.
    pub(crate) fn deliver_missed(&self, event: &Event, frames: &EventFrames<'_>, is_late: bool) {
        let mut table = self.table.lock();
        let numbers = table.index.matching(&self.event_root, &event.subject);
        let mode = if is_late { Mode::Late } else { Mode::Live };
        table.deliver(&numbers, event, frames, mode, &self.metrics);
        table.reached(event.sequence().unwrap_or_default());
    }

    /// Live sessions have been served up to this position, and nothing before it is late.
    pub(crate) fn verify(&self, position: u64) {
        let mut table = self.table.lock();
        table.verified = table.verified.max(position);
        table.reached(position);
    }

    /// Flushes the outboxes that were filled.
    pub fn flush(&self) {
        let mut filled = std::mem::take(&mut self.table.lock().filled);
        if filled.is_empty() {
            return;
        }
        self.flusher.flush(&mut filled);
        let mut table = self.table.lock();
        if table.filled.capacity() == 0 {
            // Keep the memory for the next events.
            table.filled = filled;
        }
    }

    /// The stream was replaced: its positions begin anew, and what lagging sessions were owed is gone.
    pub(crate) fn reset_positions(&self) {
        let mut table = self.table.lock();
        table.position = 0;
        table.verified = 0;
        table.index.truncate(0);
        for member in table.index.members() {
            member.watermark.reset();
            member.outbox.reset_newest();
            if member.outbox.lagging().is_some() {
                member.outbox.close(Close::Behind);
            }
        }
    }

    /// The stream has lost what it had after `last`: the positions after it are given anew.
    pub(crate) fn truncate_positions(&self, last: u64) {
        let mut table = self.table.lock();
        table.position = table.position.min(last);
        table.verified = table.verified.min(last);
        table.index.truncate(last);
        for member in table.index.members() {
            member.watermark.lower(last);
            member.outbox.truncate(last);
        }
    }

    /// Closes every session that has a membership: what it is owed is gone.
    pub(crate) fn close_all(&self, reason: Close) {
        self.table.lock().index.members().for_each(|member| member.outbox.close(reason));
    }
}

fn gauge(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
