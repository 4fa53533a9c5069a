//! The WebSocket protocol, case by case, as `docs/protocol.md` describes it.

use std::time::{Duration, Instant};

use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::{Client, Incoming},
    events, soon,
    stack::Stack,
};
use serde_json::{Value, json};

async fn connect() -> Client {
    Client::connect(&Stack::shared().edge.url("")).await
}

fn error(reply: &Value) -> &str {
    assert_eq!(reply["status"], "error", "{reply}");
    assert_eq!(reply["action"], "reply");
    reply["data"]["errors"][0].as_str().unwrap()
}

#[tokio::test]
async fn an_event_frame_has_the_body_as_published_and_normalized() {
    let account = Account::fresh();
    let mut client = connect().await;
    let mut reply = client.subscribe(&account, &["call.CHANNEL_CREATE.*"]).await;
    assert!(reply["data"].as_object_mut().unwrap().remove("cursor").is_some_and(|cursor| cursor.is_string()));
    assert_eq!(
        reply["data"],
        json!({ "subscribed": ["call.CHANNEL_CREATE.*"], "subscriptions": ["call.CHANNEL_CREATE.*"] })
    );

    let event = events::call(&account, "CHANNEL_CREATE", "1f3c9a.77e2@10.0.4.17");
    event.publish(&Stack::shared().publisher().await).await;
    let frame = client.event().await;
    let key = "CHANNEL_CREATE.1f3c9a%2E77e2%4010%2E0%2E4%2E17";
    assert_eq!(frame["name"], "CHANNEL_CREATE");
    assert_eq!(frame["subscribed_key"], "call.CHANNEL_CREATE.*");
    assert_eq!(frame["subscription_key"], format!("call.{}.CHANNEL_CREATE.*", account.id));
    assert_eq!(frame["routing_key"], format!("call.{}.{key}", account.id));
    assert_eq!(frame["args"], event.body, "the body as it was published");
    assert_eq!(frame["data"]["custom_channel_vars"]["account_id"], account.id);
    assert_eq!(frame["data"]["caller_id_name"], "Zoë Ångström");
    assert_eq!(frame["data"].get("server_id"), None, "transport headers are removed");
    assert_eq!(frame["data"].get("media_server"), None, "nulls are removed");
}

#[tokio::test]
async fn the_query_chooses_the_view() {
    let account = Account::fresh();
    let stack = Stack::shared();
    let publisher = stack.publisher().await;
    for (query, args, data) in [
        ("view=args", true, false),
        ("view=data", false, true),
        ("view=both", true, true),
        ("x=y", true, true),
    ] {
        let mut client = Client::connect(&stack.edge.url(query)).await;
        client.subscribe(&account, &["call.*.*"]).await;
        events::call(&account, "CHANNEL_ANSWER", "c").publish(&publisher).await;
        let frame = client.event().await;
        assert_eq!(
            (frame.get("args").is_some(), frame.get("data").is_some()),
            (args, data),
            "{query}: {frame}"
        );
    }
}

#[tokio::test]
async fn binding_takes_precedence_over_bindings() {
    let account = Account::fresh();
    let mut client = connect().await;
    let data = json!({ "binding": "fax.status.*", "bindings": ["call.*.*", "object.*.user"] });
    let reply =
        client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await;
    assert_eq!(reply["data"]["subscribed"], json!(["fax.status.*"]));
}

#[tokio::test]
async fn the_account_defaults_to_that_of_the_token() {
    let account = Account::fresh();
    let mut client = connect().await;
    let data = json!({ "binding": "call.*.*" });
    client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await;
    events::call(&account, "CHANNEL_CREATE", "mine").publish(&Stack::shared().publisher().await).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "mine");
}

#[tokio::test]
async fn a_parent_may_subscribe_to_its_child_but_not_the_reverse() {
    let AccountPair { parent, child } = AccountPair::fresh();
    let stranger = Account::fresh();
    let mut client = connect().await;
    client.subscribe_with(&parent.token(), &child.id, &["call.*.*"]).await;
    events::call(&child, "CHANNEL_CREATE", "of-the-child").publish(&Stack::shared().publisher().await).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "of-the-child");

    for (token, account_id) in [
        (child.token(), parent.id.as_str()),
        (stranger.token(), child.id.as_str()),
        (parent.token(), "unknown"),
        (parent.token(), accounts::DISABLED),
        (accounts::top_token(), accounts::DISABLED),
    ] {
        let mut client = connect().await;
        let data = json!({ "account_id": account_id, "binding": "call.*.*" });
        let reply = client.request(json!({ "action": "subscribe", "auth_token": token, "data": data })).await;
        assert_eq!(error(&reply), "unauthorized account id", "{account_id}");
    }
}

