//! The table itself: subjects, their members, and the marks up to where each was served.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use blackhole_common::subject::subject_matches;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    SubjectNumber,
    frames::{Built, Further},
    tail::Tail,
};
use crate::{
    frame::{Event, EventFrames, Shape},
    metrics::Metrics,
    outbox::{Outbox, Pushed},
};

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) numbers: HashMap<Arc<str>, SubjectNumber>,
    pub(super) subjects: HashMap<SubjectNumber, Subject>,
    /// Subjects with wildcards by their tenant's word, for events that come without a subscription's number.
    pub(super) patterns: HashMap<Box<str>, Vec<SubjectNumber>>,
    pub(super) last_number: SubjectNumber,
    /// Subjects that the feed has not subscribed yet.
    pub(super) fresh: Vec<SubjectNumber>,
    /// Joined sessions that wait to hear that the server has all their subjects.
    pub(super) unconfirmed: Vec<oneshot::Sender<()>>,
    /// Subjects without members, oldest first, with the time since when.
    pub(super) idle: VecDeque<(Instant, SubjectNumber)>,
    /// All that is live has been served up to this position of the stream.
    pub(super) position: u64,
    /// Nothing that was live up to here is late any more (see [`Mark`]).
    pub(super) verified: u64,
    /// What passes of the catch-up will need of what comes live meanwhile.
    pub(super) tails: Vec<Tail>,
    /// What has to be flushed.
    pub(super) filled: Vec<Arc<Outbox>>,
}

#[derive(Debug)]
pub(super) struct Subject {
    pub(super) text: Arc<str>,
    pub(super) confirmed: bool,
    pub(super) idle_since: Option<Instant>,
    /// Members by what their frames look like, so that each distinct frame is built once.
    pub(super) groups: Vec<Group>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) shape: Arc<Shape>,
    pub(super) members: Vec<Member>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) outbox: Arc<Outbox>,
    pub(super) mark: Arc<Mark>,
}

/// Up to which position of the stream a member has been served: never an event at or below it again.
///
/// In a cluster a dying leader may keep events to itself, which are late then. What was read from the stream, and what
/// came before the member, has no such holes: up to there nothing is late.
#[derive(Debug)]
pub struct Mark {
    served: AtomicU64,
    complete: AtomicU64,
}

impl Mark {
    pub(super) fn at(position: u64) -> Arc<Mark> {
        Arc::new(Mark { served: AtomicU64::new(position), complete: AtomicU64::new(position) })
    }

    pub(super) fn complete(&self, position: u64) {
        self.complete.fetch_max(position, Ordering::Relaxed);
    }

    pub(super) fn is_owed(&self, sequence: u64, late: bool) -> bool {
        sequence > if late { self.complete.load(Ordering::Relaxed) } else { self.get() }
    }

    pub(super) fn get(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn raise(&self, position: u64) {
        self.served.fetch_max(position, Ordering::Relaxed);
    }

    /// Served from the stream, where nothing before it is missing.
    pub(super) fn bring(&self, position: u64) {
        self.raise(position);
        self.complete(position);
    }

    /// Whether everything up to `position` is known to have come.
    pub(super) fn is_complete(&self, position: u64) -> bool {
        self.complete.load(Ordering::Relaxed) >= position
    }

    pub(super) fn set(&self, position: u64) {
        self.served.store(position, Ordering::Relaxed);
        self.complete.store(position, Ordering::Relaxed);
    }

    /// The member has left: no pass that still knows it serves it any more.
    pub(super) fn end(&self) {
        self.set(u64::MAX);
    }

    /// The stream is another one: its positions begin anew.
    pub(super) fn begin_anew(&self) {
        if self.get() != u64::MAX {
            self.set(0);
        }
    }
}

impl Table {
    pub(super) fn subject(&mut self, event_root: &str, text: &str) -> (SubjectNumber, &mut Subject) {
        let number = match self.numbers.get(text) {
            Some(number) => *number,
            None => {
                self.last_number += 1;
                self.fresh.push(self.last_number);
                self.last_number
            }
        };
        let subject = self.subjects.entry(number).or_insert_with(|| {
            let shared: Arc<str> = text.into();
            self.numbers.insert(Arc::clone(&shared), number);
            if is_pattern(text) {
                // Most tenants have one.
                let one = || Vec::with_capacity(1);
                self.patterns.entry(tenant_word(event_root, text).into()).or_insert_with(one).push(number);
            }
            Subject { text: shared, confirmed: false, idle_since: None, groups: Vec::new() }
        });
        (number, subject)
    }

    /// Removes the session. Returns up to where it was served on each subject.
    pub(super) fn leave(
        &mut self,
        outbox: &Arc<Outbox>,
        shape: &Arc<Shape>,
        subjects: &[SubjectNumber],
    ) -> Vec<(SubjectNumber, u64)> {
        let mut served = Vec::with_capacity(subjects.len());
        for number in subjects {
            outbox.remove_subject(*number);
            let Some(subject) = self.subjects.get_mut(number) else { continue };
            let Some(member) = subject.remove(outbox, shape) else { continue };
            served.push((*number, member.mark.get()));
            member.mark.end();
            if subject.groups.is_empty() {
                let now = Instant::now();
                subject.idle_since = Some(now);
                self.idle.push_back((now, *number));
            }
        }
        served
    }

