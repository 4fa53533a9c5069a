//! Which edges are alive, by their heartbeats, and whether NATS is connected.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_nats::{Client, Event};
use blackhole_common::wire::EdgeHeartbeat;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

/// Three heartbeats, which edges send every 5 s.
const EDGE_TIMEOUT: Duration = Duration::from_secs(15);
/// After this time with a connection, every live edge has sent a heartbeat.
const DISCOVERY_TIME: Duration = Duration::from_secs(6);
/// Bounds on memory, far above the size of any cluster.
const MAX_EDGES: usize = 4096;
const MAX_NAME_BYTES: usize = 512;

/// The live edges.
#[derive(Debug)]
pub(super) struct Edges {
    last_beats: Mutex<HashMap<String, Instant>>,
    /// Since when NATS is connected; `None` while it is not.
    connected_since: watch::Sender<Option<Instant>>,
}

/// The edges whose replies to expect.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpectedEdges {
    /// The names of the known edges.
    pub(super) known: BTreeSet<String>,
    /// Whether there may be unknown ones.
    pub(super) may_be_others: bool,
}

impl Edges {
    /// No known edges, and no connection.
    pub(super) fn new() -> Edges {
        Edges { last_beats: Mutex::default(), connected_since: watch::Sender::default() }
    }

    /// Tracks the connection. Heartbeats sent while it is down are missed.
    pub(super) fn on_connection_event(&self, event: &Event) {
        match event {
            Event::Connected => self.set_connected_since(Some(Instant::now())),
            Event::Disconnected | Event::Closed => self.set_connected_since(None),
            _ => {}
        }
    }

    fn set_connected_since(&self, since: Option<Instant>) {
        self.connected_since.send_replace(since);
    }

    /// Whether NATS is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.connected_since.borrow().is_some()
    }

    /// Waits until NATS is connected, or until it is not.
    pub(super) async fn wait_for_connected(&self, wanted: bool) {
        // It cannot fail: this struct owns the sender.
        let _ = self.connected_since.subscribe().wait_for(|since| since.is_some() == wanted).await;
    }

    /// The edges whose replies to expect now.
    pub(super) fn expected(&self) -> ExpectedEdges {
        self.expected_at(Instant::now())
    }

    fn expected_at(&self, now: Instant) -> ExpectedEdges {
        let mut last_beats = self.last_beats.lock();
        last_beats.retain(|_, last| now.duration_since(*last) < EDGE_TIMEOUT);
        let known: BTreeSet<String> = last_beats.keys().cloned().collect();
        let connected_since = *self.connected_since.borrow();
        let is_discovered = connected_since.is_some_and(|since| now.duration_since(since) >= DISCOVERY_TIME);
        let may_be_others = known.is_empty() || !is_discovered;
        ExpectedEdges { known, may_be_others }
    }

    fn record_beat(&self, payload: &[u8], now: Instant) {
        let Ok(EdgeHeartbeat { edge, leaving, .. }) = serde_json::from_slice(payload) else { return };
        let mut last_beats = self.last_beats.lock();
        if leaving {
            last_beats.remove(&edge);
        } else if edge.len() <= MAX_NAME_BYTES
            && (last_beats.len() < MAX_EDGES || last_beats.contains_key(&edge))
        {
            last_beats.insert(edge, now);
        }
    }

    /// Receives heartbeats on `subject` until the client is closed.
    pub(super) async fn listen(&self, client: &Client, subject: String) {
        let Ok(mut beats) = client.subscribe(subject).await else { return };
        while let Some(beat) = beats.next().await {
            self.record_beat(&beat.payload, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(edge: &str, leaving: bool) -> Vec<u8> {
        serde_json::to_vec(&EdgeHeartbeat { edge: edge.into(), leaving, sessions: None }).unwrap()
    }

    /// Known edges, and whether there may be others.
    fn expected_at(edges: &Edges, now: Instant) -> (Vec<String>, bool) {
        let ExpectedEdges { known, may_be_others } = edges.expected_at(now);
        (known.into_iter().collect(), may_be_others)
    }

    #[test]
    fn an_edge_is_known_from_its_first_heartbeat_until_it_leaves_or_times_out() {
        let edges = Edges::new();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let expect = |seconds, known: &[&str], may_be_others| {
            let known: Vec<String> = known.iter().map(|edge| edge.to_string()).collect();
            assert_eq!(expected_at(&edges, after(seconds)), (known, may_be_others), "after {seconds} s");
        };
        edges.set_connected_since(Some(start));
        expect(0, &[], true);
        for edge in ["a", "b", "c"] {
            edges.record_beat(&beat(edge, false), after(1));
        }
        expect(5, &["a", "b", "c"], true);
        expect(6, &["a", "b", "c"], false);
        edges.record_beat(&beat("b", true), after(8));
        edges.record_beat(b"no beat", after(8));
        edges.record_beat(&beat(&"x".repeat(MAX_NAME_BYTES + 1), false), after(8));
        expect(9, &["a", "c"], false);
        edges.record_beat(&beat("c", false), after(10));
        expect(15, &["a", "c"], false);
        expect(16, &["c"], false);
        // Without known edges, replies of unknown ones are still awaited.
        expect(40, &[], true);
    }

    #[test]
    fn a_reconnect_restarts_discovery() {
        let edges = Edges::new();
        let start = Instant::now();
        let discovered = start + DISCOVERY_TIME;
        edges.record_beat(&beat("a", false), start);
        assert!(!edges.is_connected());
        assert_eq!(expected_at(&edges, discovered), (vec!["a".into()], true));
        edges.set_connected_since(Some(start));
        assert!(edges.is_connected());
        assert_eq!(expected_at(&edges, discovered), (vec!["a".into()], false));
        edges.on_connection_event(&Event::Disconnected);
        assert!(!edges.is_connected());
        assert_eq!(expected_at(&edges, discovered), (vec!["a".into()], true));
        edges.on_connection_event(&Event::Connected);
        assert!(edges.is_connected());
        assert_eq!(expected_at(&edges, start), (vec!["a".into()], true));
    }

    #[test]
    fn the_number_of_edges_is_bounded() {
        let edges = Edges::new();
        let now = Instant::now();
        for number in 0..MAX_EDGES + 10 {
            edges.record_beat(&beat(&number.to_string(), false), now);
        }
        assert_eq!(edges.expected_at(now).known.len(), MAX_EDGES);
        // A known edge can still be refreshed.
        let later = now + EDGE_TIMEOUT;
        edges.record_beat(&beat("0", false), later);
        assert_eq!(expected_at(&edges, later).0, ["0"]);
    }
}