#[tokio::test]
async fn only_superduper_admins_may_subscribe_to_all_accounts() {
    let account = Account::fresh();
    let subscribe = |token| {
        let data = json!({ "account_id": "*", "binding": "call.CHANNEL_CREATE.*" });
        json!({ "action": "subscribe", "auth_token": token, "data": data })
    };
    let mut client = connect().await;
    let reply = client.request(subscribe(account.token())).await;
    assert_eq!(error(&reply), "unauthorized wildcard account id");

    let mut client = connect().await;
    assert_eq!(client.request(subscribe(accounts::top_token())).await["status"], "success");
    let call_id = format!("of-{}", account.id);
    events::call(&account, "CHANNEL_CREATE", &call_id).publish(&Stack::shared().publisher().await).await;
    let frame = loop {
        // Events of other tests arrive too.
        let frame = client.event().await;
        if frame["args"]["Call-ID"] == call_id {
            break frame;
        }
    };
    assert_eq!(frame["subscription_key"], "call.*.CHANNEL_CREATE.*");
    assert_eq!(frame["routing_key"], format!("call.{}.CHANNEL_CREATE.{call_id}", account.id));
}

#[tokio::test]
async fn one_several_or_all_bindings_can_be_unsubscribed() {
    let account = Account::fresh();
    let mut client = connect().await;
    client.subscribe(&account, &["call.*.*", "fax.status.*", "object.*.user", "doc_edited.*.user.*"]).await;
    let reply = client
        .request(
            json!({ "action": "unsubscribe", "data": { "account_id": account.id, "binding": "call.*.*" } }),
        )
        .await;
    assert_eq!(reply["data"]["unsubscribed"], json!(["call.*.*"]));
    assert_eq!(reply["data"]["subscribed"], json!(["fax.status.*", "object.*.user", "doc_edited.*.user.*"]));
    assert_eq!(reply["data"]["subscriptions"], reply["data"]["subscribed"]);

    let publisher = Stack::shared().publisher().await;
    events::call(&account, "CHANNEL_CREATE", "gone").publish(&publisher).await;
    events::fax(&account, "still-there").publish(&publisher).await;
    assert_eq!(client.event().await["args"]["Job-ID"], "still-there");

    let several =
        json!({ "action": "unsubscribe", "data": { "bindings": ["fax.status.*", "object.*.user"] } });
    let reply = client.request(several).await;
    assert_eq!(reply["data"]["subscriptions"], json!(["doc_edited.*.user.*"]));
    let reply = client.request(json!({ "action": "unsubscribe", "auth_token": account.token() })).await;
    assert_eq!(reply["data"]["unsubscribed"], json!(["doc_edited.*.user.*"]));
    assert_eq!(reply["data"]["subscriptions"], json!([]));
}

#[tokio::test]
async fn unsubscribing_an_unknown_binding_succeeds() {
    let account = Account::fresh();
    let mut client = connect().await;
    for binding in ["call.*.*", "no.such.family"] {
        let data = json!({ "account_id": account.id, "binding": binding });
        let reply = client
            .request(json!({ "action": "unsubscribe", "auth_token": account.token(), "data": data }))
            .await;
        assert_eq!(reply["status"], "success", "{reply}");
        assert_eq!(reply["data"]["unsubscribed"], json!([]));
    }
}

#[tokio::test]
async fn a_ping_is_answered() {
    let mut client = connect().await;
    let reply = client.request(json!({ "action": "ping", "auth_token": Account::fresh().token() })).await;
    assert_eq!(reply["data"], json!({ "response": "pong" }));
}

