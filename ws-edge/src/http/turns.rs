//! Turns for work that takes long at a step, as a TLS handshake does: while thousands of clients come back, events of
//! the others do not wait behind all of them.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
};

use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::PollSemaphore;

/// Lets a few futures at a time take a step; the others queue here instead of in the runtime.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Semaphore>);

impl Turns {
    /// At most half of the runtime's threads take such steps at once.
    pub(crate) fn on_half_of_the_threads() -> Turns {
        Turns::at_once((Handle::current().metrics().num_workers() / 2).max(1))
    }

    fn at_once(count: usize) -> Turns {
        Turns(Arc::new(Semaphore::new(count)))
    }

    /// Runs a future, which waits for its turn at every step. Between two steps it has none: one that waits for a slow
    /// client keeps nobody waiting.
    pub(crate) async fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let mut turns = PollSemaphore::new(Arc::clone(&self.0));
        poll_fn(|context| {
            let turn = ready!(turns.poll_acquire(context));
            let output = ready!(future.as_mut().poll(context));
            drop(turn);
            Poll::Ready(output)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use futures_util::future::join_all;

    use super::*;

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
        let tasks = (0..50).map(|_| {
            let (turns, steps) = (Arc::clone(&turns), three_steps(Arc::clone(&now), Arc::clone(&most)));
            tokio::spawn(async move { turns.run(steps).await })
        });
        assert!(join_all(tasks).await.iter().all(Result::is_ok));
        assert!((1..=2).contains(&most.load(SeqCst)), "{} at once", most.load(SeqCst));
    }

    #[tokio::test]
    async fn one_that_waits_keeps_nobody_waiting_and_neither_does_one_that_is_given_up() {
        let turns = Arc::new(Turns::at_once(1));
        let silent = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.run(std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        turns.run(tokio::task::yield_now()).await;
        silent.abort();
        assert!(silent.await.is_err_and(|error| error.is_cancelled()));
        turns.run(tokio::task::yield_now()).await;
    }
}
