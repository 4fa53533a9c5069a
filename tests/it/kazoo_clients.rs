//! Clients that were written for KAZOO's Blackhole, with nothing changed but the address: what they send, in their order, and
//! what they do with what comes back. `docs/migrating.md` lists them.

use std::collections::BTreeSet;

use blackhole_tests::{
    accounts::{self, Account},
    client::{Client, Incoming},
    events::{self, Event},
    stack::{Edge, Stack},
};
use serde_json::{Value, json};

/// What browsers send and these clients do not ask for. Browsers offer compression too, which the client of the tests
/// cannot read: `compression.rs` tries it with a real browser.
const SENT_BY_BROWSERS: [(&str, &str); 1] = [("origin", "https://ui.example.com")];

/// A connection to the address alone, as all of these clients open one: no path, no query, no sub-protocol.
async fn connect(edge: &Edge) -> Client {
    Client::try_connect(&format!("ws://127.0.0.1:{}", edge.port), &SENT_BY_BROWSERS).await.unwrap()
}

async fn publish(events: &[Event]) {
    let publisher = Stack::shared().publisher().await;
    for event in events {
        event.publish(&publisher).await;
    }
}

/// The texts of a list in the data of a reply. All of these clients would fail at anything else than a list.
fn texts<'r>(reply: &'r Value, list: &str) -> Vec<&'r str> {
    let list = reply["data"][list].as_array().unwrap_or_else(|| panic!("no {list}: {reply}"));
    list.iter().map(|text| text.as_str().unwrap()).collect()
}

/// Monster UI's module `socket`: what it keeps, and what it does with what it receives.
struct MonsterUi<'e> {
    edge: &'e Edge,
    client: Client,
    account: Account,
    token: String,
    last_request: u32,
    /// The bindings that have listeners.
    bound: BTreeSet<String>,
}

impl MonsterUi<'_> {
    async fn log_in(edge: &Edge, account: Account) -> MonsterUi<'_> {
        let (client, token) = (connect(edge).await, account.token());
        MonsterUi { edge, client, account, token, last_request: 0, bound: BTreeSet::new() }
    }

    /// Each request has the token that the UI has now, one binding, and an id of its own.
    async fn send(&mut self, action: &str, binding: &str) -> String {
        self.last_request += 1;
        let id = format!("{:032x}", self.last_request);
        let data = json!({ "account_id": self.account.id, "binding": binding });
        let request = json!({ "action": action, "auth_token": self.token, "request_id": id, "data": data });
        self.client.send_text(request.to_string()).await;
        id
    }

    /// The reply to a request, found by its id.
    async fn reply_to(&mut self, id: &str) -> Value {
        let reply = self.client.reply().await;
        assert_eq!((&reply["action"], &reply["request_id"]), (&json!("reply"), &json!(id)), "{reply}");
        reply
    }

    /// A listener is kept if the reply is a success.
    fn keep(&mut self, binding: &str, reply: &Value) {
        if reply["status"] == "success" {
            assert_eq!(texts(reply, "subscribed"), [binding]);
            self.bound.insert(binding.to_owned());
        }
    }

    async fn bind(&mut self, binding: &str) -> Value {
        let id = self.send("subscribe", binding).await;
        let reply = self.reply_to(&id).await;
        self.keep(binding, &reply);
        reply
    }

    /// The listener is gone before the request is sent.
    async fn unbind(&mut self, binding: &str) -> Value {
        self.bound.remove(binding);
        let id = self.send("unsubscribe", binding).await;
        self.reply_to(&id).await
    }

    /// After any close: connects, forgets its listeners, and sends all bindings before it reads the first reply. Those of which
    /// the token was refused are bound again after another login. Returns them.
    async fn reconnect(&mut self) -> Vec<String> {
        self.client = connect(self.edge).await;
        let mut sent = Vec::new();
        for binding in std::mem::take(&mut self.bound) {
            sent.push((self.send("subscribe", &binding).await, binding));
        }
        let mut refused = Vec::new();
        for (id, binding) in sent {
            let reply = self.reply_to(&id).await;
            self.keep(&binding, &reply);
            if reply["status"] == "error"
                && texts(&reply, "errors").iter().any(|text| text.starts_with("failed to authenticate token"))
            {
                refused.push(binding);
            }
        }
        refused
    }

    /// What the listeners of a binding are given next: the data of an event, found by its `subscribed_key`.
    async fn heard(&mut self) -> (String, Value) {
        loop {
            let event = self.client.event().await;
            let binding = event["subscribed_key"].as_str().unwrap();
            if self.bound.contains(binding) {
                return (binding.to_owned(), event["data"].clone());
            }
        }
    }
}

