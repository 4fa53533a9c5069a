//! Whose dialled numbers are.

use auth_svc::numbers::NumberDirectory;
use blackhole_common::wire::NumberRequest;
use blackhole_couchdb::{
    CouchDb as StandIn,
    kazoo::{self, ACME, MASTER},
};
use serde_json::{Value, json};

use crate::{Sources, eventually};

const NUMBER: &str = "+14155550123";
const DATABASE: &str = "numbers/+1415";
const QUESTION: &str = "/numbers%2F%2B1415/%2B14155550123";

fn dialled(request: Option<&str>, to: Option<&str>) -> NumberRequest {
    NumberRequest { request: request.map(str::to_owned), to: to.map(str::to_owned), to_did: None }
}

async fn of(sources: &Sources, number: &str) -> Option<String> {
    sources.couchdb.numbers.account_of(&dialled(Some(number), None)).await.unwrap()
}

fn assign(server: &StandIn, number: &str, account: &str) {
    let document =
        json!({ "_id": number, "pvt_type": "number", "pvt_assigned_to": account, "pvt_state": "in_service" });
    server.put(&format!("numbers/{}", &number[..5]), &document);
}

fn numbers_asked(server: &StandIn) -> Vec<String> {
    server.take_questions().into_iter().filter(|question| question.contains("numbers")).collect()
}

#[tokio::test]
async fn a_number_is_its_accounts_and_asked_for_once() {
    let server = kazoo::start().await;
    assign(&server, NUMBER, ACME);
    let sources = Sources::of(&server).await;
    server.take_questions();
    let all = futures_util::future::join_all((0..50).map(|_| of(&sources, "4155550123"))).await;
    assert!(all.iter().all(|account| account.as_deref() == Some(ACME)));
    assert_eq!(of(&sources, NUMBER).await.as_deref(), Some(ACME), "the same number");
    assert_eq!(numbers_asked(&server), [QUESTION]);
    // Nobody's: the database exists, or does not.
    for number in ["+14155550124", "+493012345"] {
        assert_eq!((of(&sources, number).await, of(&sources, number).await), (None, None));
        assert_eq!(numbers_asked(&server).len(), 1, "{number}");
    }
    // None that a database could have.
    for number in ["", "1002", "../accounts", "+1415555/../../accounts", "*", "+"] {
        assert_eq!(of(&sources, number).await, None);
    }
    assert_eq!(sources.couchdb.numbers.account_of(&dialled(None, None)).await.unwrap(), None);
    assert_eq!(numbers_asked(&server), [""; 0]);
}

#[tokio::test]
async fn a_number_of_a_disabled_or_unknown_account_is_nobodys() {
    let server = kazoo::start().await;
    assign(&server, NUMBER, ACME);
    assign(&server, "+14155550124", "0123456789abcdef0123456789abcdef");
    let sources = Sources::of(&server).await;
    assert_eq!(of(&sources, "+14155550124").await, None);
    assert_eq!(of(&sources, NUMBER).await.as_deref(), Some(ACME));
    // What is remembered of the number does not delay this.
    server.edit("accounts", ACME, &json!({ "pvt_enabled": false }));
    eventually("the account is disabled", async || of(&sources, NUMBER).await.is_none()).await;
    server.edit("accounts", ACME, &json!({ "pvt_enabled": true }));
    eventually("the account is enabled", async || of(&sources, NUMBER).await.is_some()).await;
    server.edit(DATABASE, NUMBER, &json!({ "pvt_state": "released" }));
    server.put(DATABASE, &json!({ "_id": "+14155550125", "pvt_assigned_to": ACME, "pvt_state": "aging" }));
    assert_eq!(of(&sources, "+14155550125").await, None);
}

#[tokio::test]
async fn the_settings_of_system_config_count_as_they_change() {
    let server = kazoo::start().await;
    assign(&server, NUMBER, ACME);
    assign(&server, "+4930123456", MASTER);
    let sources = Sources::of(&server).await;
    let numbers = &sources.couchdb.numbers;
    let both = dialled(Some("030123456"), Some(NUMBER));
    assert_eq!(numbers.account_of(&both).await.unwrap(), None);
    let set = |document: &str, settings: Value| {
        server.put("system_config", &json!({ "_id": document, "default": settings }));
    };
    set("number_manager", json!({ "e164_converters": { "^0([1-9]\\d+)$": { "prefix": "+49" } } }));
    eventually("another pattern", async || {
        numbers.account_of(&both).await.unwrap().as_deref() == Some(MASTER)
    })
    .await;
    set("stepswitch", json!({ "inbound_user_field": "To" }));
    eventually("another field", async || numbers.account_of(&both).await.unwrap().as_deref() == Some(ACME))
        .await;
    assert_eq!(sources.refusal(kazoo::token("user")).await, None, "tokens are not affected");
}

#[tokio::test]
async fn a_couchdb_that_cannot_tell_is_not_taken_for_one_without_the_number() {
    let server = kazoo::start().await;
    assign(&server, NUMBER, ACME);
    let sources = Sources::of(&server).await;
    server.stop();
    assert!(sources.couchdb.numbers.account_of(&dialled(Some(NUMBER), None)).await.is_err());
    server.go_on();
    let asked = async || sources.couchdb.numbers.account_of(&dialled(Some(NUMBER), None)).await;
    eventually("an answer", async || asked().await.is_ok_and(|account| account.as_deref() == Some(ACME)))
        .await;
    // A user that may not read the numbers: then another source may have them.
    server.forbid(DATABASE);
    assert_eq!(of(&sources, "+14155550199").await, None);
    assert_eq!(of(&sources, NUMBER).await.as_deref(), Some(ACME), "it is remembered");
}
