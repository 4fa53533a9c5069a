//! auth-svc remembers across restarts which account has which realm.

use async_nats::jetstream;
use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::Client,
    events, eventually,
    stack::Stack,
};
use serde_json::json;

use crate::revoked::entry;

/// Waits until auth-svc has stored who has which realm.
async fn until_remembered(stack: &Stack) {
    let client = async_nats::connect(stack.nats.url()).await.unwrap();
    let jetstream = jetstream::new(client);
    eventually("all shards in the bucket", || async {
        let Ok(store) = jetstream.get_key_value("BLACKHOLE_V1_REALMS").await else { return false };
        store.status().await.is_ok_and(|status| status.values() == 256)
    })
    .await;
}

/// The Call-IDs that a new session gets which resumes at `since`, up to `last`.
async fn resumed(stack: &Stack, account: &Account, since: &serde_json::Value, last: &str) -> Vec<String> {
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    let data = json!({ "account_id": account.id, "binding": "call.*.*", "since": since });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    assert_eq!(client.request(request).await["data"]["recovered"], true);
    let mut call_ids = Vec::new();
    loop {
        call_ids.push(client.event().await["args"]["Call-ID"].as_str().unwrap().to_owned());
        if call_ids.last().is_some_and(|call_id| call_id == last) {
            return call_ids;
        }
    }
}

/// An account with a realm whose events are in the history, and one that has no realm of interest yet. auth-svc is
/// restarted; meanwhile the realm passes to the second if `passes_on`. Returns what the owner of the realm then gets of
/// its past.
async fn past_after_a_restart(name: &str, passes_on: bool) -> Vec<String> {
    let stack = Stack::start(name).await;
    until_remembered(&stack).await;
    let [one, other] = [AccountPair::fresh(), AccountPair::fresh()].map(|pair| pair.parent);
    let owner = if passes_on { &other } else { &one };
    let publisher = stack.publisher().await;
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(owner, &["call.*.*"]).await;
    events::call(owner, "CHANNEL_CREATE", "first").publish(&publisher).await;
    let beginning = client.event().await["cursor"].clone();
    events::call_of_realm(&one.realm, "CHANNEL_CREATE", "past").publish(&publisher).await;
    events::call(owner, "CHANNEL_CREATE", "last").publish(&publisher).await;
    while client.event().await["args"]["Call-ID"] != "last" {}

    stack.auth_svc.server().stop().await.unwrap();
    if passes_on {
        let file = stack.dir.path().join("accounts.toml");
        let mut text = std::fs::read_to_string(&file).unwrap();
        for (account, realm) in [(&one, "fresh.example.net"), (&other, one.realm.as_str())] {
            let new = Account { realm: realm.to_owned(), ..account.clone() };
            text = text.replace(&entry(account, accounts::TOP), &entry(&new, accounts::TOP));
        }
        std::fs::write(&file, text).unwrap();
    }
    stack.auth_svc.server().start_again().await.unwrap();
    resumed(&stack, owner, &beginning, "last").await
}

#[tokio::test]
async fn the_new_owner_of_a_realm_cannot_read_its_past_although_auth_svc_was_down() {
    assert_eq!(past_after_a_restart("realm-passed", true).await, ["last"]);
}

#[tokio::test]
async fn an_account_reads_its_realms_past_after_a_restart_of_auth_svc() {
    assert_eq!(past_after_a_restart("realm-kept", false).await, ["past", "last"]);
}

#[tokio::test]
async fn a_bucket_that_somebody_deletes_is_stored_again() {
    let stack = Stack::start("realm-bucket").await;
    until_remembered(&stack).await;
    let jetstream = jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    jetstream.delete_stream("KV_BLACKHOLE_V1_REALMS").await.unwrap();
    until_remembered(&stack).await;
}
