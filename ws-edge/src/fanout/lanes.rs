//! The members of some lagging sessions, apart from the table, so that a pass of the catch-up looks at nobody else.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use blackhole_common::subject::subject_matches;

use super::{
    SubjectNumber,
    frames::{Built, Further},
    table::{Mark, is_pattern, sequence},
};
use crate::{
    close::Close,
    frame::{Event, EventFrames, Shape},
    outbox::{Outbox, PassNumber, Pushed},
};

/// The lanes of one pass.
#[derive(Debug)]
pub struct Lanes {
    pass: PassNumber,
    /// With each session up to where it had everything when the pass began.
    sessions: HashMap<u64, (Arc<Outbox>, u64)>,
    subjects: Vec<(SubjectNumber, Arc<str>)>,
    exact: HashMap<Arc<str>, Vec<Lane>>,
    /// By the tenant's word.
    patterns: HashMap<Box<str>, Vec<Pattern>>,
    filled: Vec<Arc<Outbox>>,
}

/// A subject with wildcards, and whom its events are for.
type Pattern = (Arc<str>, Vec<Lane>);

/// Members that get the same frames.
#[derive(Debug)]
struct Lane {
    shape: Arc<Shape>,
    members: Vec<(Arc<Outbox>, Arc<Mark>, u64)>,
}

impl Lanes {
    pub(super) fn new(pass: PassNumber, sessions: Vec<(Arc<Outbox>, u64)>) -> Lanes {
        Lanes {
            pass,
            sessions: sessions.into_iter().map(|(outbox, after)| (outbox.number, (outbox, after))).collect(),
            subjects: Vec::new(),
            exact: HashMap::new(),
            patterns: HashMap::new(),
            filled: Vec::new(),
        }
    }

