//! Requests and their answers.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Method, Request, Response, body::Incoming, header};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::{
    Shared,
    feed::{self, infallible},
    store::{Database, Store},
    users, views,
};

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
pub(crate) type Query = HashMap<String, String>;

/// An answer without a feed.
pub(crate) struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
}

pub(crate) fn json_answer(status: u16, value: &Value) -> Answer {
    Answer { status, kind: "application/json", body: format!("{value}\n").into_bytes() }
}

pub(crate) fn error(status: u16, error: &str, reason: &str) -> Answer {
    json_answer(status, &json!({ "error": error, "reason": reason }))
}

pub(crate) fn missing() -> Answer {
    error(404, "not_found", "missing")
}

/// Answers a request.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    shared.asked.lock().push(parts.uri.to_string());
    let segments: Vec<String> = parts
        .uri
        .path()
        .split('/')
        .filter(|segment| !segment.is_empty())
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .collect();
    let query: Query =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let segments = with_design_documents(segments);
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let refusal = {
        let (store, faults) = (shared.store.lock(), shared.faults.lock());
        users::refusal(&store, &faults, authorization, &parts.method, &segments)
    };
    if let Some(refusal) = refusal {
        return Ok(response(refusal));
    }
    if let [database, "_changes"] = segments.as_slice() {
        return Ok(changes(&shared, database, &query).await);
    }
    let is_read = matches!(parts.method, Method::GET | Method::HEAD);
    let answer = {
        let faults = shared.faults.lock();
        let as_array = faults.sequences_are_arrays;
        match (&faults.old, is_read) {
            (Some(old), true) => read(old, as_array, &segments, &query),
            (_, true) => read(&shared.store.lock(), as_array, &segments, &query),
            (_, false) => write(&mut shared.store.lock(), &parts.method, &segments, &query, &body),
        }
    };
    if !is_read {
        shared.tell();
    }
    // On its way an answer gets old.
    let delay = shared.faults.lock().delay;
    if !delay.is_zero() {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(delay).await;
        shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    Ok(response(answer))
}

/// The id of a design document contains a slash.
fn with_design_documents(mut segments: Vec<String>) -> Vec<String> {
    if segments.len() > 2 && segments[1] == "_design" {
        let id = segments.remove(2);
        segments[1] = format!("_design/{id}");
    }
    segments
}

fn response(answer: Answer) -> Response<Body> {
    let body = Full::new(Bytes::from(answer.body)).map_err(infallible).boxed_unsync();
    let builder = Response::builder().status(answer.status).header(header::CONTENT_TYPE, answer.kind);
    builder.body(body).unwrap()
}

fn read(store: &Store, as_array: bool, segments: &[&str], query: &Query) -> Answer {
    let [name, rest @ ..] = segments else {
        return json_answer(200, &json!({ "couchdb": "Welcome", "version": "3.4.0" }));
    };
    let Some(database) = store.databases.get(*name) else {
        return error(404, "not_found", "Database does not exist.");
    };
    match rest {
        [] => {
            let count = database.documents.values().filter(|document| !document.is_deleted).count();
            let info = json!({
                "db_name": name,
                "update_seq": database.position(database.sequence, as_array),
                "doc_count": count,
                "instance_start_time": database.instance.to_string(),
            });
            json_answer(200, &info)
        }
        ["_all_docs"] => all_docs(database, query),
        ["_security"] => json_answer(200, &database.security),
        [design, "_view", view] => views::answer(database, design, view, query),
        [id] => document(database, id),
        [id, attachment] => {
            let document = database.documents.get(*id).filter(|document| !document.is_deleted);
            // Older revisions are not kept.
            let is_asked = |revision: &String| query.get("rev").is_none_or(|asked| asked == revision);
            let document = document.filter(|document| is_asked(&document.revision));
            match document.and_then(|document| document.attachments.get(*attachment)) {
                Some((_, content)) => {
                    Answer { status: 200, kind: "application/x-pem-file", body: content.clone() }
                }
                None => error(404, "not_found", "Document is missing attachment"),
            }
        }
        _ => missing(),
    }
}

fn document(database: &Database, id: &str) -> Answer {
    match database.documents.get(id) {
        Some(document) if !document.is_deleted => {
            Answer { status: 200, kind: "application/json", body: document.json(id).into_bytes() }
        }
        Some(_) => error(404, "not_found", "deleted"),
        None => missing(),
    }
}

