//! The first events of an inbound call name no account: they reach the account of the dialled number.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use blackhole_couchdb::kazoo::{self, ACME};
use blackhole_dev::services::Service;
use blackhole_tests::{
    accounts::Account, client::Client, couchdb_stack::CouchDbStack, events, eventually, soon, stack::Stack,
};
use serde_json::{Value, json};
use tokio::{
    join,
    sync::{Mutex, MutexGuard},
};

const METRIC: &str = "blackhole_ingest_events_dialled_total";
const ACME_REALM: &str = "acme.sip.example.com";

/// Name, call and account of an event.
fn summary(event: &Value) -> (String, String, Option<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let args = &event["args"];
    (
        text(&args["Event-Name"]).unwrap(),
        text(&args["Call-ID"]).unwrap(),
        text(&args["Custom-Channel-Vars"]["Account-ID"]),
    )
}

/// How many events had this result.
async fn count(ingest: &Service, result: &str) -> f64 {
    let metrics = ingest.metrics().await.unwrap();
    Stack::sum(&metrics.replace(&format!("{METRIC}{{result=\"{result}\"}}"), "counted "), "counted")
}

#[tokio::test]
async fn the_account_of_a_number_in_the_file_gets_the_whole_call_in_order() {
    let stack = Stack::shared();
    let (account, other) = (Account::fresh(), Account::fresh());
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let mut others = Client::connect(&stack.edge.url("view=args")).await;
    others.subscribe(&other, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    let number = account.number();
    // As it is written in the file, and as carriers write it.
    for (index, dialled) in [&number[..], &number[1..], &number[2..]].iter().enumerate() {
        let call_id = format!("inbound.{index}@10.0.0.4");
        let created = events::call_to(dialled, "10.0.0.4", "CHANNEL_CREATE", &call_id);
        created.publish(&publisher).await;
        events::call(&account, "CHANNEL_ANSWER", &call_id).publish(&publisher).await;
        events::call_to(dialled, "10.0.0.4", "CHANNEL_DESTROY", &call_id).publish(&publisher).await;
        let mut expected = created.body.clone();
        expected["Custom-Channel-Vars"]["Account-ID"] = account.id.as_str().into();
        let event = client.event().await;
        assert_eq!(event["args"], expected);
        assert_eq!(event["name"], "CHANNEL_CREATE");
        for name in ["CHANNEL_ANSWER", "CHANNEL_DESTROY"] {
            let expected = (name.to_owned(), call_id.clone(), Some(account.id.clone()));
            assert_eq!(summary(&client.event().await), expected);
        }
    }
    // Nobody's number, and the other account's own call.
    events::call_to("+15005550000", "10.0.0.4", "CHANNEL_CREATE", "nobody's").publish(&publisher).await;
    events::call(&other, "CHANNEL_CREATE", "last").publish(&publisher).await;
    assert_eq!(summary(&others.event().await).1, "last");
    events::call(&account, "CHANNEL_CREATE", "last").publish(&publisher).await;
    assert_eq!(summary(&client.event().await).1, "last");
}

#[tokio::test]
async fn without_auth_svc_events_are_passed_on_as_they_are() {
    let stack = tokio::task::spawn_blocking(|| {
        tokio::runtime::Runtime::new().unwrap().block_on(Stack::start("numbers-away"))
    });
    let stack = stack.await.unwrap();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    stack.auth_svc.server().kill().await.unwrap();
    let publisher = stack.publisher().await;
    events::call_to(&account.number(), &account.realm, "CHANNEL_CREATE", "first").publish(&publisher).await;
    events::call(&account, "CHANNEL_ANSWER", "first").publish(&publisher).await;
    assert_eq!(summary(&client.event().await), ("CHANNEL_CREATE".into(), "first".into(), None));
    assert_eq!(summary(&client.event().await).0, "CHANNEL_ANSWER");
    assert_eq!(count(&stack.amqp_ingest, "unavailable").await, 1.0);
    stack.auth_svc.server().start_again().await.unwrap();
    let is_found = || async {
        events::call_to(&account.number(), &account.realm, "CHANNEL_CREATE", "again")
            .publish(&publisher)
            .await;
        count(&stack.amqp_ingest, "assigned").await > 0.0
    };
    eventually("the account", is_found).await;
}

/// Services of their own with KAZOO's CouchDB. One test at a time has them: they would get each other's events.
struct Deployment {
    _turn: MutexGuard<'static, ()>,
    stack: CouchDbStack,
    ingest: Service,
}

impl Deployment {
    async fn start(name: &str) -> Deployment {
        static TURN: Mutex<()> = Mutex::const_new(());
        let turn = TURN.lock().await;
        let stack = CouchDbStack::start(name, &[]).await;
        let ingest = stack.ingest().await;
        Deployment { _turn: turn, stack, ingest }
    }

    fn assign(&self, number: &str, account_id: &str) {
        let document = json!({ "_id": number, "pvt_type": "number", "pvt_assigned_to": account_id, "pvt_state": "in_service" });
        self.stack.couchdb.put(&format!("numbers/{}", &number[..5]), &document);
    }

    async fn session(&self) -> Client {
        let mut client = Client::connect(&format!("{}/?view=args", self.stack.url)).await;
        client.subscribe_with(kazoo::token("account"), ACME, &["call.*.*"]).await;
        client
    }
}

fn acme() -> Account {
    Account { id: ACME.to_owned(), realm: ACME_REALM.to_owned() }
}

#[tokio::test]
async fn an_answer_that_comes_too_late_delays_no_other_call_and_is_remembered() {
    let deployment = Deployment::start("numbers-slow").await;
    deployment.assign("+14155550123", ACME);
    deployment.assign("+14155550124", ACME);
    let mut client = deployment.session().await;
    let publisher = Stack::shared().publisher().await;
    deployment.stack.couchdb.delay(Duration::from_millis(400));
    let began = Instant::now();
    let late = [
        events::call_to("4155550123", ACME_REALM, "CHANNEL_CREATE", "late"),
        events::call(&acme(), "CHANNEL_ANSWER", "late"),
    ];
    let other = events::call(&acme(), "CHANNEL_CREATE", "other");
    // At once: the other call's event is to come while they wait.
    join!(late[0].publish(&publisher), late[1].publish(&publisher), other.publish(&publisher));
    let acme_id = || Some(ACME.to_owned());
    assert_eq!(summary(&client.event().await), ("CHANNEL_CREATE".into(), "other".into(), acme_id()));
    assert_eq!(summary(&client.event().await), ("CHANNEL_CREATE".into(), "late".into(), None));
    assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(summary(&client.event().await), ("CHANNEL_ANSWER".into(), "late".into(), acme_id()));
    assert_eq!(count(&deployment.ingest, "unanswered").await, 1.0);
    // The answer comes all the same.
    let is_known = || async {
        events::call_to("4155550123", "nowhere.example", "CHANNEL_CREATE", "known").publish(&publisher).await;
        count(&deployment.ingest, "assigned").await > 0.0
    };
    eventually("the answer", is_known).await;
    deployment.stack.couchdb.delay(Duration::ZERO);
    let next = summary(&client.event().await);
    assert_eq!(next, ("CHANNEL_CREATE".into(), "known".into(), acme_id()));
    events::call_to("4155550124", "10.0.0.4", "CHANNEL_CREATE", "fast").publish(&publisher).await;
    loop {
        let next = summary(&client.event().await);
        assert_eq!(next.2, acme_id());
        if next.1 == "fast" {
            break;
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_the_ingest_is_killed_while_events_wait() {
    const CALLS: u32 = 400;
    let deployment = Deployment::start("numbers-killed").await;
    // Each call has a number of its own, so each has to wait.
    let number = |call: u32| format!("+1415555{call:04}");
    (0..CALLS).for_each(|call| deployment.assign(&number(call), ACME));
    let mut client = deployment.session().await;
    deployment.stack.couchdb.delay(Duration::from_millis(60));
    let publishing = tokio::spawn(async move {
        let publisher = Stack::shared().publisher().await;
        for call in 0..CALLS {
            let call_id = format!("c{call:03}");
            let dialled = number(call);
            events::call_to(&dialled, ACME_REALM, "CHANNEL_CREATE", &call_id).publish(&publisher).await;
            events::call(&acme(), "CHANNEL_ANSWER", &call_id).publish(&publisher).await;
            events::call_to(&dialled, ACME_REALM, "CHANNEL_DESTROY", &call_id).publish(&publisher).await;
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
        events::call(&acme(), "CHANNEL_CREATE", "last").publish(&publisher).await;
    });
    let killing = async {
        for _ in 0..4 {
            let before = count(&deployment.ingest, "assigned").await;
            eventually("more accounts", || async {
                count(&deployment.ingest, "assigned").await > before + 20.0
            })
            .await;
            deployment.ingest.server().kill().await.unwrap();
            deployment.ingest.server().start_again().await.unwrap();
        }
    };
    let reading = async {
        let mut received: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let (mut total, mut has_last) = (0, false);
        while total < 3 * CALLS || !has_last {
            let (name, call_id, _) = summary(&soon("the next event", client.event()).await);
            if call_id == "last" {
                has_last = true;
            } else {
                received.entry(call_id).or_default().push(name);
                total += 1;
            }
        }
        received
    };
    let (received, ()) = tokio::join!(reading, killing);
    publishing.await.unwrap();
    for (call_id, names) in &received {
        assert_eq!(*names, ["CHANNEL_CREATE", "CHANNEL_ANSWER", "CHANNEL_DESTROY"], "{call_id}");
    }
    assert_eq!(received.len(), CALLS as usize);
    // Nothing else comes.
    events::call(&acme(), "CHANNEL_CREATE", "end").publish(&Stack::shared().publisher().await).await;
    assert_eq!(summary(&client.event().await).1, "end");
}
