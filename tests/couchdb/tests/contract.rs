//! What Blackhole relies on in CouchDB, word for word the same for the stand-in and for a real CouchDB:
//! `BLACKHOLE_TEST_COUCHDB=http://admin:password@127.0.0.1:5984 cargo test -p blackhole-couchdb`. The user must be an admin.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use blackhole_couchdb::CouchDb;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;

/// A database of its own on the server.
struct Database {
    http: Client<HttpConnector, Full<Bytes>>,
    server: Url,
    /// Its name as a path segment: with slashes, as KAZOO's.
    name: String,
}

/// A continuous feed.
struct Feed {
    body: Incoming,
    text: String,
}

impl Database {
    async fn create() -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = match std::env::var("BLACKHOLE_TEST_COUCHDB") {
            Ok(url) => Url::parse(&url).unwrap(),
            Err(_) => Url::parse(&CouchDb::start().await.url()).unwrap(),
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("blackhole_test%2F{}%2F{number}", std::process::id());
        let database = Database { http: Client::builder(TokioExecutor::new()).build_http(), server, name };
        assert_eq!(database.send(Method::PUT, "", b"").await.0, 201);
        database
    }

    async fn request(&self, method: Method, path: &str, body: &[u8]) -> hyper::Response<Incoming> {
        let (host, port) = (self.server.host_str().unwrap(), self.server.port_or_known_default().unwrap());
        let uri = format!("http://{host}:{port}/{}{path}", self.name);
        let mut request =
            Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, "application/json");
        if let Some(password) = self.server.password() {
            let user = format!("{}:{password}", self.server.username());
            request = request.header(header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(user)));
        }
        self.http.request(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: &[u8]) -> (u16, Bytes) {
        let response = self.request(method, path, body).await;
        (response.status().as_u16(), response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn json(&self, method: Method, path: &str, body: &[u8]) -> (u16, Value) {
        let (status, body) = self.send(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.json(Method::GET, path, b"").await
    }

    async fn put(&self, id: &str, document: &Value) -> String {
        let (status, answer) =
            self.json(Method::PUT, &format!("/{id}"), document.to_string().as_bytes()).await;
        assert_eq!(status, 201, "{answer}");
        answer["rev"].as_str().unwrap().to_owned()
    }

    async fn delete(&self, id: &str, revision: &str) -> Value {
        let (status, answer) = self.json(Method::DELETE, &format!("/{id}?rev={revision}"), b"").await;
        assert_eq!(status, 200, "{answer}");
        answer
    }

    async fn position(&self) -> String {
        since(&self.get("").await.1["update_seq"])
    }

    async fn feed(&self, since: &str, heartbeat: u32) -> Feed {
        let path = format!("/_changes?feed=continuous&heartbeat={heartbeat}&since={since}");
        let response = self.request(Method::GET, &path, b"").await;
        assert_eq!(response.status(), 200);
        Feed { body: response.into_body(), text: String::new() }
    }

    async fn drop(self) {
        assert_eq!(self.send(Method::DELETE, "", b"").await.0, 200);
    }
}

/// A sequence as the value of `since`.
fn since(sequence: &Value) -> String {
    let text = sequence.as_str().map_or_else(|| sequence.to_string(), str::to_owned);
    percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

impl Feed {
    /// The next line, which may be empty. `None` at the end.
    async fn line(&mut self) -> Option<String> {
        timeout(Duration::from_secs(20), async {
            loop {
                if let Some((line, rest)) = self.text.split_once('\n') {
                    let line = line.to_owned();
                    self.text = rest.to_owned();
                    return Some(line);
                }
                let frame = self.body.frame().await?.unwrap();
                self.text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
            }
        })
        .await
        .unwrap()
    }

    async fn change(&mut self) -> Value {
        loop {
            let line = self.line().await.unwrap();
            if !line.is_empty() {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_database_tells_its_position_and_its_instance() {
    let database = Database::create().await;
    let (status, info) = database.get("").await;
    assert_eq!(status, 200);
    assert!(info["update_seq"].is_string() || info["update_seq"].is_array(), "{info}");
    assert!(!info["instance_start_time"].is_null());
    database.drop().await;
}

#[tokio::test]
async fn what_is_missing_is_a_404() {
    let database = Database::create().await;
    let revision = database.put("gone", &json!({})).await;
    database.delete("gone", &revision).await;
    for path in ["/none", "/gone", "/none/private_key.pem"] {
        let (status, answer) = database.get(path).await;
        assert_eq!((status, &answer["error"]), (404, &json!("not_found")), "{path}");
    }
    let other = Database {
        name: "blackhole_test%2Fnone".into(),
        http: database.http.clone(),
        server: database.server.clone(),
    };
    for path in ["", "/none", "/_all_docs", "/_changes?feed=continuous&heartbeat=1000"] {
        assert_eq!(other.get(path).await.0, 404, "{path}");
    }
    database.drop().await;
}

#[tokio::test]
async fn documents_have_revisions_that_count_up() {
    let database = Database::create().await;
    let first = database.put("a", &json!({ "n": 1, "deep": { "x": ["ü", null] } })).await;
    assert!(first.starts_with("1-"));
    let second = database.put("a", &json!({ "_rev": first, "n": 2 })).await;
    assert!(second.starts_with("2-"));
    let (status, _) = database.json(Method::PUT, "/a", json!({ "_rev": first }).to_string().as_bytes()).await;
    assert_eq!(status, 409);
    let (_, document) = database.get("/a").await;
    assert_eq!(document, json!({ "_id": "a", "_rev": second, "n": 2 }));
    let deleted = database.delete("a", &second).await;
    assert!(deleted["rev"].as_str().unwrap().starts_with("3-"));
    assert!(database.put("a", &json!({})).await.starts_with("4-"));
    database.drop().await;
}

#[tokio::test]
async fn all_documents_come_in_pages_that_go_on_after_a_key() {
    let database = Database::create().await;
    for id in ["_design/x", "b", "a", "B"] {
        database.put(id, &json!({ "is": id })).await;
    }
    let revision = database.put("gone", &json!({})).await;
    database.delete("gone", &revision).await;
    let ids = |page: &Value| {
        let rows = page["rows"].as_array().unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (_, first) = database.get("/_all_docs?limit=2&include_docs=true").await;
    assert_eq!(ids(&first), ["B", "_design/x"]);
    assert_eq!(first["rows"][0]["doc"]["is"], "B");
    assert_eq!(first["rows"][0]["value"]["rev"], first["rows"][0]["doc"]["_rev"]);
    let (_, second) = database.get("/_all_docs?limit=2&skip=1&startkey=%22_design%2Fx%22").await;
    assert_eq!(ids(&second), ["a", "b"]);
    assert!(second["rows"][0].get("doc").is_none());
    let (_, last) = database.get("/_all_docs?limit=2&skip=1&startkey=%22b%22").await;
    assert_eq!(last["rows"], json!([]));
    database.drop().await;
}

#[tokio::test]
async fn documents_can_be_asked_for_by_their_ids() {
    let database = Database::create().await;
    let kept = database.put("kept", &json!({ "n": 1 })).await;
    let revision = database.put("gone", &json!({})).await;
    let deleted = database.delete("gone", &revision).await;
    let keys = "%5B%22none%22%2C%22gone%22%2C%22kept%22%5D";
    let (_, page) = database.get(&format!("/_all_docs?include_docs=true&keys={keys}")).await;
    let rows = page["rows"].as_array().unwrap();
    assert_eq!((&rows[0]["key"], &rows[0]["error"]), (&json!("none"), &json!("not_found")));
    assert_eq!(rows[1]["value"], json!({ "rev": deleted["rev"], "deleted": true }));
    assert_eq!((&rows[1]["id"], &rows[1]["doc"]), (&json!("gone"), &json!(null)));
    assert_eq!(rows[2]["doc"], json!({ "_id": "kept", "_rev": kept, "n": 1 }));
    database.drop().await;
}

#[tokio::test]
async fn an_attachment_is_a_second_change_and_can_be_had_of_a_revision() {
    let database = Database::create().await;
    let since = database.position().await;
    let first = database.put("k", &json!({ "pvt_type": "system_key" })).await;
    assert_eq!(database.get("/k/private_key.pem").await.0, 404);
    let (status, answer) =
        database.json(Method::PUT, &format!("/k/private_key.pem?rev={first}"), b"PEM\n").await;
    assert_eq!(status, 201);
    let second = answer["rev"].as_str().unwrap();
    assert!(second.starts_with("2-"));
    for path in ["/k/private_key.pem".to_owned(), format!("/k/private_key.pem?rev={second}")] {
        assert_eq!(database.send(Method::GET, &path, b"").await, (200, Bytes::from("PEM\n")));
    }
    assert_eq!(database.get(&format!("/k/private_key.pem?rev=9-{}", "0".repeat(32))).await.0, 404);
    let mut feed = database.feed(&since, 1000).await;
    let mut change = feed.change().await;
    if change["changes"][0]["rev"] == json!(first) {
        change = feed.change().await;
    }
    assert_eq!(change["changes"], json!([{ "rev": second }]));
    database.drop().await;
}

#[tokio::test]
async fn a_feed_tells_changes_and_deletions_and_beats() {
    let database = Database::create().await;
    let before = database.put("before", &json!({})).await;
    let position = database.position().await;
    let mut feed = database.feed(&position, 500).await;
    assert_eq!(feed.line().await.as_deref(), Some(""), "a heartbeat, and no earlier change");
    let first = database.put("a", &json!({})).await;
    let change = feed.change().await;
    assert_eq!((&change["id"], &change["changes"]), (&json!("a"), &json!([{ "rev": first }])));
    assert!(change.get("deleted").is_none());
    let deleted = database.delete("a", &first).await;
    let change = feed.change().await;
    assert_eq!(change["deleted"], true);
    assert_eq!(change["changes"], json!([{ "rev": deleted["rev"] }]));
    // Another feed goes on after any of them.
    database.put("before", &json!({ "_rev": before })).await;
    let mut later = database.feed(&since(&change["seq"]), 1000).await;
    assert_eq!(later.change().await["id"], "before");
    database.drop().await;
}

#[tokio::test]
async fn a_feed_begins_at_the_beginning_with_0() {
    let database = Database::create().await;
    database.put("a", &json!({})).await;
    assert_eq!(database.feed("0", 1000).await.change().await["id"], "a");
    database.drop().await;
}

#[tokio::test]
async fn a_bad_sequence_is_a_400() {
    let database = Database::create().await;
    let path = "/_changes?feed=continuous&heartbeat=1000&since=nonsense";
    assert_eq!(database.request(Method::GET, path, b"").await.status(), 400);
    database.drop().await;
}

#[tokio::test]
async fn a_deleted_database_ends_the_feed_with_its_last_sequence() {
    let database = Database::create().await;
    database.put("a", &json!({})).await;
    let mut feed = database.feed("0", 1000).await;
    assert_eq!(feed.change().await["id"], "a");
    let (http, server, name) = (database.http.clone(), database.server.clone(), database.name.clone());
    let instance = database.get("").await.1["instance_start_time"].clone();
    database.drop().await;
    assert!(feed.change().await.get("last_seq").is_some());
    assert_eq!(feed.line().await, None);
    // One that is made again is another one. CouchDB tells instances apart by the second in which they were made.
    let again = Database { http, server, name };
    loop {
        assert_eq!(again.send(Method::PUT, "", b"").await.0, 201);
        // Releases before 3.3 say 0 always.
        if again.get("").await.1["instance_start_time"] != instance || instance == "0" {
            break;
        }
        assert_eq!(again.send(Method::DELETE, "", b"").await.0, 200);
    }
    again.drop().await;
}

/// The view is KAZOO's: what a user owns, by its type.
#[tokio::test]
async fn a_view_has_rows_for_a_range_of_lists() {
    let database = Database::create().await;
    let range = "startkey=%5B%22u1%22%5D&endkey=%5B%22u1%22%2C%7B%7D%5D&include_docs=true";
    let path = format!("/_design/attributes/_view/owned?{range}");
    assert_eq!(database.get(&path).await.0, 404);
    let map = "function(doc) { if (doc.pvt_deleted || !doc.owner_id) return; emit([doc.owner_id, doc.pvt_type], doc._id); }";
    database
        .put("_design/attributes", &json!({ "language": "javascript", "views": { "owned": { "map": map } } }))
        .await;
    for (id, document) in [
        ("mailbox", json!({ "owner_id": "u1", "pvt_type": "vmbox" })),
        ("phone", json!({ "owner_id": "u1", "pvt_type": "device", "sip": { "username": "user_1" } })),
        ("another", json!({ "owner_id": "u10", "pvt_type": "device" })),
        ("deleted", json!({ "owner_id": "u1", "pvt_type": "device", "pvt_deleted": true })),
        ("u1", json!({ "pvt_type": "user" })),
    ] {
        database.put(id, &document).await;
    }
    let (status, answer) = database.get(&path).await;
    assert_eq!(status, 200, "{answer}");
    let rows: Vec<(&Value, &Value, &Value)> = answer["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (&row["id"], &row["key"], &row["doc"]["_id"]))
        .collect();
    assert_eq!(
        rows,
        [
            (&json!("phone"), &json!(["u1", "device"]), &json!("phone")),
            (&json!("mailbox"), &json!(["u1", "vmbox"]), &json!("mailbox")),
        ]
    );
    assert_eq!(answer["rows"][0]["doc"]["sip"], json!({ "username": "user_1" }));
    let (_, answer) = database.get(&format!("{path}&limit=1")).await;
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1);
}
