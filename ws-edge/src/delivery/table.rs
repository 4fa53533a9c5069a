//! The dispatcher's state: all subscriptions, what the NATS server is to be told of them, and how far live events have
//! come. It decides and does nothing itself: calls go in; frames in outboxes, subjects to subscribe and answers come out.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    deliver::{Mode, deliver},
    frame::{builder::EventFrames, event::Event, template::FrameTemplate},
    index::{Index, Member, SubjectState},
    live_buffer::LiveBuffer,
    watermark::{Positions, Watermark},
};
use crate::{
    ids::{ELECTIONS, SessionNumber, SubjectNumber},
    metrics::Metrics,
    outbox::Outbox,
    protocol::close::Close,
};

/// Subjects without members that linger; beyond these the oldest are forgotten at once. They count for no account.
const MAX_UNUSED: usize = 10_000;

/// The NATS server has refused a subject of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// A session that waits to hear that the server has all its subjects.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    /// The session.
    pub(super) session: SessionNumber,
    /// The subjects that it waits for.
    pub(super) subjects: Vec<SubjectNumber>,
    /// Those that it had before, too: without them it cannot go on.
    pub(super) had: HashSet<SubjectNumber>,
    pub(super) confirmed: oneshot::Sender<Result<(), Refused>>,
}

impl Unconfirmed {
    /// Tells the session, of whose subjects those in `refused` were refused.
    pub(crate) fn end(self, refused: &HashSet<SubjectNumber>) {
        let is_refused = self.subjects.iter().any(|number| refused.contains(number));
        // A session that is gone needs no answer.
        let _ = self.confirmed.send(if is_refused { Err(Refused) } else { Ok(()) });
    }
}

#[derive(Debug)]
pub(super) struct Table {
    event_root: String,
    pub(super) index: Index,
    last_number: SubjectNumber,
    /// Subjects that are to be subscribed at the server.
    new: Vec<SubjectNumber>,
    /// Sessions that wait to hear that the server has all their subjects.
    pub(super) unconfirmed: Vec<Unconfirmed>,
    /// Subjects that have lost their last member since [`Table::take_unused`] was last called.
    left: Vec<SubjectNumber>,
    /// Subjects without members and since when, oldest first.
    unused: VecDeque<(Instant, SubjectNumber)>,
    /// Live sessions have been served up to this position of the stream.
    pub(super) position: u64,
    /// Nothing up to here is late any more (see [`Watermark`]).
    pub(super) verified: u64,
    /// What replays need of the live events that come meanwhile.
    pub(super) live_buffers: Vec<LiveBuffer>,
    /// Outboxes that have to be flushed.
    pub(super) filled: Vec<Arc<Outbox>>,
}

impl Table {
    /// Without subscriptions, for subjects below `event_root`.
    pub(super) fn new(event_root: &str) -> Table {
        Table {
            event_root: event_root.to_owned(),
            index: Index::default(),
            last_number: ELECTIONS,
            new: Vec::new(),
            unconfirmed: Vec::new(),
            left: Vec::new(),
            unused: VecDeque::new(),
            position: 0,
            verified: 0,
            live_buffers: Vec::new(),
            filled: Vec::new(),
        }
    }

    /// Adds a session's member to a subject. `begin` says how far it has been served, and whether it goes on where another
    /// member of the session was. Returns the subject's number, and whether the server has the subject.
    pub(super) fn join(
        &mut self,
        outbox: &Arc<Outbox>,
        template: &Arc<FrameTemplate>,
        text: &str,
        begin: impl FnOnce(SubjectNumber) -> (Positions, bool),
    ) -> (SubjectNumber, bool) {
        let number = self.index.number(text).unwrap_or_else(|| {
            self.last_number += 1;
            self.new.push(self.last_number);
            self.index.insert(&self.event_root, self.last_number, text.into());
            self.last_number
        });
        let Some(subject) = self.index.subject_mut(number) else { return (number, false) };
        subject.unused_since = None;
        // Perhaps the server takes it this time.
        if subject.state == SubjectState::Refused {
            subject.state = SubjectState::Unconfirmed;
            self.new.push(number);
        }
        let is_confirmed = subject.state == SubjectState::Confirmed;
        let (positions, goes_on) = begin(number);
        let begins = subject.begins.filter(|_| !goes_on && outbox.lagging().is_none());
        let watermark = Watermark::of(positions.after(begins.unwrap_or_default()));
        let member = Member { outbox: Arc::clone(outbox), watermark };
        subject.add(template, member);
        outbox.add_subject(number);
        (number, is_confirmed)
    }

