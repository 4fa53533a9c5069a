//! Every family in both directions: its events reach their subscribers, and nobody else's do. The judges are the
//! real RabbitMQ, which routes to the ingest, and a sentinel that is published last.

use blackhole_common::{
    catalogue::Catalogue,
    subject::{Word, pattern_subjects, push_key, subject_matches},
};
use blackhole_dev::simulator::{account_database, encode_word, month_database};
use blackhole_tests::{
    accounts::{self, Account, Family},
    client::Client,
    events::{self, Event},
    soon,
    stack::Stack,
};
use futures_util::StreamExt;
use lapin::{
    ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use rand::seq::IndexedRandom;
use serde_json::json;

/// The numbers that [`numbered`] gave.
fn numbers(events: &[serde_json::Value]) -> Vec<u64> {
    events.iter().map(|event| event["args"]["Number"].as_u64().unwrap()).collect()
}

/// The event with a number, published anew: what is equal to the letter is taken for a redelivery.
fn numbered(event: &Event, number: usize) -> Event {
    let mut event = event.clone();
    event.body["Number"] = number.into();
    event.body["Msg-ID"] = format!("{:032x}", rand::random::<u128>()).into();
    event
}

/// Subscribes `account` to a binding, publishes everything, and expects exactly `wanted`, in order.
async fn expect(account: &Account, binding: &str, published: &[Event], wanted: &[&Event]) {
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(account, &[binding, "fax.status.sentinel"]).await;
    let publisher = stack.publisher().await;
    for (number, event) in published.iter().enumerate() {
        numbered(event, number).publish(&publisher).await;
    }
    events::fax(account, "sentinel").publish(&publisher).await;
    let got = client.events_until("sentinel").await;
    let wanted: Vec<u64> = (0..)
        .zip(published)
        .filter(|(_, event)| wanted.iter().any(|one| std::ptr::eq(*one, *event)))
        .map(|(number, _)| number)
        .collect();
    assert_eq!(numbers(&got), wanted, "{binding}");
    assert!(got.iter().all(|event| event["subscribed_key"] == binding));
}

#[tokio::test]
async fn call_events_by_name_and_by_call() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let published = [
        events::call(&mine, "CHANNEL_CREATE", "a.b@c"),
        events::call(&other, "CHANNEL_CREATE", "a.b@c"),
        events::call(&mine, "CHANNEL_DESTROY", "a.b@c"),
        events::call(&mine, "PARK_PARKED", "x"),
        events::call(&mine, "CHANNEL_SOMETHING_ELSE", "a.b@c"),
    ];
    let [create, _, destroy, parked, _] = &published;
    expect(&mine, "call.*.*", &published, &[create, destroy, parked]).await;
    expect(&mine, "call.CHANNEL_CREATE.*", &published, &[create]).await;
    expect(&mine, "call.*.a%2Eb%40c", &published, &[create, destroy]).await;
    expect(&mine, "call.#", &published, &[create, destroy, parked]).await;
}

#[tokio::test]
async fn the_first_events_of_an_inbound_call_are_found_by_its_realm() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let published = [
        events::call_of_realm(&mine.realm.to_uppercase(), "CHANNEL_CREATE", "in"),
        events::call_of_realm(&other.realm, "CHANNEL_CREATE", "in"),
        events::call(&mine, "CHANNEL_ANSWER", "in"),
        events::call_of_realm(&mine.realm, "CHANNEL_DESTROY", "in"),
    ];
    let [create, _, answer, destroy] = &published;
    expect(&mine, "call.*.*", &published, &[create, answer, destroy]).await;
}

#[tokio::test]
async fn conference_events_in_both_forms_and_commands() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let published = [
        events::conference(&mine, "add-member", "C", "a.b"),
        events::conference(&other, "add-member", "C", "a.b"),
        events::conference(&mine, "del-member", "C", "a.b"),
        events::conference(&mine, "add-member", "D", "x"),
        events::conference_command(&mine, "C"),
        events::conference_command(&other, "C"),
    ];
    let [add, _, del, _, command, _] = &published;
    expect(&mine, "conference.event.C.*", &published, &[add, del]).await;
    expect(&mine, "conference.event.C.a%2Eb", &published, &[add, del]).await;
    expect(&mine, "conference.event.add-member.C.*", &published, &[add]).await;
    expect(&mine, "conference.command.C", &published, &[command]).await;
}

#[tokio::test]
async fn document_changes_also_in_the_month_that_comes() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let next_month = account_database(&mine.id) + "-209912";
    let this_month = month_database(&mine.id, std::time::SystemTime::now());
    let published = [
        events::document(&mine, "doc_created", "user", "u"),
        events::document(&other, "doc_created", "user", "u"),
        events::document(&mine, "doc_edited", "user", "u"),
        events::document(&mine, "doc_created", "device", "d"),
        events::document_in(&this_month, "doc_created", "fax", "f1"),
        events::document_in(&next_month, "doc_created", "fax", "f2"),
        events::document_in("accounts", "doc_edited", "account", &mine.id),
        events::document(&mine, "doc_created", "no_such_type", "x"),
    ];
    let [user, _, edited, device, fax, next, ..] = &published;
    expect(&mine, "doc_created.*.user.*", &published, &[user]).await;
    expect(&mine, "object.doc_created.user", &published, &[user]).await;
    expect(&mine, "object.*.user", &published, &[user, edited]).await;
    expect(&mine, "object.doc_created.fax", &published, &[fax, next]).await;
    expect(&mine, "object.*.*", &published, &[user, edited, device, fax, next]).await;
}

