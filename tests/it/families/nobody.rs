//! Events that name neither an account nor a realm belong to nobody. They reach only superduper admins who subscribe to
//! all accounts.

use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events::{self, Event},
    stack::Stack,
};
use serde_json::json;

use super::{numbered, numbers};

const BINDINGS: &[&str] = &[
    "call.*.*",
    "conference.command.*",
    "object.*.*",
    "fax.object.*",
    "presence.dialog.*",
    "notifications.*.*",
    "fax.status.*",
];

/// Events of nobody; each contains `mark`.
fn of_nobody(mark: &str) -> Vec<Event> {
    let mut call = events::call_of_realm("", "CHANNEL_CREATE", mark);
    call.body["Custom-Channel-Vars"] = json!({});
    let mut wrong_types = events::call_of_realm("", "CHANNEL_CREATE", mark);
    wrong_types.body["Custom-Channel-Vars"] = json!({ "Account-ID": 7, "Realm": ["x"] });
    wrong_types.body["To"] = json!("no address");
    wrong_types.body["Odd"] = json!(true);
    vec![
        call,
        wrong_types,
        events::any("conference", format!("conference.command.{mark}"), "command", json!({})),
        events::document_in("accounts", "doc_edited", "account", mark),
        events::document_in("system_media", "doc_created", "media", mark),
        events::document_in("account%2F4b%2F31", "doc_edited", "user", mark),
        events::document_in("faxes", "doc_created", "fax", mark),
        events::any("presence", format!("dialog..{mark}"), "dialog", json!({})),
        events::any("notifications", format!("notifications.system.{mark}"), "alert", json!({})),
        events::any(
            "notifications",
            format!("notifications.null.{mark}"),
            "alert",
            json!({ "Account-ID": null }),
        ),
        events::any("faxes", format!("fax.status..{mark}"), "status", json!({})),
    ]
}

#[tokio::test]
async fn events_without_an_account_reach_only_superduper_admins_subscribed_to_all_accounts() {
    let stack = Stack::shared();
    let mine = Account::fresh();
    let top = Account { id: accounts::TOP.into(), realm: "top.example.com".into() };
    let mark = format!("nobodys-{:x}", rand::random::<u64>());
    let mut all = Client::connect(&stack.edge.url("")).await;
    all.subscribe_with(&accounts::top_token(), "*", BINDINGS).await;
    let mut of_top = Client::connect(&stack.edge.url("")).await;
    of_top.subscribe_with(&accounts::top_token(), &top.id, BINDINGS).await;
    let mut of_mine = Client::connect(&stack.edge.url("")).await;
    let bindings: Vec<&str> =
        BINDINGS.iter().copied().filter(|binding| *binding != "conference.command.*").collect();
    of_mine.subscribe(&mine, &bindings).await;

    let publisher = stack.publisher().await;
    for (number, event) in of_nobody(&mark).iter().enumerate() {
        numbered(event, number).publish(&publisher).await;
    }
    let sentinel = format!("sentinel-{mark}");
    for account in [&mine, &top] {
        events::fax(account, &sentinel).publish(&publisher).await;
    }
    // The sentinel contains the mark too.
    let is_ours = |event: &serde_json::Value| event["routing_key"].as_str().unwrap().contains(&mark);

    for client in [&mut of_mine, &mut of_top] {
        let mut got = client.events_until(&sentinel).await;
        got.retain(is_ours);
        assert_eq!(got, [json!(null); 0]);
    }
    let mut got = all.events_until(&sentinel).await;
    got.retain(is_ours);
    // A fax document is delivered twice: for the document and for the fax binding.
    let mut received = numbers(&got);
    received.dedup();
    assert_eq!(received, (0..of_nobody(&mark).len() as u64).collect::<Vec<_>>());
    let twice: Vec<&str> = got
        .iter()
        .filter(|event| event["args"]["Number"] == 6)
        .map(|event| event["subscribed_key"].as_str().unwrap())
        .collect();
    assert_eq!(twice.len(), 2, "{twice:?}");
    assert_eq!(got.len(), of_nobody(&mark).len() + 1);
}

#[tokio::test]
async fn an_account_named_like_another_ones_realm_or_id_gets_none_of_its_events() {
    let (mine, other) = (Account::fresh(), Account::fresh());
    let published = [
        // A realm that equals the account's id.
        events::call_of_realm(&mine.id, "CHANNEL_CREATE", "x"),
        events::any("presence", format!("dialog.{}.x", mine.id), "dialog", json!({})),
        // An account id that equals the realm.
        events::call(&Account { id: mine.realm.clone(), realm: other.realm.clone() }, "CHANNEL_CREATE", "x"),
        events::call(&Account { id: "*".into(), realm: mine.realm.clone() }, "CHANNEL_CREATE", "x"),
        events::call(&Account { id: "_".into(), realm: mine.realm.clone() }, "CHANNEL_CREATE", "x"),
        events::call(&mine, "CHANNEL_CREATE", "x"),
    ];
    super::expect(&mine, "call.*.*", &published, &[&published[5]]).await;
    super::expect(&mine, "presence.dialog.*", &published, &[]).await;
}
