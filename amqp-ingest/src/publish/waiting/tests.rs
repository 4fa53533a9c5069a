use std::sync::Arc;

use async_nats::RequestErrorKind;
use blackhole_common::{nats::requests::Requests, tenant::Tenant};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    time::{advance, timeout},
};

use super::*;
use crate::{
    dialled::Dialled,
    message::{EventMetadata, Message},
    metrics::Metrics,
    numbers::Numbers,
    publish::{FromConsumer, OutgoingEvent, SettleHandle, Settlement},
};

const LIMITS: WaitLimits = WaitLimits { deliveries: 20, bytes: 1000 };
const ACCOUNT: &str = "acc";

/// Knows one number, and does not answer about some.
#[derive(Debug)]
struct AuthSvc;

impl Requests for AuthSvc {
    fn request(
        &self,
        _: String,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>> {
        let payload = String::from_utf8(payload.to_vec()).unwrap();
        Box::pin(async move {
            if payload.contains("slow") {
                tokio::time::sleep(limit).await;
                return Err(RequestErrorKind::TimedOut);
            }
            let is_known = payload.contains("known");
            let answer = if is_known {
                r#"{"number":"assigned","account_id":"acc"}"#
            } else {
                r#"{"number":"unassigned"}"#
            };
            Ok(Bytes::from_static(answer.as_bytes()))
        })
    }
}

/// A publisher whose events are published one after the other.
struct World {
    publisher: Publisher,
    sender: mpsc::Sender<Settlement>,
    _settlements: mpsc::Receiver<Settlement>,
    tag: u64,
    metrics: Metrics,
}

impl World {
    fn new() -> World {
        let numbers = Numbers::new(Some(Arc::new(AuthSvc)), "auth.number".into());
        let (publisher, metrics) = Publisher::for_tests(&["", "west"]);
        let publisher = publisher.asking(numbers, LIMITS);
        let (sender, settlements) = mpsc::channel(64);
        World { publisher, sender, _settlements: settlements, tag: 0, metrics }
    }