#[tokio::test]
async fn monster_ui_subscribes_binding_by_binding_and_dispatches_on_the_binding() {
    let account = Account::fresh();
    let mut ui = MonsterUi::log_in(&Stack::shared().edge, account.clone()).await;
    // The viewer of conferences, and an app with several listeners.
    let (conference, calls) = ("conference.event.*.C.*", "call.CHANNEL_CREATE.*");
    for binding in [conference, calls, "object.doc_edited.user"] {
        assert_eq!(ui.bind(binding).await["status"], "success");
    }
    publish(&[
        events::conference(&account, "add-member", "other", "x"),
        events::conference(&account, "add-member", "C", "a.b"),
        events::call(&account, "CHANNEL_CREATE", "c"),
    ])
    .await;
    let (binding, data) = ui.heard().await;
    assert_eq!((binding.as_str(), &data["event"]), (conference, &json!("add-member")));
    assert_eq!((&data["conference_id"], &data["call_id"]), (&json!("C"), &json!("a.b")));
    assert_eq!(ui.heard().await.0, calls);

    // What leaves the page is unsubscribed, also what never was subscribed.
    let reply = ui.unbind(calls).await;
    assert_eq!((&reply["status"], texts(&reply, "unsubscribed")), (&json!("success"), vec![calls]));
    let reply = ui.unbind(calls).await;
    assert_eq!((&reply["status"], texts(&reply, "unsubscribed").len()), (&json!("success"), 0));
    let reply = ui.bind("call.NO_SUCH_EVENT.*").await;
    assert_eq!(
        (&reply["status"], texts(&reply, "errors")),
        (&json!("error"), vec!["event NO_SUCH_EVENT not supported"])
    );
    publish(&[
        events::call(&account, "CHANNEL_CREATE", "d"),
        events::document(&account, "doc_edited", "user", "u"),
    ])
    .await;
    let event = ui.client.event().await;
    assert_eq!(
        (&event["subscribed_key"], &event["data"]["id"]),
        (&json!("object.doc_edited.user"), &json!("u"))
    );

    // Logging out: `close()` without a code.
    ui.client.close().await;
    assert!(matches!(ui.client.incoming().await, Incoming::Closed(_)));
}

#[tokio::test]
async fn monster_ui_logs_in_again_when_its_token_is_refused_and_loses_no_listener() {
    let account = Account::fresh();
    let mut ui = MonsterUi::log_in(&Stack::shared().edge, account.clone()).await;
    let bindings: BTreeSet<String> = ["CREATE", "ANSWER", "DESTROY", "HOLD", "UNHOLD", "BRIDGE"]
        .map(|event| format!("call.CHANNEL_{event}.*"))
        .into();
    for binding in &bindings {
        ui.bind(binding).await;
    }
    assert_eq!(ui.reconnect().await, [""; 0], "its token is still good");
    assert_eq!(ui.bound, bindings);

    ui.token = accounts::signed(&json!({ "iss": "kazoo", "account_id": account.id, "exp": 1_000_000_000 }));
    let refused = ui.reconnect().await;
    assert_eq!(BTreeSet::from_iter(refused.clone()), bindings, "each is told, on a session that stays");
    ui.token = account.token();
    for binding in refused {
        ui.bind(&binding).await;
    }
    publish(&[events::call(&account, "CHANNEL_HOLD", "c")]).await;
    assert_eq!(ui.heard().await.0, "call.CHANNEL_HOLD.*");
}