    pub(super) fn forget(&mut self, event_root: &str, number: SubjectNumber) {
        let Some(subject) = self.subjects.remove(&number) else { return };
        self.numbers.remove(&subject.text);
        if is_pattern(&subject.text) {
            let tenant = tenant_word(event_root, &subject.text);
            if let Some(patterns) = self.patterns.get_mut(tenant) {
                patterns.retain(|own| *own != number);
                if patterns.is_empty() {
                    self.patterns.remove(tenant);
                }
            }
        }
    }

    /// The subjects that an event matches.
    pub(super) fn matching(&self, tenant: &str, subject: &Bytes) -> Vec<SubjectNumber> {
        let Ok(subject) = std::str::from_utf8(subject) else { return Vec::new() };
        let is_matched = |number: &&SubjectNumber| {
            self.subjects.get(number).is_some_and(|pattern| subject_matches(&pattern.text, subject))
        };
        let patterns = [tenant, "*"].into_iter().filter_map(|tenant| self.patterns.get(tenant)).flatten();
        self.numbers.get(subject).into_iter().chain(patterns.filter(is_matched)).copied().collect()
    }

    /// Gives an event to the live members of these subjects who did not have it, in the order of their ranks.
    pub(super) fn deliver(
        &mut self,
        numbers: &[SubjectNumber],
        event: &Event,
        frames: &EventFrames<'_>,
        late: bool,
        metrics: &Metrics,
    ) {
        let Table { subjects, tails, filled, .. } = self;
        for tail in tails {
            numbers.iter().for_each(|number| tail.note(*number, event));
        }
        let sequence = sequence(event);
        let mut deliver = |group: &Group, further: &mut Further| {
            let mut built = Built::default();
            for member in &group.members {
                if sequence.is_some_and(|sequence| !member.mark.is_owed(sequence, late)) {
                    continue;
                }
                let is_last = further.is_last(&member.outbox);
                let build = || built.frame(frames, &group.shape, is_last);
                let pushed = match sequence {
                    Some(sequence) if late => member.outbox.push_late(sequence, member.mark.get(), build),
                    _ => member.outbox.push_live(sequence, build),
                };
                match pushed {
                    Pushed::First => filled.push(Arc::clone(&member.outbox)),
                    Pushed::Queued => {}
                    Pushed::Lagging | Pushed::Ended => continue,
                }
                member.mark.raise(sequence.unwrap_or_default());
            }
            if built.has_failed() {
                metrics.events_unreadable.inc();
            }
        };
        let matched = numbers.iter().filter_map(|number| subjects.get(number));
        let running = |group: &&Group| group.shape.is_running();
        let mut groups: Vec<&Group> = matched.flat_map(|subject| &subject.groups).filter(running).collect();
        let mut further = Further::default();
        if groups.len() > 1 {
            groups.sort_by_key(|group| group.shape.rank());
            let members = groups.iter().flat_map(|group| &group.members);
            let owed =
                members.filter(|member| sequence.is_some_and(|sequence| member.mark.is_owed(sequence, late)));
            further = Further::of(owed.map(|member| &member.outbox));
        }
        groups.into_iter().for_each(|group| deliver(group, &mut further));
    }

    /// A session that had everything up to `position` is not live any more: its members have had that.
    pub(super) fn raise_marks(&mut self, outbox: &Arc<Outbox>, position: u64) {
        for number in outbox.subjects() {
            let Some(subject) = self.subjects.get(&number) else { continue };
            let members = subject.groups.iter().flat_map(|group| &group.members);
            members
                .filter(|member| Arc::ptr_eq(&member.outbox, outbox))
                .for_each(|member| member.mark.raise(position));
        }
    }

    /// All that is live has been served up to this position.
    pub(super) fn reached(&mut self, position: u64) {
        self.position = self.position.max(position);
    }
}

impl Subject {
    /// Adds a member to those who get the same frames.
    pub(super) fn add(&mut self, shape: &Arc<Shape>, member: Member) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.shape == *shape) {
            group.members.push(member);
            return;
        }
        let place = self.groups.partition_point(|group| group.shape.rank() < shape.rank());
        // Most subjects have one.
        self.groups.reserve_exact(1);
        self.groups.insert(place, Group { shape: Arc::clone(shape), members: vec![member] });
    }

    pub(super) fn member(&mut self, outbox: &Arc<Outbox>, shape: &Arc<Shape>) -> Option<&Member> {
        let group = self.groups.iter().find(|group| group.shape == *shape)?;
        group.members.iter().find(|member| Arc::ptr_eq(&member.outbox, outbox))
    }

    pub(super) fn remove(&mut self, outbox: &Arc<Outbox>, shape: &Arc<Shape>) -> Option<Member> {
        let place = self.groups.iter().position(|group| group.shape == *shape)?;
        let group = self.groups.get_mut(place)?;
        let index = group.members.iter().position(|member| Arc::ptr_eq(&member.outbox, outbox))?;
        let member = group.members.swap_remove(index);
        if group.members.is_empty() {
            self.groups.remove(place);
        }
        Some(member)
    }
}

/// The event's position in the stream.
pub(super) fn sequence(event: &Event) -> Option<u64> {
    event.place.map(|place| place.sequence)
}

pub(super) fn is_pattern(subject: &str) -> bool {
    subject.split('.').any(|word| matches!(word, "*" | ">"))
}

/// The tenant's word in a subject: what follows the root and a dot.
pub(super) fn tenant_word<'s>(event_root: &str, subject: &'s str) -> &'s str {
    subject.get(event_root.len() + 1..).and_then(|rest| rest.split('.').next()).unwrap_or_default()
}
