//! Who gets which events: the table from NATS subjects to sessions.
//!
//! Sessions join and leave through [`Membership`], which leaves when it is dropped. The feed asks the table which
//! subjects to subscribe and which nobody has used for a while, and hands it the events. Everything happens
//! under one lock that is never held across an await, so counting references needs no protocol, and a reader of
//! NATS never waits for a client.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::subject::subject_matches;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{
    frame::{EventFrames, Shape},
    metrics::Metrics,
    outbox::{Outbox, Pushed},
};

/// Identifies a session on this edge.
pub type SessionNumber = u64;
/// Identifies a subject in the table; never used twice.
pub type SubjectNumber = u64;

/// The table.
#[derive(Debug)]
pub struct Fanout {
    table: Mutex<Table>,
    /// Wakes the feed: there are subjects to subscribe or requests to confirm.
    changed: Notify,
    linger: Duration,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Table {
    /// The length of what all subjects begin with.
    root_bytes: usize,
    numbers: HashMap<Arc<str>, SubjectNumber>,
    subjects: HashMap<SubjectNumber, Subject>,
    /// Subjects by their tenant's word, for events that come without a subscription's number.
    tenants: HashMap<Box<str>, HashSet<SubjectNumber>>,
    last_number: SubjectNumber,
    /// Subjects that the feed has not subscribed yet.
    fresh: Vec<SubjectNumber>,
    /// Joined sessions that wait to hear that the server has all their subjects.
    unconfirmed: Vec<oneshot::Sender<()>>,
    /// Subjects without members, oldest first, with the time since when.
    idle: VecDeque<(Instant, SubjectNumber)>,
}

#[derive(Debug)]
struct Subject {
    text: Arc<str>,
    confirmed: bool,
    /// The newest event that went to the members, by its position in the stream: none goes twice.
    position: u64,
    /// The stream's end when the server confirmed the subscription: what is older is not owed.
    since: u64,
    idle_since: Option<Instant>,
    /// Members by what their frames look like, so that each distinct frame is built once.
    members: HashMap<Arc<Shape>, Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    session: SessionNumber,
    outbox: Arc<Outbox>,
}

/// A session's part in the events of one binding; it ends when this is dropped.
#[derive(Debug)]
pub struct Membership {
    fanout: Arc<Fanout>,
    session: SessionNumber,
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
        self.fanout.leave(self.session, &self.shape, &self.subjects);
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
}

/// An event on its way to the members of a subject.
pub struct Arrival<'a> {
    /// The frames to be made of it.
    pub frames: &'a EventFrames,
    /// Its position in the stream; `None` without one.
    pub sequence: Option<u64>,
}

impl Fanout {
    /// An empty table for subjects below `event_root`, which are kept for `linger` after their last member has
    /// left.
    pub fn new(event_root: &str, linger: Duration, metrics: Arc<Metrics>) -> Fanout {
        let table = Table { root_bytes: event_root.len(), ..Table::default() };
        Fanout { table: Mutex::new(table), changed: Notify::new(), linger, metrics }
    }

