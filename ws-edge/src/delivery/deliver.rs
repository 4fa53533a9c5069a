//! Delivering one event to the members of the subjects that it matches.

use std::{collections::HashMap, sync::Arc};

use super::{
    frame::{builder::EventFrames, event::Event, template::FrameTemplate},
    index::{Group, Index, Member},
};
use crate::{
    ids::{ReplayId, SessionNumber, SubjectNumber},
    metrics::Metrics,
    outbox::{Outbox, Pushed, frame::Frame},
};

/// How an event comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Live, in the order of the stream.
    Live,
    /// Missed while later events came live.
    Late,
    /// Read from the stream for the sessions of this replay.
    Replayed(ReplayId),
}

/// Queues an event for the members of these subjects that are owed it, in the order of their ranks. Adds to `filled` the
/// outboxes that have to be flushed.
///
/// Every event of every session passes here, live or not, but for [kept](crate::session) ones, so this is where users are kept
/// apart from each other.
pub(crate) fn deliver(
    index: &Index,
    numbers: &[SubjectNumber],
    event: &Event,
    frames: &EventFrames<'_>,
    mode: Mode,
    filled: &mut Vec<Arc<Outbox>>,
    metrics: &Metrics,
) {
    let sequence = event.sequence();
    // Without a history there are no positions: the event is new to everyone.
    let is_owed = |member: &Member| {
        sequence.is_none_or(|sequence| match mode {
            Mode::Late => member.watermark.is_owed_late(sequence),
            Mode::Live | Mode::Replayed(_) => member.watermark.is_owed(sequence),
        })
    };
    let subjects = numbers.iter().filter_map(|number| index.subject(*number));
    let admits = |group: &&Group| group.template.admits(&event.owner);
    let mut groups: Vec<&Group> = subjects.flat_map(|subject| &subject.groups).filter(admits).collect();
    let mut remaining = RemainingFrames::default();
    if groups.len() > 1 {
        groups.sort_by_key(|group| group.template.rank());
        if sequence.is_some() {
            let members = groups.iter().flat_map(|group| &group.members);
            remaining = RemainingFrames::count(members.filter(|member| is_owed(member)));
        }
    }
    for group in groups {
        let mut cache = FrameCache::default();
        for member in group.members.iter().filter(|member| is_owed(member)) {
            let is_last = remaining.is_last(&member.outbox);
            let build = || cache.frame(frames, &group.template, is_last);
            let pushed = match (mode, sequence) {
                (Mode::Replayed(replay), Some(sequence)) => {
                    member.outbox.push_replayed(replay, sequence, build)
                }
                (Mode::Late, Some(sequence)) => {
                    member.outbox.push_late(sequence, member.watermark.served(), build)
                }
                _ => member.outbox.push_live(sequence, build),
            };
            match pushed {
                Pushed::First => filled.push(Arc::clone(&member.outbox)),
                Pushed::Queued => {}
                Pushed::Lagging | Pushed::Ended => continue,
            }
            let sequence = sequence.unwrap_or_default();
            member.watermark.raise(sequence);
            if let Mode::Replayed(_) = mode {
                member.watermark.complete(sequence);
            }
        }
        if cache.has_failed() {
            metrics.events_unreadable.inc();
        }
    }
}

/// How many frames of the event each session still gets, for sessions that get several.
#[derive(Debug, Default)]
struct RemainingFrames(HashMap<SessionNumber, u32>);

impl RemainingFrames {
    fn count<'m>(members: impl Iterator<Item = &'m Member>) -> RemainingFrames {
        let mut counts = HashMap::new();
        for member in members.filter(|member| member.outbox.has_several_subjects()) {
            *counts.entry(member.outbox.number).or_default() += 1;
        }
        RemainingFrames(counts)
    }

    /// Whether the next frame is the session's last of this event.
    fn is_last(&mut self, outbox: &Outbox) -> bool {
        match self.0.get_mut(&outbox.number) {
            None => true,
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        }
    }
}

/// The frames of one template: each is built once.
#[derive(Debug, Default)]
struct FrameCache {
    last: Option<Option<Frame>>,
    not_last: Option<Option<Frame>>,
}

impl FrameCache {
    /// The frame; `None` if none can be made of the event.
    fn frame(&mut self, frames: &EventFrames<'_>, template: &FrameTemplate, is_last: bool) -> Option<Frame> {
        let frame = if is_last { &mut self.last } else { &mut self.not_last };
        frame.get_or_insert_with(|| frames.frame(template, is_last)).clone()
    }

    /// Whether a frame was needed and could not be made.
    fn has_failed(&self) -> bool {
        [&self.last, &self.not_last].iter().any(|frame| matches!(frame, Some(None)))
    }
}
