//! Accounts, and what CouchDB's feeds do.

use std::time::Duration;

use auth_svc::couchdb::config::CouchDbConfig;
use blackhole_common::config::Secret;
use blackhole_couchdb::{
    CouchDb as StandIn,
    kazoo::{self, ACME, MASTER},
};
use serde_json::{Value, json};

use crate::{Sources, config, eventually};

fn account(id: &str, tree: &[&str]) -> Value {
    json!({ "_id": id, "name": id, "realm": format!("{id}.example.com"), "pvt_type": "account",
            "pvt_enabled": true, "pvt_tree": tree })
}

#[tokio::test]
async fn accounts_are_read_and_followed() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let acme = sources.account(ACME).await.unwrap();
    assert_eq!(
        (acme.realm.as_deref(), &*acme.ancestors),
        (Some("acme.sip.example.com"), &[MASTER.to_owned()][..])
    );
    assert!(acme.enabled && !acme.superduper_admin);
    assert!(sources.account(MASTER).await.unwrap().superduper_admin);
    assert_eq!(sources.account("_design/accounts").await, None);

    let edit = |members: Value| server.edit("accounts", ACME, &members);
    edit(json!({ "pvt_enabled": false }));
    eventually("disabling", async || !sources.account(ACME).await.unwrap().enabled).await;
    edit(json!({ "pvt_enabled": true, "pvt_tree": ["other"] }));
    eventually("moving", async || sources.account(ACME).await.unwrap().ancestors == ["other"]).await;
    assert_eq!(sources.realms.since_ms("acme.sip.example.com", ACME), None);
    let another = "other.example.com";
    for (id, realm) in [
        (ACME, "new.example.com"),
        (MASTER, "acme.sip.example.com"),
        (MASTER, another),
        (ACME, "acme.sip.example.com"),
    ] {
        server.edit("accounts", id, &json!({ "realm": realm }));
        let has_it = async || sources.account(id).await.unwrap().realm.as_deref() == Some(realm);
        eventually("the new realm", has_it).await;
    }
    // Another account had it meanwhile.
    eventually("since when it has it", async || {
        sources.realms.since_ms("acme.sip.example.com", ACME).is_some()
    })
    .await;
    edit(json!({ "pvt_deleted": true }));
    eventually("the soft deletion", async || sources.account(ACME).await.is_none()).await;
    edit(json!({ "pvt_deleted": null }));
    eventually("its end", async || sources.account(ACME).await.is_some()).await;
    server.delete("accounts", ACME);
    eventually("the deletion", async || sources.account(ACME).await.is_none()).await;
    server.put("accounts", &account("fresh", &[MASTER]));
    eventually("a new account", async || sources.account("fresh").await.is_some()).await;
}

#[tokio::test]
async fn many_accounts_come_in_pages_and_many_changes_together() {
    let server = kazoo::start().await;
    let ids: Vec<String> = (0..1203).map(|number| format!("{number:032x}")).collect();
    ids.iter().for_each(|id| server.put("accounts", &account(id, &[MASTER])));
    let sources = Sources::of(&server).await;
    assert_eq!(sources.couchdb.accounts.all().len(), 1205);
    ids.iter().for_each(|id| server.edit("accounts", id, &json!({ "pvt_enabled": false })));
    eventually("all changes", async || {
        sources.couchdb.accounts.all().iter().filter(|account| !account.enabled).count() == 1203
    })
    .await;
}

#[tokio::test]
async fn sequences_may_be_arrays() {
    let server = kazoo::start().await;
    server.sequences_are_arrays();
    let sources = Sources::of(&server).await;
    for number in 0..3 {
        server.edit("accounts", ACME, &json!({ "pvt_tree": [format!("t{number}")] }));
        server.cut_feeds();
        eventually("the change", async || {
            sources.account(ACME).await.unwrap().ancestors == [format!("t{number}")]
        })
        .await;
    }
}

#[tokio::test]
async fn a_feed_that_ends_is_cut_or_refused_is_begun_again() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    server.cut_feeds();
    server.edit("accounts", ACME, &json!({ "pvt_tree": ["cut"] }));
    eventually("a change after a cut", async || sources.account(ACME).await.unwrap().ancestors == ["cut"])
        .await;
    server.end_feeds();
    server.edit("accounts", ACME, &json!({ "pvt_tree": ["end"] }));
    eventually("a change after an end", async || sources.account(ACME).await.unwrap().ancestors == ["end"])
        .await;
    server.refuse_sequences(true);
    server.cut_feeds();
    server.edit("accounts", ACME, &json!({ "pvt_tree": ["refused"] }));
    eventually("a change while the position is refused", async || {
        sources.account(ACME).await.unwrap().ancestors == ["refused"]
    })
    .await;
    server.refuse_sequences(false);
    sources.until_followed().await;
}

