//! Which edges are there, by the signs of life that they give, and whether they can be reached.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::{Client, Event};
use blackhole_common::wire::EdgeHeartbeat;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// An edge gives a sign every 5 s: after three that did not come it is gone.
const GONE_AFTER: Duration = Duration::from_secs(15);
/// Who has listened this long has heard every edge that is there.
const ALL_HEARD_AFTER: Duration = Duration::from_secs(6);
/// Bounds of what is kept, far above any cluster's.
const MOST_EDGES: usize = 4096;
const MOST_NAME_BYTES: usize = 512;

/// The edges that were heard.
#[derive(Debug)]
pub(super) struct Edges {
    heard: Mutex<HashMap<String, Instant>>,
    /// Since when all their signs reach us; nothing while there is no connection.
    listening: watch::Sender<Option<Instant>>,
}

/// Whom to wait for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The edges' names.
    pub(super) edges: BTreeSet<String>,
    /// There may be others.
    pub(super) others: bool,
}

impl Edges {
    /// None has been heard yet.
    pub(super) fn new() -> Edges {
        Edges { heard: Mutex::default(), listening: watch::Sender::default() }
    }

    /// What happens to the connection: what is said while there is none is missed.
    pub(super) fn notice(&self, event: &Event) {
        match event {
            Event::Connected => drop(self.listening.send_replace(Some(Instant::now()))),
            Event::Disconnected | Event::Closed => drop(self.listening.send_replace(None)),
            _ => {}
        }
    }

    /// Whether there is a connection.
    pub(super) fn is_listening(&self) -> bool {
        self.listening.borrow().is_some()
    }

    /// Waits until there is a connection, or none.
    pub(super) async fn until_listening(&self, wanted: bool) {
        // It cannot fail: the sender is ours.
        let _ = self.listening.subscribe().wait_for(|since| since.is_some() == wanted).await;
    }

    /// Those that are there now.
    pub(super) fn expected(&self) -> Expected {
        self.expected_at(Instant::now())
    }

    fn expected_at(&self, now: Instant) -> Expected {
        let mut heard = self.heard.lock();
        heard.retain(|_, last| now.duration_since(*last) < GONE_AFTER);
        let edges: BTreeSet<String> = heard.keys().cloned().collect();
        let listening = *self.listening.borrow();
        let knows_all = listening.is_some_and(|since| now.duration_since(since) >= ALL_HEARD_AFTER);
        let others = edges.is_empty() || !knows_all;
        Expected { edges, others }
    }

    fn hear(&self, payload: &[u8], now: Instant) {
        let Ok(EdgeHeartbeat { edge, leaving }) = serde_json::from_slice(payload) else { return };
        let mut heard = self.heard.lock();
        if leaving {
            heard.remove(&edge);
        } else if edge.len() <= MOST_NAME_BYTES && (heard.len() < MOST_EDGES || heard.contains_key(&edge)) {
            heard.insert(edge, now);
        }
    }

    /// Listens on `subject` for as long as the client lives.
    pub(super) async fn listen(&self, client: &Client, subject: String) {
        let Ok(mut beats) = client.subscribe(subject).await else { return };
        while let Some(beat) = beats.next().await {
            self.hear(&beat.payload, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(edge: &str, leaving: bool) -> Vec<u8> {
        serde_json::to_vec(&EdgeHeartbeat { edge: edge.into(), leaving }).unwrap()
    }

    #[test]
    fn an_edge_is_there_from_its_first_sign_to_its_farewell_or_its_third_silence() {
        let edges = Edges::new();
        edges.notice(&Event::Connected);
        let start = edges.listening.borrow().unwrap();
        let at = |seconds| {
            let Expected { edges, others } = edges.expected_at(start + Duration::from_secs(seconds));
            (edges.into_iter().collect::<Vec<_>>().join(" "), others)
        };
        let hear = |payload: &[u8], seconds| edges.hear(payload, start + Duration::from_secs(seconds));
        assert_eq!(at(0), (String::new(), true));
        for edge in ["a", "b", "c"] {
            hear(&beat(edge, false), 1);
        }
        assert_eq!(at(2), ("a b c".into(), true), "there may be some that are still silent");
        assert_eq!(at(7), ("a b c".into(), false));
        hear(&beat("b", true), 8);
        hear(b"no beat", 8);
        hear(&beat(&"x".repeat(1000), false), 8);
        assert_eq!(at(9), ("a c".into(), false));
        hear(&beat("c", false), 10);
        assert_eq!(at(16), ("c".into(), false));
        assert_eq!(at(40), (String::new(), true), "nobody to wait for is no reason not to wait");
    }

    #[test]
    fn after_a_new_connection_there_may_be_others() {
        let edges = Edges::new();
        edges.hear(&beat("a", false), Instant::now());
        assert!(edges.expected().others && !edges.is_listening());
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        edges.listening.send_replace(Some(long_ago));
        assert!(!edges.expected().others && edges.is_listening());
        edges.notice(&Event::Disconnected);
        assert!(edges.expected().others && !edges.is_listening());
        edges.notice(&Event::Connected);
        assert!(edges.expected().others && edges.is_listening());
    }

    #[test]
    fn no_more_edges_are_kept_than_there_can_be() {
        let edges = Edges::new();
        for number in 0..MOST_EDGES + 10 {
            edges.hear(&beat(&number.to_string(), false), Instant::now());
        }
        assert_eq!(edges.expected().edges.len(), MOST_EDGES);
    }
}
