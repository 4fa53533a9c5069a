//! What accounts take: sessions, distinct subjects, and the memory of a session's bindings. Who takes more than its share
//! is refused, and others are not.

use std::{ops::Range, time::Duration};

use blackhole_tests::{accounts::Account, client::Client, soon};
use serde_json::{Value, json};

use super::{authenticate, count_of, edge, with_token};

async fn subscribe(client: &mut Client, bindings: &[String]) -> Value {
    client.request(json!({ "action": "subscribe", "data": { "bindings": bindings } })).await
}

fn calls(numbers: Range<u32>, digits: usize) -> Vec<String> {
    numbers.map(|number| format!("call.*.{number:0digits$}")).collect()
}

#[tokio::test]
async fn an_account_has_a_limited_number_of_sessions() {
    let edge = edge("edge-account", &[("WS__MAX_SESSIONS_PER_ACCOUNT", "2")]).await;
    let (account, other) = (Account::fresh(), Account::fresh());
    let first = with_token(&edge, &account).await;
    let mut second = with_token(&edge, &account).await;
    let mut third = Client::connect(&edge.url("")).await;
    let reply = authenticate(&mut third, &account).await;
    assert_eq!(reply["data"]["errors"], json!(["too many sessions : at most 2 per account"]));
    let authorization = format!("Bearer {}", account.token());
    let headers = [("Authorization", authorization.as_str())];
    assert_eq!(Client::try_connect(&edge.url(""), &headers).await.err(), Some(429));
    assert_eq!(
        (
            count_of(&edge, "requests_limited", "account_sessions").await,
            count_of(&edge, "handshakes_refused", "account_sessions").await
        ),
        (1.0, 1.0)
    );
    let renewed = json!({ "action": "ping", "auth_token": account.token_for(Duration::from_secs(7200)) });
    assert_eq!(second.request(renewed).await["status"], "success", "a renewed session is no new one");
    with_token(&edge, &other).await;
    drop(first);
    let place = async {
        while authenticate(&mut third, &account).await["status"] != "success" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the place of the session that ended", place).await;
}

#[tokio::test]
async fn an_account_has_a_limited_number_of_distinct_subjects() {
    // Each of these bindings has two subjects: by the account's id, and by its realm.
    let edge = edge("edge-subjects", &[("WS__MAX_SUBJECTS_PER_ACCOUNT", "20")]).await;
    let (account, other) = (Account::fresh(), Account::fresh());
    let (mut one, mut two) = (with_token(&edge, &account).await, with_token(&edge, &account).await);
    assert_eq!(subscribe(&mut one, &calls(0..10, 1)).await["status"], "success");
    assert_eq!(subscribe(&mut two, &calls(0..10, 1)).await["status"], "success", "the same subjects");
    for binding in [10..11, 8..12] {
        let reply = subscribe(&mut two, &calls(binding, 1)).await;
        assert_eq!(reply["data"]["errors"], json!(["too many subjects : at most 20 per account"]));
    }
    assert_eq!(count_of(&edge, "requests_limited", "account_subjects").await, 2.0);
    let listed = two.request(json!({ "action": "unsubscribe" })).await;
    assert_eq!(listed["data"]["unsubscribed"].as_array().map(Vec::len), Some(10), "nothing was added");
    let mut stranger = with_token(&edge, &other).await;
    assert_eq!(subscribe(&mut stranger, &calls(0..10, 1)).await["status"], "success");
    one.request(json!({ "action": "unsubscribe" })).await;
    assert_eq!(subscribe(&mut two, &calls(10..20, 1)).await["status"], "success");
}

#[tokio::test]
async fn a_session_has_a_limited_memory_for_bindings() {
    let edge = edge("edge-binding-bytes", &[]).await;
    let account = Account::fresh();
    let mut client = with_token(&edge, &account).await;
    // A frame holds no more than this.
    let hundreds = |digits: usize| {
        (0..10).map(move |hundred| calls(hundred * 100..(hundred + 1) * 100, digits)).collect::<Vec<_>>()
    };
    for bindings in hundreds(100) {
        let reply = subscribe(&mut client, &bindings).await;
        assert_eq!(reply["status"], "success", "a thousand bindings of ordinary length: {reply}");
    }
    client.request(json!({ "action": "unsubscribe" })).await;
    let mut accepted = 0;
    let refused = loop {
        let reply = subscribe(&mut client, &hundreds(190)[accepted]).await;
        if reply["status"] != "success" {
            break reply;
        }
        accepted += 1;
    };
    assert_eq!(
        refused["data"]["errors"],
        json!(["too many bindings : they may take 2097152 bytes per session"])
    );
    assert!((5..10).contains(&accepted), "{accepted}");
    assert_eq!(count_of(&edge, "requests_limited", "binding_bytes").await, 1.0);
    // To subscribe again takes no more.
    let reply = subscribe(&mut client, &hundreds(190)[0]).await;
    assert_eq!(reply["data"]["subscriptions"].as_array().map(Vec::len), Some(accepted * 100));
}
