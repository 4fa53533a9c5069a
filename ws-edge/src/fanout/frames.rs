//! The frames of one event: each distinct one is built once, and each session is told which one is its last.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use super::SessionNumber;
use crate::{
    frame::{EventFrames, Shape},
    outbox::Outbox,
};

/// How many frames of the event each session still gets, of those that get more than one.
#[derive(Debug, Default)]
pub(super) struct Further {
    left: HashMap<SessionNumber, u32>,
}

impl Further {
    /// Counts the sessions of the members that the event is owed to.
    pub(super) fn of<'m>(members: impl Iterator<Item = &'m Arc<Outbox>>) -> Further {
        let mut left = HashMap::new();
        for outbox in members.filter(|outbox| outbox.is_bound_often()) {
            *left.entry(outbox.number).or_default() += 1;
        }
        Further { left }
    }

    /// Whether the frame that goes out now is the session's last of this event.
    pub(super) fn is_last(&mut self, outbox: &Outbox) -> bool {
        match self.left.get_mut(&outbox.number) {
            None => true,
            Some(left) => {
                *left = left.saturating_sub(1);
                *left == 0
            }
        }
    }
}

/// The frames for one shape.
#[derive(Debug, Default)]
pub(super) struct Built {
    last: Option<Option<Bytes>>,
    not_last: Option<Option<Bytes>>,
}

impl Built {
    /// The frame, built if it has not been yet; `None` where none can be made of the event.
    pub(super) fn frame(&mut self, frames: &EventFrames<'_>, shape: &Shape, is_last: bool) -> Option<Bytes> {
        let built = if is_last { &mut self.last } else { &mut self.not_last };
        built.get_or_insert_with(|| frames.frame(shape, is_last)).clone()
    }

    /// Whether one was wanted and could not be made.
    pub(super) fn has_failed(&self) -> bool {
        self.last == Some(None) || self.not_last == Some(None)
    }
}
