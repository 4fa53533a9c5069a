//! Asks auth-svc for the accounts of dialled numbers, and remembers the answers for a moment.
//!
//! Each number is asked for once at a time, and only so many at once. Who wants to know does not wait here: an answer that
//! is not known yet comes later ([`Numbers::answered`]).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    future,
    sync::Arc,
    time::Duration,
};

use async_nats::RequestErrorKind;
use blackhole_common::{
    nats::requests::Requests,
    wire::{NumberReply, NumberRequest},
};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::tenant::MAX_TENANT_BYTES;

/// How long an answer is remembered, also that nobody has the number. With what auth-svc remembers, this is how long a number
/// that moves to another account may still be the former one's: see `docs/couchdb.md`.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// How many answers are remembered: about 5 MB.
const MAX_REMEMBERED: usize = 20_000;

/// Questions at once.
const MAX_QUESTIONS: usize = 256;

/// How long a question may take. Nobody waits that long; a late answer is remembered for the next event.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long nothing is asked after no auth-svc was there, or it is of a release without numbers.
const NOBODY_INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing is asked after auth-svc has said that it knows no numbers.
const UNSERVED_INTERVAL: Duration = Duration::from_secs(30);

/// Whose a number is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An account's.
    Account(Arc<str>),
    /// Not an account's, or not known: why.
    None(Unknown),
}

/// Why an event of a dialled number gets no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Nobody has the number.
    Unassigned,
    /// There was no answer in time.
    Unanswered,
    /// auth-svc is not there, or cannot tell.
    Unavailable,
    /// auth-svc knows no numbers.
    Unserved,
    /// Too many events wait, or too many questions.
    Limit,
}

impl Unknown {
    /// All reasons.
    pub(crate) const ALL: [Unknown; 5] =
        [Unknown::Unassigned, Unknown::Unanswered, Unknown::Unavailable, Unknown::Unserved, Unknown::Limit];

    /// The reason as shown in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Unknown::Unassigned => "unassigned",
            Unknown::Unanswered => "unanswered",
            Unknown::Unavailable => "unavailable",
            Unknown::Unserved => "unserved",
            Unknown::Limit => "limit",
        }
    }
}

type Answer = (NumberRequest, Result<Bytes, RequestErrorKind>);

/// What is known of numbers.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// Absent in an ingest that asks nobody.
    requests: Option<Arc<dyn Requests>>,
    subject: String,
    known: HashMap<NumberRequest, Option<Arc<str>>>,
    /// The same numbers, the oldest answer first, and until when each is remembered.
    by_age: VecDeque<(Instant, NumberRequest)>,
    asking: HashSet<NumberRequest>,
    questions: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Nothing is asked until then, and why.
    resting: Option<(Instant, Unknown)>,
}

impl Numbers {
    /// Nothing is known yet; auth-svc is asked with `requests` on `subject`.
    pub(crate) fn new(requests: Option<Arc<dyn Requests>>, subject: String) -> Numbers {
        Numbers {
            requests,
            subject,
            known: HashMap::new(),
            by_age: VecDeque::new(),
            asking: HashSet::new(),
            questions: FuturesUnordered::new(),
            resting: None,
        }
    }

    /// Whose the dialled number is, if that is known or cannot be asked; `None` if the answer is on its way.
    pub(crate) fn look_up(&mut self, numbers: &NumberRequest) -> Option<Found> {
        let now = Instant::now();
        self.forget(now);
        if let Some(account) = self.known.get(numbers) {
            return Some(account.clone().map_or(Found::None(Unknown::Unassigned), Found::Account));
        }
        if self.asking.contains(numbers) {
            return None;
        }
        if let Some((until, why)) = self.resting
            && now < until
        {
            return Some(Found::None(why));
        }
        let requests = match &self.requests {
            Some(requests) if self.questions.len() < MAX_QUESTIONS => Arc::clone(requests),
            Some(_) => return Some(Found::None(Unknown::Limit)),
            None => return Some(Found::None(Unknown::Unavailable)),
        };
        let Ok(payload) = serde_json::to_vec(numbers) else { return Some(Found::None(Unknown::Unavailable)) };
        let (subject, numbers) = (self.subject.clone(), numbers.clone());
        self.asking.insert(numbers.clone());
        self.questions.push(Box::pin(async move {
            let answer = requests.request(subject, payload.into(), QUESTION_TIMEOUT).await;
            (numbers, answer)
        }));
        None
    }