#[tokio::test]
async fn fax_status_by_fax() {
    let Family { parent, child } = Family::fresh();
    let published = [events::fax(&parent, "1"), events::fax(&child, "1"), events::fax(&parent, "2")];
    expect(&parent, "fax.status.1", &published, &[&published[0]]).await;
}

#[tokio::test]
async fn faxes_as_documents() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let next_month = account_database(&mine.id) + "-209912";
    let published = [
        events::document_in(&next_month, "doc_created", "fax", "f1"),
        events::document_in(&(account_database(&other.id) + "-209912"), "doc_created", "fax", "f1"),
        events::document_in(&next_month, "doc_deleted", "fax", "f1"),
        events::document(&mine, "doc_created", "user", "u"),
    ];
    let [created, _, deleted, _] = &published;
    expect(&mine, "fax.object.*", &published, &[created, deleted]).await;
    expect(&mine, "fax.object.doc_created", &published, &[created]).await;
}

#[tokio::test]
async fn presence_is_found_by_the_realm_whatever_its_case() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let presence = |account: &Account, kind: &str, id: &str| {
        let key = format!("{kind}.{}.{}", encode_word(&account.realm), encode_word(id));
        events::any("presence", key, kind, json!({ "Call-ID": id }))
    };
    let mut shouted = mine.clone();
    shouted.realm.make_ascii_uppercase();
    let published = [
        presence(&mine, "dialog", "a.b@c"),
        presence(&other, "dialog", "a.b@c"),
        presence(&shouted, "dialog", "x"),
        presence(&mine, "update", "a.b@c"),
        presence(&mine, "mwi_updates", "1001"),
        presence(&other, "mwi_updates", "1001"),
    ];
    let [dialog, _, shouted, update, mwi, _] = &published;
    expect(&mine, "presence.dialog.*", &published, &[dialog, shouted]).await;
    expect(&mine, "presence.dialog.a%2Eb%40c", &published, &[dialog]).await;
    expect(&mine, "presence.update.*", &published, &[update]).await;
    expect(&mine, "presence.mwi_updates.1001", &published, &[mwi]).await;
}

#[tokio::test]
async fn what_kazoo_5_adds_is_held_to_the_account_by_the_event() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let of = |account: &Account, exchange, key: &str| {
        let members = json!({ "Account-ID": account.id });
        events::any(exchange, key.replace("ACCOUNT", &account.id), "name", members)
    };
    let kinds: [(&'static str, &str, &str); 8] = [
        ("pivot", "pivot.stream.start.ACCOUNT.call", "stream.start.*"),
        ("live", "live.conference.ACCOUNT.caption.c1", "live.conference.caption.c1"),
        ("dialog", "dialog.event.ACCOUNT.d1.i1", "dialog.event.d1.*"),
        ("qubicle", "qubicle.session.ACCOUNT.s1.created", "qubicle.session.s1.*"),
        ("qubicle", "qubicle.queue.ACCOUNT.q1.stats", "qubicle.queue.*.stats"),
        ("qubicle", "qubicle.recipient.ACCOUNT.r1.ready", "qubicle.recipient.*.*"),
        ("notifications", "notifications.voicemail.new", "notifications.voicemail.*"),
        ("conference", "conference.command.C", "conference.command.C"),
    ];
    let published: Vec<Event> = kinds
        .iter()
        .flat_map(|(exchange, key, _)| [of(&mine, exchange, key), of(&other, exchange, key)])
        .collect();
    for (number, (_, _, binding)) in kinds.iter().enumerate() {
        expect(&mine, binding, &published, &[&published[2 * number]]).await;
    }
}

#[tokio::test]
async fn what_belongs_to_nobody_is_for_superduper_admins() {
    let stack = Stack::shared();
    let id = format!("nobodys-{:x}", rand::random::<u64>());
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe_with(&accounts::top_token(), "*", &["object.doc_edited.account"]).await;
    let event = events::document_in("accounts", "doc_edited", "account", &id);
    event.publish(&stack.publisher().await).await;
    loop {
        let got = client.event().await;
        if got["args"]["ID"] == id.as_str() {
            break;
        }
    }
}

