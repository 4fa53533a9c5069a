//! Who gets which events: the table from NATS subjects to sessions.
//!
//! Sessions join and leave through [`Membership`], which leaves when it is dropped. The feed asks the table which
//! subjects to subscribe and which nobody has used for a while, and hands it the events. Everything happens
//! under one lock that is never held across an await, so counting references needs no protocol, and a reader of
//! NATS never waits for a client.
//!
//! Each member has a [`Mark`]: up to which position of the stream it has been served. Whatever brings an event (live,
//! a repair after NATS was away, a pass of the catch-up), the mark lets it through once.

mod frames;
mod lanes;
mod table;
mod tail;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{
    close::Close,
    frame::{Event, EventFrames, Shape},
    metrics::Metrics,
    outbox::{Outbox, PassNumber},
    writers::Writers,
};
pub use lanes::Lanes;
pub use table::Mark;
use table::{Member, Table, sequence, tenant_word};
use tail::Tail;

/// Identifies a session on this edge.
pub type SessionNumber = u64;
/// Identifies a subject in the table and its subscription at the server; never used twice.
pub type SubjectNumber = u64;

/// The number of the feed's own subscription; those of the table are higher.
pub const INBOX: SubjectNumber = 1;

/// The table.
#[derive(Debug)]
pub struct Fanout {
    table: Mutex<Table>,
    /// Wakes the feed: there are subjects to subscribe or requests to confirm.
    changed: Notify,
    event_root: String,
    linger: Duration,
    writers: Arc<Writers>,
    metrics: Arc<Metrics>,
}

/// A session's part in the events of one binding; it ends when this is dropped.
#[derive(Debug)]
pub struct Membership {
    fanout: Arc<Fanout>,
    outbox: Arc<Outbox>,
    shape: Arc<Shape>,
    subjects: Box<[SubjectNumber]>,
}

impl Membership {
    /// What its frames look like.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.fanout.leave(&self.outbox, &self.shape, &self.subjects);
        self.fanout.metrics.subscriptions.dec();
    }
}

/// One binding that a session wants.
#[derive(Debug)]
pub struct Wish {
    /// What its frames look like.
    pub shape: Arc<Shape>,
    /// Where its events come from.
    pub subjects: Vec<String>,
    /// Behind which position its events begin; `None`: from now on.
    pub since: Option<u64>,
}

impl Wish {
    /// The same, with events from behind this position.
    #[must_use]
    pub fn since(self, position: u64) -> Wish {
        Wish { since: Some(position), ..self }
    }
}

/// What came of a join.
#[derive(Debug)]
pub struct Joined {
    /// A membership for each wish.
    pub memberships: Vec<Membership>,
    /// Tells that the server has confirmed every subject; `None`: it has already.
    pub confirmation: Option<oneshot::Receiver<()>>,
    /// Up to where the session had everything before it joined.
    pub position: u64,
}

impl Fanout {
    /// An empty table for subjects below `event_root`, which are kept for `linger` after their last member has
    /// left.
    pub fn new(event_root: &str, linger: Duration, writers: Arc<Writers>, metrics: Arc<Metrics>) -> Fanout {
        let table = Table { last_number: INBOX, ..Table::default() };
        let event_root = event_root.to_owned();
        Fanout { table: Mutex::new(table), changed: Notify::new(), event_root, linger, writers, metrics }
    }

    /// What the subjects begin with.
    pub fn event_root(&self) -> &str {
        &self.event_root
    }

    /// Adds a session to the events of all `wishes`: from now on, or from behind a position of the past.
    ///
    /// With the past the session is not live until `Outbox::release`, and there is always a confirmation to wait for.
    /// A membership in `replaced` ends at the same instant in which its successor begins.
    pub fn join(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        wishes: Vec<Wish>,
        mut replaced: Vec<Membership>,
    ) -> Joined {
        let mut table = self.table.lock();
        let live = table.position;
        let mut position = live;
        let past = wishes.iter().filter_map(|wish| wish.since).min();
        if let Some(past) = past {
            position = outbox.lag(past, live);
            table.raise_marks(outbox, position);
        }
        let mut served = HashMap::new();
        for membership in &mut replaced {
            let subjects = std::mem::take(&mut membership.subjects);
            served.extend(table.leave(outbox, &membership.shape, &subjects));
        }
        let mut all_confirmed = past.is_none();
        let mut memberships = Vec::with_capacity(wishes.len());
        for wish in wishes {
            let mut subjects = Vec::with_capacity(wish.subjects.len());
            for text in wish.subjects {
                let (number, subject) = table.subject(&self.event_root, &text);
                all_confirmed &= subject.confirmed;
                subject.idle_since = None;
                let from = wish.since.or_else(|| served.get(&number).copied()).unwrap_or(live);
                let member = Member { outbox: Arc::clone(outbox), mark: Mark::at(from) };
                subject.add(&wish.shape, member);
                outbox.add_subject(number);
                subjects.push(number);
            }
            self.metrics.subscriptions.inc();
            memberships.push(Membership {
                fanout: Arc::clone(self),
                outbox: Arc::clone(outbox),
                shape: wish.shape,
                subjects: subjects.into(),
            });
        }
        let confirmation = if all_confirmed {
            None
        } else {
            let (confirmed, confirmation) = oneshot::channel();
            table.unconfirmed.push(confirmed);
            Some(confirmation)
        };
        self.metrics.subjects.set(count(table.subjects.len()));
        drop(table);
        // What a running pass knows of the session is not all any more.
        if past.is_none() && outbox.leave_pass() {
            self.writers.wants().add(Arc::clone(outbox));
        }
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        Joined { memberships, confirmation, position }
    }