    /// Waits for the next answer. To be polled continually: otherwise no question is sent. Cancel safe.
    pub(crate) async fn answered(&mut self) -> (NumberRequest, Found) {
        let Some((numbers, answer)) = self.questions.next().await else { return future::pending().await };
        self.asking.remove(&numbers);
        let now = Instant::now();
        let reply = match answer {
            Ok(payload) => serde_json::from_slice(&payload).ok(),
            Err(error) => {
                if error == RequestErrorKind::NoResponders {
                    self.resting = Some((now + NOBODY_INTERVAL, Unknown::Unavailable));
                }
                None
            }
        };
        let found = match reply {
            Some(NumberReply::Assigned { account_id })
                if (1..=MAX_TENANT_BYTES).contains(&account_id.len()) =>
            {
                Found::Account(account_id.into())
            }
            Some(NumberReply::Unassigned) => Found::None(Unknown::Unassigned),
            Some(NumberReply::Unserved) => {
                self.resting = Some((now + UNSERVED_INTERVAL, Unknown::Unserved));
                Found::None(Unknown::Unserved)
            }
            // An error of auth-svc has no payload.
            Some(NumberReply::Assigned { .. }) | None => Found::None(Unknown::Unavailable),
        };
        match &found {
            Found::Account(account) => self.remember(now, &numbers, Some(Arc::clone(account))),
            Found::None(Unknown::Unassigned) => self.remember(now, &numbers, None),
            Found::None(_) => {}
        }
        (numbers, found)
    }

    fn remember(&mut self, now: Instant, numbers: &NumberRequest, account: Option<Arc<str>>) {
        self.known.insert(numbers.clone(), account);
        self.by_age.push_back((now + REMEMBERED_FOR, numbers.clone()));
        self.forget(now);
    }

