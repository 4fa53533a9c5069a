//! What users own, and who is an admin.

use auth_svc::{couchdb::identities::Identity, users::UserDirectory};
use blackhole_common::owner::Own;
use blackhole_couchdb::kazoo::{self, ACME, ACME_DATABASE, DEVICE, USER};
use serde_json::json;

use crate::{Sources, eventually};

/// What a user owns; `None` for an admin.
async fn own(sources: &Sources, id: &str) -> Option<Vec<String>> {
    let user = sources.couchdb.user(ACME, id).await.unwrap().unwrap();
    let own: Own = user.owns.into_iter().collect();
    (!user.is_admin).then(|| own.iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn a_user_owns_devices_and_mailboxes_with_their_phones() {
    let server = kazoo::start().await;
    let device = format!("id:{DEVICE}");
    server.edit(ACME_DATABASE, DEVICE, &json!({ "sip": { "username": "user_1", "password": "secret" } }));
    let mailbox = json!({ "_id": "mailbox", "pvt_type": "vmbox", "owner_id": USER, "mailbox": "1001" });
    server.put(ACME_DATABASE, &mailbox);
    for (id, members) in [
        ("another", json!({ "owner_id": "another" })),
        ("deleted", json!({ "owner_id": USER, "pvt_deleted": true })),
        ("odd", json!({ "owner_id": USER, "sip": [1], "mailbox": 5, "presence_id": { "a": 1 } })),
    ] {
        let mut document = json!({ "_id": id, "pvt_type": "device" });
        document.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
        server.put(ACME_DATABASE, &document);
    }
    let sources = Sources::of(&server).await;
    let expected = [device.as_str(), "id:mailbox", "id:odd", "presence:1001", "presence:user_1"];
    assert_eq!(own(&sources, USER).await.unwrap(), expected);
    assert_eq!(own(&sources, DEVICE).await.unwrap(), ["presence:user_1"], "a device that has a token");
    assert_eq!(sources.couchdb.user(ACME, "nobody").await.unwrap(), None);
    assert_eq!(sources.couchdb.user(ACME, "_design/attributes").await.unwrap(), None);
    assert_eq!(sources.couchdb.user("../accounts", USER).await.unwrap(), None);

    // Kept until KAZOO tells of a change.
    server.take_questions();
    own(&sources, USER).await;
    assert_eq!(server.take_questions(), [""; 0]);
    server.edit(ACME_DATABASE, DEVICE, &json!({ "owner_id": "another" }));
    assert!(own(&sources, USER).await.unwrap().contains(&device));
    sources.couchdb.owned.changed(ACME);
    assert!(!own(&sources, USER).await.unwrap().contains(&device));
    assert_eq!(own(&sources, USER).await.unwrap(), ["id:mailbox", "id:odd", "presence:1001"]);
}

#[tokio::test]
async fn only_a_user_with_the_level_of_an_admin_is_one() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    assert!(own(&sources, USER).await.is_some());
    for (id, members, is_admin) in [
        (USER, json!({ "priv_level": "admin", "presence_id": "1001" }), true),
        (USER, json!({ "priv_level": "user" }), false),
        (USER, json!({ "priv_level": ["admin"] }), false),
        // Users may write into the documents of their own devices.
        (DEVICE, json!({ "priv_level": "admin" }), false),
    ] {
        server.edit(ACME_DATABASE, id, &members);
        sources.told(id).await;
        assert_eq!(own(&sources, id).await.is_none(), is_admin, "{members}");
    }
    assert!(own(&sources, USER).await.unwrap().contains(&"presence:1001".to_owned()));
}

#[tokio::test]
async fn what_is_known_goes_on_while_couchdb_is_away() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let known = own(&sources, USER).await;
    server.stop();
    assert_eq!(own(&sources, USER).await, known);
    let identity = Identity { account_id: ACME.into(), id: "another".into() };
    assert!(sources.couchdb.owned.of(&identity).await.is_err());
    // What has changed since is not known any more.
    sources.couchdb.owned.changed(ACME);
    assert!(sources.couchdb.user(ACME, USER).await.is_err());
    server.go_on();
    eventually("an answer", async || sources.couchdb.user(ACME, USER).await.is_ok()).await;
}

#[tokio::test]
async fn without_kazoos_view_nobody_owns_anything() {
    let server = kazoo::start().await;
    server.delete(ACME_DATABASE, "_design/attributes");
    let sources = Sources::of(&server).await;
    assert_eq!(own(&sources, USER).await.unwrap(), [""; 0]);
}
