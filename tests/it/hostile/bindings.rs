//! Bindings and account ids that try to reach other accounts. Events of another account and of nobody are published,
//! then a sentinel of the session's own account: only the sentinel may arrive.

use blackhole_dev::simulator::{Publisher, account_database};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events,
    stack::Stack,
};
use serde_json::{Value, json};

use super::Neighbour;

const NO_FAMILY: &str = "no available subscriptions to requested binding";
const NOT_LAST: &str = "invalid binding : `#` is only possible as the last word";
const CONFERENCE: &str = "ConferenceId required";
const TOO_LONG: &str = "binding is longer than 255 bytes";
const OTHER_DATABASE: &str = "invalid binding : the database is not one of the account's";

/// Bindings and the errors they are refused with. `VICTIM` is replaced by another account's id.
const REFUSED: [(&str, &str); 47] = [
    ("", "empty subscription"),
    (" ", NO_FAMILY),
    (".", NO_FAMILY),
    ("..", NO_FAMILY),
    ("*", NO_FAMILY),
    ("#", NO_FAMILY),
    (">", NO_FAMILY),
    ("*.>", NO_FAMILY),
    ("#.#", NO_FAMILY),
    ("*.*.*", NO_FAMILY),
    ("*.*.*.*", NO_FAMILY),
    ("=2A", NO_FAMILY),
    ("=2A.=2A.=2A", NO_FAMILY),
    ("CALL.*.*", NO_FAMILY),
    (" call.*.*", NO_FAMILY),
    (".call.*.*", NO_FAMILY),
    ("VICTIM.call.*.*", NO_FAMILY),
    ("blackhole.v1.event.>", NO_FAMILY),
    ("blackhole.v1.event.VICTIM.call.*.*", NO_FAMILY),
    ("blackhole.v1.auth.check", NO_FAMILY),
    ("_INBOX.>", NO_FAMILY),
    ("$JS.API.>", NO_FAMILY),
    ("$JS.API.STREAM.INFO.BLACKHOLE_V1", NO_FAMILY),
    ("$SYS.>", NO_FAMILY),
    ("$SRV.PING", NO_FAMILY),
    ("cäll.*.*", NO_FAMILY),
    ("\u{0}", NO_FAMILY),
    ("*.accounts.account.*", NO_FAMILY),
    ("call.>", "invalid format for call subscription : call.>"),
    ("call.>.*", "event > not supported"),
    ("call.=2A.*", "event =2A not supported"),
    ("call.channel_create.*", "event channel_create not supported"),
    ("call.#.*", NOT_LAST),
    ("call.*.*.*", "invalid format for call subscription : call.*.*.*"),
    ("call.*.*.>", "invalid format for call subscription : call.*.*.>"),
    ("call.*.", "invalid format for call subscription : call.*."),
    ("call.VICTIM.*.*", "invalid format for call subscription : call.VICTIM.*.*"),
    ("call.*.\u{0}", "invalid format for call subscription : call.*.\u{0}"),
    ("call.*.a\r\nSUB > 1\r\n", "invalid format for call subscription : call.*.a\r\nSUB > 1\r\n"),
    (
        "conference.event.*.VICTIM.*.*",
        "invalid format for conference subscription : conference.event.*.VICTIM.*.*",
    ),
    ("conference.event.*.*", CONFERENCE),
    ("conference.command.*", CONFERENCE),
    ("conference.command.#", CONFERENCE),
    ("doc_edited.accounts.account.*", OTHER_DATABASE),
    ("doc_edited.system_config.*.*", OTHER_DATABASE),
    ("doc_edited.DATABASE.*.*", OTHER_DATABASE),
    ("doc_edited.>.*.*", OTHER_DATABASE),
];

