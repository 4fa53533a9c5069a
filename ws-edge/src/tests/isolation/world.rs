//! One world of the trials: some owners, a dozen events, and sessions that come in between, with and without cursors.

use std::{sync::Arc, time::Duration, time::SystemTime};

use blackhole_common::catalogue::{AmqpBinding, Catalogue};
use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use serde_json::json;

use super::{
    counts::Counts,
    dice::Dice,
    events,
    reference::{self, Happening, Owner, Who},
    session::{Opened, Session},
};
use crate::{
    access::families::Families,
    catchup::{plan::Reading, replay::ReplayBatch},
    delivery::{
        dispatcher::{Dispatcher, SubscribeRequest},
        frame::{builder::EventFrames, event::Event},
        testing::settle,
    },
    ids::SubjectNumber,
    metrics::Metrics,
    outbox::flusher::Flusher,
    protocol::{
        cursor::{Cursor, EventPosition, Rank, StreamId},
        request::Since,
    },
    session::resume::{Moment, ResumeFrom, check_recoverable},
    upstream::stream_info::StreamInfo,
};

/// The first word of all subjects.
pub(super) const ROOT: &str = "ev";
/// Events of a world.
const EVENTS: usize = 16;
/// The most sessions of a world.
const SESSIONS: u64 = 6;

/// What all worlds share.
pub(super) struct Ground {
    pub(super) catalogue: Catalogue,
    pub(super) families: Families,
    bound: Vec<AmqpBinding>,
}

impl Ground {
    pub(super) fn new() -> Ground {
        let catalogue = Catalogue::load(None).unwrap();
        let families = Families::new(&catalogue, Arc::default());
        let bound = catalogue.amqp_bindings();
        Ground { catalogue, families, bound }
    }
}

/// A world.
pub(super) struct World<'g> {
    ground: &'g Ground,
    dice: Dice,
    everybody: Vec<Who>,
    events: Vec<(Happening, u64)>,
    /// What was published, as the stream stores it.
    stream: Vec<Event>,
    has_history: bool,
    /// The stream begins at this position.
    first: u64,
    dispatcher: Arc<Dispatcher>,
    /// What the NATS server has.
    subscribed: Vec<(String, SubjectNumber)>,
    sessions: Vec<Session>,
    resumed: u64,
    recovered: u64,
    error: Option<String>,
}

