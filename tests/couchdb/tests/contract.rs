//! What Blackhole relies on in CouchDB, word for word the same for the stand-in and for a real CouchDB:
//! `BLACKHOLE_TEST_COUCHDB=http://admin:password@127.0.0.1:5984 cargo test -p blackhole-couchdb`. The user must be an admin.
//! Each test makes a database `blackhole_test/…`, and deletes it unless the test fails.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
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
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;

/// What the names of all databases of this run have in common.
static RUN: LazyLock<u128> =
    LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos());

type Http = Client<HttpConnector, Full<Bytes>>;

/// A database of its own on the server.
#[derive(Clone)]
struct Database {
    http: Http,
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
            Err(_) => {
                let stand_in = CouchDb::start().await;
                stand_in.require_user("admin", "s3cr3t/");
                Url::parse(&stand_in.url().replace("http://", "http://admin:s3cr3t%2F@")).unwrap()
            }
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("blackhole_test%2F{}%2F{number}", *RUN);
        let database = Database { http: Client::builder(TokioExecutor::new()).build_http(), server, name };
        assert_written(database.send(Method::PUT, "", b"").await.0);
        database
    }

    /// The same server for another user.
    fn of_user(&self, user: &str, password: &str) -> Database {
        let mut other = self.clone();
        other.server.set_username(user).unwrap();
        other.server.set_password(Some(password)).unwrap();
        other
    }

    fn named(&self, name: &str) -> Database {
        Database { name: name.to_owned(), ..self.clone() }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: &[u8],
    ) -> hyper::Response<Incoming> {
        let (host, port) = (self.server.host_str().unwrap(), self.server.port_or_known_default().unwrap());
        let uri = format!("{}://{host}:{port}/{}{path}", self.server.scheme(), self.name);
        let mut request = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, kind);
        if let Some(password) = self.server.password() {
            let [user, password] = [self.server.username(), password]
                .map(|text| percent_decode_str(text).decode_utf8().unwrap().into_owned());
            let both = STANDARD.encode(format!("{user}:{password}"));
            request = request.header(header::AUTHORIZATION, format!("Basic {both}"));
        }
        self.http.request(request.body(Full::new(Bytes::copy_from_slice(body))).unwrap()).await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: &[u8]) -> (u16, Bytes) {
        let response = self.request(method, path, "application/json", body).await;
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
        assert_written(status);
        answer["rev"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Writes an attachment, and returns the revision that the document then has.
    async fn attach(&self, id: &str, revision: &str, content: &'static str) -> String {
        let path = format!("/{id}/private_key.pem?rev={revision}");
        let response = self.request(Method::PUT, &path, "application/x-pem-file", content.as_bytes()).await;
        assert_written(response.status().as_u16());
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        answer["rev"].as_str().unwrap().to_owned()
    }

    /// Waits until a question has this status: what is written about users and databases does not count at once everywhere.
    async fn until(&self, status: u16, path: &str) {
        let asked = async {
            while self.send(Method::GET, path, b"").await.0 != status {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(20), asked).await.unwrap_or_else(|_| panic!("{path} is never {status}"));
    }

    async fn delete(&self, id: &str, revision: &str) -> Value {
        let (status, answer) = self.json(Method::DELETE, &format!("/{id}?rev={revision}"), b"").await;
        assert!(matches!(status, 200 | 202), "{answer}");
        answer
    }

    async fn position(&self) -> String {
        since(&self.get("").await.1["update_seq"])
    }

    async fn feed(&self, since: &str, heartbeat: u32) -> Feed {
        let path = format!("/_changes?feed=continuous&heartbeat={heartbeat}&since={since}");
        let response = self.request(Method::GET, &path, "application/json", b"").await;
        assert_eq!(response.status(), 200);
        Feed { body: response.into_body(), text: String::new() }
    }

    async fn drop(self) {
        let (status, _) = self.send(Method::DELETE, "", b"").await;
        assert!(matches!(status, 200 | 202), "{status}");
    }
}

/// 202 is the answer of a cluster in which not all nodes have written yet.
fn assert_written(status: u16) {
    assert!(matches!(status, 201 | 202), "{status}");
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
    let other = database.named("blackhole_test%2Fnone");
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
    let second = database.attach("k", &first, "PEM\n").await;
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
    assert_eq!(database.send(Method::GET, path, b"").await.0, 400);
    database.drop().await;
}

#[tokio::test]
async fn a_deleted_database_ends_the_feed_with_its_last_sequence() {
    let database = Database::create().await;
    database.put("a", &json!({})).await;
    let mut feed = database.feed("0", 1000).await;
    assert_eq!(feed.change().await["id"], "a");
    let again = database.clone();
    let instance = database.get("").await.1["instance_start_time"].clone();
    database.drop().await;
    assert!(feed.change().await.get("last_seq").is_some());
    assert_eq!(feed.line().await, None);
    // One that is made again is another one. CouchDB tells instances apart by the second in which they were made.
    loop {
        assert_written(again.send(Method::PUT, "", b"").await.0);
        // Releases before 3.3 say 0 always.
        if again.get("").await.1["instance_start_time"] != instance || instance == "0" {
            break;
        }
        again.clone().drop().await;
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
    database.drop().await;
}

/// The view is KAZOO's: numbers of port requests that are under way.
#[tokio::test]
async fn a_view_has_rows_for_a_key() {
    let database = Database::create().await;
    let path = "/_design/port_requests/_view/port_in_numbers?key=%22%2B14155550123%22&limit=2";
    assert_eq!(database.get(path).await.0, 404);
    let map = "function(doc) { if (doc.pvt_type != 'port_request' || doc.pvt_deleted || doc.pvt_port_state == 'unconfirmed' || doc.pvt_port_state == 'completed' || doc.pvt_port_state == 'rejected' || doc.pvt_port_state == 'canceled') return; for (i in doc.numbers) { emit(i, doc.pvt_account_id); } }";
    let views = json!({ "language": "javascript", "views": { "port_in_numbers": { "map": map } } });
    database.put("_design/port_requests", &views).await;
    for (id, number, state) in [
        ("p1", "+14155550123", "submitted"),
        ("p2", "+14155550123", "completed"),
        ("p3", "+14155550124", "submitted"),
    ] {
        let request = json!({
            "pvt_type": "port_request", "pvt_port_state": state, "pvt_account_id": format!("a{id}"),
            "numbers": { number: {} },
        });
        database.put(id, &request).await;
    }
    let (status, answer) = database.get(path).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["rows"], json!([{ "id": "p1", "key": "+14155550123", "value": "ap1" }]));
    database.drop().await;
}

/// Two nodes that do not see each other may write the same document. Both then agree on one of the revisions.
#[tokio::test]
async fn of_two_revisions_with_one_number_the_greater_hash_wins() {
    let database = Database::create().await;
    let position = database.position().await;
    let write = async |hash: &str, n: u32| {
        let document = json!({ "_id": "a", "_rev": format!("1-{}", hash.repeat(16)), "n": n });
        let body = json!({ "new_edits": false, "docs": [document] }).to_string();
        let (status, answer) = database.json(Method::POST, "/_bulk_docs", body.as_bytes()).await;
        assert_written(status);
        assert_eq!(answer, json!([]));
    };
    for (hash, n, winner) in [("5a", 1, 1), ("0b", 2, 1), ("f0", 3, 3)] {
        write(hash, n).await;
        assert_eq!(database.get("/a").await.1["n"], winner);
    }
    let mut feed = database.feed(&position, 1000).await;
    let change = feed.change().await;
    assert_eq!(change["changes"], json!([{ "rev": format!("1-{}", "f0".repeat(16)) }]));
    database.drop().await;
}

/// As `docs/couchdb.md` says.
#[tokio::test]
async fn a_user_who_is_a_member_can_read_and_with_the_function_not_write() {
    let database = Database::create().await;
    let revision = database.put("k", &json!({ "pvt_type": "system_key" })).await;
    database.attach("k", &revision, "PEM\n").await;
    // It is there already, or the server was just installed.
    let users = database.named("_users");
    assert!(matches!(users.send(Method::PUT, "", b"").await.0, 201 | 202 | 412));
    let name = format!("blackhole_test_{}", *RUN);
    let id = format!("org.couchdb.user:{name}");
    let user = json!({
        "_id": id, "name": name, "type": "user", "roles": ["kazoo_reader"], "password": "choose-one",
    });
    let user_revision = users.put(&id, &user).await;
    let member = database.of_user(&name, "choose-one");

    // A wrong password is told apart from a database that may not be read.
    let stranger = database.of_user(&name, "other");
    let (status, answer) = stranger.get("/k").await;
    assert_eq!((status, &answer["error"]), (401, &json!("unauthorized")));
    let mut nobody = database.clone();
    nobody.server.set_password(None).unwrap();
    assert_eq!(nobody.get("/k").await.0, 401);
    member.until(403, "/k").await;

    let security = json!({
        "admins": { "roles": ["_admin"] }, "members": { "roles": ["_admin", "kazoo_reader"] },
    });
    let (status, _) = database.send(Method::PUT, "/_security", security.to_string().as_bytes()).await;
    assert_eq!(status, 200);
    for path in ["", "/k", "/k/private_key.pem", "/_all_docs?include_docs=true"] {
        member.until(200, path).await;
    }
    assert_eq!(member.feed("0", 1000).await.change().await["id"], "k");

    let function = "function (newDoc, oldDoc, userCtx) { if (userCtx.roles.indexOf('kazoo_reader') !== -1) { throw({ forbidden: 'read only' }); } }";
    database.put("_design/read_only", &json!({ "validate_doc_update": function })).await;
    let refused = async {
        for number in 0.. {
            let (status, answer) = member.json(Method::PUT, &format!("/w{number}"), b"{}").await;
            if status == 403 {
                return answer;
            }
            assert_written(status);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        unreachable!()
    };
    let answer = timeout(Duration::from_secs(20), refused).await.unwrap();
    assert_eq!(answer["error"], "forbidden");
    member.until(200, "/k").await;
    // The admin may.
    database.put("by-the-admin", &json!({})).await;
    users.delete(&id, &user_revision).await;
    database.drop().await;
}
