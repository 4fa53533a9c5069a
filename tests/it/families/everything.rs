//! All families with unusual ids: for each binding, a session gets what RabbitMQ routes to the pattern that KAZOO's
//! Blackhole binds, limited to the events of its account.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use blackhole_dev::simulator::{Publisher, account_database, encode_word};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events::{self, Event},
    soon,
    stack::Stack,
};
use futures_util::StreamExt;
use lapin::{
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;

use super::numbered;

/// Ids with characters that are special in AMQP, NATS, JSON or KAZOO's encoding.
const IDS: &[&str] = &[
    "plain",
    "1f3c9a.77e2@10.0.4.17",
    "two words",
    "+14155550142",
    "*97",
    "a#b",
    "x>y",
    "=2A",
    "100%",
    "100%2E",
    "Zoë Ångström",
    "株式会社",
    "a/b?c&d",
    "\"quoted\\\"",
    "_",
    "@realm",
    "$SYS",
];

/// A binding, and the exchange and patterns that KAZOO's Blackhole binds for it.
struct Case {
    binding: String,
    exchange: &'static str,
    patterns: Vec<String>,
}

fn case(binding: impl Into<String>, exchange: &'static str, pattern: impl Into<String>) -> Case {
    Case { binding: binding.into(), exchange, patterns: vec![pattern.into()] }
}

/// An id as a client writes it: unencoded, unless it contains a dot or looks encoded.
fn written(id: &str) -> String {
    if id.contains(['.', '%']) { encode_word(id) } else { id.to_owned() }
}

/// The bindings of KAZOO's documentation that take an id.
fn cases_of_id(account: &Account, id: &str) -> Vec<Case> {
    let (acc, realm) = (&account.id, encode_word(&account.realm));
    let (id, key) = (written(id), encode_word(id));
    vec![
        case(format!("call.*.{id}"), "callevt", format!("call.*.{key}")),
        case(format!("call.CHANNEL_CREATE.{id}"), "callevt", format!("call.CHANNEL_CREATE.{key}")),
        case(format!("conference.event.{id}.*"), "conference", format!("conference.event.*.{acc}.{key}.*")),
        case(
            format!("conference.event.add-member.{id}.{id}"),
            "conference",
            format!("conference.event.add-member.{acc}.{key}.{key}"),
        ),
        case(format!("conference.command.{id}"), "conference", format!("conference.command.{key}")),
        case(format!("doc_edited.*.user.{id}"), "configuration", format!("doc_edited.*.user.{key}")),
        case(format!("fax.status.{id}"), "faxes", format!("fax.status.{acc}.{key}")),
        case(format!("presence.dialog.{id}"), "presence", format!("dialog.{realm}.{key}")),
        case(format!("presence.update.{id}"), "presence", format!("update.{realm}.{key}")),
        case(format!("presence.mwi_updates.{id}"), "presence", format!("mwi_updates.{realm}.{key}")),
        case(format!("stream.start.{id}"), "pivot", format!("pivot.stream.start.{acc}.{key}")),
        case(format!("live.conference.chat.{id}"), "live", format!("live.conference.{acc}.chat.{key}")),
        case(format!("relay.{id}"), "live", format!("relay.{acc}.{key}.{}", token_id(account))),
        case(format!("dialog.event.{id}.{id}"), "dialog", format!("dialog.event.{acc}.{key}.{key}")),
        case(format!("qubicle.session.{id}.*"), "qubicle", format!("qubicle.session.{acc}.{key}.*")),
        case(format!("qubicle.queue.*.{id}"), "qubicle", format!("qubicle.queue.{acc}.*.{key}")),
        case(
            format!("qubicle.recipient.{id}.{id}"),
            "qubicle",
            format!("qubicle.recipient.{acc}.{key}.{key}"),
        ),
        case(format!("notifications.{id}.*"), "notifications", format!("notifications.{key}.*")),
        case(format!("notifications.*.{id}"), "notifications", format!("notifications.*.{key}")),
    ]
}

/// The bindings of KAZOO's documentation without an id.
fn cases_without_id(account: &Account) -> Vec<Case> {
    let (acc, realm) = (&account.id, encode_word(&account.realm));
    let database = account_database(acc);
    let mut cases = vec![
        case("call.*.*", "callevt", "call.*.*"),
        case("call.PARK_PARKED.*", "callevt", "call.PARK_PARKED.*"),
        case(
            "conference.event.add-member.plain.*",
            "conference",
            format!("conference.event.add-member.{acc}.plain.*"),
        ),
        case(
            "conference.event.plain.*.add-member",
            "conference",
            format!("conference.event.add-member.{acc}.plain.*"),
        ),
        case("object.doc_edited.user", "configuration", "doc_edited.*.user.*"),
        case("object.doc_edited.*", "configuration", "doc_edited.*.*.*"),
        case(
            format!("doc_edited.{database}.user.*"),
            "configuration",
            format!("doc_edited.{database}.user.*"),
        ),
        case("fax.object.doc_edited", "configuration", "doc_edited.*.fax.*"),
        case("fax.status.*", "faxes", format!("fax.status.{acc}.*")),
        case("presence.dialog.*", "presence", format!("dialog.{realm}.*")),
        case("presence.update.*", "presence", format!("update.{realm}.*")),
        case("presence.mwi_updates.*", "presence", format!("mwi_updates.{realm}.*")),
        case("stream.*.*", "pivot", format!("pivot.stream.*.{acc}.*")),
        case("live.conference.*.*", "live", format!("live.conference.{acc}.*.*")),
        case("relay.*", "live", format!("relay.{acc}.*.{}", token_id(account))),
        case("dialog.event.*.*", "dialog", format!("dialog.event.{acc}.*.*")),
        case("qubicle.session.*.*", "qubicle", format!("qubicle.session.{acc}.*.*")),
        case("qubicle.queue.*.*", "qubicle", format!("qubicle.queue.{acc}.*.*")),
        case("qubicle.*.plain.plain", "qubicle", format!("qubicle.*.{acc}.plain.plain")),
        case("notifications.*.*", "notifications", "notifications.*.*"),
    ];
    cases.push(Case {
        binding: "qubicle.queue".into(),
        exchange: "qubicle",
        patterns: vec![format!("qubicle.queue.{acc}.*"), format!("qubicle.queue.{acc}.*.*")],
    });
    for (binding, kind) in [("object.*.user", "user"), ("fax.object.*", "fax")] {
        let actions = ["doc_created", "doc_edited", "doc_deleted"];
        let patterns = actions.map(|action| format!("{action}.*.{kind}.*")).to_vec();
        cases.push(Case { binding: binding.into(), exchange: "configuration", patterns });
    }
    cases
}

fn token_id(account: &Account) -> String {
    format!("token-of-{}", account.id)
}

fn token(account: &Account) -> String {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    accounts::signed(&json!({
        "iss": "kazoo", "account_id": account.id, "auth_id": token_id(account), "exp": expires.as_secs(),
    }))
}

/// An event of each kind with this id. Some have their account only in the body, some only in the key.
fn events_of(account: &Account, id: &str) -> Vec<Event> {
    let (acc, realm, key) = (&account.id, encode_word(&account.realm), encode_word(id));
    let in_key = |exchange, key: String| events::any(exchange, key, "name", json!({ "ID": id }));
    let in_body = |exchange, key: String| events::any(exchange, key, "name", json!({ "Account-ID": acc }));
    vec![
        events::call(account, "CHANNEL_CREATE", id),
        events::call_of_realm(&account.realm, "CHANNEL_CREATE", id),
        events::call(account, "PARK_PARKED", id),
        in_key("conference", format!("conference.event.add-member.{acc}.{key}.{key}")),
        in_key("conference", format!("conference.event.del-member.{acc}.{key}.{key}")),
        in_body("conference", format!("conference.command.{key}")),
        events::document(account, "doc_edited", "user", id),
        events::document_in(&format!("{}-209912", account_database(acc)), "doc_edited", "fax", id),
        events::document(account, "doc_created", "user", id),
        events::fax(account, id),
        in_key("presence", format!("dialog.{realm}.{key}")),
        in_key("presence", format!("update.{realm}.{key}")),
        in_key("presence", format!("mwi_updates.{realm}.{key}")),
        in_key("pivot", format!("pivot.stream.start.{acc}.{key}")),
        in_key("pivot", format!("pivot.stream.stop.{acc}.{key}")),
        in_key("live", format!("live.conference.{acc}.chat.{key}")),
        in_key("live", format!("relay.{acc}.{key}.{}", token_id(account))),
        in_key("live", format!("relay.{acc}.{key}.somebody-elses")),
        in_key("dialog", format!("dialog.event.{acc}.{key}.{key}")),
        in_key("qubicle", format!("qubicle.session.{acc}.{key}.{key}")),
        in_key("qubicle", format!("qubicle.queue.{acc}.{key}.{key}")),
        in_key("qubicle", format!("qubicle.recipient.{acc}.{key}.{key}")),
        in_key("qubicle", format!("qubicle.queue.{acc}.{key}")),
        in_body("notifications", format!("notifications.{key}.{key}")),
    ]
}

/// A session of an account, and a RabbitMQ queue for each of its bindings.
struct Watched {
    account: Account,
    client: Client,
    routed: BTreeMap<String, lapin::Consumer>,
}

impl Watched {
    async fn start(channel: &lapin::Channel) -> Watched {
        let account = Account::fresh();
        let mut cases = cases_without_id(&account);
        cases.extend(IDS.iter().flat_map(|id| cases_of_id(&account, id)));
        let mut routed = BTreeMap::new();
        for Case { binding, exchange, patterns } in &cases {
            let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
            let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
            let last = ("faxes", sentinel(&account));
            let bindings = patterns.iter().map(|pattern| (*exchange, pattern.clone())).chain([last]);
            for (exchange, key) in bindings {
                let (name, options) = (queue.name().clone(), QueueBindOptions::default());
                let bound =
                    channel.queue_bind(name, exchange.into(), key.into(), options, FieldTable::default());
                bound.await.unwrap();
            }
            let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
            let consumer =
                channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default());
            assert!(
                routed.insert(binding.clone(), consumer.await.unwrap()).is_none(),
                "{binding} occurs twice"
            );
        }
        let mut client = Client::connect(&Stack::shared().edge.url("view=args")).await;
        let bindings: Vec<&str> = cases.iter().map(|case| case.binding.as_str()).collect();
        client.subscribe_with(&token(&account), &account.id, &bindings).await;
        Watched { account, client, routed }
    }

    /// The numbers of the events that the session received, by binding.
    async fn received(&mut self) -> BTreeMap<String, Vec<u64>> {
        let mut received: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for event in self.client.events_until("sentinel").await {
            let binding = event["subscribed_key"].as_str().unwrap().to_owned();
            received.entry(binding).or_default().push(event["args"]["Number"].as_u64().unwrap());
        }
        received
    }

    /// The numbers of the events of this account that RabbitMQ has routed, by binding.
    async fn expected(&mut self, owners: &[&str]) -> BTreeMap<String, Vec<u64>> {
        let mut expected = BTreeMap::new();
        for (binding, consumer) in &mut self.routed {
            let mut numbers = Vec::new();
            loop {
                let delivery = soon("a delivery", consumer.next()).await.unwrap().unwrap();
                // Other tests publish to this broker too: numbers, and bodies that are no JSON.
                let body: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap_or_default();
                match body["Number"].as_u64() {
                    Some(number) if body["Run"] == RUN => numbers.push(number),
                    Some(_) => {}
                    None if delivery.routing_key.as_str() == sentinel(&self.account) => break,
                    None => {}
                }
            }
            numbers.retain(|number| owners[usize::try_from(*number).unwrap()] == self.account.id);
            expected.insert(binding.clone(), numbers);
        }
        expected
    }
}