/// CouchDB 2 and BigCouch begin their answer with the first heartbeat, which comes later than other answers may take.
#[tokio::test]
async fn a_feed_may_begin_with_its_first_line() {
    let server = kazoo::start().await;
    server.feeds_begin_late();
    let mut config = config(&server.url());
    config.timeout = Duration::from_millis(500);
    let sources = Sources::with(&config).await;
    eventually("three heartbeats", async || server.feeds_begun() == 3).await;
    let feeds = server.take_requests().into_iter().filter(|path| path.contains("/_changes")).count();
    assert_eq!(feeds, 3, "none was given up");
    server.edit("accounts", ACME, &json!({ "pvt_tree": ["new"] }));
    eventually("the change", async || sources.account(ACME).await.unwrap().ancestors == ["new"]).await;
}

#[tokio::test]
async fn of_two_revisions_with_one_number_the_one_that_wins_in_couchdb_counts() {
    let server = kazoo::start().await;
    server.put("accounts", &account("split", &["here"]));
    let sources = Sources::of(&server).await;
    let old = server.snapshot();
    let mut other = account("split", &["there"]);
    other["_rev"] = format!("1-{}", "f".repeat(32)).into();
    server.replicate("accounts", &other);
    eventually("the other one", async || sources.account("split").await.unwrap().ancestors == ["there"])
        .await;
    // Reading everything again from a node that has only the loser takes nothing back.
    server.answer_from(Some(old));
    server.take_requests();
    server.end_feeds();
    eventually("reading again and following", async || {
        server.take_requests().iter().any(|path| path.starts_with("/accounts/_changes"))
    })
    .await;
    assert_eq!(sources.account("split").await.unwrap().ancestors, ["there"]);
}

#[tokio::test]
async fn a_node_that_answers_older_documents_takes_nothing_back() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let old = server.snapshot();
    server.edit("accounts", ACME, &json!({ "pvt_enabled": false }));
    eventually("disabling", async || !sources.account(ACME).await.unwrap().enabled).await;
    // Everything is read anew from a node that does not know.
    server.answer_from(Some(old));
    server.take_requests();
    server.end_feeds();
    eventually("reading again and following", async || {
        server.take_requests().iter().any(|path| path.starts_with("/accounts/_changes"))
    })
    .await;
    assert!(!sources.account(ACME).await.unwrap().enabled);
    // A change that only the feed knows of is asked for until the node knows it, too.
    server.edit("accounts", ACME, &json!({ "pvt_tree": ["later"] }));
    eventually("the question", async || {
        server.take_requests().iter().any(|path| path.starts_with("/accounts/_all_docs?keys"))
    })
    .await;
    server.answer_from(None);
    eventually("the later change", async || sources.account(ACME).await.unwrap().ancestors == ["later"])
        .await;
    assert!(!sources.account(ACME).await.unwrap().enabled);
}

#[tokio::test]
async fn a_database_that_is_made_again_is_read_again() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    for number in 0..3 {
        server.edit("accounts", ACME, &json!({ "pvt_tree": [number.to_string()] }));
    }
    server.drop_database("accounts");
    server.put("accounts", &account(ACME, &["new"]));
    eventually("the new database", async || {
        sources.account(ACME).await.is_some_and(|acme| acme.ancestors == ["new"])
    })
    .await;
    eventually("the end of the old one", async || sources.account(MASTER).await.is_none()).await;
}

#[tokio::test]
async fn servers_are_tried_in_turn_and_the_user_is_sent() {
    let server = kazoo::start().await;
    server.require_user("blackhole", "s3cr3t,%/");
    let dead = StandIn::start().await;
    dead.stop();
    let in_url = server.url().replace("http://", "http://blackhole:s3cr3t%2C%25%2F@");
    let apart = CouchDbConfig {
        user: Some("blackhole".into()),
        password: Some(Secret::new("s3cr3t,%/")),
        ..config(&server.url())
    };
    for config in [config(&format!("{},{in_url}", dead.url())), apart] {
        assert!(!format!("{config:?}").contains("s3cr3t"));
        let sources = Sources::with(&config).await;
        assert_eq!(sources.refusal(kazoo::token("user")).await, None);
    }
}

#[tokio::test]
async fn errors_say_what_to_do_and_no_password() {
    let server = kazoo::start().await;
    let load = async |url: &str| crate::load(&config(url)).await.unwrap_err();
    let with_password = server.url().replace("http://", "http://u:s3cr3t@");
    server.forbid("accounts");
    assert!(load(&with_password).await.contains("status 403: the user must be a member of this database"));
    server.require_user("u", "other");
    let error = load(&with_password).await;
    assert!(error.contains("status 401: check auth.couchdb.user") && !error.contains("s3cr3t"), "{error}");
    let empty = StandIn::start().await;
    assert!(load(&empty.url()).await.contains("the database is missing"));
    empty.stop();
    assert!(load(&empty.url()).await.contains("is not reachable"));
}