#[tokio::test]
async fn the_switchboard_shows_calls_by_device_and_disconnects_what_it_never_had() {
    let account = Account::fresh();
    let mut ui = MonsterUi::log_in(&Stack::shared().edge, account.clone()).await;
    let event = |name: &str| format!("call.{name}.*");
    for name in ["CREATE", "ANSWER", "DESTROY", "HOLD", "UNHOLD"] {
        ui.bind(&event(&format!("CHANNEL_{name}"))).await;
    }
    for name in ["CHANNEL_CREATE", "CHANNEL_HOLD", "CHANNEL_DESTROY"] {
        let mut call = events::call(&account, name, "c");
        let vars = &mut call.body["Custom-Channel-Vars"];
        (vars["Authorizing-Type"], vars["Authorizing-ID"]) = (json!("device"), json!("d"));
        call.body["To"] = "1005@harbour.example.net".into();
        publish(&[call]).await;
        let (binding, data) = ui.heard().await;
        assert_eq!((binding, &data["event_name"]), (event(name), &json!(name)));
        assert_eq!(
            (&data["call_direction"], &data["to"]),
            (&json!("inbound"), &json!("1005@harbour.example.net"))
        );
        let vars = &data["custom_channel_vars"];
        assert_eq!((&vars["authorizing_type"], &vars["authorizing_id"]), (&json!("device"), &json!("d")));
    }
    // Its button sends one request for each binding that it knows, without waiting.
    let mut sent = Vec::new();
    let parked = ["PARK_PARKED", "PARK_RETRIEVED", "PARK_ABANDONED"].map(event);
    for binding in ui.bound.clone().iter().chain(&parked) {
        sent.push((ui.send("unsubscribe", binding).await, binding.clone()));
    }
    for (id, binding) in sent {
        let reply = ui.reply_to(&id).await;
        let had: Vec<&str> = if parked.contains(&binding) { vec![] } else { vec![&binding] };
        assert_eq!((&reply["status"], texts(&reply, "unsubscribed")), (&json!("success"), had));
    }
}

/// Sends a request as it is, and returns the reply.
async fn ask(client: &mut Client, request: Value) -> Value {
    client.send_text(request.to_string()).await;
    client.reply().await
}

/// The data of a frame, which its scripts read of every frame alike, replies included.
fn data(frame: &Value) -> &Value {
    assert!(frame["data"].is_object(), "a script fails at {frame}");
    &frame["data"]
}

#[tokio::test]
async fn the_onnet_portal_watches_the_calls_of_all_accounts_without_request_ids() {
    let account = Account::fresh();
    for (token, status) in [(accounts::top_token(), "success"), (account.token(), "error")] {
        let mut client = connect(&Stack::shared().edge).await;
        for action in ["unsubscribe", "subscribe"] {
            let wanted = json!({ "account_id": "*", "binding": "call.*.*" });
            client
                .send_text(json!({ "action": action, "auth_token": token, "data": wanted }).to_string())
                .await;
        }
        // It unsubscribes what the page before may have had.
        let replies = [client.reply().await, client.reply().await];
        assert_eq!((&replies[0]["status"], &replies[1]["status"]), (&json!("success"), &json!(status)));
        assert!(replies.iter().all(|reply| data(reply).get("custom_channel_vars").is_none()));
        if status == "success" {
            let mut call = events::call(&account, "CHANNEL_ANSWER", &account.id);
            call.body["Custom-Channel-Vars"]["Account-Name"] = "Harbour Voice".into();
            publish(&[call]).await;
            let event = loop {
                // Calls of other tests arrive too.
                let event = client.event().await;
                if data(&event)["call_id"] == account.id {
                    break event;
                }
            };
            assert_eq!(data(&event)["event_name"], "CHANNEL_ANSWER");
            assert_eq!(data(&event)["custom_channel_vars"]["account_name"], "Harbour Voice");
            assert_eq!(event.get("request_id"), None);
        }
    }
}

#[tokio::test]
async fn zotonic_unsubscribes_all_and_subscribes_beside_the_action() {
    let account = Account::fresh();
    let mut client = connect(&Stack::shared().edge).await;
    let reply = ask(&mut client, json!({ "action": "unsubscribe", "auth_token": account.token() })).await;
    assert_eq!((&reply["status"], &data(&reply)["unsubscribed"]), (&json!("success"), &json!([])));
    let bindings = ["conference.event.C.*", "conference.command.C"];
    let request = json!({
        "action": "subscribe", "account_id": account.id, "auth_token": account.token(), "bindings": bindings,
    });
    let reply = ask(&mut client, request).await;
    assert_eq!((&reply["status"], &data(&reply)["subscribed"]), (&json!("success"), &json!(bindings)));
    publish(&[
        events::conference(&account, "start-talking", "C", "a"),
        events::conference_command(&account, "C"),
    ])
    .await;
    assert_eq!(data(&client.event().await)["event"], "start-talking");
    assert_eq!(data(&client.event().await)["application_name"], "mute_participant");
}

