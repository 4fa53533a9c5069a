//! What is known about one queue: the number of its next event, and which of its events the stream has already.
//!
//! After a (re)connection the broker delivers again what was not acknowledged: in order, before everything else, and
//! marked as redelivered. Of these, the stream has the events that were stored after the last acknowledged one. They
//! are [read](super::stream_end) from its end, and [recognised](Source::recognise) in order, so that each stands for
//! one delivery, also if several events are equal.
//!
//! Numbers follow the order of the queue. The stream has the events in this order too, except those that waited for the
//! account of a number (`waiting`): later ones may be stored before them. One that is delivered again, and is not stored
//! although later ones are, gets a number between its neighbours'.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::checkpoint::{Checkpoint, Digest, EventId};
use blackhole_common::chance;

/// Read this many more events before the last known one: around a leader change, a stream may store events in another
/// order.
const READ_MARGIN: u64 = 1024;

/// Without a checkpoint: how many of the stream's last events are compared. A broker that was killed may have forgotten
/// the acknowledgements of its last second.
const LAST_EVENTS: u64 = 20_000;

/// The maximum of `amqp.prefetch`: the broker cannot deliver more events again.
const MAX_UNACKNOWLEDGED: usize = u16::MAX as usize;

/// Numbers are below this.
const NUMBERS: u64 = u64::MAX / 2;

/// The events of one queue.
#[derive(Debug)]
pub(super) struct Source {
    zone: String,
    epoch: u64,
    next_number: u64,
    /// The last event that is stored with all before it.
    settled: Option<Checkpoint>,
    /// Nothing was read since the session began.
    is_new: bool,
    /// The session began without a checkpoint.
    is_unnumbered: bool,
    /// Without a checkpoint, while the stream is read for the first time: the epoch of the last event of this zone, and the
    /// highest number in it.
    former: Option<(u64, u64)>,
    /// Numbers up to this one were given before the session began.
    base: u64,
    /// Where the stream ended when it was last read.
    read_up_to: u64,
    /// The events of this session up to here are counted in `unnumbered`.
    counted_up_to: u64,
    /// The number of the last event in the order of the queue, whether it was recognised or is new.
    last_number: u64,
    /// The settled event with the highest number.
    latest: Option<Checkpoint>,
    /// The numbers of events that later ones overtake, until they are settled.
    overtaken: BTreeSet<u64>,
    /// Epoch, digest and number of events of earlier sessions that were to be published here, and may be under way.
    given: BTreeSet<(u64, Digest, u64)>,
    /// Stored events after `settled`, by number and position.
    stored: BTreeMap<(u64, u64), Stored>,
    /// How many stored events with this digest have no number that means something here: those of an earlier release,
    /// and all if there is no checkpoint.
    unnumbered: HashMap<Digest, u32>,
}

/// An event that the stream has.
#[derive(Debug)]
struct Stored {
    digest: Digest,
    /// The lowest position of this event and all with higher numbers.
    lowest: u64,
}

impl Source {
    /// The queue of a zone, from which nothing was received yet.
    pub(super) fn new(zone: &str) -> Source {
        Source {
            zone: zone.to_owned(),
            epoch: chance::random(),
            next_number: 1,
            settled: None,
            is_new: false,
            is_unnumbered: false,
            former: None,
            base: 0,
            read_up_to: 0,
            counted_up_to: 0,
            last_number: 0,
            latest: None,
            overtaken: BTreeSet::new(),
            given: BTreeSet::new(),
            stored: BTreeMap::new(),
            unnumbered: HashMap::new(),
        }
    }

    /// The session of this event has ended. Its next delivery gets the same id again, also if events before it are not
    /// delivered again.
    pub(super) fn remember(&mut self, id: EventId) {
        if self.given.len() < MAX_UNACKNOWLEDGED {
            self.given.insert((id.epoch, id.digest, id.number));
        }
    }

    /// A session with the broker has received its first delivery. The broker has the checkpoint that it stored with the
    /// last acknowledgement, unless it was restarted or is new.
    ///
    /// Numbers go on after the last event that is acknowledged or stored, whoever has published it. So an event that was
    /// sent to the stream, and is delivered again before it is stored there, has the same id again. A broker that was
    /// restarted has forgotten the epoch, too; then the stream tells it.
    pub(super) fn begin(&mut self, checkpoint: Option<Checkpoint>) {
        let Checkpoint { epoch, number, .. } = checkpoint.unwrap_or_else(Checkpoint::first);
        (self.epoch, self.next_number, self.last_number) = (epoch, number.saturating_add(1), number);
        self.base = number;
        self.settled = checkpoint.filter(|checkpoint| !checkpoint.is_first());
        self.latest = self.settled;
        self.overtaken.clear();
        self.is_unnumbered = self.settled.is_none();
        self.is_new = true;
    }

