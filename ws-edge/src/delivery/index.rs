//! The index of subscriptions: subjects, and the members that get their events.
//!
//! The dispatcher has one for all sessions, and each replay has one for its own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{frame::template::FrameTemplate, pattern_tree::PatternTree, watermark::Watermark};
use crate::{ids::SubjectNumber, outbox::Outbox};

/// Subjects by number, by text and, for those with wildcards, by tenant and words.
#[derive(Debug, Default)]
pub(crate) struct Index {
    subjects: HashMap<SubjectNumber, Subject>,
    numbers: HashMap<Arc<str>, SubjectNumber>,
    patterns: HashMap<Box<str>, PatternTree>,
}

/// A subject, perhaps with wildcards.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) text: Arc<str>,
    /// Whether the NATS server has it.
    pub(super) state: SubjectState,
    /// Where the stream ended when the server first confirmed it. Live members are not owed earlier events: nobody has
    /// seen which of them came.
    pub(super) begins: Option<u64>,
    /// Since when it has had no members.
    pub(super) unused_since: Option<Instant>,
    /// In the order of their templates' ranks.
    pub(crate) groups: Vec<Group>,
}

/// Whether the NATS server has a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubjectState {
    /// Not known yet.
    Unconfirmed,
    /// It does.
    Confirmed,
    /// It has refused it.
    Refused,
}

/// Members of a subject that get the same frames, so that each distinct frame is built once.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) template: Arc<FrameTemplate>,
    pub(crate) members: Vec<Member>,
}

/// A session's part in a subject.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) watermark: Arc<Watermark>,
}

impl Index {
    /// The number of distinct subjects.
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// The number of a subject, if it is in the index.
    pub(super) fn number(&self, text: &str) -> Option<SubjectNumber> {
        self.numbers.get(text).copied()
    }

    /// A subject.
    pub(super) fn subject(&self, number: SubjectNumber) -> Option<&Subject> {
        self.subjects.get(&number)
    }

    /// A subject.
    pub(super) fn subject_mut(&mut self, number: SubjectNumber) -> Option<&mut Subject> {
        self.subjects.get_mut(&number)
    }

    /// All subjects.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (SubjectNumber, &Subject)> {
        self.subjects.iter().map(|(number, subject)| (*number, subject))
    }

    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.subjects.values().flat_map(|subject| &subject.groups).flat_map(|group| &group.members)
    }

    /// Positions after `last` are given anew.
    pub(super) fn truncate(&mut self, last: u64) {
        let begins = self.subjects.values_mut().filter_map(|subject| subject.begins.as_mut());
        begins.for_each(|begins| *begins = last.min(*begins));
    }

    /// On a new connection, what was refused before is tried again.
    pub(super) fn forget_refusals(&mut self) {
        for subject in self.subjects.values_mut().filter(|subject| subject.state == SubjectState::Refused) {
            subject.state = SubjectState::Unconfirmed;
        }
    }

    /// Adds a subject without members.
    pub(super) fn insert(&mut self, event_root: &str, number: SubjectNumber, text: Arc<str>) -> &mut Subject {
        self.numbers.insert(Arc::clone(&text), number);
        if is_pattern(&text) {
            let (tenant, words) = tenant_and_words(event_root, &text);
            self.patterns.entry(tenant.into()).or_default().insert(words, number);
        }
        let state = SubjectState::Unconfirmed;
        let subject = Subject { text, state, begins: None, unused_since: None, groups: Vec::new() };
        self.subjects.entry(number).insert_entry(subject).into_mut()
    }

    /// Removes a subject.
    pub(super) fn remove(&mut self, event_root: &str, number: SubjectNumber) {
        let Some(subject) = self.subjects.remove(&number) else { return };
        self.numbers.remove(&subject.text);
        if !is_pattern(&subject.text) {
            return;
        }
        let (tenant, words) = tenant_and_words(event_root, &subject.text);
        if let Some(patterns) = self.patterns.get_mut(tenant) {
            patterns.remove(words);
            if patterns.is_empty() {
                self.patterns.remove(tenant);
            }
        }
    }

    /// The numbers of the subjects that match an event's.
    pub(crate) fn matching(&self, event_root: &str, subject: &[u8]) -> Vec<SubjectNumber> {
        let Ok(subject) = std::str::from_utf8(subject) else { return Vec::new() };
        let (tenant, words) = tenant_and_words(event_root, subject);
        let mut found: Vec<SubjectNumber> = self.numbers.get(subject).copied().into_iter().collect();
        for patterns in [tenant, "*"].into_iter().filter_map(|tenant| self.patterns.get(tenant)) {
            patterns.find(words, &mut found);
        }
        found
    }

    /// The part of the index that is for the sessions that `is_wanted`, whose subjects have these numbers.
    pub(super) fn subset(
        &self,
        event_root: &str,
        numbers: HashSet<SubjectNumber>,
        is_wanted: impl Fn(&Outbox) -> bool,
    ) -> Index {
        let mut subset = Index::default();
        for number in numbers {
            let Some(subject) = self.subjects.get(&number) else { continue };
            let groups: Vec<Group> = subject
                .groups
                .iter()
                .map(|group| Group {
                    template: Arc::clone(&group.template),
                    members: group
                        .members
                        .iter()
                        .filter(|member| is_wanted(&member.outbox))
                        .cloned()
                        .collect(),
                })
                .filter(|group| !group.members.is_empty())
                .collect();
            if !groups.is_empty() {
                subset.insert(event_root, number, Arc::clone(&subject.text)).groups = groups;
            }
        }
        subset
    }

    /// Removes the members of these sessions.
    pub(crate) fn remove_sessions(&mut self, is_removed: impl Fn(&Outbox) -> bool) {
        for group in self.subjects.values_mut().flat_map(|subject| &mut subject.groups) {
            group.members.retain(|member| !is_removed(&member.outbox));
        }
    }
}

impl Subject {
    /// Adds a member.
    pub(super) fn add(&mut self, template: &Arc<FrameTemplate>, member: Member) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.template == *template) {
            group.members.push(member);
            return;
        }
        let index = self.groups.partition_point(|group| group.template.rank() < template.rank());
        // Most subjects have one.
        self.groups.reserve_exact(1);
        self.groups.insert(index, Group { template: Arc::clone(template), members: vec![member] });
    }

    /// The session's member with this template.
    pub(super) fn member(&self, outbox: &Arc<Outbox>, template: &FrameTemplate) -> Option<&Member> {
        let group = self.groups.iter().find(|group| *group.template == *template)?;
        group.members.iter().find(|member| Arc::ptr_eq(&member.outbox, outbox))
    }

    /// Removes the session's member with this template.
    pub(super) fn remove(&mut self, outbox: &Arc<Outbox>, template: &FrameTemplate) -> Option<Member> {
        let index = self.groups.iter().position(|group| *group.template == *template)?;
        let group = self.groups.get_mut(index)?;
        let member = group.members.iter().position(|member| Arc::ptr_eq(&member.outbox, outbox))?;
        let member = group.members.swap_remove(member);
        if group.members.is_empty() {
            self.groups.remove(index);
        }
        Some(member)
    }
}

fn is_pattern(subject: &str) -> bool {
    subject.split('.').any(|word| matches!(word, "*" | ">"))
}

/// The tenant in a subject, which is the word after the root, and the words after it.
fn tenant_and_words<'s>(event_root: &str, subject: &'s str) -> (&'s str, &'s str) {
    let rest = subject.get(event_root.len() + 1..).unwrap_or_default();
    rest.split_once('.').unwrap_or((rest, ""))
}
