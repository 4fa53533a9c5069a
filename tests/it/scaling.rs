//! Edges that come and go behind one name, as containers of one service do: HAProxy follows, and no client misses an
//! event.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use blackhole_dev::{
    http, ports,
    process::Spec,
    server::{Ready, Server},
};
use blackhole_tests::{
    accounts::Account,
    client::{Client, Incoming},
    dns::NameServer,
    events, eventually,
    haproxy::HaProxy,
    soon,
    stack::{self, Stack},
};
use serde_json::{Value, json};

/// Edges with addresses of their own and the same ports.
pub(crate) struct Edges {
    names: NameServer,
    pub(crate) ws: u16,
    pub(crate) admin: u16,
    running: Vec<(Ipv4Addr, Server)>,
    dir: blackhole_dev::workspace::RunDir,
}

impl Edges {
    pub(crate) fn new() -> Edges {
        Edges {
            names: NameServer::start(),
            ws: ports::free().unwrap(),
            admin: ports::free().unwrap(),
            running: Vec::new(),
            dir: blackhole_dev::workspace::RunDir::create("scaling").unwrap(),
        }
    }

    fn publish_addresses(&self) {
        self.names.set(&self.addresses());
    }

    pub(crate) async fn grow_to(&mut self, count: u8) {
        for number in u8::try_from(self.running.len()).unwrap()..count {
            let address = Ipv4Addr::new(127, 0, 55, 1 + number);
            let admin = format!("{address}:{}", self.admin);
            let spec = Spec::new(stack::binaries().ws_edge)
                .env("BLACKHOLE_NATS__URL", Stack::shared().nats.url())
                .env("BLACKHOLE_WS__LISTEN", format!("{address}:{}", self.ws))
                .env("BLACKHOLE_ADMIN__LISTEN", &admin)
                .env("BLACKHOLE_WS__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]")
                .env("BLACKHOLE_WS__DRAIN", "1s")
                .env("BLACKHOLE_WS__PING_INTERVAL", "2s")
                .env("BLACKHOLE_ADMIN__DANGEROUS_WITHOUT_TOKEN", "true")
                .log(self.dir.path().join(format!("edge-{number}.log")));
            let ready = Ready::Http(admin, "/health/ready".into());
            let server = Server::start("ws-edge", spec, ready, Duration::from_secs(30)).await.unwrap();
            self.running.push((address, server));
        }
        self.publish_addresses();
    }

    /// An engine stops a container before its name goes.
    pub(crate) async fn shrink_to(&mut self, count: usize) {
        for (_, server) in self.running.drain(count..).collect::<Vec<_>>() {
            assert!(server.stop().await.unwrap().success());
            self.publish_addresses();
        }
    }

    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        self.running.iter().map(|(address, _)| *address).collect()
    }

    pub(crate) async fn sessions(&self) -> Vec<f64> {
        let mut sessions = Vec::new();
        for (address, _) in &self.running {
            let metrics = http::get(&format!("{address}:{}", self.admin), "/metrics").await.unwrap().body;
            sessions.push(Stack::sum(&metrics, "blackhole_edge_sessions"));
        }
        sessions
    }
}

/// A client that resumes after each close, until it has the event `last`. Returns the numbers it received.
async fn follow(
    url: String,
    account: Account,
    last: u64,
    subscribed: tokio::sync::mpsc::Sender<()>,
) -> Vec<u64> {
    let mut cursor: Option<String> = None;
    let mut numbers = Vec::new();
    loop {
        // Between two edges, HAProxy may have none.
        let Ok(mut client) = Client::try_connect(&url, &[]).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let mut data = json!({ "account_id": account.id, "bindings": ["call.*.*"] });
        if let Some(cursor) = &cursor {
            data["since"] = json!(cursor);
        }
        let request = json!({
            "action": "subscribe", "auth_token": account.token(), "request_id": "1", "data": data,
        });
        client.send_text(request.to_string()).await;
        loop {
            match client.incoming().await {
                Incoming::Closed(_) => break,
                Incoming::Json(frame) if frame["action"] == "event" => {
                    cursor = Some(frame["cursor"].as_str().unwrap().to_owned());
                    let number = frame["args"]["Number"].as_u64().unwrap();
                    numbers.push(number);
                    if number == last {
                        return numbers;
                    }
                }
                Incoming::Json(reply) => {
                    assert_eq!(reply["status"], "success", "{reply}");
                    assert_ne!(reply["data"]["recovered"], json!(false), "{reply}");
                    cursor = cursor.or_else(|| reply["data"]["cursor"].as_str().map(str::to_owned));
                    let _ = subscribed.send(()).await;
                }
            }
        }
    }
}

fn numbered(account: &Account, number: u64) -> events::Event {
    let mut event = events::call(account, "CHANNEL_CREATE", "numbered");
    event.body["Number"] = Value::from(number);
    event
}

#[tokio::test]
async fn edges_come_and_go_behind_one_name_without_a_lost_event() {
    const CLIENTS: usize = 20;
    let mut edges = Edges::new();
    edges.grow_to(2).await;
    let settings = [
        ("BH_EDGES", format!("edge.internal:{}", edges.ws)),
        ("BH_EDGES_CHECK", edges.admin.to_string()),
        ("BH_NAMESERVER", edges.names.address.to_string()),
    ];
    let proxy = HaProxy::start_with(&settings).await;
    let url = format!("ws://127.0.0.1:{}/?view=args", proxy.ws);

    let account = Account::fresh();
    let last = u64::MAX >> 12;
    let (subscribed, mut subscriptions) = tokio::sync::mpsc::channel(10_000);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(follow(url.clone(), account.clone(), last, subscribed.clone())))
        .collect();
    for _ in 0..CLIENTS {
        soon("a subscription", subscriptions.recv()).await;
    }
    let stopping = Arc::new(AtomicBool::new(false));
    let (stop, publisher, owner) =
        (Arc::clone(&stopping), Stack::shared().publisher().await, account.clone());
    let publishing = tokio::spawn(async move {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            numbered(&owner, number).publish(&publisher).await;
            number += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        numbered(&owner, last).publish(&publisher).await;
        number
    });

    edges.grow_to(5).await;
    let mut more = Vec::new();
    soon("sessions on all five edges", async {
        while edges.sessions().await.contains(&0.0) {
            more.push(Client::connect(&url).await);
        }
    })
    .await;
    drop(more);
    edges.shrink_to(1).await;
    eventually("all clients on the edge that is left", || async {
        edges.sessions().await.iter().sum::<f64>() >= CLIENTS as f64
    })
    .await;
    stopping.store(true, Ordering::Relaxed);
    let published = publishing.await.unwrap();
    for client in clients {
        let numbers = soon("the last event", client).await.unwrap();
        let expected: Vec<u64> = (0..published).chain([last]).collect();
        assert_eq!(numbers, expected, "each event once, in order");
    }
}