    /// Where to start to read a stream that ends at `last`.
    pub(super) fn read_from(&self, stream: u64, last: u64) -> u64 {
        match self.settled {
            Some(settled) if settled.stream != stream || settled.sequence > last => 1,
            Some(settled) => settled.sequence.saturating_sub(READ_MARGIN).max(1),
            None if self.is_new => last.saturating_sub(LAST_EVENTS).max(1),
            // Nothing was published yet.
            None if self.next_number == 1 => last + 1,
            None if self.read_up_to > last => 1,
            None => self.read_up_to.saturating_sub(READ_MARGIN).max(1),
        }
    }

    /// The stream is about to be read up to `last`.
    pub(super) fn start_reading(&mut self, last: u64) {
        self.counted_up_to = self.read_up_to;
        if self.is_new || self.read_up_to > last {
            self.unnumbered.clear();
            self.counted_up_to = 0;
        }
        self.former = None;
        self.read_up_to = last;
        self.stored.clear();
    }

    /// The stream has this event of `zone`.
    pub(super) fn observe(&mut self, sequence: u64, id: Result<EventId, Digest>, zone: &str) {
        match id {
            // Somebody else has written it: no queue has had that many events.
            Ok(EventId { number: NUMBERS.., .. }) => {}
            Ok(id) if id.epoch == self.epoch && id.number > self.base => {
                if self.settled.is_none_or(|settled| id.number > settled.number) {
                    let stored = Stored { digest: id.digest, lowest: sequence };
                    self.stored.insert((id.number, sequence), stored);
                    if self.stored.len() > MAX_UNACKNOWLEDGED {
                        self.stored.pop_first();
                    }
                }
            }
            // With a checkpoint, the events of other epochs are not this queue's.
            Ok(_) if !self.is_unnumbered => {}
            Ok(EventId { digest, .. }) | Err(digest) => {
                let is_recent = sequence + LAST_EVENTS >= self.read_up_to;
                if zone == self.zone && is_recent && sequence > self.counted_up_to {
                    *self.unnumbered.entry(digest).or_default() += 1;
                    if let Ok(EventId { epoch, number, .. }) = id {
                        let highest =
                            self.former.filter(|former| former.0 == epoch).map_or(0, |former| former.1);
                        self.former = Some((epoch, highest.max(number)));
                    }
                }
            }
        }
    }

    /// The end of the stream was read.
    pub(super) fn finish_reading(&mut self) {
        if let Some((epoch, number)) = self.former.filter(|_| self.is_new && self.stored.is_empty()) {
            (self.epoch, self.next_number) = (epoch, number.saturating_add(1));
            (self.base, self.last_number) = (number, number);
        }
        if self.is_new {
            self.given.retain(|(epoch, _, number)| *epoch == self.epoch && *number > self.base);
        }
        let last = self.stored.last_key_value().map_or(0, |((number, _), _)| *number);
        self.next_number = self.next_number.max(last + 1);
        let mut lowest = u64::MAX;
        for stored in self.stored.values_mut().rev() {
            lowest = lowest.min(stored.lowest);
            stored.lowest = lowest;
        }
        self.is_new = false;
    }

    /// Whether the epoch is this queue's.
    pub(super) fn is_own(&self, epoch: u64) -> bool {
        epoch == self.epoch
    }

    /// A position before that of all stored events that come after the next one in the queue; `None` if there are none.
    pub(super) fn overtaken_since(&self) -> Option<u64> {
        let (_, stored) = self.later().next()?;
        Some(stored.lowest.saturating_sub(1))
    }

    /// The id of the next event, which the stream does not have.
    pub(super) fn next_id(&mut self, digest: Digest) -> EventId {
        let number = match self.given_number(digest) {
            Some(given) => given,
            None => self.free_number().unwrap_or(self.next_number),
        };
        self.given.remove(&(self.epoch, digest, number));
        self.next_number = self.next_number.max(number + 1);
        self.last_number = number;
        EventId { epoch: self.epoch, number, digest }
    }