    fn leave(&self, outbox: &Arc<Outbox>, shape: &Arc<Shape>, subjects: &[SubjectNumber]) {
        // A membership that was replaced has none any more.
        if !subjects.is_empty() {
            self.table.lock().leave(outbox, shape, subjects);
            self.changed.notify_one();
        }
    }

    /// Memberships that were to begin with events of the past begin behind `end` instead. Of all else, their session has
    /// had everything up to `position`.
    pub fn forgo_past(&self, outbox: &Outbox, memberships: &[Membership], position: u64, end: u64) {
        let mut table = self.table.lock();
        outbox.forgo_past(position);
        for membership in memberships {
            for number in &membership.subjects {
                let Some(subject) = table.subjects.get_mut(number) else { continue };
                if let Some(member) = subject.member(&membership.outbox, &membership.shape) {
                    member.mark.set(end);
                }
            }
        }
    }

    /// Waits until [`Fanout::take_fresh`] or [`Fanout::take_unconfirmed`] may have something.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The subjects that nobody has subscribed yet; the caller does.
    pub fn take_fresh(&self) -> Vec<(SubjectNumber, Arc<str>)> {
        let mut table = self.table.lock();
        let fresh = std::mem::take(&mut table.fresh);
        fresh
            .into_iter()
            .filter_map(|number| Some((number, Arc::clone(&table.subjects.get(&number)?.text))))
            .collect()
    }

    /// All subjects, for a connection that knows none of them yet.
    pub fn take_all(&self) -> Vec<(SubjectNumber, Arc<str>)> {
        let mut table = self.table.lock();
        table.fresh.clear();
        table.subjects.iter().map(|(number, subject)| (*number, Arc::clone(&subject.text))).collect()
    }

    /// The sessions that wait for a confirmation of what they have joined so far.
    pub fn take_unconfirmed(&self) -> Vec<oneshot::Sender<()>> {
        let mut waiting = std::mem::take(&mut self.table.lock().unconfirmed);
        waiting.retain(|session| !session.is_closed());
        waiting
    }

    /// Puts sessions back that [`Fanout::take_unconfirmed`] gave.
    pub fn wait_on(&self, sessions: Vec<oneshot::Sender<()>>) {
        self.table.lock().unconfirmed.extend(sessions);
    }

    /// The server has these subjects.
    pub fn confirm(&self, subjects: &[SubjectNumber]) {
        let mut table = self.table.lock();
        for number in subjects {
            if let Some(subject) = table.subjects.get_mut(number) {
                subject.confirmed = true;
            }
        }
    }

    /// The subjects that have had no member for longer than the table keeps them; they are forgotten, and the
    /// caller unsubscribes them.
    pub fn take_idle(&self, now: Instant) -> Vec<SubjectNumber> {
        let mut table = self.table.lock();
        let mut forgotten = Vec::new();
        while let Some(&(since, number)) = table.idle.front() {
            if now.saturating_duration_since(since) < self.linger {
                break;
            }
            table.idle.pop_front();
            // It may have been joined, and left again later, since it was put here.
            if table.subjects.get(&number).is_some_and(|subject| subject.idle_since == Some(since)) {
                table.forget(&self.event_root, number);
                forgotten.push(number);
            }
        }
        self.metrics.subjects.set(count(table.subjects.len()));
        forgotten
    }

    /// When [`Fanout::take_idle`] may next have something.
    pub fn next_idle(&self) -> Option<Instant> {
        self.table.lock().idle.front().map(|(since, _)| *since + self.linger)
    }

    /// Gives a live event, which came for a subject, to the live members of every subject that it matches. It comes for
    /// each of these; all but the first are known by the marks. Without a history there are none, and each brings it to
    /// its own.
    pub fn deliver(&self, number: SubjectNumber, event: &Event, frames: &EventFrames<'_>) {
        let mut table = self.table.lock();
        match sequence(event) {
            Some(sequence) => {
                let numbers = table.matching(frames.tenant(), &event.subject);
                table.deliver(&numbers, event, frames, false, &self.metrics);
                table.reached(sequence);
            }
            None => table.deliver(&[number], event, frames, false, &self.metrics),
        }
    }

