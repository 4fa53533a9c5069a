//! Questions to the stream for its state. One serves all sessions that wait for the confirmation of their subjects: the
//! stream's leader answers it after it has the subscriptions that were sent before, and the answer says where the stream
//! ends at that moment.

use std::{
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
    ids::{INBOX, SubjectNumber},
};

/// Time for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
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
    last: u64,
    open: Option<Question>,
    /// Subjects that the next question confirms.
    to_confirm: Vec<SubjectNumber>,
    /// Subjects that the server has refused.
    refused: Vec<SubjectNumber>,
}

impl Questions {
    /// For the subjects of `dispatcher`.
    pub(super) fn new(subjects: &Subjects, dispatcher: Arc<Dispatcher>) -> Questions {
        Questions {
            dispatcher,
            subject: stream_info::info_subject(subjects),
            inbox: format!("_INBOX.{:032x}", chance::random::<u128>()),
            last: 0,
            open: None,
            to_confirm: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Subscribes everything on a new connection.
    pub(super) fn begin(&mut self, link: &mut Link) {
        link.subscribe(INBOX, &format!("{}.*", self.inbox));
        self.refused.clear();
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

    /// The server refuses something.
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
        self.refused.extend(refused);
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

    /// A question got no usable answer. The stream may be without a leader, and the next one may have events that the
    /// last one did not send.
    pub(super) fn unanswered(&mut self, question: Question, sync: &mut StreamSync) {
        tracing::debug!("no answer about the stream, asking again");
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
        delivery::{table::Refused, testing::*},
        outbox::tests::outbox,
        protocol::close::Close,
    };

    fn questions(dispatcher: &Arc<Dispatcher>) -> Questions {
        Questions::new(&Subjects::new("t.v1"), Arc::clone(dispatcher))
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
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        questions.refused("Permissions Violation for Publish to \"ev.t.b\"");
        let waiting = dispatcher.take_unconfirmed();
        let refused = dispatcher.confirm(&subjects, &waiting, 0);
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
    fn a_subject_that_is_refused_on_a_new_connection_closes_its_sessions() {
        let dispatcher = dispatcher();
        let mut questions = questions(&dispatcher);
        let [one, other] = [1, 2].map(|number| outbox(number, ROOM).0);
        let _one = join(&dispatcher, &one, vec![request("a", &["ev.t.a"])]);
        let _other = join(&dispatcher, &other, vec![request("b", &["ev.t.b"])]);
        settle(&dispatcher);
        let all: Vec<SubjectNumber> = dispatcher.take_all().into_iter().map(|(number, _)| number).collect();
        questions.refused("Permissions Violation for Subscription to \"ev.t.a\"");
        dispatcher.confirm(&all, &[], 0);
        assert_eq!((one.closing(), other.closing()), (Some(Close::Unavailable), None));
    }
}
