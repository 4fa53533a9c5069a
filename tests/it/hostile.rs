//! Hostile input: it leads to an error reply, a documented close code or the dead-letter queue, never to events of
//! another account, and other sessions are not affected.

mod accounts;
mod admin;
mod bindings;
mod bodies;
mod cursors;
mod event_streams;
mod flood;
mod frames;
mod keys;
mod places;
mod poison;
mod refused_tokens;
mod replays;
mod slow;
mod tokens;

use blackhole_dev::simulator::Publisher;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    stack::{Edge, Setting, Stack},
};
use serde_json::{Value, json};

/// A well-behaved session on the edge under attack.
struct Neighbour {
    account: Account,
    client: Client,
    publisher: Publisher,
    published: u32,
}

impl Neighbour {
    async fn on(edge: &Edge) -> Neighbour {
        let account = Account::fresh();
        let mut client = Client::connect(&edge.url("view=args")).await;
        client.subscribe(&account, &["call.*.*"]).await;
        Neighbour { account, client, publisher: Stack::shared().publisher().await, published: 0 }
    }

    /// Asserts that the neighbour still gets its events.
    async fn still_gets_events(&mut self) {
        self.published += 1;
        let call_id = format!("neighbour-{}", self.published);
        events::call(&self.account, "CHANNEL_CREATE", &call_id).publish(&self.publisher).await;
        assert_eq!(self.client.event().await["args"]["Call-ID"], call_id);
    }
}

/// An edge with its own settings.
async fn edge(name: &str, settings: &[Setting<'_>]) -> Edge {
    Stack::shared().another_edge(name, settings).await
}

/// The value of a metric with this label `reason`; 0 before it is first counted.
async fn count_of(edge: &Edge, metric: &str, reason: &str) -> f64 {
    Stack::metric(&edge.service, &format!("blackhole_edge_{metric}_total{{reason=\"{reason}\"}}")).await
}

/// An authenticated session.
async fn with_token(edge: &Edge, account: &Account) -> Client {
    let mut client = Client::connect(&edge.url("")).await;
    assert_eq!(authenticate(&mut client, account).await["status"], "success");
    client
}

async fn authenticate(client: &mut Client, account: &Account) -> Value {
    client.request(json!({ "action": "ping", "auth_token": account.token() })).await
}