/// Accepted bindings: words that are not wildcards are matched literally, within the own account.
const ACCEPTED: [&str; 16] = [
    "call.*.>",
    "call.*.=2A",
    "call.*.%2A",
    "call.*.%3E",
    "call.*.%00",
    "call.*.VICTIM",
    "call.*.*%2E*",
    "call.*.\u{202e}ünïcödé\u{1f600}",
    "call.*.a SUB > 1",
    "conference.event.VICTIM.*",
    "conference.event.*.VICTIM.*",
    "conference.event.*.>.*",
    "conference.command.>",
    "fax.status.VICTIM",
    "fax.status.>",
    "doc_edited.*.*.VICTIM",
];

/// Publishes events of the victim and of nobody.
async fn publish_events_of_others(victim: &Account, publisher: &Publisher) {
    let nobody = Account { id: String::new(), realm: String::new() };
    let month = format!("{}-202611", account_database(&victim.id));
    for event in [
        events::call(victim, "CHANNEL_CREATE", &victim.id),
        events::call(victim, "CHANNEL_CREATE", ">"),
        events::call_of_realm(&victim.realm, "CHANNEL_DESTROY", "x"),
        events::call(&nobody, "CHANNEL_CREATE", "x"),
        events::conference(victim, "add-member", &victim.id, "x"),
        events::conference_command(victim, ">"),
        events::conference_command(victim, &victim.id),
        events::document(victim, "doc_edited", "user", "x"),
        events::document_in(&month, "doc_created", "fax", "x"),
        events::document_in("accounts", "doc_edited", "account", &victim.id),
        events::document_in("system_config", "doc_edited", "account", "x"),
        events::fax(victim, &victim.id),
        events::fax(victim, ">"),
    ] {
        event.publish(publisher).await;
    }
}

/// Publishes events of others, then a sentinel of the session's own account; asserts that only the sentinel arrives.
async fn only_the_sentinel_arrives(client: &mut Client, own: &Account, victim: &Account) {
    client.subscribe(own, &["call.PARK_PARKED.sentinel"]).await;
    let publisher = Stack::shared().publisher().await;
    publish_events_of_others(victim, &publisher).await;
    events::call(own, "PARK_PARKED", "sentinel").publish(&publisher).await;
    let before = client.events_until("sentinel").await;
    assert!(before.is_empty(), "{before:?}");
}

async fn subscribe(client: &mut Client, account_id: Option<&str>, binding: &str) -> Value {
    let mut data = json!({ "binding": binding });
    if let Some(account_id) = account_id {
        data["account_id"] = json!(account_id);
    }
    client.request(json!({ "action": "subscribe", "data": data })).await
}

fn naming(victim: &Account, text: &str) -> String {
    text.replace("VICTIM", &victim.id).replace("DATABASE", &account_database(&victim.id))
}

/// An authenticated session.
async fn session_of(account: &Account) -> Client {
    let mut client = Client::connect(&Stack::shared().edge.url("")).await;
    client.request(json!({ "action": "ping", "auth_token": account.token() })).await;
    client
}

