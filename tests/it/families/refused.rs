//! Refused bindings with their errors, family by family. A refused request binds nothing.

use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events,
    stack::Stack,
};
use serde_json::json;

const REFUSED: &[(&str, &str)] = &[
    ("call", "invalid format for call subscription : call"),
    ("call.CHANNEL_CREATE", "invalid format for call subscription : call.CHANNEL_CREATE"),
    ("call.CHANNEL_CREATE.a.b", "invalid format for call subscription : call.CHANNEL_CREATE.a.b"),
    ("call.CHANNEL_PARTY.*", "event CHANNEL_PARTY not supported"),
    ("call.#.x", "invalid binding : `#` is only possible as the last word"),
    ("conference.event.*.*", "ConferenceId required"),
    ("conference.event.add-member.*.*", "ConferenceId required"),
    ("conference.event.#", "ConferenceId required"),
    ("conference.command.*", "ConferenceId required"),
    ("conference.command", "invalid format for conference subscription : conference.command"),
    ("conference.config.x", "invalid format for conference subscription : conference.config.x"),
    ("object.doc_read.user", "action doc_read not supported"),
    ("object.doc_edited.secret", "type secret not supported"),
    ("object.doc_edited", "invalid format for object subscription : object.doc_edited"),
    ("doc_edited.*.secret.*", "type secret not supported"),
    ("doc_edited.*.user", "invalid format for object subscription : doc_edited.*.user"),
    ("doc_read.*.user.*", "no available subscriptions to requested binding"),
    ("fax.status", "invalid format for fax subscription : fax.status"),
    ("fax.state.x", "invalid format for fax subscription : fax.state.x"),
    ("fax.object.doc_read", "action doc_read not supported"),
    ("presence.dialog", "invalid format for presence subscription : presence.dialog"),
    ("presence.probe.x", "event probe not supported"),
    ("presence.dialog.a.b", "invalid format for presence subscription : presence.dialog.a.b"),
    ("conference.event.C.*.dance", "Unsupported conference event dance"),
    ("conference.event.*.*.add-member", "ConferenceId required"),
    ("doc_edited.accounts.user.*", "invalid binding : the database is not one of the account's"),
    ("dialog.x.y", "invalid format for dialog subscription : dialog.x.y"),
    ("stream.pause.x", "event pause not supported"),
    ("stream.start", "invalid format for stream subscription : stream.start"),
    ("live.conference.dance.x", "event dance not supported"),
    ("live.party.chat.x", "invalid format for live subscription : live.party.chat.x"),
    ("relay", "invalid format for relay subscription : relay"),
    ("relay.chat.somebody", "invalid format for relay subscription : relay.chat.somebody"),
    ("qubicle.agent.x.y", "kind agent not supported"),
    ("qubicle.session.x", "invalid format for qubicle subscription : qubicle.session.x"),
    ("notifications.voicemail", "invalid format for notifications subscription : notifications.voicemail"),
    ("", "empty subscription"),
    ("#", "no available subscriptions to requested binding"),
    ("pivot.stream.start.*.*", "no available subscriptions to requested binding"),
    ("registration.success.*", "no available subscriptions to requested binding"),
];

#[tokio::test]
async fn each_family_refuses_unsupported_bindings_with_its_reason() {
    let stack = Stack::shared();
    // More requests than the default burst.
    let edge = stack.another_edge("edge-refusals", &[("WS__RATE__BURST", "1000")]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&edge.url("")).await;
    client.subscribe(&account, &["fax.status.*"]).await;
    for (binding, expected) in REFUSED {
        let data = json!({ "account_id": account.id, "bindings": ["call.*.*", binding] });
        let reply = client.request(json!({ "action": "subscribe", "data": data })).await;
        assert_eq!(reply["data"], json!({ "errors": [expected] }), "{binding}");
    }
    // The call binding in each refused request is not subscribed either.
    let publisher = stack.publisher().await;
    events::call(&account, "CHANNEL_CREATE", "x").publish(&publisher).await;
    events::fax(&account, "sentinel").publish(&publisher).await;
    assert_eq!(client.events_until("sentinel").await, [json!(null); 0]);
}

#[tokio::test]
async fn superduper_admins_may_subscribe_to_all_conferences() {
    let mut client = Client::connect(&Stack::shared().edge.url("")).await;
    for binding in ["conference.event.*.*.*", "conference.event.add-member.#", "conference.command.*"] {
        client.subscribe_with(&accounts::top_token(), "*", &[binding]).await;
    }
    // The form of KAZOO 4.3 always requires a conference id, and `#` could be that form.
    for binding in ["conference.event.*.*", "conference.event.#"] {
        let data = json!({ "account_id": "*", "binding": binding });
        let reply = client.request(json!({ "action": "subscribe", "data": data })).await;
        assert_eq!(reply["data"], json!({ "errors": ["ConferenceId required"] }), "{binding}");
    }
}