    /// The first number after the last event's that was given to such an event before.
    fn given_number(&self, digest: Digest) -> Option<u64> {
        let of_digest = (self.epoch, digest, self.last_number + 1)..=(self.epoch, digest, u64::MAX);
        self.given.range(of_digest).next().map(|(_, _, number)| *number)
    }

    /// The first free number before that of a later event that is stored.
    fn free_number(&self) -> Option<u64> {
        let mut free = self.last_number + 1;
        for (number, _) in self.later() {
            if number > free {
                return Some(free);
            }
            free = number + 1;
        }
        None
    }

    /// What is stored of the events after the last one, by number.
    fn later(&self) -> impl Iterator<Item = (u64, &Stored)> {
        let later = self.stored.range((self.last_number + 1, 0)..);
        later.map(|((number, _), stored)| (*number, stored))
    }

    /// Later events of the queue are published before the one with this number.
    pub(super) fn overtake(&mut self, number: u64) {
        self.overtaken.insert(number);
    }

    /// Whether some stored events have no number here, so that this delivery may come before one of them.
    pub(super) fn has_unnumbered(&self) -> bool {
        self.unnumbered.values().any(|count| *count > 0)
    }

    /// Where the stream has the event with this id, which was published on an earlier connection.
    pub(super) fn take(&mut self, id: EventId) -> Option<u64> {
        let mut copies = self.stored.range((id.number, 0)..=(id.number, u64::MAX));
        let key = *copies.find(|(_, stored)| stored.digest == id.digest)?.0;
        self.stored.remove(&key).map(|_| key.1)
    }

    /// Whether the stream has this redelivered event, and if it has a number, a position before which none of the later events
    /// is. Then it stands for this delivery, and for no later one.
    ///
    /// Stored events before it do not count any more: they were not delivered again because the queue was full, and has
    /// dropped them.
    pub(super) fn recognise(&mut self, digest: Digest) -> Option<Option<(EventId, u64)>> {
        let given = self.given_number(digest);
        let found = self.later().find(|(_, stored)| stored.digest == digest);
        let found = found.map(|(number, stored)| (number, stored.lowest));
        // It is the event that was given this number, and those that are stored are equal ones after it.
        if given.is_some_and(|given| found.is_none_or(|(number, _)| given < number)) {
            return None;
        }
        if let Some((number, lowest)) = found {
            self.last_number = number;
            return Some(Some((EventId { epoch: self.epoch, number, digest }, lowest)));
        }
        let count = self.unnumbered.get_mut(&digest).filter(|count| **count > 0)?;
        *count -= 1;
        Some(None)
    }

    /// The same for an event that was delivered for the first time: everything redelivered was before it.
    ///
    /// The stream can only have it if another ingest has published it, because the broker has given up this session, which does
    /// not know that yet. Then it has the number that it would get here.
    pub(super) fn recognise_new(&mut self, digest: Digest) -> Option<Option<(EventId, u64)>> {
        self.unnumbered.clear();
        self.given.clear();
        let number = self.last_number + 1;
        let mut copies = self.stored.range((number, 0)..=(number, u64::MAX));
        let Some((_, stored)) = copies.find(|(_, stored)| stored.digest == digest) else {
            self.stored.clear();
            return None;
        };
        self.last_number = number;
        Some(Some((EventId { epoch: self.epoch, number, digest }, stored.lowest)))
    }

    /// An event is stored, and so are all before it, except those that were overtaken.
    pub(super) fn settle(&mut self, checkpoint: Checkpoint) {
        if checkpoint.epoch == self.epoch {
            self.overtaken.remove(&checkpoint.number);
            if self.latest.is_none_or(|latest| checkpoint.number > latest.number) {
                self.latest = Some(checkpoint);
            }
            self.advance();
        }
    }

    /// The event with this id is settled, whether it is stored or not.
    pub(super) fn end(&mut self, id: EventId) {
        if id.epoch == self.epoch && self.overtaken.remove(&id.number) {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let Some(latest) = self.latest else { return };
        let is_complete = self.overtaken.first().is_none_or(|number| *number > latest.number);
        if is_complete && self.settled.is_none_or(|settled| latest.number > settled.number) {
            self.settled = Some(latest);
        }
    }
}

#[cfg(test)]
mod tests;