#[tokio::test]
async fn an_invalid_binding_is_refused_with_its_reason() {
    let (own, victim) = (Account::fresh(), Account::fresh());
    let mut neighbour = Neighbour::on(&Stack::shared().edge).await;
    let mut client = session_of(&own).await;
    for (binding, expected) in REFUSED {
        let reply = subscribe(&mut client, None, &naming(&victim, binding)).await;
        assert_eq!(reply["data"]["errors"][0], naming(&victim, expected), "{binding:?}: {reply}");
    }
    let endless = format!("call.*.{}", "x".repeat(250));
    let reply = subscribe(&mut client, None, &endless).await;
    assert_eq!(reply["data"]["errors"][0], TOO_LONG);
    only_the_sentinel_arrives(&mut client, &own, &victim).await;
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn a_binding_with_unusual_words_stays_within_the_account() {
    let (own, victim) = (Account::fresh(), Account::fresh());
    let mut neighbour = Neighbour::on(&Stack::shared().edge).await;
    let mut client = session_of(&own).await;
    for binding in ACCEPTED {
        let binding = naming(&victim, binding);
        let reply = subscribe(&mut client, None, &binding).await;
        assert_eq!(reply["data"]["subscribed"], json!([binding]), "{reply}");
    }
    only_the_sentinel_arrives(&mut client, &own, &victim).await;
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn the_widest_bindings_stay_within_the_account() {
    let (own, victim) = (Account::fresh(), Account::fresh());
    let mut client = session_of(&own).await;
    for binding in [
        "call.#",
        "fax.status.#",
        "object.*.*",
        "object.#",
        "doc_edited.*.*.*",
        "doc_edited.#",
        "doc_created.#",
    ] {
        let reply = subscribe(&mut client, Some(&own.id), binding).await;
        assert_eq!(reply["status"], "success", "{reply}");
    }
    only_the_sentinel_arrives(&mut client, &own, &victim).await;
}

#[tokio::test]
async fn an_account_id_that_is_not_granted_is_refused() {
    let (own, victim) = (Account::fresh(), Account::fresh());
    let mut neighbour = Neighbour::on(&Stack::shared().edge).await;
    let mut client = session_of(&own).await;
    let (id, realm) = (&victim.id, &victim.realm);
    for account_id in [
        id.clone(),
        realm.clone(),
        format!("@{realm}"),
        format!("{}.{id}", own.id),
        format!("{}.>", own.id),
        format!("{}\u{0}", own.id),
        format!("{}\r\nSUB > 1\r\n", own.id),
        own.id.to_uppercase(),
        format!("../{id}"),
        account_database(id),
        accounts::TOP.to_owned(),
        accounts::DISABLED.to_owned(),
    ]
    .iter()
    .map(String::as_str)
    .chain([
        ">",
        "#",
        "*.>",
        "**",
        "_",
        "@",
        "=",
        "=2A",
        "=5F",
        "%2A",
        " ",
        ".",
        "accounts",
        "$JS.API.>",
        "_INBOX.>",
        "\u{0}",
        "＊",
        "é",
    ]) {
        let reply = subscribe(&mut client, Some(account_id), "call.*.*").await;
        assert_eq!(reply["data"]["errors"], json!(["unauthorized account id"]), "{account_id:?}: {reply}");
    }
    let reply = subscribe(&mut client, Some("*"), "call.*.*").await;
    assert_eq!(reply["data"]["errors"], json!(["unauthorized wildcard account id"]));
    for account_id in ["".to_owned(), "x".repeat(257)] {
        let reply = subscribe(&mut client, Some(&account_id), "call.*.*").await;
        assert_eq!(reply["data"]["errors"], json!(["invalid account_id : must have 1 to 256 bytes"]));
    }
    only_the_sentinel_arrives(&mut client, &own, &victim).await;
    neighbour.still_gets_events().await;
}

#[tokio::test]
async fn the_account_id_of_a_token_is_not_a_pattern() {
    let victim = Account::fresh();
    for account_id in ["*", ">", "_", "", "*.>", &format!("{}.>", victim.id), &victim.id.to_uppercase()] {
        // A few refused tokens close a session.
        let mut client = Client::connect(&Stack::shared().edge.url("")).await;
        let token = accounts::token(account_id, std::time::Duration::from_secs(60));
        let data = json!({ "binding": "call.*.*" });
        let reply = client.request(json!({ "action": "subscribe", "auth_token": token, "data": data })).await;
        let error = reply["data"]["errors"][0].as_str().unwrap();
        assert!(error.starts_with("failed to authenticate token "), "{account_id:?}: {reply}");
    }
}

#[tokio::test]
async fn a_request_id_of_any_text_is_returned_unchanged() {
    let own = Account::fresh();
    let mut client = session_of(&own).await;
    let id = "\"},{\"\\ \u{0}\r\nPUB x 1\r\nÿ\u{2028}\u{1f600}";
    let data = json!({ "binding": "call.*.*", "name": id, "metadata": { id: [id] } });
    let reply = client.request(json!({ "action": "subscribe", "request_id": id, "data": data })).await;
    assert_eq!(reply["status"], "success", "{reply}");
    events::call(&own, "CHANNEL_CREATE", "x").publish(&Stack::shared().publisher().await).await;
    assert_eq!(client.event().await["request_id"], id);
}