fn all_docs(database: &Database, query: &Query) -> Answer {
    let include_docs = query.get("include_docs").is_some_and(|value| value == "true");
    let row = |id: &str| match database.documents.get(id) {
        Some(document) => {
            let value = if document.is_deleted {
                json!({ "rev": document.revision, "deleted": true })
            } else {
                json!({ "rev": document.revision })
            };
            let doc = match (include_docs, document.is_deleted) {
                (false, _) => String::new(),
                (true, true) => ",\"doc\":null".into(),
                (true, false) => format!(",\"doc\":{}", document.json(id)),
            };
            format!("{{\"id\":{0},\"key\":{0},\"value\":{value}{doc}}}", json!(id))
        }
        None => json!({ "key": id, "error": "not_found" }).to_string(),
    };
    let rows: Vec<String> = match query.get("keys") {
        Some(keys) => {
            let Ok(keys) = serde_json::from_str::<Vec<String>>(keys) else {
                return error(400, "bad_request", "`keys` member must be an array.");
            };
            keys.iter().map(|id| row(id)).collect()
        }
        None => {
            let start = query.get("startkey").map(|key| serde_json::from_str::<String>(key));
            let Ok(start) = start.transpose() else { return error(400, "bad_request", "invalid UTF-8 JSON") };
            let number = |name: &str| query.get(name).and_then(|number| number.parse::<usize>().ok());
            let ids = database.documents.range(start.unwrap_or_default()..);
            let ids = ids.filter(|(_, document)| !document.is_deleted).map(|(id, _)| id);
            ids.skip(number("skip").unwrap_or(0))
                .take(number("limit").unwrap_or(usize::MAX))
                .map(|id| row(id))
                .collect()
        }
    };
    let total = database.documents.values().filter(|document| !document.is_deleted).count();
    let body = format!("{{\"total_rows\":{total},\"offset\":0,\"rows\":[\n{}\n]}}\n", rows.join(",\n"));
    Answer { status: 200, kind: "application/json", body: body.into_bytes() }
}

async fn changes(shared: &Arc<Shared>, name: &str, query: &Query) -> Response<Body> {
    let (refuses, as_array) = {
        let faults = shared.faults.lock();
        (faults.refuses_sequences, faults.sequences_are_arrays)
    };
    let include_docs = query.get("include_docs").is_some_and(|value| value == "true");
    let since = query.get("since").map_or("0", String::as_str);
    let since = {
        let store = shared.store.lock();
        let Some(database) = store.databases.get(name) else {
            return response(error(404, "not_found", "Database does not exist."));
        };
        let Some(since) = database.number(since).filter(|_| !refuses) else {
            return response(error(400, "bad_request", "Malformed sequence supplied in 'since' parameter."));
        };
        if query.get("feed").is_none_or(|feed| feed == "normal") {
            let (lines, last) = feed::lines(database, since, usize::MAX, include_docs, as_array);
            let last = database.position(last, as_array);
            let body =
                format!("{{\"results\":[\n{}\n],\n\"last_seq\":{last},\"pending\":0}}\n", lines.join(",\n"));
            return response(Answer { status: 200, kind: "application/json", body: body.into_bytes() });
        }
        since
    };
    let heartbeat = query.get("heartbeat").and_then(|time| time.parse().ok());
    let body = feed::continuous(shared, name, since, heartbeat, include_docs).await;
    Response::builder().header(header::CONTENT_TYPE, "application/json").body(body).unwrap()
}

fn write(store: &mut Store, method: &Method, segments: &[&str], query: &Query, body: &[u8]) -> Answer {
    let revision = query.get("rev").map(String::as_str);
    let conflict = || error(409, "conflict", "Document update conflict.");
    let written =
        |id: &str, revision: String| json_answer(201, &json!({ "ok": true, "id": id, "rev": revision }));
    match (method, segments) {
        (&Method::PUT, [name]) => match store.create(name) {
            true => json_answer(201, &json!({ "ok": true })),
            false => error(412, "file_exists", "The database could not be created, the file already exists."),
        },
        (&Method::DELETE, [name]) => match store.drop_database(name) {
            true => json_answer(200, &json!({ "ok": true })),
            false => error(404, "not_found", "Database does not exist."),
        },
        (_, [name, ..]) if !store.databases.contains_key(*name) => {
            error(404, "not_found", "Database does not exist.")
        }
        (&Method::PUT, [name, "_security"]) => match serde_json::from_slice::<Value>(body) {
            Ok(value) => {
                store.secure(name, value);
                json_answer(200, &json!({ "ok": true }))
            }
            Err(_) => error(400, "bad_request", "invalid UTF-8 JSON"),
        },
        // Only what replication does.
        (&Method::POST, [name, "_bulk_docs"]) => match serde_json::from_slice::<Value>(body) {
            Ok(value) if value["new_edits"] == false => {
                let documents = value["docs"].as_array().cloned().unwrap_or_default();
                documents.iter().for_each(|document| store.replicate(name, document));
                json_answer(201, &json!([]))
            }
            _ => error(400, "bad_request", "the stand-in knows new_edits = false only"),
        },
        (&Method::PUT, [name, id]) => {
            let Ok(value) = serde_json::from_slice::<Value>(body) else {
                return error(400, "bad_request", "invalid UTF-8 JSON");
            };
            let revision = revision.or(value["_rev"].as_str()).map(str::to_owned);
            match store.put(name, id, &value, revision.as_deref()) {
                Ok(revision) => written(id, revision),
                Err(_) => conflict(),
            }
        }
        (&Method::PUT, [name, id, attachment]) => {
            match store.attach(name, id, attachment, body.to_vec(), Some(revision.unwrap_or_default())) {
                Ok(revision) => written(id, revision),
                Err(_) => conflict(),
            }
        }
        (&Method::DELETE, [name, id]) => match store.delete(name, id, Some(revision.unwrap_or_default())) {
            Ok(revision) => json_answer(200, &json!({ "ok": true, "id": id, "rev": revision })),
            Err(_) => conflict(),
        },
        _ => error(405, "method_not_allowed", "Only GET,PUT,DELETE allowed"),
    }
}