const RUN: &str = "all families at once";

fn sentinel(account: &Account) -> String {
    format!("fax.status.{}.sentinel", account.id)
}

async fn publish(publisher: &Publisher, number: usize, event: &Event) {
    let mut event = numbered(event, number);
    event.body["Run"] = RUN.into();
    event.publish(publisher).await;
}

#[tokio::test]
async fn every_binding_delivers_what_rabbitmq_routes_to_its_pattern() {
    let stack = Stack::shared();
    let publisher = stack.publisher().await;
    let url = stack.rabbitmq.url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut mine = Watched::start(&channel).await;
    let mut theirs = Watched::start(&channel).await;

    let accounts = [mine.account.clone(), theirs.account.clone()];
    let mut owners = Vec::new();
    for id in IDS {
        for account in &accounts {
            for event in events_of(account, id) {
                publish(&publisher, owners.len(), &event).await;
                owners.push(account.id.as_str());
            }
        }
    }
    for account in &accounts {
        events::fax(account, "sentinel").publish(&publisher).await;
    }

    for watched in [&mut mine, &mut theirs] {
        let received = watched.received().await;
        assert!(received.values().map(Vec::len).sum::<usize>() > 500);
        for (binding, numbers) in &received {
            assert!(numbers.is_sorted_by(|one, next| one < next), "{binding}: {numbers:?}");
        }
        for (binding, expected) in watched.expected(&owners).await {
            assert!(!expected.is_empty(), "no event tests {binding}");
            assert_eq!(received.get(&binding), Some(&expected), "{binding}");
        }
    }
}
