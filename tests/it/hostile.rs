//! Hostile input: it leads to an error reply, a documented close code or the dead-letter queue, never to events of
//! another account, and other sessions are not affected.

mod bindings;
mod bodies;
mod flood;
mod frames;
mod keys;
mod poison;
mod slow;
mod tokens;

use blackhole_dev::simulator::Publisher;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events,
    stack::{Edge, Stack},
};

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