    /// Adds a session to the events of all `wishes`, and returns what tells that the server has confirmed every
    /// one of their subjects (`None`: it has already).
    ///
    /// A membership in `replaced` ends at the same instant in which its successor begins.
    pub fn join(
        self: &Arc<Self>,
        session: SessionNumber,
        outbox: &Arc<Outbox>,
        wishes: Vec<Wish>,
        mut replaced: Vec<Membership>,
    ) -> (Vec<Membership>, Option<oneshot::Receiver<()>>) {
        let mut table = self.table.lock();
        let mut all_confirmed = true;
        let mut memberships = Vec::with_capacity(wishes.len());
        for membership in &mut replaced {
            table.leave(session, &membership.shape, &std::mem::take(&mut membership.subjects));
        }
        for wish in wishes {
            let mut subjects = Vec::with_capacity(wish.subjects.len());
            for text in wish.subjects {
                let (number, subject) = table.subject(&text);
                all_confirmed &= subject.confirmed;
                subject.idle_since = None;
                let member = Member { session, outbox: Arc::clone(outbox) };
                subject.members.entry(Arc::clone(&wish.shape)).or_default().push(member);
                subjects.push(number);
            }
            self.metrics.subscriptions.inc();
            memberships.push(Membership {
                fanout: Arc::clone(self),
                session,
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
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        (memberships, confirmation)
    }

    fn leave(&self, session: SessionNumber, shape: &Arc<Shape>, subjects: &[SubjectNumber]) {
        // A membership that was replaced has none any more.
        if !subjects.is_empty() {
            self.table.lock().leave(session, shape, subjects);
            self.changed.notify_one();
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

    /// The server has these subjects; the stream ended at `since` then.
    pub fn confirm(&self, subjects: &[SubjectNumber], since: u64) {
        let mut table = self.table.lock();
        for number in subjects {
            if let Some(subject) = table.subjects.get_mut(number) {
                subject.confirmed = true;
                subject.since = since;
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
                table.forget(number);
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

    /// Gives a live event to the members of the subject it came for.
    pub fn deliver(&self, number: SubjectNumber, arrival: &Arrival<'_>) {
        let mut table = self.table.lock();
        if let Some(subject) = table.subjects.get_mut(&number) {
            deliver(subject, arrival, &self.metrics);
        }
    }

    /// Gives an event that was read from the stream to the members of every subject that it matches and that did
    /// not have it yet. `subject` is its whole subject, `tenant` the tenant's word in it.
    pub fn deliver_missed(&self, subject: &str, tenant: &str, arrival: &Arrival<'_>) {
        let mut table = self.table.lock();
        let mut numbers: Vec<SubjectNumber> =
            [tenant, "*"].iter().filter_map(|tenant| table.tenants.get(*tenant)).flatten().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some(entry) = table.subjects.get_mut(&number) else { continue };
            if arrival.sequence > Some(entry.since) && subject_matches(&entry.text, subject) {
                deliver(entry, arrival, &self.metrics);
            }
        }
    }

    /// The stream is another one than before: its positions begin anew.
    pub fn forget_positions(&self) {
        for subject in self.table.lock().subjects.values_mut() {
            subject.position = 0;
            subject.since = 0;
        }
    }

    #[cfg(test)]
    fn members(&self, subject: &str) -> Option<usize> {
        let table = self.table.lock();
        let subject = table.subjects.get(table.numbers.get(subject)?)?;
        Some(subject.members.values().map(Vec::len).sum())
    }
}

impl Table {
    fn subject(&mut self, text: &str) -> (SubjectNumber, &mut Subject) {
        let number = match self.numbers.get(text) {
            Some(number) => *number,
            None => {
                self.last_number += 1;
                let number = self.last_number;
                self.numbers.insert(text.into(), number);
                self.tenants.entry(tenant_word(self.root_bytes, text).into()).or_default().insert(number);
                self.fresh.push(number);
                number
            }
        };
        let subject = self.subjects.entry(number).or_insert_with(|| Subject {
            text: text.into(),
            confirmed: false,
            position: 0,
            since: 0,
            idle_since: None,
            members: HashMap::new(),
        });
        (number, subject)
    }

    fn leave(&mut self, session: SessionNumber, shape: &Arc<Shape>, subjects: &[SubjectNumber]) {
        for number in subjects {
            let Some(subject) = self.subjects.get_mut(number) else { continue };
            let Entry::Occupied(mut group) = subject.members.entry(Arc::clone(shape)) else { continue };
            let members = group.get_mut();
            let Some(index) = members.iter().position(|member| member.session == session) else { continue };
            members.swap_remove(index);
            if members.is_empty() {
                group.remove();
            }
            if subject.members.is_empty() {
                let now = Instant::now();
                subject.idle_since = Some(now);
                self.idle.push_back((now, *number));
            }
        }
    }

    fn forget(&mut self, number: SubjectNumber) {
        let Some(subject) = self.subjects.remove(&number) else { return };
        self.numbers.remove(&subject.text);
        let tenant = tenant_word(self.root_bytes, &subject.text);
        if let Some(subjects) = self.tenants.get_mut(tenant) {
            subjects.remove(&number);
            if subjects.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }
}

/// The tenant's word in a subject: what follows the root and a dot.
fn tenant_word(root_bytes: usize, subject: &str) -> &str {
    subject.get(root_bytes + 1..).and_then(|rest| rest.split('.').next()).unwrap_or_default()
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn deliver(subject: &mut Subject, arrival: &Arrival<'_>, metrics: &Metrics) {
    if let Some(sequence) = arrival.sequence {
        if sequence <= subject.position {
            return;
        }
        subject.position = sequence;
    }
    for (shape, members) in subject.members.iter().filter(|(shape, _)| shape.is_running()) {
        let Some(frame) = arrival.frames.frame(shape) else {
            metrics.events_unreadable.inc();
            continue;
        };
        for member in members {
            match member.outbox.push(frame.clone()) {
                Pushed::Queued => {}
                Pushed::Overran => {
                    metrics.sessions_overrun.inc();
                    metrics.frames_dropped.inc();
                }
                Pushed::Dropped => {
                    metrics.frames_dropped.inc();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
