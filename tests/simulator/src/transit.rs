//! What is under way: it arrives in the order of time, and what travels the same way keeps its order. So a run depends on its
//! seed alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

/// Things of type `T` on ways of type `W`.
#[derive(Debug)]
pub(crate) struct Transit<W, T> {
    under_way: BTreeMap<(Instant, u64), T>,
    last: u64,
    /// When the last thing on a way arrives.
    ways: BTreeMap<W, Instant>,
}

impl<W: Ord, T> Transit<W, T> {
    pub(crate) fn new() -> Transit<W, T> {
        Transit { under_way: BTreeMap::new(), last: 0, ways: BTreeMap::new() }
    }

    /// Sends something; it does not overtake what is on the same way.
    pub(crate) fn send(&mut self, way: W, delay: Duration, thing: T) {
        let at = Instant::now() + delay;
        let last = self.ways.entry(way).or_insert(at);
        *last = at.max(*last);
        let at = *last;
        self.send_at(at, thing);
    }

    /// Sends something that arrives at a time.
    pub(crate) fn send_at(&mut self, at: Instant, thing: T) {
        self.last += 1;
        self.under_way.insert((at, self.last), thing);
    }

    /// When the next thing arrives.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    /// The next thing.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.under_way.pop_first().map(|(_, thing)| thing)
    }
}

/// Servers at which things arrive.
pub(crate) trait Site: Send + 'static {
    /// When the next thing arrives.
    fn next_at(&self) -> Option<Instant>;
    /// The next thing arrives.
    fn arrive(&mut self);
}

/// A [`Site`] that several share.
#[derive(Debug)]
pub(crate) struct Shared<S> {
    pub(crate) state: Mutex<S>,
    changed: Notify,
}

impl<S: Site> Shared<S> {
    /// Starts it on the current runtime.
    pub(crate) fn start(state: S) -> Arc<Shared<S>> {
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        tokio::spawn(Arc::clone(&shared).run());
        shared
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.state.lock().next_at();
            match next {
                Some(at) if at <= Instant::now() => self.state.lock().arrive(),
                Some(at) => tokio::select! {
                    biased;
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Changes something there.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.changed.notify_one();
        result
    }
}
