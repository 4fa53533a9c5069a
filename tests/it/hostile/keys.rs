//! Words of routing keys: a binding for one call gets exactly that call, whatever its id is.

use std::collections::HashMap;

use blackhole_dev::simulator::encode_word;
use blackhole_tests::{accounts::Account, client::Client, events, stack::Stack};
use serde_json::json;

/// Call ids with characters that are special in AMQP, NATS, the subject encoding or percent-encoding. The encoded form
/// of none has a plus sign but no percent sign: the edge takes such a word for an unencoded one, such as a telephone
/// number.
const UNUSUAL_IDS: [&str; 25] = [
    "a*b",
    "a>b",
    ">",
    "**",
    ".",
    "..",
    "a.b",
    "a b.",
    "=",
    "=2A",
    "a=b",
    "==",
    "%",
    "%2A",
    "%25",
    "a%b",
    "+",
    "a+b",
    "#a",
    "é",
    "\u{1f600}",
    "\u{0}",
    "a\r\nb",
    "\u{7f}\u{85}",
    "a/b\\c\"d'",
];

async fn subscribed(account: &Account, bindings: &[String]) -> Client {
    let mut client = Client::connect(&Stack::shared().edge.url("")).await;
    client.subscribe(account, &bindings.iter().map(String::as_str).collect::<Vec<_>>()).await;
    client
}

/// The call ids that arrived for each binding before the sentinel.
async fn calls_by_binding(client: &mut Client) -> HashMap<String, Vec<String>> {
    let mut calls = HashMap::<String, Vec<String>>::new();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for event in client.events_until("sentinel").await {
        calls.entry(text(&event["subscribed_key"])).or_default().push(text(&event["args"]["Call-ID"]));
    }
    calls
}

#[tokio::test]
async fn a_binding_with_an_encoded_call_id_matches_only_that_call() {
    let account = Account::fresh();
    let binding = |id: &str| format!("call.CHANNEL_CREATE.{}", encode_word(id));
    let mut bindings: Vec<String> = UNUSUAL_IDS.map(binding).into();
    bindings.push("call.PARK_PARKED.sentinel".into());
    let mut client = subscribed(&account, &bindings).await;
    let publisher = Stack::shared().publisher().await;
    for id in UNUSUAL_IDS.into_iter().chain(["x", "aab", "a-b"]) {
        events::call(&account, "CHANNEL_CREATE", id).publish(&publisher).await;
    }
    events::call(&account, "PARK_PARKED", "sentinel").publish(&publisher).await;
    let expected = UNUSUAL_IDS.map(|id| (binding(id), vec![id.to_owned()]));
    assert_eq!(calls_by_binding(&mut client).await, HashMap::from(expected));
}

#[tokio::test]
async fn a_call_id_may_be_written_unencoded_where_that_is_unambiguous() {
    let account = Account::fresh();
    let ids =
        ["a*b", "a>b", ">", "a b", "=", "=2A", "a=b", "a+b", "100%", "é", "\u{1f600}", "call@10:5060;tag=x"];
    let binding = |id: &str| format!("call.CHANNEL_CREATE.{id}");
    let mut bindings: Vec<String> = ids.map(binding).into();
    bindings.push("call.PARK_PARKED.sentinel".into());
    let mut client = subscribed(&account, &bindings).await;
    let publisher = Stack::shared().publisher().await;
    for id in ids.into_iter().chain(["aab", "x"]) {
        events::call(&account, "CHANNEL_CREATE", id).publish(&publisher).await;
    }
    events::call(&account, "PARK_PARKED", "sentinel").publish(&publisher).await;
    let expected = ids.map(|id| (binding(id), vec![id.to_owned()]));
    assert_eq!(calls_by_binding(&mut client).await, HashMap::from(expected));
}

#[tokio::test]
async fn an_unencoded_routing_key_arrives_unchanged() {
    let account = Account::fresh();
    let mut client = subscribed(&account, &["call.CHANNEL_CREATE.*".into()]).await;
    let publisher = Stack::shared().publisher().await;
    for word in [
        "",
        " ",
        "*",
        "#",
        ">",
        "a b",
        "a>b",
        "a*b",
        "=",
        "=2A",
        "é",
        "\u{1f600}",
        "\u{0}",
        "\r\nSUB > 1\r\n",
        "\"\\",
        &"x".repeat(230),
    ] {
        let key = format!("call.CHANNEL_CREATE.{word}");
        let body = events::call(&account, "CHANNEL_CREATE", word).body;
        publisher.publish("callevt", &key, body.to_string().as_bytes()).await.unwrap();
        let event = client.event().await;
        assert_eq!(event["routing_key"], format!("call.{}.CHANNEL_CREATE.{word}", account.id));
        assert_eq!(event["args"]["Call-ID"], word);
    }
}

#[tokio::test]
async fn a_routing_key_of_an_unknown_form_is_delivered_to_nobody() {
    let account = Account::fresh();
    let mut client =
        subscribed(&account, &["call.#".into(), "fax.status.#".into(), "object.*.*".into()]).await;
    let publisher = Stack::shared().publisher().await;
    let mut body = events::call(&account, "CHANNEL_CREATE", "x").body;
    body["Account-ID"] = json!(account.id);
    for (exchange, key) in [
        ("callevt", "call.CHANNEL_CREATE.a.b"),
        ("callevt", "call.CHANNEL_CREATE"),
        ("callevt", "call"),
        ("callevt", ""),
        ("callevt", "call.NO_SUCH_EVENT.x"),
        ("faxes", "call.CHANNEL_CREATE.x"),
        ("faxes", &format!("fax.status.{}", account.id)),
        ("configuration", "doc_edited.account%2F.user.x"),
        ("configuration", "doc_edited.account%2F*%2F*%2F*.user.x"),
        ("configuration", "doc_edited.*.user.x"),
    ] {
        publisher.publish(exchange, key, body.to_string().as_bytes()).await.unwrap();
    }
    events::call(&account, "CHANNEL_CREATE", "sentinel").publish(&publisher).await;
    assert_eq!(client.events_until("sentinel").await, Vec::<serde_json::Value>::new());
}