    /// Takes those of a group's members that belong to the pass's sessions.
    pub(super) fn add<'m>(
        &mut self,
        number: SubjectNumber,
        subject: &Arc<str>,
        tenant: &str,
        shape: &Arc<Shape>,
        members: impl Iterator<Item = (&'m Arc<Outbox>, &'m Arc<Mark>)>,
    ) {
        let members: Vec<_> = members
            .filter_map(|(outbox, mark)| {
                let (_, after) = self.sessions.get(&outbox.number)?;
                Some((Arc::clone(outbox), Arc::clone(mark), *after))
            })
            .collect();
        if members.is_empty() {
            return;
        }
        if self.subjects.last().is_none_or(|(last, _)| *last != number) {
            self.subjects.push((number, Arc::clone(subject)));
        }
        let lane = Lane { shape: Arc::clone(shape), members };
        if !is_pattern(subject) {
            self.exact.entry(Arc::clone(subject)).or_default().push(lane);
            return;
        }
        let patterns = self.patterns.entry(tenant.into()).or_default();
        match patterns.iter_mut().find(|(pattern, _)| pattern == subject) {
            Some((_, lanes)) => lanes.push(lane),
            None => patterns.push((Arc::clone(subject), vec![lane])),
        }
    }

    /// Leaves those sessions out of the pass who may still be owed something late from before where it begins: what a
    /// pass brings must follow on what is known to have come. Returns them.
    pub(super) fn leave_unverified(&mut self, verified: u64) -> Vec<Arc<Outbox>> {
        let begins = |mark: &Mark, after: u64| mark.get().max(after);
        let unverified: HashSet<u64> = self
            .members()
            .filter(|(_, mark, after)| {
                let begin = begins(mark, *after);
                begin > verified && !mark.is_complete(begin)
            })
            .map(|(outbox, ..)| outbox.number)
            .collect();
        for (outbox, mark, after) in self.members() {
            if !unverified.contains(&outbox.number) {
                mark.complete(begins(mark, *after));
            }
        }
        let left = unverified.iter().filter_map(|number| self.sessions.remove(number));
        left.map(|(outbox, _)| outbox).filter(|outbox| outbox.drop_from_pass(self.pass)).collect()
    }

    fn members(&self) -> impl Iterator<Item = &(Arc<Outbox>, Arc<Mark>, u64)> {
        let patterns = self.patterns.values().flatten().map(|(_, lanes)| lanes);
        self.exact.values().chain(patterns).flatten().flat_map(|lane| &lane.members)
    }

    /// The pass.
    pub fn pass(&self) -> PassNumber {
        self.pass
    }

    /// The numbers of the subjects that some lane is for.
    pub fn subjects(&self) -> impl Iterator<Item = SubjectNumber> {
        self.subjects.iter().map(|(number, _)| *number)
    }

    /// Their texts.
    pub fn texts(&self) -> Vec<Arc<str>> {
        self.subjects.iter().map(|(_, text)| Arc::clone(text)).collect()
    }

    /// The sessions.
    pub fn sessions(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.sessions.values().map(|(outbox, _)| outbox)
    }

    /// The position behind which the first of them is owed something.
    pub fn begin(&self) -> u64 {
        self.sessions.values().map(|(_, after)| *after).min().unwrap_or_default()
    }

    /// Whether a session is still served by this pass.
    pub fn is_wanted(&self) -> bool {
        self.sessions().any(|outbox| outbox.is_in_pass(self.pass))
    }

    /// Queues an event of the past for everyone whose binding it matches and who did not have it.
    pub fn deliver(&mut self, event: &Event, frames: &EventFrames<'_>) {
        let Some(sequence) = sequence(event) else { return };
        let Ok(subject) = std::str::from_utf8(&event.subject) else { return };
        let patterns =
            [frames.tenant(), "*"].into_iter().filter_map(|tenant| self.patterns.get(tenant)).flatten();
        let patterns =
            patterns.filter(|(pattern, _)| subject_matches(pattern, subject)).flat_map(|(_, lanes)| lanes);
        let lanes = self.exact.get(subject).into_iter().flatten().chain(patterns);
        let mut lanes: Vec<&Lane> = lanes.filter(|lane| lane.shape.is_running()).collect();
        lanes.sort_by_key(|lane| lane.shape.rank());
        let is_owed = |mark: &Mark, after: &u64| sequence > mark.get().max(*after);
        let members = lanes.iter().flat_map(|lane| &lane.members);
        let owed = members.filter(|(_, mark, after)| is_owed(mark, after));
        let mut further = Further::of(owed.map(|(outbox, ..)| outbox));
        for lane in lanes {
            let mut built = Built::default();
            for (outbox, mark, after) in &lane.members {
                if !is_owed(mark, after) {
                    continue;
                }
                let is_last = further.is_last(outbox);
                let Some(frame) = built.frame(frames, &lane.shape, is_last) else { break };
                match outbox.push_missed(self.pass, sequence, &frame) {
                    Pushed::First => self.filled.push(Arc::clone(outbox)),
                    Pushed::Queued => {}
                    Pushed::Lagging | Pushed::Ended => continue,
                }
                mark.bring(sequence);
            }
        }
    }

    /// What has to be flushed.
    pub fn filled(&mut self) -> &mut Vec<Arc<Outbox>> {
        &mut self.filled
    }

    /// The past up to `position` is done with.
    pub fn advance(&self, position: u64) {
        self.sessions().for_each(|outbox| outbox.advance(self.pass, position));
    }

    /// Everything up to `position` is done with: the sessions that are still here are live.
    pub(super) fn go_live(&self, position: u64) {
        for (outbox, mark, _) in self.members() {
            if outbox.is_in_pass(self.pass) {
                mark.complete(position);
            }
        }
        self.sessions().for_each(|outbox| outbox.go_live(self.pass, position));
    }

    /// Events before `position` are no longer there: has those sessions closed that were owed some of them.
    pub fn close_behind(&self, position: u64) {
        for (outbox, after) in self.sessions.values() {
            if outbox.is_in_pass(self.pass) && after.saturating_add(1) < position {
                outbox.close(Close::Behind);
            }
        }
    }

    /// The pass is over before its end. Returns those who still have to be brought up to date.
    pub fn give_up(self) -> Vec<Arc<Outbox>> {
        let pass = self.pass;
        self.sessions
            .into_values()
            .map(|(outbox, _)| outbox)
            .filter(|outbox| outbox.drop_from_pass(pass))
            .collect()
    }
}