    /// The server has these subjects, but for those that it has refused, which are returned. Sessions that have members of
    /// these are closed, unless all of them are new and of requests among those `waiting`, which are refused.
    ///
    /// `last` is the position up to which the stream had events by then. Live members of a new subject are not owed them,
    /// and must not get them from a repair, out of order (see [`Subject::begins`](super::index::Subject)).
    pub(super) fn confirm(
        &mut self,
        subjects: &[SubjectNumber],
        waiting: &[Unconfirmed],
        last: u64,
    ) -> HashSet<SubjectNumber> {
        let mut refused = HashSet::new();
        let mut refused_members: HashMap<(SessionNumber, SubjectNumber), usize> = HashMap::new();
        for session in waiting {
            for number in session.subjects.iter().filter(|number| !session.had.contains(number)) {
                *refused_members.entry((session.session, *number)).or_default() += 1;
            }
        }
        for number in subjects {
            let Some(subject) = self.index.subject_mut(*number) else { continue };
            if subject.state != SubjectState::Refused {
                subject.state = SubjectState::Confirmed;
                // A subject that was confirmed before, and refused meanwhile, is not new: its members are owed what a
                // repair brings.
                if subject.begins.is_none() {
                    subject.begins = Some(last);
                    let members = subject.groups.iter().flat_map(|group| &group.members);
                    members.filter(|member| member.outbox.lagging().is_none()).for_each(|member| {
                        member.watermark.raise(last);
                        member.watermark.complete(last);
                    });
                }
                continue;
            }
            refused.insert(*number);
            for member in subject.groups.iter().flat_map(|group| &group.members) {
                match refused_members.get_mut(&(member.outbox.number, *number)) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ => member.outbox.close(Close::Unavailable),
                }
            }
        }
        refused
    }

    /// Removes a session's members. Returns how far it was served on each subject.
    pub(super) fn leave(
        &mut self,
        outbox: &Arc<Outbox>,
        template: &FrameTemplate,
        subjects: &[SubjectNumber],
    ) -> HashMap<SubjectNumber, Positions> {
        let mut served = HashMap::new();
        for number in subjects {
            outbox.remove_subject(*number);
            let Some(subject) = self.index.subject_mut(*number) else { continue };
            let Some(member) = subject.remove(outbox, template) else { continue };
            served.insert(*number, member.watermark.positions());
            member.watermark.leave();
            if subject.groups.is_empty() {
                self.left.push(*number);
            }
        }
        served
    }

    /// The subjects that are not subscribed yet.
    pub(super) fn take_new(&mut self) -> Vec<(SubjectNumber, Arc<str>)> {
        let new = std::mem::take(&mut self.new);
        new.into_iter()
            .filter_map(|number| Some((number, Arc::clone(&self.index.subject(number)?.text))))
            .collect()
    }

    /// All subjects, for a new connection.
    pub(super) fn take_all(&mut self) -> Vec<(SubjectNumber, Arc<str>)> {
        self.new.clear();
        self.index.forget_refusals();
        self.index.subjects().map(|(number, subject)| (number, Arc::clone(&subject.text))).collect()
    }

    /// Forgets the subjects that have had no member for longer than `linger`, and the oldest of very many, and returns them.
    pub(super) fn take_unused(&mut self, now: Instant, linger: Duration) -> Vec<SubjectNumber> {
        for number in std::mem::take(&mut self.left) {
            if let Some(subject) = self.index.subject_mut(number).filter(|subject| subject.groups.is_empty())
            {
                subject.unused_since = Some(now);
                self.unused.push_back((now, number));
            }
        }
        let mut forgotten = Vec::new();
        while let Some(&(since, number)) = self.unused.front()
            && (now.saturating_duration_since(since) >= linger || self.unused.len() > MAX_UNUSED)
        {
            self.unused.pop_front();
            // It may have been joined, and left again later.
            let subject = self.index.subject(number);
            if subject.is_some_and(|subject| subject.unused_since == Some(since)) {
                self.index.remove(&self.event_root, number);
                forgotten.push(number);
            }
        }
        forgotten
    }

    /// Since when the subject that is unused for longest has been unused.
    pub(super) fn oldest_unused(&self) -> Option<Instant> {
        self.unused.front().map(|(since, _)| *since)
    }

    /// Delivers an event to the members of these subjects, and keeps it for the replays that need it.
    pub(super) fn deliver(
        &mut self,
        numbers: &[SubjectNumber],
        event: &Event,
        frames: &EventFrames<'_>,
        mode: Mode,
        metrics: &Metrics,
    ) {
        for buffer in &mut self.live_buffers {
            numbers.iter().for_each(|number| buffer.add(*number, event));
        }
        deliver(&self.index, numbers, event, frames, mode, &mut self.filled, metrics);
    }

    /// A session that had everything up to `position` stops being live: none of its members is owed that again.
    pub(super) fn raise_watermarks(&mut self, outbox: &Arc<Outbox>, position: u64) {
        for number in outbox.subjects() {
            let Some(subject) = self.index.subject(number) else { continue };
            let members = subject.groups.iter().flat_map(|group| &group.members);
            members
                .filter(|member| Arc::ptr_eq(&member.outbox, outbox))
                .for_each(|member| member.watermark.raise(position));
        }
    }

    /// Live sessions have been served up to this position.
    pub(super) fn reached(&mut self, position: u64) {
        self.position = self.position.max(position);
    }
}
