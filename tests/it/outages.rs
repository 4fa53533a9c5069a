//! Processes die and restart while events flow: no event is lost, duplicated or out of order.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_dev::{ports, services::Service, simulator::Publisher};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events, soon,
    stack::{self, Stack},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// A stack for these tests, used by one test at a time. Each leaves it running.
async fn breakable() -> (&'static Stack, MutexGuard<'static, ()>) {
    static STACK: OnceCell<Stack> = OnceCell::const_new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let start = || tokio::runtime::Runtime::new().unwrap().block_on(Stack::start("outages"));
    let stack = STACK.get_or_init(|| async { tokio::task::spawn_blocking(start).await.unwrap() }).await;
    // The previous test restarted what it stopped, but a service may still wait before its next connection attempt.
    for service in [&stack.auth_svc, &stack.amqp_ingest, &stack.edge.service] {
        Stack::until_ready(service, true).await;
    }
    (stack, turn)
}

/// Numbered events that are published continuously, and their subscriber.
struct Flow {
    account: Account,
    client: Client,
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    /// Those whose confirm was lost: they may be in the queue or not.
    uncertain: Arc<parking_lot::Mutex<BTreeSet<u64>>>,
    publishing: tokio::task::JoinHandle<()>,
}

impl Flow {
    async fn start(stack: &Stack) -> Flow {
        let account = Account::fresh();
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        client.subscribe(&account, &["call.*.*"]).await;
        let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let publisher = stack.publisher().await;
        let uncertain = Arc::default();
        let publishing = tokio::spawn(publish(
            publisher,
            account.clone(),
            Arc::clone(&stop),
            Arc::clone(&published),
            Arc::clone(&uncertain),
        ));
        let flow = Flow { account, client, stop, published, uncertain, publishing };
        flow.some_more().await;
        flow
    }

    /// Waits until a hundred more events were published.
    async fn some_more(&self) {
        let now = self.published.load(Ordering::Relaxed);
        blackhole_tests::eventually("more events", || async {
            self.published.load(Ordering::Relaxed) > now + 100
        })
        .await;
    }

    /// Stops, and asserts that every event arrived once and in order.
    async fn verify(mut self) {
        self.some_more().await;
        self.stop.store(true, Ordering::Relaxed);
        soon("the last confirm", &mut self.publishing).await.unwrap();
        let count = self.published.load(Ordering::Relaxed);
        let mut next = 0;
        while next < count {
            let event = self.client.event().await;
            let number = event["args"]["Number"].as_u64().unwrap();
            let missing: Vec<u64> =
                (next..number).filter(|missing| !self.uncertain.lock().contains(missing)).collect();
            assert!(number >= next, "{number} came again, or after {next}: {}", self.account.id);
            assert!(missing.is_empty(), "{missing:?} of {count} events of {}", self.account.id);
            next = number + 1;
        }
    }
}