#[tokio::test]
async fn replies_and_events_carry_the_request_id() {
    let account = Account::fresh();
    let publisher = Stack::shared().publisher().await;
    let mut client = connect().await;
    let subscribe = |id: Option<Value>| {
        let mut request = json!({ "action": "subscribe", "auth_token": account.token(), "data": { "binding": "call.*.*" } });
        if let Some(id) = id {
            request["request_id"] = id;
        }
        request.to_string()
    };
    client.send_text(subscribe(None)).await;
    assert!(client.reply().await["request_id"].as_str().is_some_and(|id| !id.is_empty()), "one is generated");
    events::call(&account, "CHANNEL_CREATE", "1").publish(&publisher).await;
    assert_eq!(client.event().await.get("request_id"), None);

    // Subscribing again: events carry the id of the newer request, and arrive once.
    for id in [json!("a \"quoted\" id"), json!(42)] {
        client.send_text(subscribe(Some(id.clone()))).await;
        let reply = client.reply().await;
        assert_eq!(reply["request_id"], id);
        assert_eq!(reply["data"]["subscriptions"], json!(["call.*.*"]));
        events::call(&account, "CHANNEL_CREATE", "2").publish(&publisher).await;
        events::call(&account, "CHANNEL_DESTROY", "2").publish(&publisher).await;
        let (create, destroy) = (client.event().await, client.event().await);
        assert_eq!((&create["request_id"], &create["name"]), (&id, &json!("CHANNEL_CREATE")));
        assert_eq!((&destroy["request_id"], &destroy["name"]), (&id, &json!("CHANNEL_DESTROY")));
    }
}

#[tokio::test]
async fn a_subscribe_request_is_all_or_nothing() {
    let account = Account::fresh();
    let mut client = connect().await;
    let data = json!({ "bindings": ["call.*.*", "call.NO_SUCH_EVENT.*"] });
    let reply =
        client.request(json!({ "action": "subscribe", "auth_token": account.token(), "data": data })).await;
    assert_eq!(error(&reply), "event NO_SUCH_EVENT not supported");
    let reply = client.request(json!({ "action": "unsubscribe" })).await;
    assert_eq!(reply["data"]["unsubscribed"], json!([]));
}

#[tokio::test]
async fn a_session_needs_the_token_only_once() {
    let account = Account::fresh();
    let mut client = connect().await;
    for request in
        [json!({ "action": "ping" }), json!({ "action": "subscribe", "data": { "binding": "call.*.*" } })]
    {
        assert_eq!(error(&client.request(request).await), "authentication token required");
    }
    client.subscribe(&account, &["call.*.*"]).await;
    let reply = client.request(json!({ "action": "subscribe", "data": { "binding": "fax.status.*" } })).await;
    assert_eq!(reply["data"]["subscriptions"], json!(["call.*.*", "fax.status.*"]));
}

#[tokio::test]
async fn bad_tokens_are_refused_with_their_reason() {
    let expired =
        accounts::signed(&json!({ "iss": "kazoo", "account_id": accounts::TOP, "exp": 1_000_000_000 }));
    let endless = accounts::signed(&json!({ "iss": "kazoo", "account_id": accounts::TOP }));
    let foreign =
        accounts::signed(&json!({ "iss": "other", "account_id": accounts::TOP, "exp": 9_000_000_000_u64 }));
    let unknown = accounts::token("nobody", Duration::from_secs(60));
    let disabled = accounts::token(accounts::DISABLED, Duration::from_secs(60));
    let forged = accounts::top_token() + "x";
    // {"alg":"none"} without a signature.
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", accounts::top_token().split('.').nth(1).unwrap());
    for (token, reason) in [
        ("nonsense", "token is malformed"),
        (&expired, "token is expired"),
        (&endless, "token has no expiry"),
        (&foreign, "issuer is not accepted"),
        (&unknown, "unknown account"),
        (&disabled, "account is disabled"),
        (&forged, "bad signature"),
        (&unsigned, "algorithm is not accepted"),
        (&"x".repeat(20_000), "token is too long"),
    ] {
        let mut client = connect().await;
        let reply = client.request(json!({ "action": "ping", "auth_token": token })).await;
        assert_eq!(error(&reply), format!("failed to authenticate token : {reason}"));
        let reply = client.request(json!({ "action": "ping" })).await;
        assert_eq!(error(&reply), "authentication token required", "a refused token authenticates nobody");
    }
}