impl<'g> World<'g> {
    /// Lets a world happen.
    pub(super) fn play(ground: &'g Ground, rng: &mut StdRng) -> World<'g> {
        let everybody: Vec<Who> =
            (0..rng.random_range(1..5)).map(|_| reference::who(rng.random(), rng.random())).collect();
        let flusher = Arc::new(Flusher::new(Arc::default()));
        let mut world = World {
            ground,
            dice: Dice::new(rng),
            everybody,
            events: Vec::new(),
            stream: Vec::new(),
            has_history: !rng.random_ratio(1, 8),
            first: 1,
            dispatcher: Arc::new(Dispatcher::new(ROOT, Duration::ZERO, flusher, Arc::default())),
            subscribed: Vec::new(),
            sessions: Vec::new(),
            resumed: 0,
            recovered: 0,
            error: None,
        };
        if let Err(error) = world.happen(rng) {
            world.error = Some(error);
        }
        world
    }

    fn happen(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let mut number = 0;
        while self.events.len() < EVENTS || number < SESSIONS {
            if number < SESSIONS && rng.random_ratio(1, 3) {
                number += 1;
                self.open(number, rng)?;
            } else {
                self.publish(rng);
            }
        }
        self.sessions.iter_mut().try_for_each(Session::read)
    }

    fn last(&self) -> u64 {
        self.stream.len() as u64
    }

    /// KAZOO publishes an event, RabbitMQ routes it, and the ingest publishes it to NATS.
    fn publish(&mut self, rng: &mut StdRng) {
        let mut event = events::event(&self.everybody, self.dice.event(rng), rng.random());
        let index = self.events.len();
        event.body["Msg-ID"] = json!(index.to_string());
        let arrives = self.ground.bound.iter().any(|bound| {
            bound.exchange == event.exchange && reference::amqp_matches(&bound.pattern, &event.key)
        });
        let body = Bytes::from(event.body.to_string());
        let subject = amqp_ingest::subject(&self.ground.catalogue, ROOT, event.exchange, &event.key, &body);
        let Some((subject, owner)) = subject.filter(|_| arrives) else {
            self.events.push((event, 0));
            return;
        };
        let sequence = self.last() + 1;
        let position = self.has_history.then(|| EventPosition { stream: StreamId::new("this"), sequence });
        self.events.push((event, sequence));
        let owner = owner.map_or_else(Bytes::new, |owner| owner.to_text().into());
        let name = Bytes::from_static(b"x");
        let event = Event { subject: subject.clone().into(), name, body, owner, position };
        let frames = EventFrames::read(ROOT, &event).unwrap();
        // The server sends it once for each subscription.
        for (_, number) in self.subscribed.iter().filter(|(pattern, _)| nats_matches(pattern, &subject)) {
            self.dispatcher.deliver(*number, &event, &frames);
        }
        self.stream.push(event);
    }

    /// A session comes.
    fn open(&mut self, number: u64, rng: &mut StdRng) -> Result<(), String> {
        let who = self.everybody[rng.random_range(0..self.everybody.len())].clone();
        let since = if self.has_history && rng.random_ratio(1, 2) { Some(self.since(rng)?) } else { None };
        let opened = Session::open(self.ground, &self.dice, number, &who, since.as_deref(), rng)?;
        let Some(Opened { mut session, mut requests, since }) = opened else { return Ok(()) };
        let live = self.last();
        if self.has_history {
            // The answer that confirms the subjects says how far the stream is.
            self.dispatcher.verify(live);
            session.realm_after = rng.random_range(0..=live);
        }
        requests.iter_mut().for_each(|request| request.realms_after = session.realm_after);
        match since {
            Some(since) => self.resume(&mut session, requests, since, rng)?,
            None => {
                let joined = self.dispatcher.join(&session.outbox, requests, Vec::new());
                self.subscribed.extend(settle(&self.dispatcher));
                session.bindings.iter_mut().for_each(|held| held.after = live);
                session.memberships = joined.memberships;
            }
        }
        self.sessions.push(session);
        Ok(())
    }

    /// A `since`: genuine, somebody else's, or forged.
    fn since(&mut self, rng: &mut StdRng) -> Result<String, String> {
        self.sessions.iter_mut().try_for_each(Session::read)?;
        let seen: Vec<&String> = self.sessions.iter().flat_map(|session| &session.cursors).collect();
        if !seen.is_empty() && rng.random_ratio(1, 2) {
            return Ok(seen[rng.random_range(0..seen.len())].clone());
        }
        Ok(match rng.random_range(0..8) {
            0 => "-5m".to_owned(),
            1 => "0".repeat(24),
            kind => {
                let stream = StreamId::new(if kind == 2 { "another" } else { "this" });
                let sequence = if kind == 3 { rng.random() } else { rng.random_range(0..=self.last() + 1) };
                let ranks = self.sessions.iter().flat_map(|session| &session.bindings).map(|held| held.rank);
                let ranks: Vec<Rank> = ranks.chain([Rank::LAST, Rank::of("", "")]).collect();
                let rank = ranks[rng.random_range(0..ranks.len())];
                let cursor = Cursor { position: EventPosition { stream, sequence }, rank };
                String::from_utf8(cursor.to_text().to_vec()).unwrap()
            }
        })
    }

    /// Subscribes with past events, as `session::resume` does, and replays them, as `catchup` does.
    fn resume(
        &mut self,
        session: &mut Session,
        mut requests: Vec<SubscribeRequest>,
        since: Since,
        rng: &mut StdRng,
    ) -> Result<(), String> {
        self.first = self.first.max(rng.random_range(0..=self.last() / 2) + 1);
        let from = match since {
            Since::Cursor(cursor) => ResumeFrom::Cursor(cursor),
            Since::Unknown => ResumeFrom::Unknown,
            Since::Ago(_) if rng.random_ratio(1, 4) => ResumeFrom::Trimmed,
            Since::Ago(_) => {
                let (info, position) = (self.info(), rng.random_range(0..=self.last()));
                let now = info.created.max(info.first_at).max(info.last_at);
                ResumeFrom::Time(Moment { position, time: now, now })
            }
        };
        requests.iter_mut().for_each(|request| request.since = Some(from.after(request.template.rank())));
        let after = requests.iter().filter_map(|request| request.since).min().unwrap();
        let joined = self.dispatcher.join(&session.outbox, requests, Vec::new());
        self.subscribed.extend(settle(&self.dispatcher));
        let info = self.info();
        let is_recovered = check_recoverable(from, after, &info).is_ok();
        if !is_recovered {
            self.dispatcher.forgo_past(&session.outbox, &joined.memberships, info.last);
        }
        session.memberships = joined.memberships;
        session.outbox.release();
        self.note_owed(session, from, is_recovered)?;
        self.replay(session, rng)
    }

    /// Notes from where on each binding is owed events, by the protocol's words: everything after the cursor's frame, or
    /// only new events if some of that has left the history.
    fn note_owed(
        &mut self,
        session: &mut Session,
        from: ResumeFrom,
        is_recovered: bool,
    ) -> Result<(), String> {
        let after = |rank: Rank| match from {
            ResumeFrom::Cursor(Cursor { position, rank: frame }) => {
                let is_known = position.stream == StreamId::new("this") && position.sequence <= self.last();
                is_known.then(|| position.sequence.saturating_sub(u64::from(rank > frame)))
            }
            ResumeFrom::Time(moment) => Some(moment.position),
            ResumeFrom::Trimmed | ResumeFrom::Unknown => None,
        };
        let owed: Option<Vec<u64>> = session.bindings.iter().map(|held| after(held.rank)).collect();
        let owed = owed.filter(|owed| owed.iter().all(|after| after + 1 >= self.first));
        if owed.is_some() != is_recovered {
            return Err(format!("{from:?} of {} to {}: recovered {is_recovered}", self.first, self.last()));
        }
        self.resumed += 1;
        self.recovered += u64::from(is_recovered);
        for (index, held) in session.bindings.iter_mut().enumerate() {
            held.after = owed.as_ref().map_or(self.last(), |owed| owed[index]);
        }
        Ok(())
    }

    fn replay(&mut self, session: &Session, rng: &mut StdRng) -> Result<(), String> {
        let id = session.outbox.number;
        let outboxes = vec![Arc::clone(&session.outbox)];
        let (mut batch, unverified) = ReplayBatch::new(id, outboxes, &self.dispatcher, rng.random());
        if !unverified.is_empty() {
            return Err("a session that has had nothing may be owed something late".to_owned());
        }
        let live = self.dispatcher.start_buffer(id, batch.subject_numbers());
        // They come live while the replay reads.
        for _ in 0..rng.random_range(0..3) {
            self.publish(rng);
        }
        let (start, metrics) = (batch.start(), Metrics::default());
        // A large gap is read with filters.
        let gap = if rng.random() { u64::MAX } else { 1 };
        let reading = Reading::choose(ROOT, batch.subjects(), gap);
        let is_read = |event: &&Event| match &reading {
            Reading::Everything => true,
            Reading::Filtered(filters) => {
                let subject = std::str::from_utf8(&event.subject).unwrap();
                filters.iter().any(|filter| nats_matches(filter, subject))
            }
        };
        let range = start.max(self.first - 1) + 1..=live;
        let stored = self.stream.iter().filter(|event| range.contains(&event.sequence().unwrap()));
        for event in stored.filter(is_read) {
            batch.deliver(ROOT, event, &EventFrames::read(ROOT, event).unwrap(), &metrics);
        }
        batch.advance(live);
        match self.dispatcher.end_buffer(id, |events| batch.finish(ROOT, live, events, &metrics)) {
            true => Ok(()),
            false => Err("the replay has no buffer".to_owned()),
        }
    }

    fn info(&self) -> StreamInfo {
        StreamInfo {
            id: StreamId::new("this"),
            created: SystemTime::UNIX_EPOCH,
            first: self.first,
            first_at: SystemTime::UNIX_EPOCH,
            last: self.last(),
            last_at: SystemTime::UNIX_EPOCH,
            max_age: Duration::from_secs(600),
            is_roomy: true,
            leader: None,
        }
    }

    /// Compares what the sessions got with KAZOO's rules.
    ///
    /// # Errors
    /// What somebody got, or did not get.
    pub(super) fn check(&self, counts: &mut Counts) -> Result<(), String> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        counts.worlds += 1;
        counts.resumed += self.resumed;
        counts.recovered += self.recovered;
        for session in &self.sessions {
            counts.sessions += 1;
            for held in &session.bindings {
                for (index, (event, sequence)) in self.events.iter().enumerate() {
                    let got = held.got.get(&index).copied().unwrap_or_default();
                    let of_realm =
                        matches!((&session.who, &event.owner), (Who::Account { .. }, Owner::Realm(_)));
                    let after = if of_realm { held.after.max(session.realm_after) } else { held.after };
                    // An event that is not published must be nobody's, at any time.
                    let is_in_time = *sequence == 0 || *sequence > after;
                    let should = reference::gets(&session.who, &held.asked, event);
                    let is_right = match should {
                        Some(true) if is_in_time => got == 1,
                        None if is_in_time => got <= 1,
                        _ => got == 0,
                    };
                    if !is_right {
                        return Err(format!(
                            "{:?} with {:?} got {got} times, after {after}: {event:?} at {sequence}",
                            session.who, held.asked
                        ));
                    }
                    counts.trials += 1;
                    counts.delivered += got as u64;
                    counts.withheld += u64::from(!reference::may_see(&session.who, event));
                    if let Who::Account { user: Some(_), .. } = session.who {
                        counts.own += got as u64;
                    }
                }
            }
        }
        Ok(())
    }
}

/// NATS matching: `*` is one word, `>` at the end one or more.
fn nats_matches(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), subject.split('.').collect());
    let same = |(wanted, word): (&&str, &&str)| *wanted == "*" || wanted == word;
    match pattern.split_last() {
        Some((&">", head)) => subject.len() > head.len() && head.iter().zip(&subject).all(same),
        _ => pattern.len() == subject.len() && pattern.iter().zip(&subject).all(same),
    }
}
