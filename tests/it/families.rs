//! The binding families: subscribers get exactly the events that match, up to a sentinel that is published last.
//!
//! These tests cover what is specific to a family; `everything` covers all families, compared with a real RabbitMQ.

use blackhole_dev::simulator::{account_database, encode_word, month_database};
use blackhole_tests::{
    accounts::{Account, AccountPair},
    client::Client,
    events::{self, Event},
    stack::Stack,
};
use serde_json::json;

mod documented;
mod everything;
mod nobody;
mod refused;
mod relay;
mod routing;

/// The numbers of [`numbered`] events.
fn numbers(events: &[serde_json::Value]) -> Vec<u64> {
    events.iter().map(|event| event["args"]["Number"].as_u64().unwrap()).collect()
}

/// The event with a number and a new `Msg-ID`: an identical body would count as a redelivery.
fn numbered(event: &Event, number: usize) -> Event {
    let mut event = event.clone();
    event.body["Number"] = number.into();
    event.body["Msg-ID"] = format!("{:032x}", rand::random::<u128>()).into();
    event
}

/// Subscribes `account` to a binding, publishes the events, and expects exactly the `wanted` ones, in order.
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
async fn call_events_are_selected_by_name_and_by_call() {
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
async fn call_events_that_name_only_a_realm_are_delivered() {
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
async fn conference_events_and_commands_are_selected_by_conference() {
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
async fn document_changes_are_selected_by_action_and_type_including_future_month_databases() {
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
async fn fax_status_is_selected_by_fax() {
    let AccountPair { parent, child } = AccountPair::fresh();
    let published = [events::fax(&parent, "1"), events::fax(&child, "1"), events::fax(&parent, "2")];
    expect(&parent, "fax.status.1", &published, &[&published[0]]).await;
}

#[tokio::test]
async fn fax_documents_are_selected_by_action() {
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
async fn presence_is_matched_by_realm_ignoring_case() {
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

/// Sessions of an account on the same edge share NATS subscriptions.
#[tokio::test]
async fn many_sessions_of_an_account_get_every_event_once() {
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
    // One disconnects; the others must not be affected.
    clients.pop().unwrap().close().await;
    events::fax(&account, "sentinel").publish(&publisher).await;
    for client in &mut clients {
        assert_eq!(numbers(&client.events_until("sentinel").await), (0..50).collect::<Vec<_>>());
    }
}
