//! Turns for work that takes long at a step, as a TLS handshake does: while thousands of clients come back, events of
//! the others do not wait behind all of them, and no client waits behind all the work of another.

use std::{collections::HashMap, future::poll_fn, pin::pin, sync::Arc, task::ready};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::PollSemaphore;

use crate::limits::client_network::ClientNetwork;

/// Lets a few futures at a time take a step; the others queue here instead of in the runtime.
#[derive(Debug)]
pub(crate) struct Turns {
    at_once: usize,
    all: Arc<Semaphore>,
    /// A client's futures queue here first. So as many of them as may take a step at once are in the queue of all, and
    /// another client waits for these at most.
    by_client: Mutex<HashMap<ClientNetwork, Arc<Semaphore>>>,
}

/// The turns of a client that has futures here.
struct OwnTurns<'t> {
    turns: &'t Turns,
    client: ClientNetwork,
    semaphore: Arc<Semaphore>,
}

impl Turns {
    /// At most half of the runtime's threads take such steps at once.
    pub(crate) fn on_half_of_the_threads() -> Turns {
        Turns::at_once((Handle::current().metrics().num_workers() / 2).max(1))
    }

    fn at_once(count: usize) -> Turns {
        Turns { at_once: count, all: Arc::new(Semaphore::new(count)), by_client: Mutex::default() }
    }

    /// Runs a client's future, which waits for its turn at every step. Between two steps it has none: one that waits for a
    /// slow client keeps nobody waiting.
    pub(crate) async fn run<F: Future>(&self, client: ClientNetwork, future: F) -> F::Output {
        let mut future = pin!(future);
        let own = self.of(client);
        let mut of_client = PollSemaphore::new(Arc::clone(&own.semaphore));
        let mut of_all = PollSemaphore::new(Arc::clone(&self.all));
        let mut is_next = None;
        poll_fn(|context| {
            if is_next.is_none() {
                is_next = ready!(of_client.poll_acquire(context));
            }
            let turn = ready!(of_all.poll_acquire(context));
            let step = future.as_mut().poll(context);
            drop(turn);
            is_next = None;
            step
        })
        .await
    }

    fn of(&self, client: ClientNetwork) -> OwnTurns<'_> {
        let mut by_client = self.by_client.lock();
        let semaphore = by_client.entry(client).or_insert_with(|| Arc::new(Semaphore::new(self.at_once)));
        OwnTurns { turns: self, client, semaphore: Arc::clone(semaphore) }
    }
}

impl Drop for OwnTurns<'_> {
    fn drop(&mut self) {
        let mut by_client = self.turns.by_client.lock();
        // The map's and this one.
        if Arc::strong_count(&self.semaphore) == 2 {
            by_client.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::Ipv4Addr,
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use futures_util::future::join_all;

    use super::*;

    fn client(number: u32) -> ClientNetwork {
        ClientNetwork::of(Ipv4Addr::from_bits(number).into())
    }

    /// A future that takes three steps of a millisecond, and counts how many take one at once.
    async fn three_steps(now: Arc<AtomicUsize>, most: Arc<AtomicUsize>) {
        for _ in 0..3 {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            std::thread::sleep(Duration::from_millis(1));
            now.fetch_sub(1, SeqCst);
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn at_most_half_of_the_threads_take_a_step_at_once_and_all_come_to_an_end() {
        let turns = Arc::new(Turns::on_half_of_the_threads());
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..50).map(|number| {
            let (turns, steps) = (Arc::clone(&turns), three_steps(Arc::clone(&now), Arc::clone(&most)));
            tokio::spawn(async move { turns.run(client(number % 3), steps).await })
        });
        assert!(join_all(tasks).await.iter().all(Result::is_ok));
        assert!((1..=2).contains(&most.load(SeqCst)), "{} at once", most.load(SeqCst));
        assert!(turns.by_client.lock().is_empty());
    }

    #[tokio::test]
    async fn a_client_waits_for_one_step_of_another_however_many_it_has() {
        let turns = Arc::new(Turns::at_once(1));
        let order = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&turns.all).try_acquire_owned();
        let tasks: Vec<_> = [1, 1, 1, 1, 1, 2, 3]
            .into_iter()
            .map(|number| {
                let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
                tokio::spawn(
                    async move { turns.run(client(number), async { order.lock().push(number) }).await },
                )
            })
            .collect();
        // All of them queue, in this order.
        tokio::task::yield_now().await;
        assert_eq!(turns.by_client.lock().len(), 3);
        drop(taken);
        assert!(join_all(tasks).await.iter().all(Result::is_ok));
        assert_eq!(*order.lock(), [1, 2, 3, 1, 1, 1, 1]);
    }

    #[tokio::test]
    async fn one_that_waits_keeps_nobody_waiting_and_neither_does_one_that_is_given_up() {
        let turns = Arc::new(Turns::at_once(1));
        let silent = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run(client(1), std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        turns.run(client(1), tokio::task::yield_now()).await;
        silent.abort();
        assert!(silent.await.is_err_and(|error| error.is_cancelled()));
        turns.run(client(1), tokio::task::yield_now()).await;
    }
}
