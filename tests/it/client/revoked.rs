//! Subscriptions that are no longer granted: the client forgets them, and keeps those that it may have again.

use super::*;
use crate::revoked::{Deployment, change, entry, stack};
use blackhole_tests::{accounts, client::Client};

in_each_language!(
    a_revoked_subscription_is_reported_and_not_renewed,
    a_revoked_subscription_of_the_tokens_own_account_is_found,
);

/// Lets a child account move away from its reseller.
fn move_away(family: &AccountPair) {
    let AccountPair { parent, child } = family;
    change(&[(entry(child, &parent.id), entry(child, accounts::TOP))]);
}

async fn a_revoked_subscription_is_reported_and_not_renewed(language: Language) {
    let (stack, family) = (stack(), AccountPair::fresh());
    let edge = stack.another_edge(["edge-revoked-node", "edge-revoked-python"][language as usize], &[]).await;
    let publisher = stack.publisher().await;
    let watcher = Watcher::start(language, &of_family(&edge, &family));
    watcher.until_subscribed(2).await;
    move_away(&family);
    let revoked = watcher.until("the end of two subscriptions", 2, |one| !one["revoked"].is_null()).await;
    let expected = ["call.*.*", "call.CHANNEL_CREATE.*"].map(|binding| {
        let reason = "unauthorized account id";
        json!({ "revoked": { "account": family.child.id, "binding": binding, "reason": reason } })
    });
    assert_eq!(revoked, expected);

    edge.service.server().restart().await.unwrap();
    watcher.until_open(2).await;
    event(&family.child, 1).publish(&publisher).await;
    event(&family.parent, 2).publish(&publisher).await;
    watcher.until_number(&family.parent, 2).await;
    let seen = watcher.seen().await;
    assert!(seen.iter().all(|one| one["error"].is_null()), "nothing was asked for in vain: {seen:?}");
    assert_eq!(watcher.numbers(&family.child, "call.*.*").await, [0; 0]);
    watcher.close().await;
}

async fn a_revoked_subscription_of_the_tokens_own_account_is_found(language: Language) {
    let (stack, family) = (stack(), AccountPair::fresh());
    let AccountPair { parent, child } = &family;
    let admin = entry(child, &parent.id) + "superduper_admin = true\n";
    change(&[(entry(child, &parent.id), admin.clone())]);
    // Only a superduper admin may leave the conference open.
    let binding = json!({ "binding": "conference.command.*" });
    let request = json!({ "action": "subscribe", "auth_token": child.token(), "data": binding });
    eventually("the admin's rights", async || {
        let mut client = Client::connect(&stack.edge.url("")).await;
        client.request(request.clone()).await["status"] == "success"
    })
    .await;

    let mut config = config(&stack.edge.url("view=args"), given(child), &[]);
    config["subscriptions"] = json!([[null, ["conference.command.*", "fax.status.*"]]]);
    let watcher = Watcher::start(language, &config);
    watcher.until_subscribed(1).await;
    change(&[(admin, entry(child, &parent.id))]);
    let revoked = watcher.until("the end of the subscription", 1, |one| !one["revoked"].is_null()).await;
    let expected =
        json!({ "account": null, "binding": "conference.command.*", "reason": "ConferenceId required" });
    assert_eq!(revoked, [json!({ "revoked": expected })]);
    watcher.close().await;
}

#[tokio::test]
async fn subscriptions_survive_an_outage_of_auth_svc() {
    let settings =
        [("WS__GRANT_LIFETIME", "1s"), ("WS__RECHECK_INTERVAL", "500ms"), ("WS__AUTH_CACHE", "1ms")];
    let (deployment, account) = (Deployment::start("clientunconfirmed", &settings).await, Account::fresh());
    let config = config(&deployment.url, given(&account), &[(&account, &["call.*.*"])]);
    let watcher = Watcher::in_page(&Stack::shared().edge, &config).await;
    watcher.until_subscribed(1).await;
    deployment.auth_svc.server().kill().await.unwrap();
    watcher.until("the wait", 1, |one| one["state"] == "waiting" && one["code"] == 1013).await;
    deployment.auth_svc.server().start_again().await.unwrap();
    eventually("the renewed subscription", async || {
        watcher.run("report({ now: client.subscriptions })").await;
        let seen = watcher.seen().await;
        let now = seen.last().map(|last| last["now"].clone()).unwrap_or_default();
        now == json!([{ "account": account.id, "binding": "call.*.*", "state": "active" }])
    })
    .await;
    let seen = watcher.seen().await;
    assert!(seen.iter().all(|one| one["revoked"].is_null()), "{seen:?}");
    watcher.close().await;
}

#[tokio::test]
async fn the_console_shows_what_was_revoked() {
    let (stack, family) = (stack(), AccountPair::fresh());
    let AccountPair { parent, child } = &family;
    let browser = Browser::open().await;
    let (port, token) = (stack.edge.port, parent.token());
    let fragment = format!("token={token}&account={}&binding=call.*.*", child.id);
    browser.goto(&format!("http://127.0.0.1:{port}/#{fragment}")).await;
    browser.until("document.querySelector('.subscription[data-state=active]') !== null").await;
    move_away(&family);
    browser.until("document.querySelector('.subscription[data-state=refused]') !== null").await;
    let says =
        |id: &str, text: &str| format!("document.getElementById('{id}').textContent.includes('{text}')");
    browser.until(&says("subscriptions", "refused: unauthorized account id")).await;
    browser.until(&says("replies", "call.*.* has ended: unauthorized account id")).await;
    browser.until(&says("status", "connected")).await;
    browser.close().await;
}
