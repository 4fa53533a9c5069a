//! Questions to the stream for its state. One serves all sessions that wait for the confirmation of their subjects: the
//! stream's leader answers it after it has the subscriptions that were sent before, and the answer says where the stream
//! ends at that moment.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{
    chance, clock,
    nats::{link::Link, protocol::Message},
    wire::Subjects,
};

use super::{stream_info, stream_sync::StreamSync};
use crate::{
    delivery::{dispatcher::Dispatcher, table::Unconfirmed},
    ids::{ELECTIONS, INBOX, SubjectNumber},
};

/// Time for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A stream that answers nothing usable for this long cannot be relied on.
const UNANSWERED_TIMEOUT: Duration = Duration::from_secs(10);
/// How the server begins to refuse the subscription of a subject, which follows in quotes.
const NOT_PERMITTED: &str = "Permissions Violation for Subscription to \"";
/// How the server refuses a subscription when it has too many of the connection.
const TOO_MANY: &str = "maximum subscriptions exceeded";

/// A question to the stream.
pub(super) struct Question {
    number: u64,
    sent: Instant,
    /// The position that the stream had by then.
    pub(super) position: u64,
    /// The subjects that the answer confirms, and the sessions that wait for it.
    pub(super) subjects: Vec<SubjectNumber>,
    pub(super) sessions: Vec<Unconfirmed>,
}

/// The subscriptions of a connection, and the questions that confirm them.
pub(super) struct Questions {
    dispatcher: Arc<Dispatcher>,
    /// The subject of the questions.
    subject: String,
    /// The first words of the subjects of answers.
    inbox: String,
    /// The subject on which the servers tell of the stream's leaders.
    elections: String,
    last: u64,
    open: Option<Question>,
    /// Subjects that the next question confirms.
    to_confirm: Vec<SubjectNumber>,
    /// Subjects that the server has refused.
    refused: Vec<SubjectNumber>,
    /// Since when no question got a usable answer.
    unanswered_since: Option<Instant>,
}

impl Questions {
    /// For the subjects of `dispatcher`.
    pub(super) fn new(subjects: &Subjects, dispatcher: Arc<Dispatcher>) -> Questions {
        Questions {
            dispatcher,
            subject: stream_info::info_subject(subjects),
            elections: format!("$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.{}", subjects.stream()),
            inbox: format!("_INBOX.{:032x}", chance::random::<u128>()),
            last: 0,
            open: None,
            to_confirm: Vec::new(),
            refused: Vec::new(),
            unanswered_since: None,
        }
    }

    /// Subscribes everything on a new connection.
    pub(super) fn begin(&mut self, link: &mut Link) {
        link.subscribe(INBOX, &format!("{}.*", self.inbox));
        link.subscribe(ELECTIONS, &self.elections);
        self.refused.clear();
        self.unanswered_since = None;
        for (number, subject) in self.dispatcher.take_all() {
            link.subscribe(number, &subject);
            self.to_confirm.push(number);
        }
        if let Some(question) = self.open.take() {
            self.dispatcher.put_back_unconfirmed(question.sessions);
        }
    }

    /// Subscribes new subjects, and unsubscribes those that are no longer used or were refused.
    pub(super) fn subscribe(&mut self, link: &mut Link) {
        // The server has none of them, or one may have been refused in place of another.
        self.refused.drain(..).for_each(|number| link.unsubscribe(number));
        for (number, subject) in self.dispatcher.take_new() {
            link.subscribe(number, &subject);
            self.to_confirm.push(number);
        }
        for number in self.dispatcher.take_unused(clock::now()) {
            link.unsubscribe(number);
        }
    }

    /// The server refuses something: a new subscription, or one that it had accepted, because the permissions were
    /// changed. The next answer tells the sessions.
    pub(super) fn refused(&mut self, text: &str) {
        let refused: Vec<SubjectNumber> = if let Some(subject) = text.strip_prefix(NOT_PERMITTED) {
            let subject = subject.split('"').next().unwrap_or_default();
            self.dispatcher.number(subject).into_iter().collect()
        } else if text.eq_ignore_ascii_case(TOO_MANY) {
            // It does not say which.
            let asked = self.open.iter().flat_map(|question| &question.subjects);
            asked.chain(&self.to_confirm).copied().collect()
        } else {
            return;
        };
        self.dispatcher.refuse(refused.iter().copied());
        let asked = self.open.iter().flat_map(|question| &question.subjects).chain(&self.to_confirm);
        let asked: HashSet<SubjectNumber> = asked.copied().collect();
        self.to_confirm.extend(refused.iter().filter(|number| !asked.contains(number)));
        self.refused.extend(refused);
    }