    /// Gives an event that was read from the stream to the live members of every subject that it matches and that
    /// did not have it yet. One that is `late` was missed while later ones came: it goes out after them.
    pub fn deliver_missed(&self, event: &Event, frames: &EventFrames<'_>, late: bool) {
        let mut table = self.table.lock();
        let numbers = table.matching(frames.tenant(), &event.subject);
        table.deliver(&numbers, event, frames, late, &self.metrics);
        table.reached(sequence(event).unwrap_or_default());
    }

    /// All that is live has been served up to this position, and nothing before it is late any more.
    pub fn verify(&self, position: u64) {
        let mut table = self.table.lock();
        table.verified = table.verified.max(position);
        table.reached(position);
    }

    /// Flushes what was filled.
    pub fn flush(&self) {
        let mut filled = std::mem::take(&mut self.table.lock().filled);
        if filled.is_empty() {
            return;
        }
        self.writers.flush(&mut filled);
        let mut table = self.table.lock();
        if table.filled.capacity() == 0 {
            // The room is needed again with the next events.
            table.filled = filled;
        }
    }

    /// Flushes these, whoever filled them.
    pub fn flush_these(&self, filled: &mut Vec<Arc<Outbox>>) {
        self.writers.flush(filled);
    }

    /// The stream is another one than before: its positions begin anew, and what lagging sessions were owed is gone.
    pub fn forget_positions(&self) {
        let mut table = self.table.lock();
        table.position = 0;
        table.verified = 0;
        for member in
            table.subjects.values().flat_map(|subject| &subject.groups).flat_map(|group| &group.members)
        {
            member.mark.begin_anew();
            if member.outbox.lagging().is_some() {
                member.outbox.close(Close::Behind);
            }
        }
    }

    /// Has every session closed that has a membership, for what it is owed cannot be had any more.
    pub fn close_all(&self, reason: Close) {
        let table = self.table.lock();
        for member in
            table.subjects.values().flat_map(|subject| &subject.groups).flat_map(|group| &group.members)
        {
            member.outbox.close(reason);
        }
    }

    /// The members of these sessions, for a pass of the catch-up; with each session up to where it had everything.
    ///
    /// Where the stream is led by one of several servers (`is_led`), those may still be owed something late from before
    /// that: they are left out, and returned beside it.
    pub fn lanes(
        &self,
        pass: PassNumber,
        sessions: Vec<(Arc<Outbox>, u64)>,
        is_led: bool,
    ) -> (Lanes, Vec<Arc<Outbox>>) {
        let table = self.table.lock();
        let numbers: HashSet<SubjectNumber> =
            sessions.iter().flat_map(|(outbox, _)| outbox.subjects()).collect();
        let mut lanes = Lanes::new(pass, sessions);
        for number in numbers {
            let Some(subject) = table.subjects.get(&number) else { continue };
            let tenant = tenant_word(&self.event_root, &subject.text);
            for group in &subject.groups {
                let members = group.members.iter().map(|member| (&member.outbox, &member.mark));
                lanes.add(number, &subject.text, tenant, &group.shape, members);
            }
        }
        let unverified = lanes.leave_unverified(if is_led { table.verified } else { u64::MAX });
        (lanes, unverified)
    }

    /// Keeps what comes live from now on for the lanes of a pass. Returns the position up to which everything has
    /// been live already.
    pub fn start_tail(&self, lanes: &Lanes) -> u64 {
        let mut table = self.table.lock();
        let pass = lanes.pass();
        table.tails.retain(|tail| tail.pass() != pass);
        table.tails.push(Tail::new(pass, lanes.subjects().collect()));
        table.position
    }

    /// Ends the tail of a pass whose lanes have everything up to `position`: gives them what came since, and makes
    /// their sessions live. Returns whether that could be done; too much may have come to be kept.
    pub fn finish(&self, lanes: &mut Lanes, position: u64) -> bool {
        let mut table = self.table.lock();
        let Some(index) = table.tails.iter().position(|tail| tail.pass() == lanes.pass()) else {
            return false;
        };
        let Some(events) = table.tails.swap_remove(index).into_events() else { return false };
        for event in events.iter().filter(|event| sequence(event) > Some(position)) {
            if let Some(frames) = EventFrames::read(&self.event_root, event) {
                lanes.deliver(event, &frames);
            }
        }
        lanes.go_live(position);
        true
    }

    /// Ends the tail of a pass that has failed.
    pub fn drop_tail(&self, pass: PassNumber) {
        self.table.lock().tails.retain(|tail| tail.pass() != pass);
    }

    /// All that is live has been served up to this position of the stream.
    pub fn position(&self) -> u64 {
        self.table.lock().position
    }

    /// The position up to which a session has been given everything, where that can be told: it is live, and has had
    /// nothing beyond.
    pub fn position_of(&self, outbox: &Outbox) -> Option<u64> {
        let table = self.table.lock();
        Some(table.position).filter(|live| outbox.is_at(*live))
    }

    #[cfg(test)]
    fn members(&self, subject: &str) -> Option<usize> {
        let table = self.table.lock();
        let subject = table.subjects.get(table.numbers.get(subject)?)?;
        Some(subject.groups.iter().map(|group| group.members.len()).sum())
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