    /// Forgets what is too old or too much.
    fn forget(&mut self, now: Instant) {
        while let Some((_, numbers)) =
            self.by_age.pop_front_if(|(until, _)| *until <= now || self.known.len() > MAX_REMEMBERED)
        {
            self.known.remove(&numbers);
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::{
        sync::oneshot,
        time::{advance, timeout},
    };

    use super::*;

    type Asked = (String, Bytes, oneshot::Sender<Result<Bytes, RequestErrorKind>>);

    /// Answers when the test says so.
    #[derive(Debug, Default)]
    struct AuthSvc(Mutex<Vec<Asked>>);

    impl Requests for AuthSvc {
        fn request(
            &self,
            subject: String,
            payload: Bytes,
            _: Duration,
        ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>> {
            let (sender, answer) = oneshot::channel();
            self.0.lock().push((subject, payload, sender));
            Box::pin(async { answer.await.unwrap_or(Err(RequestErrorKind::TimedOut)) })
        }
    }

    struct World {
        numbers: Numbers,
        auth_svc: Arc<AuthSvc>,
    }

    fn number(number: impl ToString) -> NumberRequest {
        NumberRequest { request: Some(number.to_string()), ..NumberRequest::default() }
    }

    impl World {
        fn new() -> World {
            let auth_svc = Arc::new(AuthSvc::default());
            World { numbers: Numbers::new(Some(Arc::clone(&auth_svc) as _), "auth.number".into()), auth_svc }
        }

        /// Sends what is to be asked, and returns how many questions have no answer.
        async fn asked(&mut self) -> usize {
            assert!(timeout(Duration::ZERO, self.numbers.answered()).await.is_err());
            self.auth_svc.0.lock().len()
        }

        /// The first question is answered.
        async fn answer(&mut self, answer: Result<&str, RequestErrorKind>) -> Found {
            self.asked().await;
            let (_, _, sender) = self.auth_svc.0.lock().remove(0);
            sender.send(answer.map(|text| Bytes::copy_from_slice(text.as_bytes()))).unwrap();
            self.numbers.answered().await.1
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_is_asked_for_once_and_remembered_for_a_moment() {
        let mut world = World::new();
        assert_eq!(world.numbers.look_up(&number(1)), None);
        assert_eq!(world.numbers.look_up(&number(1)), None);
        assert_eq!(world.asked().await, 1);
        {
            let asked = world.auth_svc.0.lock();
            let (subject, payload, _) = &asked[0];
            assert_eq!((subject.as_str(), &payload[..]), ("auth.number", &b"{\"request\":\"1\"}"[..]));
        }
        let account = Found::Account("acc".into());
        assert_eq!(world.answer(Ok(r#"{"number":"assigned","account_id":"acc"}"#)).await, account);
        assert_eq!(world.numbers.look_up(&number(1)), Some(account));
        assert_eq!(world.numbers.look_up(&number(2)), None);
        let nobody = Found::None(Unknown::Unassigned);
        assert_eq!(world.answer(Ok(r#"{"number":"unassigned"}"#)).await, nobody);
        assert_eq!(world.numbers.look_up(&number(2)), Some(nobody));
        advance(REMEMBERED_FOR).await;
        assert_eq!(world.numbers.look_up(&number(1)), None);
        assert_eq!(world.numbers.look_up(&number(2)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_for_a_while_if_nobody_can_tell() {
        let mut world = World::new();
        for (answer, why, interval) in [
            (Err(RequestErrorKind::NoResponders), Unknown::Unavailable, NOBODY_INTERVAL),
            (Ok(r#"{"number":"unserved"}"#), Unknown::Unserved, UNSERVED_INTERVAL),
        ] {
            assert_eq!(world.numbers.look_up(&number(1)), None);
            assert_eq!(world.answer(answer).await, Found::None(why));
            assert_eq!(world.numbers.look_up(&number(1)), Some(Found::None(why)));
            assert_eq!(world.asked().await, 0);
            advance(interval).await;
        }
        // An error, and an answer that came too late, say nothing about other numbers.
        for answer in [Ok(""), Ok(r#"{"number":"later"}"#), Err(RequestErrorKind::TimedOut)] {
            assert_eq!(world.numbers.look_up(&number(1)), None);
            assert_eq!(world.answer(answer).await, Found::None(Unknown::Unavailable));
        }
        let long = format!(r#"{{"number":"assigned","account_id":"{}"}}"#, "a".repeat(256));
        assert_eq!(world.numbers.look_up(&number(1)), None);
        assert_eq!(world.answer(Ok(&long)).await, Found::None(Unknown::Unavailable));
    }

    #[tokio::test(start_paused = true)]
    async fn questions_and_what_is_remembered_are_limited() {
        let mut world = World::new();
        for n in 0..MAX_QUESTIONS {
            assert_eq!(world.numbers.look_up(&number(n)), None);
        }
        assert_eq!(world.numbers.look_up(&number("more")), Some(Found::None(Unknown::Limit)));
        assert_eq!(world.numbers.look_up(&number(0)), None, "it is on its way");
        let now = Instant::now();
        for n in 0..=MAX_REMEMBERED {
            world.numbers.remember(now, &number(n), None);
        }
        assert_eq!((world.numbers.known.len(), world.numbers.by_age.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(!world.numbers.known.contains_key(&number(0)));
    }

    #[tokio::test]
    async fn without_anybody_to_ask_no_number_is_known() {
        let mut numbers = Numbers::new(None, String::new());
        assert_eq!(numbers.look_up(&number(1)), Some(Found::None(Unknown::Unavailable)));
    }
}