    /// Whether the server refuses the subscription for answers.
    pub(super) fn is_refused_itself(&self, text: &str) -> bool {
        text.strip_prefix(NOT_PERMITTED).is_some_and(|subject| subject.starts_with(&self.inbox))
    }

    /// When the open question is answered, or never will be.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.open.as_ref().map(|question| question.sent + ANSWER_TIMEOUT)
    }

    /// Asks for the stream's state, if it is time or somebody waits for a confirmation.
    pub(super) fn ask(&mut self, link: &mut Link, sync: &mut StreamSync, now: Instant) {
        if let Some(deadline) = self.deadline() {
            if now < deadline {
                return;
            }
            if let Some(question) = self.open.take() {
                self.unanswered(question, sync);
            }
        }
        if !sync.may_check(now) {
            return;
        }
        let sessions = self.dispatcher.take_unconfirmed();
        if sessions.is_empty() && self.to_confirm.is_empty() && now < sync.next_check() {
            return;
        }
        self.last += 1;
        link.publish(&self.subject, &format!("{}.{}", self.inbox, self.last), b"", b"");
        // The server itself answers this, even if there is no stream.
        link.ping();
        let subjects = std::mem::take(&mut self.to_confirm);
        self.open =
            Some(Question { number: self.last, sent: now, position: sync.expected(), subjects, sessions });
        sync.asked(now);
    }

    /// The question that a message answers.
    pub(super) fn answered(&mut self, message: &Message) -> Option<Question> {
        let number = message.subject().rsplit('.').next().and_then(|number| number.parse::<u64>().ok());
        self.open.take_if(|question| Some(question.number) == number)
    }

    /// The answer could be used.
    pub(super) fn used(&mut self) {
        self.unanswered_since = None;
    }

    /// Whether nothing usable was answered for too long.
    pub(super) fn are_unanswered(&self, now: Instant) -> bool {
        self.unanswered_since.is_some_and(|since| now - since >= UNANSWERED_TIMEOUT)
    }

    /// A question got no usable answer. The stream may be without a leader, and the next one may have events that the
    /// last one did not send.
    pub(super) fn unanswered(&mut self, question: Question, sync: &mut StreamSync) {
        tracing::debug!("no answer about the stream, asking again");
        self.unanswered_since.get_or_insert(question.sent);
        self.to_confirm.extend(question.subjects);
        self.dispatcher.put_back_unconfirmed(question.sessions);
        if sync.is_replicated() {
            sync.doubt(clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::{dispatcher::Membership, table::Refused, testing::*},
        outbox::{Outbox, tests::outbox},
        protocol::close::Close,
    };

    fn questions(dispatcher: &Arc<Dispatcher>) -> Questions {
        Questions::new(&Subjects::new("t.v1"), Arc::clone(dispatcher))
    }

    /// The session of this number, whose only subject is confirmed.
    fn confirmed(
        dispatcher: &Arc<Dispatcher>,
        (number, subject): (u64, &str),
    ) -> (Arc<Outbox>, Vec<Membership>) {
        let outbox = outbox(number, ROOM).0;
        let membership = join(dispatcher, &outbox, vec![request("x", &[subject])]);
        settle(dispatcher);
        (outbox, membership)
    }

    /// Has the dispatcher's new subjects, as after they were sent.
    fn sent(questions: &mut Questions) -> Vec<SubjectNumber> {
        let new = questions.dispatcher.take_new();
        questions.to_confirm.extend(new.iter().map(|(number, _)| *number));
        std::mem::take(&mut questions.to_confirm)
    }

    #[test]
    fn a_subject_that_is_not_permitted_is_refused_to_those_who_wait_for_it_alone() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [one, other] = [1, 2].map(|number| outbox(number, ROOM).0);
        let mut first = dispatcher.join(&one, vec![request("a", &["ev.t.a"])], vec![]);
        let mut second = dispatcher.join(&other, vec![request("b", &["ev.t.b"])], vec![]);
        let subjects = sent(&mut questions);
        questions.to_confirm.clone_from(&subjects);
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        questions.refused("Permissions Violation for Publish to \"ev.t.b\"");
        let asked = std::mem::take(&mut questions.to_confirm);
        assert_eq!(asked, subjects, "each is asked for once");
        let waiting = dispatcher.take_unconfirmed();
        let refused = dispatcher.confirm(&asked, &waiting, 0);
        waiting.into_iter().for_each(|session| session.end(&refused));
        assert_eq!(first.confirmation.take().unwrap().try_recv(), Ok(Err(Refused)));
        assert_eq!(second.confirmation.take().unwrap().try_recv(), Ok(Ok(())));
        assert_eq!((one.closing(), other.closing()), (None, None));

        // The next one who asks for it has it tried again.
        drop(first);
        let third = dispatcher.join(&other, vec![request("c", &["ev.t.a"])], vec![]);
        assert!(third.confirmation.is_some());
        assert_eq!(sent(&mut questions).len(), 1);
    }

    #[test]
    fn with_too_many_subscriptions_all_that_are_not_confirmed_are_refused() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [old, new] = [1, 2].map(|number| outbox(number, ROOM).0);
        let _old = join(&dispatcher, &old, vec![request("a", &["ev.t.a"])]);
        settle(&dispatcher);
        let mut joined =
            dispatcher.join(&new, vec![request("b", &["ev.t.a"]), request("c", &["ev.t.c"])], vec![]);
        let subjects = sent(&mut questions);
        questions.to_confirm.clone_from(&subjects);
        questions.refused("maximum subscriptions exceeded");
        let waiting = dispatcher.take_unconfirmed();
        let refused = dispatcher.confirm(&subjects, &waiting, 0);
        waiting.into_iter().for_each(|session| session.end(&refused));
        assert_eq!(joined.confirmation.take().unwrap().try_recv(), Ok(Err(Refused)));
        assert_eq!(old.closing(), None, "what was confirmed stays");
    }

    #[test]
    fn a_confirmed_subject_that_is_no_longer_permitted_closes_its_sessions() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [(one, _one), (other, _other)] =
            [(1, "ev.t.a"), (2, "ev.t.b")].map(|session| confirmed(&dispatcher, session));
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\" (sid \"1\")");
        let asked = std::mem::take(&mut questions.to_confirm);
        dispatcher.confirm(&asked, &[], 0);
        assert_eq!((one.closing(), other.closing()), (Some(Close::Unavailable), None));
    }

    #[test]
    fn a_session_that_resumes_what_it_has_is_closed_if_that_is_refused() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let (one, had) = confirmed(&dispatcher, (1, "ev.t.a"));
        let requests = vec![since(0, request("x", &["ev.t.a"])), since(0, request("y", &["ev.t.b"]))];
        let resumed = dispatcher.join(&one, requests, had);
        let all: Vec<SubjectNumber> = dispatcher.take_all().into_iter().map(|(number, _)| number).collect();
        questions.refused("Permissions Violation for Subscription to \"ev.t.b\"");
        dispatcher.confirm(&all, &dispatcher.take_unconfirmed(), 0);
        assert_eq!(one.closing(), None, "it goes on with what it had");
        let requests = vec![since(0, request("x", &["ev.t.a"]))];
        let _again = dispatcher.join(&one, requests, resumed.memberships);
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        dispatcher.confirm(&all, &dispatcher.take_unconfirmed(), 0);
        assert_eq!(one.closing(), Some(Close::Unavailable));
    }

    #[test]
    fn a_stream_that_does_not_answer_is_noticed_and_so_is_its_first_answer() {
        let mut questions = questions(&dispatcher());
        let now = Instant::now();
        let mut sync = StreamSync::new(now);
        let unanswered = |sent| Question { number: 1, sent, position: 0, subjects: vec![], sessions: vec![] };
        questions.unanswered(unanswered(now), &mut sync);
        questions.unanswered(unanswered(now + ANSWER_TIMEOUT), &mut sync);
        assert!(!questions.are_unanswered(now + UNANSWERED_TIMEOUT - Duration::from_millis(1)));
        assert!(questions.are_unanswered(now + UNANSWERED_TIMEOUT));
        questions.used();
        assert!(!questions.are_unanswered(now + UNANSWERED_TIMEOUT));
    }

    #[test]
    fn a_subject_that_is_refused_on_a_new_connection_closes_its_sessions() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [(one, _one), (other, _other)] =
            [(1, "ev.t.a"), (2, "ev.t.b")].map(|session| confirmed(&dispatcher, session));
        let all: Vec<SubjectNumber> = dispatcher.take_all().into_iter().map(|(number, _)| number).collect();
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        dispatcher.confirm(&all, &[], 0);
        assert_eq!((one.closing(), other.closing()), (Some(Close::Unavailable), None));
    }

    #[test]
    fn a_session_that_waits_for_more_is_closed_too_if_what_it_had_is_refused() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [(one, _one), (other, _other)] =
            [(1, "ev.t.a"), (2, "ev.t.b")].map(|session| confirmed(&dispatcher, session));
        let _more = dispatcher.join(&one, vec![request("c", &["ev.t.c", "ev.t.a"])], vec![]);
        let _more = dispatcher.join(&other, vec![request("c", &["ev.t.c"])], vec![]);
        let all: Vec<SubjectNumber> = dispatcher.take_all().into_iter().map(|(number, _)| number).collect();
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        questions.refused("Permissions Violation for Subscription to \"ev.t.c\"");
        dispatcher.confirm(&all, &dispatcher.take_unconfirmed(), 0);
        assert_eq!((one.closing(), other.closing()), (Some(Close::Unavailable), None));
    }
}
