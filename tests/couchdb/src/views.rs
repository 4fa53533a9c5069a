//! KAZOO's views. Their functions are known here; only the questions that Blackhole asks are answered.

use serde_json::{Value, json};

use crate::{
    answers::{Answer, Query, error, json_answer, missing},
    store::Database,
};

/// The answer of `_design/{design}/_view/{view}`.
pub(crate) fn answer(database: &Database, design: &str, view: &str, query: &Query) -> Answer {
    let is_there = database.documents.get(design).is_some_and(|document| !document.is_deleted);
    let rows = match (design, view) {
        _ if !is_there => return missing(),
        ("_design/attributes", "owned") => owned(database, query),
        ("_design/port_requests", "port_in_numbers") => port_in_numbers(database, query),
        _ => return missing(),
    };
    let Some(mut rows) = rows else {
        return error(400, "query_parse_error", "the stand-in knows no such range");
    };
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    rows.truncate(limit);
    json_answer(200, &json!({ "total_rows": rows.len(), "offset": 0, "rows": rows }))
}

fn value(query: &Query, name: &str) -> Option<Value> {
    serde_json::from_str(query.get(name)?).ok()
}

fn documents(database: &Database) -> impl Iterator<Item = (&String, Value)> {
    let there = database.documents.iter().filter(|(_, document)| !document.is_deleted);
    there.map(|(id, document)| (id, serde_json::from_str(&document.json(id)).unwrap()))
}

/// A document that is not softly deleted has a row with its owner and its type.
fn owned(database: &Database, query: &Query) -> Option<Vec<Value>> {
    let (start, end) = (value(query, "startkey")?, value(query, "endkey")?);
    let owner = start[0].clone();
    if start != json!([owner]) || end != json!([owner, {}]) || query.get("include_docs").is_none() {
        return None;
    }
    let mut rows = Vec::new();
    for (id, doc) in documents(database) {
        if doc["owner_id"] == owner && doc["pvt_deleted"].as_bool() != Some(true) {
            rows.push(json!({ "id": id, "key": [owner, doc["pvt_type"]], "value": id, "doc": doc }));
        }
    }
    rows.sort_by_key(|row| (row["key"][1].as_str().map(str::to_owned), row["id"].to_string()));
    Some(rows)
}

/// Each number of a port request that is under way has a row with its account.
fn port_in_numbers(database: &Database, query: &Query) -> Option<Vec<Value>> {
    let key = value(query, "key")?;
    let number = key.as_str()?;
    let mut rows = Vec::new();
    for (id, doc) in documents(database) {
        let is_one = doc["pvt_type"] == "port_request" && doc["pvt_deleted"].as_bool() != Some(true);
        let is_over = ["unconfirmed", "completed", "rejected", "canceled"];
        let is_over = doc["pvt_port_state"].as_str().is_some_and(|state| is_over.contains(&state));
        if is_one && !is_over && doc["numbers"].get(number).is_some() {
            rows.push(json!({ "id": id, "key": number, "value": doc["pvt_account_id"] }));
        }
    }
    Some(rows)
}
