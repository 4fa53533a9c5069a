//! All NATS subscriptions of the edge, drained together.
//!
//! Each has a waker that puts its number on one list, so that draining looks only at those that have something.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use async_nats::{Client, Message, Subscriber};
use futures_util::{StreamExt, task::AtomicWaker};
use parking_lot::Mutex;

use crate::fanout::SubjectNumber;

/// The edge's subscriptions.
pub(super) struct Subscriptions {
    client: Client,
    listening: HashMap<SubjectNumber, (Subscriber, Waker)>,
    ready: Arc<Ready>,
}

/// The numbers of the subscriptions that may have messages.
#[derive(Default)]
struct Ready {
    numbers: Mutex<Vec<SubjectNumber>>,
    reader: AtomicWaker,
}

struct OneOf {
    number: SubjectNumber,
    ready: Arc<Ready>,
}

impl Wake for OneOf {
    fn wake(self: Arc<Self>) {
        self.ready.numbers.lock().push(self.number);
        self.ready.reader.wake();
    }
}

impl Subscriptions {
    pub(super) fn new(client: Client) -> Subscriptions {
        Subscriptions { client, listening: HashMap::new(), ready: Arc::default() }
    }

    pub(super) async fn add(
        &mut self,
        number: SubjectNumber,
        subject: &str,
    ) -> Result<(), async_nats::SubscribeError> {
        let subscriber = self.client.subscribe(subject.to_owned()).await?;
        let waker = Waker::from(Arc::new(OneOf { number, ready: Arc::clone(&self.ready) }));
        self.listening.insert(number, (subscriber, waker));
        // Its waker is known to the subscription only after it was looked at once.
        self.ready.numbers.lock().push(number);
        Ok(())
    }

    /// Unsubscribes.
    pub(super) fn remove(&mut self, number: SubjectNumber) {
        self.listening.remove(&number);
    }

    /// Waits until there may be messages.
    pub(super) async fn ready(&self) {
        poll_fn(|context| {
            self.ready.reader.register(context.waker());
            if self.ready.numbers.lock().is_empty() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Everything that has arrived, subject by subject.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (SubjectNumber, Message)> {
        let numbers = std::mem::take(&mut *self.ready.numbers.lock());
        let mut messages = Vec::new();
        for number in numbers {
            let Some((subscriber, waker)) = self.listening.get_mut(&number) else { continue };
            let mut context = Context::from_waker(waker);
            while let Poll::Ready(Some(message)) = subscriber.poll_next_unpin(&mut context) {
                messages.push((number, message));
            }
        }
        messages.into_iter()
    }
}
