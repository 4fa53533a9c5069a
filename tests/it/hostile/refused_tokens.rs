//! Tokens that are refused: verifying costs time, so that nobody may try any number of them.

use blackhole_tests::{accounts::Account, client::Client, stack::Stack};
use serde_json::{Value, json};

/// Sends a ping with a token. Returns the error, if there is one.
async fn ping(client: &mut Client, token: &str) -> Option<String> {
    let reply: Value = client.request(json!({ "action": "ping", "auth_token": token })).await;
    reply["data"]["errors"][0].as_str().map(str::to_owned)
}

/// A token with a bad signature.
fn bad(number: usize) -> String {
    format!("{}{number}", Account::fresh().token())
}

#[tokio::test]
async fn a_few_refused_tokens_close_the_session() {
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("")).await;
    for number in 0..5 {
        let error = ping(&mut client, &bad(number)).await.unwrap();
        assert!(error.starts_with("failed to authenticate token : "), "{error}");
    }
    assert_eq!(client.closed().await, Some(4401));
}

#[tokio::test]
async fn an_address_with_many_refused_tokens_waits_and_others_do_not() {
    let settings = [
        ("WS__REFUSED_TOKENS__BURST", "8"),
        ("WS__REFUSED_TOKENS__PER_SECOND", "1"),
        ("WS__TRUSTED_PROXIES", "[\"127.0.0.0/8\"]"),
    ];
    let edge = Stack::shared().another_edge("edge-tokens", &settings).await;
    let url = edge.url("");
    let from = async |address: &str, authorization: Option<&str>| {
        let headers: Vec<(&str, &str)> = [("X-Forwarded-For", address)]
            .into_iter()
            .chain(authorization.map(|a| ("Authorization", a)))
            .collect();
        Client::try_connect(&url, &headers).await
    };
    let (known, new) = (Account::fresh().token(), Account::fresh().token());
    let mut honest = from("192.0.2.1", None).await.unwrap();
    assert_eq!(ping(&mut honest, &known).await, None);

    const TOO_MANY: &str = "too many tokens from your address were refused, try again later";
    let mut refusals = 0;
    // The budget grows by one a second meanwhile.
    'flood: for attempt in 0..100 {
        let mut hostile = from("192.0.2.1", None).await.unwrap();
        for number in 0..4 {
            if ping(&mut hostile, &bad(4 * attempt + number)).await.unwrap() == TOO_MANY {
                break 'flood;
            }
            refusals += 1;
        }
    }
    assert!((8..100).contains(&refusals), "{refusals}");
    let mut another = from("192.0.2.1", None).await.unwrap();
    assert_eq!(ping(&mut another, &known).await, None, "a token that was accepted shortly before");
    assert_eq!(from("192.0.2.2", Some(&new)).await.err(), None, "another address");
    let mut waiting = 0;
    for number in 0..3 {
        waiting += u32::from(from("192.0.2.1", Some(&bad(1000 + number))).await.err() == Some(429));
    }
    assert!(waiting > 0);
    let limited = r#"blackhole_edge_requests_limited_total{reason="refused_tokens"}"#;
    assert!(Stack::metric(&edge.service, limited).await >= 1.0);
}