    /// An event of a call arrives. It has an account, or was `dialled`.
    fn arrives(&mut self, source: usize, call: &str, dialled: Option<&str>) {
        self.tag += 1;
        let routing_key = format!("call.CHANNEL_CREATE.{call}");
        let body =
            Bytes::from(format!(r#"{{"Event-Name":"x","Request":"{}@x"}}"#, dialled.unwrap_or("none")));
        let tenant = dialled.map_or(Tenant::account(ACCOUNT), |_| Tenant::realm("x"));
        let event = EventMetadata {
            exchange: "callevt",
            routing_key: &routing_key,
            message_id: None,
            timestamp: None,
            zone: "",
        };
        let mut message = Message::new("bh.ingest", &tenant, None, "x", &event, body.clone());
        message.words_after_call = Some(0);
        message.dialled = dialled
            .and_then(|_| Dialled::read(&body, "Custom-Channel-Vars.Account-ID", "bh.ingest".len()))
            .map(Box::new);
        let settle_handle =
            SettleHandle { tag: self.tag, bytes: body.len() as u64, sender: self.sender.clone() };
        let event = OutgoingEvent { source, redelivered: false, message, settle_handle };
        self.publisher.enqueue(FromConsumer::Event(event));
    }

    /// Publishes what can be published: the tag and the tenant of each event.
    fn publish(&mut self) -> Vec<(u64, String)> {
        let mut published = Vec::new();
        while self.publisher.published < self.publisher.pending.len() {
            let index = self.publisher.published;
            if self.publisher.identify(index) && self.publisher.must_wait(index) {
                continue;
            }
            self.publisher.published += 1;
            let pending = &self.publisher.pending[index];
            let tenant = pending.event.message.subject.split('.').nth(2).unwrap().to_owned();
            let has_account =
                pending.event.message.body.windows(16).any(|bytes| bytes == b"\"Account-ID\":\"ac");
            assert!(!has_account || tenant == ACCOUNT);
            published.push((pending.event.settle_handle.tag, tenant));
        }
        published
    }

    fn tags(&mut self) -> Vec<u64> {
        self.publish().into_iter().map(|(tag, _)| tag).collect()
    }

    /// One question is answered.
    async fn answered(&mut self) {
        let (numbers, found) =
            timeout(Duration::from_secs(5), self.publisher.numbers.answered()).await.unwrap();
        self.publisher.number_answered(&numbers, &found);
    }

    /// Questions are sent, and time passes without an answer.
    async fn wait(&mut self, time: Duration) {
        assert!(timeout(Duration::ZERO, self.publisher.numbers.answered()).await.is_err());
        advance(time).await;
        self.publisher.waited_long_enough();
    }

    fn count(&self, why: Unknown) -> u64 {
        self.metrics.numbers(&Found::None(why))
    }

    /// Nothing is left behind.
    fn is_idle(&self) -> bool {
        let waiting = &self.publisher.waiting;
        waiting.is_empty() && waiting.bytes == 0 && waiting.askers.is_empty()
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_waits_for_its_account_and_its_call_behind_it() {
    let mut world = World::new();
    world.arrives(0, "a", Some("known"));
    world.arrives(0, "a", None);
    world.arrives(0, "b", None);
    world.arrives(1, "a", None);
    assert_eq!(world.tags(), [3, 4], "other calls do not wait, nor do those of another broker");
    world.arrives(0, "a", None);
    assert_eq!(world.tags(), [0; 0]);
    world.answered().await;
    // One that comes after that does not pass those that are not published yet.
    world.arrives(0, "a", None);
    let acc = || ACCOUNT.to_owned();
    assert_eq!(world.publish(), [(1, acc()), (2, acc()), (5, acc()), (6, acc())]);
    assert!(world.is_idle());
    let body = &world.publisher.pending[2].event.message.body;
    assert_eq!(
        &body[..],
        br#"{"Custom-Channel-Vars":{"Account-ID":"acc"},"Event-Name":"x","Request":"known@x"}"#
    );
    // The answer is known now.
    world.arrives(0, "c", Some("known"));
    assert_eq!(world.publish(), [(7, acc())]);
    let numbers: Vec<u64> =
        world.publisher.pending.iter().map(|pending| pending.id.unwrap().number).collect();
    assert_eq!(numbers, [3, 1, 1, 2, 4, 5, 6], "in the order of each queue");
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_in_time_an_event_is_published_as_it_is() {
    let mut world = World::new();
    world.arrives(0, "a", Some("slow"));
    world.arrives(0, "a", None);
    assert_eq!(world.tags(), [0; 0]);
    world.wait(Duration::from_millis(199)).await;
    assert_eq!(world.tags(), [0; 0]);
    world.wait(Duration::from_millis(1)).await;
    assert_eq!(world.publish(), [(1, "@x".to_owned()), (2, ACCOUNT.to_owned())]);
    assert_eq!(world.count(Unknown::Unanswered), 1);
    assert!(world.is_idle());
    // The answer comes too late for it.
    world.answered().await;
    world.arrives(0, "b", Some("nobody's"));
    assert_eq!(world.tags(), [0; 0]);
    world.answered().await;
    assert_eq!(world.publish(), [(3, "@x".to_owned())]);
    assert_eq!((world.count(Unknown::Unassigned), world.count(Unknown::Unanswered)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_later_question_of_the_call_keeps_what_is_after_it() {
    let mut world = World::new();
    world.arrives(0, "a", Some("known"));
    world.arrives(0, "a", Some("slow"));
    world.arrives(0, "a", None);
    assert_eq!(world.tags(), [0; 0]);
    world.answered().await;
    assert_eq!(world.tags(), [1]);
    world.arrives(0, "a", None);
    assert_eq!(world.tags(), [0; 0]);
    world.wait(MAX_WAIT).await;
    assert_eq!(world.tags(), [2, 3, 4]);
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn others_are_not_kept_waiting_by_the_prefetch() {
    let mut world = World::new();
    world.arrives(0, "a", Some("slow"));
    world.arrives(0, "a", None);
    world.arrives(0, "b", Some("slow"));
    (0..17).for_each(|_| world.arrives(0, "c", None));
    assert_eq!(world.tags(), (4..=20).collect::<Vec<_>>());
    world.arrives(1, "c", None);
    assert_eq!(world.tags(), [21], "of another broker");
    world.arrives(0, "c", None);
    assert_eq!(world.tags(), [1, 2, 22]);
    assert_eq!(world.count(Unknown::Limit), 1);
    world.arrives(0, "c", None);
    assert_eq!(world.tags(), [3, 23]);
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_bytes_wait() {
    let mut world = World::new();
    let call = |n: usize| format!("c{n}");
    let size = r#"{"Event-Name":"x","Request":"slow@x"}"#.len();
    let fits = usize::try_from(LIMITS.bytes).unwrap() / size;
    // Less than would be too many deliveries.
    world.publisher.waiting.limits.deliveries = 1000;
    (0..fits).for_each(|n| world.arrives(0, &call(n), Some("slow")));
    assert_eq!(world.tags(), [0; 0]);
    world.arrives(0, "x", Some("slow"));
    assert_eq!(world.tags(), [fits as u64 + 1], "as it is");
    // One behind another: both, in order.
    world.arrives(0, &call(3), None);
    assert_eq!(world.tags(), [4, fits as u64 + 2]);
    assert_eq!(world.count(Unknown::Limit), 2);
    world.wait(MAX_WAIT).await;
    assert_eq!(world.tags().len(), fits - 1);
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn on_another_connection_what_has_waited_waits_again_in_order() {
    let mut world = World::new();
    world.arrives(0, "a", None);
    world.arrives(0, "a", Some("known"));
    world.arrives(0, "b", Some("slow"));
    world.arrives(0, "a", None);
    assert_eq!(world.tags(), [1]);
    world.arrives(0, "b", None);
    world.arrives(0, "c", None);
    world.publisher.reset_connection_state();
    assert!(world.is_idle());
    let order: Vec<u64> =
        world.publisher.pending.iter().map(|pending| pending.event.settle_handle.tag).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6], "what was published comes first, what is new last");
    assert_eq!(world.tags(), [1, 6]);
    world.answered().await;
    assert_eq!(world.tags(), [2, 4]);
    world.wait(MAX_WAIT).await;
    assert_eq!(world.tags(), [3, 5]);
    let numbers: Vec<_> = world.publisher.pending.iter().map(|pending| pending.id.unwrap().number).collect();
    assert_eq!(numbers, [1, 6, 2, 4, 3, 5], "the ids stay");
}

#[tokio::test(start_paused = true)]
async fn on_another_connection_an_event_that_was_about_to_wait_does_not_pass_its_call() {
    let mut world = World::new();
    world.arrives(0, "a", Some("slow"));
    world.arrives(0, "b", Some("slow"));
    (0..18).for_each(|_| world.arrives(0, "c", None));
    assert_eq!(world.tags(), (3..=20).collect::<Vec<_>>());
    // It has its id, but the first one comes before it, and the connection is lost before it can wait.
    world.arrives(0, "b", None);
    let index = world.publisher.published;
    assert!(world.publisher.identify(index) && world.publisher.must_wait(index));
    world.publisher.reset_connection_state();
    let order = world.publisher.pending.iter().map(|pending| pending.event.settle_handle.tag);
    assert_eq!(order.collect::<Vec<_>>(), (1..=21).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_delivers_again_does_not_wait_twice() {
    let mut world = World::new();
    world.arrives(0, "a", Some("known"));
    world.arrives(1, "a", Some("slow"));
    assert_eq!(world.tags(), [0; 0]);
    world.publisher.enqueue(FromConsumer::Began { source: 0, checkpoint: None });
    world.answered().await;
    assert_eq!(world.tags(), [0; 0], "it is gone");
    world.wait(MAX_WAIT).await;
    assert_eq!(world.tags(), [2]);
    assert!(world.is_idle());
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_says_from_where_on_later_events_are_stored() {
    let mut world = World::new();
    world.publisher.stream_end = 10;
    world.arrives(0, "a", Some("known"));
    world.arrives(0, "b", None);
    assert_eq!(world.tags(), [2]);
    world.answered().await;
    assert_eq!(world.tags(), [1]);
    for (index, sequence, expected) in [(0, 11, 11), (1, 12, 10)] {
        let pending = &mut world.publisher.pending[index];
        let stored = pending.id.map(|id| (id, sequence));
        pending.settle_as_stored(stored, world.publisher.stream, false, &world.metrics);
        assert_eq!(pending.checkpoint.unwrap().sequence, expected);
    }
}