/// Sessions of one account on one edge share subscriptions, and each gets its own.
#[tokio::test]
async fn many_sessions_get_every_event_once() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut clients = Vec::new();
    for number in 0..40 {
        let mut client = Client::connect(&stack.edge.url("view=args")).await;
        let binding = ["call.*.*", "call.CHANNEL_CREATE.*"][number % 2];
        client.subscribe(&account, &[binding, "fax.status.sentinel"]).await;
        clients.push(client);
    }
    let publisher = stack.publisher().await;
    let published: Vec<Event> =
        (0..50).map(|n| events::call(&account, "CHANNEL_CREATE", &format!("c{n}"))).collect();
    for (number, event) in published.iter().enumerate() {
        numbered(event, number).publish(&publisher).await;
    }
    // One leaves: the others must not notice.
    clients.pop().unwrap().close().await;
    events::fax(&account, "sentinel").publish(&publisher).await;
    for client in &mut clients {
        assert_eq!(numbers(&client.events_until("sentinel").await), (0..50).collect::<Vec<_>>());
    }
}

/// The whole mapping, from a pattern to NATS subjects, against the broker whose rules it has to follow.
#[tokio::test]
async fn a_pattern_matches_what_the_real_rabbitmq_says() {
    const EXCHANGE: &str = "blackhole-test-topic";
    let words = ["a", "b", "call", "", "=", "a%2Eb", "-"];
    let (patterns, keys): (Vec<Vec<Word>>, Vec<String>) = {
        let mut random = rand::rng();
        let mut word = || (*words.choose(&mut random).unwrap()).to_owned();
        let keys = (0..200).map(|n| (0..1 + n % 4).map(|_| word()).collect::<Vec<_>>().join(".")).collect();
        let patterns = (0..100)
            .map(|n| {
                let mut pattern: Vec<Word> = (0..1 + n % 3)
                    .map(|_| match word().as_str() {
                        "-" => Word::Any,
                        word => Word::Exactly(word.to_owned()),
                    })
                    .collect();
                if n % 4 == 0 {
                    pattern.push(Word::Rest);
                }
                // To AMQP the empty text is no word at all, so a single empty word cannot be written.
                if pattern == [Word::Exactly(String::new())] {
                    pattern.clear();
                }
                pattern
            })
            .collect();
        (patterns, keys)
    };

    let url = Stack::shared().rabbitmq.url();
    let connection = lapin::Connection::connect(&url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .exchange_declare(
            EXCHANGE.into(),
            ExchangeKind::Topic,
            ExchangeDeclareOptions { auto_delete: true, ..Default::default() },
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut queues = Vec::new();
    for pattern in &patterns {
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        let amqp = pattern.iter().map(Word::as_amqp).collect::<Vec<_>>().join(".");
        for key in [amqp.as_str(), "the.very.last.of.all"] {
            let bind = channel.queue_bind(
                name.clone(),
                EXCHANGE.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bind.await.unwrap();
        }
        let consume = channel.basic_consume(
            name,
            "".into(),
            BasicConsumeOptions { no_ack: true, ..Default::default() },
            FieldTable::default(),
        );
        queues.push(consume.await.unwrap());
    }
    for key in keys.iter().map(String::as_str).chain(["the.very.last.of.all"]) {
        let publish = channel.basic_publish(
            EXCHANGE.into(),
            key.into(),
            BasicPublishOptions::default(),
            b"",
            lapin::BasicProperties::default(),
        );
        publish.await.unwrap();
    }
    let mut matched = 0;
    for (pattern, mut queue) in patterns.iter().zip(queues) {
        let mut routed = Vec::new();
        loop {
            let delivery = soon("a delivery", queue.next()).await.unwrap().unwrap();
            match delivery.routing_key.as_str() {
                "the.very.last.of.all" => break,
                key => routed.push(key.to_owned()),
            }
        }
        let subjects = pattern_subjects("e.t", pattern).unwrap();
        let ours: Vec<String> = keys
            .iter()
            .filter(|key| {
                let mut subject = "e.t".to_owned();
                push_key(&mut subject, key.as_bytes());
                subjects.iter().any(|pattern| subject_matches(pattern, &subject))
            })
            .cloned()
            .collect();
        assert_eq!(ours, routed, "{pattern:?}");
        matched += routed.len();
    }
    assert!(matched > 100, "the sample says something: {matched}");
}

/// The queue's bindings are the catalogue's, no more and no less.
#[tokio::test]
async fn the_ingest_binds_what_the_catalogue_says() {
    let stack = Stack::shared();
    let text = stack.rabbitmq.ctl(&[
        "list_bindings",
        "--no-table-headers",
        "source_name",
        "destination_name",
        "routing_key",
    ]);
    let text = text.await.unwrap();
    let mut bound: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| {
            let mut columns = line.split('\t');
            let (source, queue, key) = (columns.next()?, columns.next()?, columns.next()?);
            (queue == "blackhole-ingest" && !source.is_empty())
                .then(|| (source.to_owned(), key.trim().to_owned()))
        })
        .collect();
    bound.sort();
    let catalogue = Catalogue::load(None).unwrap();
    let wanted: Vec<(String, String)> =
        catalogue.amqp_bindings().into_iter().map(|binding| (binding.exchange, binding.pattern)).collect();
    assert_eq!(bound, wanted);
}