#[tokio::test]
async fn a_client_of_the_documentation_page_reads_the_reply_first_and_then_documents() {
    let account = Account::fresh();
    let mut client = connect(&Stack::shared().edge).await;
    let binding = "object.doc_created.user";
    let request = json!({
        "action": "subscribe", "auth_token": account.token(), "request_id": account.id,
        "data": { "account_id": account.id, "binding": binding },
    });
    // One of its programs subscribes three times, to be sure.
    for _ in 0..3 {
        client.send_text(request.to_string()).await;
    }
    for _ in 0..3 {
        let reply = client.frame().await;
        assert_eq!((&reply["action"], &reply["status"]), (&json!("reply"), &json!("success")));
        assert_eq!(
            (&reply["request_id"], texts(&reply, "subscriptions")),
            (&json!(account.id), vec![binding])
        );
    }
    let mut created = events::document(&account, "doc_created", "user", "u");
    created.body["Account-ID"] = account.id.clone().into();
    publish(&[created, events::document(&account, "doc_created", "user", "last")]).await;
    let (event, last) = (client.event().await, client.event().await);
    let data = data(&event);
    assert_eq!(
        (&data["type"], &data["id"], &data["account_id"]),
        (&json!("user"), &json!("u"), &json!(account.id))
    );
    assert_eq!(event["request_id"], account.id, "as the page says");
    assert_eq!(
        (&event["name"], &event["args"]["ID"]),
        (&json!("doc_created"), &json!("u")),
        "as the page shows it"
    );
    assert_eq!(last["data"]["id"], "last", "each arrives once");
}

/// An event of KAZOO's call centre, with 4.3's routing key or with 5's.
fn queue(account: &Account, id: &str, event: Option<&str>) -> Event {
    let end = event.map_or(String::new(), |event| format!(".{event}"));
    let members = json!({
        "Event-Category": "qubicle-queue", "Account-ID": account.id, "Queue-ID": id,
        "Active-Recipient-Count": 3, "Event-Unix-Timestamp": 1_603_829_149,
    });
    events::any("qubicle", format!("qubicle.queue.{}.{id}{end}", account.id), "sync", members)
}

#[tokio::test]
async fn a_page_of_queues_has_the_bare_names_of_both_releases() {
    let account = Account::fresh();
    let mut client = connect(&Stack::shared().edge).await;
    let request = |action: &str, binding: &str| {
        let data = json!({ "account_id": account.id, "binding": binding });
        json!({ "action": action, "auth_token": account.token(), "data": data })
    };
    for (action, binding) in [
        ("subscribe", "qubicle.recipient"),
        ("unsubscribe", "qubicle.recipient"),
        ("subscribe", "qubicle.recipient"),
        ("subscribe", "qubicle.session"),
        ("subscribe", "qubicle.queue"),
    ] {
        let reply = ask(&mut client, request(action, binding)).await;
        assert_eq!(reply["status"], "success", "{reply}");
        assert_eq!(data(&reply).get("queue_id"), None);
    }
    // A module of 2600Hz's own: where it is not installed, the page goes on without it.
    let reply = ask(&mut client, request("subscribe", "dashboard.callcenter_pro")).await;
    assert_eq!(texts(&reply, "errors"), ["no available subscriptions to requested binding"]);

    for (id, event) in [("q43", None), ("q5", Some("sync"))] {
        publish(&[queue(&account, id, event)]).await;
        let frame = client.event().await;
        assert_eq!((&frame["subscribed_key"], &frame["name"]), (&json!("qubicle.queue"), &json!("sync")));
        let key = format!("qubicle.queue.{}.{id}{}", account.id, event.map_or("", |_| ".sync"));
        assert_eq!(frame["routing_key"], key);
        let data = data(&frame);
        assert_eq!((&data["queue_id"], &data["active_recipient_count"]), (&json!(id), &json!(3)));
        assert_eq!(data["event_unix_timestamp"], 1_603_829_149);
    }
}

#[tokio::test]
async fn clients_of_kazoo_4_0_say_everything_beside_the_action() {
    let account = Account::fresh();
    let mut client = connect(&Stack::shared().edge).await;
    let request = |action: &str, binding: &str| json!({ "action": action, "account_id": account.id, "auth_token": account.token(), "binding": binding });
    let reply = ask(&mut client, request("subscribe", "conference.event.*.*")).await;
    assert_eq!(texts(&reply, "errors"), ["ConferenceId required"]);
    for binding in ["call.CHANNEL_CREATE.*", "fax.status.*"] {
        let reply = ask(&mut client, request("subscribe", binding)).await;
        assert_eq!(texts(&reply, "subscribed"), [binding]);
    }
    let reply = ask(&mut client, request("unsubscribe", "call.CHANNEL_CREATE.*")).await;
    assert_eq!(texts(&reply, "unsubscribed"), ["call.CHANNEL_CREATE.*"]);
    publish(&[events::call(&account, "CHANNEL_CREATE", "c"), events::fax(&account, "f")]).await;
    assert_eq!(client.event().await["args"]["Job-ID"], "f");
}
