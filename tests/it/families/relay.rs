//! Relayed events reach only the sessions of the token they name.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use blackhole_tests::{
    accounts::{self, Account, AccountPair},
    client::Client,
    events::{self, Event},
    stack::Stack,
};
use serde_json::{Value, json};

use super::{numbered, numbers};

fn token(account: &Account, claims: Value) -> String {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(3600);
    let mut all = json!({ "iss": "kazoo", "account_id": account.id, "exp": expires.as_secs() });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    accounts::signed(&all)
}

fn relay(account: &Account, event: &str, id: &str) -> Event {
    let key = format!("relay.{}.{event}.{}", account.id, blackhole_dev::simulator::encode_word(id));
    events::any("live", key, "relay", json!({ "Account-ID": account.id, "Relay-ID": id }))
}

#[tokio::test]
async fn relayed_events_reach_only_sessions_whose_token_has_that_id() {
    let stack = Stack::shared();
    let AccountPair { parent, child } = AccountPair::fresh();
    let ids = [
        (token(&parent, json!({ "auth_id": "a.1@x", "device_id": "device", "owner_id": "owner" })), "a.1@x"),
        (token(&parent, json!({ "device_id": "device", "owner_id": "owner" })), "device"),
        (token(&parent, json!({ "owner_id": "owner" })), "owner"),
        (token(&parent, json!({})), parent.id.as_str()),
        (token(&parent, json!({ "auth_id": "*" })), "no token has it"),
    ];
    let mut clients = Vec::new();
    for (token, _) in &ids {
        let mut client = Client::connect(&stack.edge.url("")).await;
        client.subscribe_with(token, &parent.id, &["relay.*", "fax.status.sentinel"]).await;
        clients.push(client);
    }
    // Sessions of a parent account and of a superduper admin also get only what names their own token.
    let above = token(&parent, json!({ "auth_id": "above" }));
    let mut of_child = Client::connect(&stack.edge.url("")).await;
    of_child.subscribe_with(&above, &child.id, &["relay.*", "fax.status.sentinel"]).await;
    let top = token(
        &Account { id: accounts::TOP.into(), realm: String::new() },
        json!({ "auth_id": format!("top-{}", parent.id) }),
    );
    let mut of_all = Client::connect(&stack.edge.url("")).await;
    of_all.subscribe_with(&top, "*", &["relay.*", "fax.status.sentinel"]).await;

    let publisher = stack.publisher().await;
    let mut number = 0;
    for account in [&parent, &child] {
        for (_, id) in &ids {
            numbered(&relay(account, "chat", id), number).publish(&publisher).await;
            number += 1;
        }
    }
    numbered(&relay(&child, "chat", "above"), 10).publish(&publisher).await;
    numbered(&relay(&parent, "chat", "above"), 11).publish(&publisher).await;
    numbered(&relay(&child, "chat", &format!("top-{}", parent.id)), 12).publish(&publisher).await;
    for account in [&parent, &child] {
        events::fax(account, "sentinel").publish(&publisher).await;
    }

    for (index, client) in clients.iter_mut().enumerate() {
        let wanted: Vec<u64> = if index == 4 { Vec::new() } else { vec![index as u64] };
        assert_eq!(numbers(&client.events_until("sentinel").await), wanted, "{}", ids[index].1);
    }
    assert_eq!(numbers(&of_child.events_until("sentinel").await), [10]);
    let mut got = of_all.events_until(&format!("{}.sentinel", child.id)).await;
    got.retain(|event| event["subscribed_key"] == "relay.*");
    assert_eq!(numbers(&got), [12]);
}

#[tokio::test]
async fn a_relayed_event_can_be_selected_by_name() {
    let account = Account::fresh();
    let published = [relay(&account, "chat", &account.id), relay(&account, "wave", &account.id)];
    super::expect(&account, "relay.chat", &published, &[&published[0]]).await;
    super::expect(&account, "relay.#", &published, &[&published[0], &published[1]]).await;
}
