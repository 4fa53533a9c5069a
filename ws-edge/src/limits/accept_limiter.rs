//! The rate of new sessions: when many clients connect at once, they queue instead of overloading the edge.
//!
//! A client may wait with as many sessions as there is room left in the queue. So one client takes at most half of it,
//! and ten together leave an eleventh: a client that has none waiting nearly always finds room.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::client_network::ClientNetwork;

/// The seconds that the queue lasts: no session waits longer.
const MAX_WAIT_SECONDS: usize = 5;
/// Sessions of this time may start at once.
const BURST: Duration = Duration::from_secs(1);

/// Why a session may not even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// The queue is full.
    Edge,
    /// The client has its share of the queue.
    Client,
}

/// Schedules the start of each new session.
#[derive(Debug)]
pub(crate) struct AcceptLimiter {
    interval: Duration,
    max_waiting: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// When the next session may start.
    next: Instant,
    /// The starts that are still to come, in order. One of a client that has gone meanwhile stays: otherwise a client
    /// could use up the rate by connecting and leaving.
    waiting: VecDeque<(Instant, ClientNetwork)>,
    /// How many of these each client has.
    by_client: HashMap<ClientNetwork, usize>,
}

impl AcceptLimiter {
    /// At most `per_second`, after a burst of one second's worth.
    pub(crate) fn new(per_second: u32) -> AcceptLimiter {
        let per_second = per_second.max(1);
        AcceptLimiter {
            interval: Duration::from_secs(1) / per_second,
            max_waiting: MAX_WAIT_SECONDS * per_second as usize,
            queue: Mutex::new(Queue {
                next: Instant::now(),
                waiting: VecDeque::new(),
                by_client: HashMap::new(),
            }),
        }
    }

    /// Waits until a new session of this client may start.
    pub(crate) async fn wait(&self, client: ClientNetwork) -> Result<(), Busy> {
        let start = self.reserve(client, Instant::now())?;
        tokio::time::sleep_until(start).await;
        Ok(())
    }

    fn reserve(&self, client: ClientNetwork, now: Instant) -> Result<Instant, Busy> {
        let mut queue = self.queue.lock();
        queue.forget_started(now);
        let start = queue.next.max(now.checked_sub(BURST).unwrap_or(now));
        if start > now {
            let left = self.max_waiting.saturating_sub(queue.waiting.len());
            if left == 0 {
                return Err(Busy::Edge);
            }
            if queue.by_client.get(&client).is_some_and(|own| *own >= left) {
                return Err(Busy::Client);
            }
            queue.waiting.push_back((start, client));
            *queue.by_client.entry(client).or_default() += 1;
        }
        queue.next = start + self.interval;
        Ok(start)
    }
}

impl Queue {
    fn forget_started(&mut self, now: Instant) {
        while let Some((_, client)) = self.waiting.pop_front_if(|(start, _)| *start <= now) {
            if let Entry::Occupied(mut own) = self.by_client.entry(client) {
                *own.get_mut() -= 1;
                if *own.get() == 0 {
                    own.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> ClientNetwork {
        ClientNetwork::of(std::net::Ipv4Addr::from_bits(number).into())
    }

    /// A limiter of 100 per second that has not been used for a while, and the time.
    fn rested() -> (AcceptLimiter, Instant) {
        (AcceptLimiter::new(100), Instant::now() + Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_many_clients_wait_at_most_five_seconds_and_others_are_refused() {
        let (limiter, now) = rested();
        let starts: Vec<_> = (0..700).map(|number| limiter.reserve(client(number), now)).collect();
        let waits =
            |index: usize| starts[index].as_ref().ok().map(|start| start.saturating_duration_since(now));
        assert_eq!(waits(0), Some(Duration::ZERO));
        assert_eq!(waits(100), Some(Duration::ZERO), "the burst of one second");
        assert_eq!(waits(300), Some(Duration::from_secs(2)));
        assert_eq!(waits(600), Some(Duration::from_secs(5)));
        assert_eq!(starts[601..], [Err(Busy::Edge); 99]);
        let later = now + Duration::from_secs(1);
        assert!(limiter.reserve(client(1), later).is_ok(), "the queue is shorter again");
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_takes_the_burst_and_half_of_the_queue_and_others_still_begin() {
        let (limiter, now) = rested();
        let starts: Vec<_> = (0..2000).map(|_| limiter.reserve(client(1), now)).collect();
        let accepted = starts.iter().filter(|start| start.is_ok()).count();
        assert_eq!(accepted, 101 + 250, "the burst, and half of five seconds");
        assert_eq!(starts.last(), Some(&Err(Busy::Client)));
        let other = limiter.reserve(client(2), now).unwrap();
        assert_eq!(other - now, Duration::from_millis(2510), "behind these");
    }

    #[tokio::test(start_paused = true)]
    async fn hundred_greedy_clients_leave_places_for_others() {
        let (limiter, now) = rested();
        for _ in 0..50 {
            for number in 0..100 {
                let _ = limiter.reserve(client(number), now);
            }
        }
        assert_eq!(limiter.reserve(client(0), now), Err(Busy::Client));
        assert!((1000..1004).all(|other| limiter.reserve(client(other), now).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_started_is_forgotten() {
        let (limiter, now) = rested();
        for number in 0..1000 {
            let _ = limiter.reserve(client(number), now);
        }
        assert_eq!(limiter.queue.lock().by_client.len(), 500);
        let later = now + Duration::from_secs(30);
        assert_eq!(limiter.reserve(client(1), later), Ok(later - BURST));
        let queue = limiter.queue.lock();
        assert!(queue.by_client.is_empty() && queue.waiting.is_empty());
    }
}
