//! Keys in `system_auth`.

use std::time::Duration;

use blackhole_couchdb::kazoo;
use jsonwebtoken::Algorithm;
use serde_json::json;

use crate::{Sources, eventually};

const OTHER: &str = include_str!("../../src/testdata/rsa-private-pkcs1.pem");
const UNKNOWN: Option<&str> = Some("unknown key id");

fn signed_by(pem: &str, kid: &str) -> String {
    kazoo::signed_with(pem, kid, Algorithm::RS256, &kazoo::user_claims(kazoo::USER_SECRET))
}

#[tokio::test]
async fn an_unknown_key_is_refused_without_a_question() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    server.take_requests();
    for number in 0..1000 {
        let token = signed_by(OTHER, &format!("{number:032x}"));
        assert_eq!(sources.refusal(&token).await.as_deref(), UNKNOWN);
    }
    for kid in ["", "../accounts/x", "_all_docs", &"x".repeat(5000)] {
        assert_eq!(sources.refusal(&signed_by(OTHER, kid)).await.as_deref(), UNKNOWN);
    }
    assert_eq!(server.take_questions(), [""; 0]);
}

#[tokio::test]
async fn other_documents_are_no_keys_and_are_asked_for_once() {
    let server = kazoo::start().await;
    for (id, kind, deleted) in [("bearer", "bearer-token", false), ("soft", "system_key", true)] {
        server.put("system_auth", &json!({ "_id": id, "pvt_type": kind, "pvt_deleted": deleted }));
        server.attach("system_auth", id, "private_key.pem", OTHER.as_bytes());
    }
    server.put("system_auth", &json!({ "_id": "broken", "pvt_type": "system_key" }));
    server.attach("system_auth", "broken", "private_key.pem", b"not a key");
    let sources = Sources::of(&server).await;
    server.take_requests();
    for _ in 0..3 {
        for kid in ["bearer", "soft", "broken"] {
            assert_eq!(sources.refusal(&signed_by(OTHER, kid)).await.as_deref(), UNKNOWN, "{kid}");
        }
    }
    assert_eq!(server.take_questions().len(), 4);
}

#[tokio::test]
async fn a_new_key_is_usable_once_it_has_its_attachment() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let token = signed_by(OTHER, "new");
    assert_eq!(sources.refusal(&token).await.as_deref(), UNKNOWN);
    server.put("system_auth", &json!({ "_id": "new", "pvt_type": "system_key" }));
    eventually("the document", async || {
        let _ = sources.refusal(&token).await;
        server.take_requests().iter().any(|path| path.starts_with("/system_auth/new/private_key.pem"))
    })
    .await;
    assert_eq!(sources.refusal(&token).await.as_deref(), UNKNOWN);
    server.attach("system_auth", "new", "private_key.pem", OTHER.as_bytes());
    eventually("the key", async || sources.refusal(&token).await.is_none()).await;
}

#[tokio::test]
async fn a_key_that_is_rotated_under_the_same_id_ends_the_old_tokens() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let (old, new) = (kazoo::token("user"), signed_by(OTHER, kazoo::kid()));
    assert_eq!(sources.refusal(old).await, None);
    assert_eq!(sources.refusal(&new).await.as_deref(), Some("bad signature"));
    server.delete("system_auth", kazoo::kid());
    eventually("the deletion", async || sources.refusal(old).await.as_deref() == UNKNOWN).await;
    server.put("system_auth", &json!({ "_id": kazoo::kid(), "pvt_type": "system_key" }));
    server.attach("system_auth", kazoo::kid(), "private_key.pem", OTHER.as_bytes());
    eventually("the new key", async || sources.refusal(&new).await.is_none()).await;
    assert_eq!(sources.refusal(old).await.as_deref(), Some("bad signature"));
}

#[tokio::test]
async fn a_node_that_does_not_know_of_a_rotation_does_not_bring_the_old_key_back() {
    let server = kazoo::start().await;
    let sources = Sources::of(&server).await;
    let (old, new) = (kazoo::token("user"), signed_by(OTHER, kazoo::kid()));
    assert_eq!(sources.refusal(old).await, None);
    server.freeze_documents(true);
    server.delete("system_auth", kazoo::kid());
    server.put("system_auth", &json!({ "_id": kazoo::kid(), "pvt_type": "system_key" }));
    eventually("the end of the old key", async || sources.refusal(old).await.as_deref() == UNKNOWN).await;
    assert_eq!(sources.refusal(old).await.as_deref(), UNKNOWN);
    server.attach("system_auth", kazoo::kid(), "private_key.pem", OTHER.as_bytes());
    server.freeze_documents(false);
    eventually("the new key", async || sources.refusal(&new).await.is_none()).await;
}

#[tokio::test]
async fn a_key_that_changes_while_it_is_read_is_not_kept() {
    let server = kazoo::start().await;
    server.edit(
        "system_config",
        "auth",
        &json!({ "default": { "secret_for_user_signature": kazoo::SERVER_SECRET } }),
    );
    let sources = Sources::of(&server).await;
    let old = kazoo::token("user");
    server.delay(Duration::from_millis(500));
    let (first, ()) = futures_util::join!(sources.refusal(old), async {
        eventually("the question", async || {
            server.take_requests().iter().any(|path| path.contains("private_key.pem"))
        })
        .await;
        server.delete("system_auth", kazoo::kid());
    });
    assert_eq!(first.as_deref(), UNKNOWN);
    server.delay(Duration::ZERO);
    assert_eq!(sources.refusal(old).await.as_deref(), UNKNOWN);
    server.put("system_auth", &json!({ "_id": kazoo::kid(), "pvt_type": "system_key" }));
    server.attach("system_auth", kazoo::kid(), "private_key.pem", OTHER.as_bytes());
    eventually("the new key", async || sources.refusal(&signed_by(OTHER, kazoo::kid())).await.is_none())
        .await;
}