#[tokio::test]
async fn the_upgrade_request_may_carry_the_token() {
    let account = Account::fresh();
    let url = Stack::shared().edge.url("");
    let token = account.token();
    for value in [token.clone(), format!("Bearer {token}"), format!("bearer {token}")] {
        let mut client = Client::try_connect(&url, &[("authorization", &value)]).await.unwrap();
        assert_eq!(client.request(json!({ "action": "ping" })).await["status"], "success");
    }
    let refused = Client::try_connect(&url, &[("authorization", "Bearer nonsense")]).await;
    assert_eq!(refused.err(), Some(403));
}

#[tokio::test]
async fn a_session_is_closed_when_its_token_expires_unless_it_is_renewed() {
    let account = Account::fresh();
    let mut ends = connect().await;
    let mut renewed = connect().await;
    let short = account.token_for(Duration::from_secs(3));
    for client in [&mut ends, &mut renewed] {
        client.subscribe_with(&short, &account.id, &["call.*.*"]).await;
    }
    let reply = renewed.request(json!({ "action": "ping", "auth_token": account.token() })).await;
    assert_eq!(reply["status"], "success");
    assert_eq!(ends.closed().await, Some(4401));
    events::call(&account, "CHANNEL_CREATE", "after").publish(&Stack::shared().publisher().await).await;
    assert_eq!(renewed.event().await["args"]["Call-ID"], "after");
}

#[tokio::test]
async fn the_rate_of_requests_is_limited() {
    // The default burst, with the slowest possible refill, so that the count is exact.
    let edge = Stack::shared().another_edge("edge-rate", &[("WS__RATE__PER_SECOND", "1")]).await;
    let mut client = Client::connect(&edge.url("")).await;
    let token = Account::fresh().token();
    let began = Instant::now();
    for number in 0..150 {
        let request = json!({ "action": "ping", "auth_token": token, "request_id": number });
        client.send_text(request.to_string()).await;
    }
    let mut accepted: Vec<usize> = Vec::new();
    for number in 0..150 {
        let reply = client.reply().await;
        assert_eq!(reply["request_id"], number, "replies keep the order of the requests");
        if reply["status"] == "success" {
            accepted.push(number);
        } else {
            assert_eq!(error(&reply), "rate limiting threshold hit for 127.0.0.1!");
        }
    }
    assert!(accepted.iter().copied().take(100).eq(0..100), "the burst is accepted: {accepted:?}");
    let refilled = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(accepted.len() <= 100 + refilled, "{} of 150 with {refilled} refilled", accepted.len());
    let refill = async {
        while client.request(json!({ "action": "ping" })).await["status"] != "success" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the refill", refill).await;
}

#[tokio::test]
async fn the_number_of_bindings_is_limited() {
    let account = Account::fresh();
    let mut client = connect().await;
    let bindings = |range: std::ops::Range<u32>| -> Vec<String> {
        range.map(|number| format!("call.*.{number}")).collect()
    };
    let first = bindings(0..900);
    client.subscribe(&account, &first.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for range in [900..1001, 0..3000] {
        let data = json!({ "bindings": bindings(range) });
        let reply = client.request(json!({ "action": "subscribe", "data": data })).await;
        assert_eq!(error(&reply), "too many bindings : at most 1000 per session");
    }
    let data = json!({ "bindings": bindings(900..1000) });
    let reply = client.request(json!({ "action": "subscribe", "data": data })).await;
    assert_eq!(reply["data"]["subscriptions"].as_array().map(Vec::len), Some(1000));
}

#[tokio::test]
async fn an_idle_session_is_closed_with_4408() {
    let edge = Stack::shared().another_edge("edge-idle", &[("WS__IDLE_TIMEOUT", "300ms")]).await;
    let mut client = Client::connect(&edge.url("")).await;
    assert_eq!(client.incoming().await, Incoming::Closed(Some(4408)));
}

#[tokio::test]
async fn a_stopping_edge_closes_sessions_with_1012_and_exits_in_time() {
    let edge = Stack::shared().another_edge("edge-stop", &[]).await;
    let account = Account::fresh();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(&edge.url("")).await;
        client.subscribe(&account, &["call.*.*"]).await;
        clients.push(client);
    }
    let began = std::time::Instant::now();
    let status = edge.service.server().stop().await.unwrap();
    assert!(
        status.success() && began.elapsed() < Duration::from_secs(10),
        "{status} after {:?}",
        began.elapsed()
    );
    for client in &mut clients {
        assert_eq!(client.incoming().await, Incoming::Closed(Some(1012)));
    }
}