async fn publish(
    publisher: Publisher,
    account: Account,
    stop: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    uncertain: Arc<parking_lot::Mutex<BTreeSet<u64>>>,
) {
    let mut is_certain = true;
    while !is_certain || !stop.load(Ordering::Relaxed) {
        let number = published.load(Ordering::Relaxed);
        let mut event =
            events::call(&account, ["CHANNEL_CREATE", "CHANNEL_DESTROY"][(number % 2) as usize], "one-call");
        event.body["Number"] = json!(number);
        let body = event.body.to_string();
        is_certain = publisher.publish(event.exchange, &event.key, body.as_bytes()).await.is_ok();
        if !is_certain {
            uncertain.lock().insert(number);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        published.store(number + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn no_event_is_lost_when_the_ingest_dies() {
    let (stack, _turn) = breakable().await;
    let flow = Flow::start(stack).await;
    for _ in 0..3 {
        stack.amqp_ingest.server().kill().await.unwrap();
        flow.some_more().await;
        stack.amqp_ingest.server().start_again().await.unwrap();
        flow.some_more().await;
    }
    flow.verify().await;
}

#[tokio::test]
async fn no_event_is_lost_when_the_ingest_restarts() {
    let (stack, _turn) = breakable().await;
    let flow = Flow::start(stack).await;
    stack.amqp_ingest.server().restart().await.unwrap();
    flow.verify().await;
}

#[tokio::test]
async fn no_event_is_lost_when_rabbitmq_closes_the_connections() {
    let (stack, _turn) = breakable().await;
    let flow = Flow::start(stack).await;
    for _ in 0..2 {
        stack.rabbitmq.close_all_connections().await.unwrap();
        flow.some_more().await;
    }
    Stack::until_ready(&stack.amqp_ingest, true).await;
    flow.verify().await;
}

#[tokio::test]
async fn no_event_is_lost_when_nats_dies() {
    let (stack, _turn) = breakable().await;
    let flow = Flow::start(stack).await;
    for _ in 0..3 {
        stack.nats.server().kill().await.unwrap();
        Stack::until_ready(&stack.amqp_ingest, false).await;
        Stack::until_ready(&stack.edge.service, false).await;
        flow.some_more().await;
        stack.nats.server().start_again().await.unwrap();
        Stack::until_ready(&stack.amqp_ingest, true).await;
        Stack::until_ready(&stack.edge.service, true).await;
    }
    flow.verify().await;
}

#[tokio::test]
async fn the_first_events_of_a_stream_that_is_made_anew_arrive() {
    let stack = Stack::start_with("anew", &[("AMQP__CHECK_INTERVAL", "1s")]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    for round in 0..6 {
        let id = |name: &str| format!("{name}-{round}");
        events::call(&account, "CHANNEL_CREATE", &id("before")).publish(&publisher).await;
        assert_eq!(client.event().await["args"]["Call-ID"], id("before"));
        if round % 2 == 0 {
            let nats = async_nats::connect(stack.nats.url()).await.unwrap();
            async_nats::jetstream::new(nats).delete_stream("BLACKHOLE_V1").await.unwrap();
        } else {
            stack.nats.server().kill().await.unwrap();
            std::fs::remove_dir_all(stack.dir.path().join("nats/store")).unwrap();
            stack.nats.server().start_again().await.unwrap();
        }
        for name in ["first", "second", "third"] {
            events::call(&account, "CHANNEL_CREATE", &id(name)).publish(&publisher).await;
        }
        for name in ["first", "second", "third"] {
            assert_eq!(client.event().await["args"]["Call-ID"], id(name));
        }
    }
}

#[tokio::test]
async fn requests_fail_while_nats_is_down_and_existing_subscriptions_stay() {
    let (stack, _turn) = breakable().await;
    let edge = stack.another_edge("edge-patient", &[("WS__REQUEST_TIMEOUT", "1s")]).await;
    let account = Account::fresh();
    let mut known = Client::connect(&edge.url("view=args")).await;
    known.subscribe(&account, &["call.*.*"]).await;
    let mut fresh = Client::connect(&edge.url("")).await;
    stack.nats.server().kill().await.unwrap();

    // The decision of auth-svc is cached, but NATS cannot confirm the new subject.
    let further =
        json!({ "action": "subscribe", "data": { "account_id": account.id, "binding": "fax.status.*" } });
    let reply = known.request(further.clone()).await;
    assert_eq!(reply["data"]["errors"], json!(["events are not available at the moment, try again"]));
    let token = Account::fresh().token();
    let reply = fresh.request(json!({ "action": "ping", "auth_token": token })).await;
    assert_eq!(reply["data"]["errors"], json!(["the authentication service did not answer, try again"]));

    stack.nats.server().start_again().await.unwrap();
    Stack::until_ready(&stack.amqp_ingest, true).await;
    Stack::until_ready(&edge.service, true).await;
    let publisher = stack.publisher().await;
    events::fax(&account, "refused").publish(&publisher).await;
    events::call(&account, "CHANNEL_CREATE", "kept").publish(&publisher).await;
    assert_eq!(known.event().await["args"]["Call-ID"], "kept", "a refused request has no effect");
    let reply = known.request(further).await;
    assert_eq!(reply["data"]["subscriptions"], json!(["call.*.*", "fax.status.*"]));
}

#[tokio::test]
async fn sessions_survive_the_death_of_auth_svc_and_new_ones_get_an_error() {
    let (stack, _turn) = breakable().await;
    let mut flow = Flow::start(stack).await;
    stack.auth_svc.server().kill().await.unwrap();
    flow.some_more().await;

    // A known session continues, even if it sends its token again.
    let account = flow.account.clone();
    flow.client.subscribe(&account, &["fax.status.*"]).await;
    // A new session gets an error at once.
    let mut fresh = Client::connect(&stack.edge.url("")).await;
    let stranger = Account::fresh();
    let request =
        json!({ "action": "subscribe", "auth_token": stranger.token(), "data": { "binding": "call.*.*" } });
    let reply: Value = fresh.request(request.clone()).await;
    assert_eq!(reply["data"]["errors"], json!(["the authentication service is not available, try again"]));
    let refused = Client::try_connect(&stack.edge.url(""), &[("authorization", &stranger.token())]).await;
    assert_eq!(refused.err(), Some(503));

    stack.auth_svc.server().start_again().await.unwrap();
    assert_eq!(fresh.request(request).await["status"], "success");
    flow.verify().await;
}

#[tokio::test]
async fn services_wait_for_brokers_that_do_not_run_yet() {
    let dir = blackhole_dev::workspace::RunDir::create("late").unwrap();
    let nats = format!("nats://127.0.0.1:{}", ports::free().unwrap());
    let amqp = format!("amqp://guest:guest@127.0.0.1:{}/%2f", ports::free().unwrap());
    std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
    let env = [
        ("NATS__URL", nats),
        ("AMQP__URL", amqp),
        ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
        ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
        ("WS__LISTEN", format!("127.0.0.1:{}", ports::free().unwrap())),
    ];
    let binaries = stack::binaries();
    for (name, program) in [
        ("auth-svc", &binaries.auth_svc),
        ("amqp-ingest", &binaries.amqp_ingest),
        ("ws-edge", &binaries.ws_edge),
    ] {
        let service = Service::start_unready(name, program, dir.path(), &env).await.unwrap();
        blackhole_tests::eventually("liveness", || async {
            blackhole_dev::http::get(service.admin(), "/health/live")
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let ready = blackhole_dev::http::get(service.admin(), "/health/ready").await.unwrap();
        assert_eq!(ready.status, 503, "{name}: {}", ready.body);
        assert!(ready.body.contains("nats"), "{name} names the missing connection: {}", ready.body);
        let began = std::time::Instant::now();
        assert!(service.server().stop().await.unwrap().success(), "{name} still stops gracefully");
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn the_events_of_each_call_keep_their_order_under_load() {
    const CALLS: usize = 40;
    const EVENTS: u64 = 100;
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut clients = Vec::new();
    for bindings in
        [vec!["call.*.*"], vec!["call.CHANNEL_CREATE.*", "call.CHANNEL_DESTROY.*"], vec!["call.#"]]
    {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        client.subscribe(&account, &bindings).await;
        clients.push(client);
    }
    let publishers = (0..4).map(|part| {
        let account = account.clone();
        tokio::spawn(async move {
            let publisher = stack.publisher().await;
            for number in 0..EVENTS {
                let mut confirms = Vec::new();
                for call in (0..CALLS).filter(|call| call % 4 == part) {
                    let name = ["CHANNEL_CREATE", "CHANNEL_DESTROY"][(number % 2) as usize];
                    let mut event = events::call(&account, name, &format!("call-{call}"));
                    event.body["Number"] = json!(number);
                    let body = event.body.to_string();
                    confirms.push(publisher.send(event.exchange, &event.key, body.as_bytes()).await.unwrap());
                }
                for confirm in confirms {
                    assert!(confirm.await.unwrap().is_ack());
                }
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    for client in &mut clients {
        let mut next: HashMap<String, u64> = HashMap::new();
        for _ in 0..CALLS as u64 * EVENTS {
            let event = client.event().await;
            let expected = next.entry(event["args"]["Call-ID"].as_str().unwrap().to_owned()).or_default();
            assert_eq!(event["args"]["Number"], *expected, "{}", event["args"]["Call-ID"]);
            *expected += 1;
        }
        assert_eq!(next.len(), CALLS);
    }
}
