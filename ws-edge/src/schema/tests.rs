//! The files are up to date, and the schemas say what the code does.

use std::{fs, path::Path};

use blackhole_common::catalogue::Catalogue;
use blackhole_dev::json_schema::Document;
use serde_json::{Value, json};

use super::*;
use crate::protocol::request::Request;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn catalogue() -> Catalogue {
    Catalogue::load(None).unwrap()
}

fn document() -> Document {
    Document::new(asyncapi(&catalogue())).unwrap()
}

fn at(name: &str) -> String {
    format!("#/components/schemas/{name}")
}

#[test]
fn the_files_are_up_to_date() {
    for (path, text) in files(&catalogue()) {
        let is = fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(is == text, "{path} is not up to date: run `cargo dev schema`");
    }
}

#[test]
fn every_reference_resolves() {
    fn check(document: &Value, value: &Value) -> usize {
        let inner = match value {
            Value::Array(items) => items.iter().map(|item| check(document, item)).sum(),
            Value::Object(members) => members.values().map(|member| check(document, member)).sum(),
            _ => 0,
        };
        let Some(Value::String(to)) = value.get("$ref") else { return inner };
        assert!(document.pointer(&to[1..]).is_some(), "{to}");
        inner + 1
    }
    let document = asyncapi(&catalogue());
    assert!(check(&document, &document) > 100);
}

/// The inputs of the fuzz target are requests of many kinds.
#[test]
fn every_request_that_is_accepted_is_valid() {
    let document = document();
    let mut counts = (0, 0);
    for file in fs::read_dir(root().join("tests/fuzz/corpus/request")).unwrap() {
        let Ok(text) = String::from_utf8(fs::read(file.unwrap().path()).unwrap()) else { continue };
        let Ok(request) = serde_json::from_str::<Value>(&text) else { continue };
        // What the others need is not checked by the reader of requests.
        let Some(action @ ("subscribe" | "unsubscribe" | "ping")) = request["action"].as_str() else {
            continue;
        };
        let has_both = |data: &Value| !data["binding"].is_null() && !data["bindings"].is_null();
        if has_both(&request) || has_both(&request["data"]) {
            continue;
        }
        let is_accepted = Request::read(&text).and_then(Request::action).is_ok();
        let error = document.check(&at(action), &request).err();
        assert!(!is_accepted || error.is_none(), "{text}: {error:?}");
        if is_accepted { counts.0 += 1 } else { counts.1 += usize::from(error.is_some()) }
    }
    assert!(counts.0 > 10 && counts.1 > 5, "{counts:?}");
}

#[test]
fn requests_that_are_refused_are_not_valid() {
    let document = document();
    for refused in [
        json!({}),
        json!({ "action": "subscribe" }),
        json!({ "action": "subscribe", "data": {} }),
        json!({ "action": "subscribe", "data": [] }),
        json!({ "action": "subscribe", "data": { "binding": "" } }),
        json!({ "action": "subscribe", "data": { "bindings": "a" } }),
        json!({ "action": "subscribe", "data": { "binding": "a", "since": 5 } }),
        json!({ "action": "subscribe", "data": { "binding": "a", "state": "yes" } }),
        json!({ "action": "subscribe", "request_id": {}, "data": { "binding": "a" } }),
    ] {
        assert!(!document.accepts(&at("subscribe"), &refused), "{refused}");
        assert!(Request::read(&refused.to_string()).and_then(Request::action).is_err(), "{refused}");
    }
}

/// Whoever reads the query knows the parameters of the document: only `binding` may be there twice. Others are ignored.
#[test]
fn the_query_of_event_streams_has_the_parameters_that_are_read() {
    let document = asyncapi(&catalogue());
    let query = &document["operations"]["openEvents"]["bindings"]["http"]["query"];
    let parameters = query["properties"].as_object().unwrap();
    let names: Vec<&str> = parameters.keys().map(String::as_str).collect();
    assert_eq!(names, ["account_id", "auth_token", "binding", "name", "since", "state", "view"]);
    let is_read = |query: &str| {
        let request = hyper::Request::get(format!("/events?binding=call.*.*&{query}")).body(()).unwrap();
        crate::http::events::check(&request).is_ok()
    };
    for (name, schema) in parameters {
        let value = schema["enum"][0].as_str().unwrap_or("x");
        assert!(is_read(&format!("{name}={value}")), "{name}");
        let twice = is_read(&format!("{name}={value}&{name}={value}"));
        assert_eq!(twice, name == "binding", "{name}");
        let is_valid = schema["enum"].is_null() || !is_read(&format!("{name}=none-of-them"));
        assert!(is_valid, "{name}");
    }
    assert!(is_read("another=1&another=2"));
}

/// Every name that an event can have is told, and the message that it brings.
#[test]
fn the_names_of_an_event_stream_are_those_that_are_sent() {
    use crate::protocol::{close::Close, event_stream};
    let document = document();
    let message = |text: &str| {
        let name = text.strip_prefix("event: ").unwrap().split_once('\n').unwrap().0.to_owned();
        let data: Value = serde_json::from_str(text.split_once("\ndata: ").unwrap().1.trim_end()).unwrap();
        let place = format!("#/channels/events/x-event-names/{name}/0");
        let schema = document.get(&place).unwrap_or_else(|| panic!("no {name}")).as_str().unwrap();
        assert_eq!(document.check(&at(schema), &data), Ok(()), "{text}");
    };
    for close in Close::ALL {
        let sent = event_stream::close(close);
        std::str::from_utf8(&sent).unwrap().split_terminator("\n\n").for_each(message);
    }
    let body: Value = serde_json::from_str(&event_stream::error_json("some error")).unwrap();
    assert_eq!(document.check(&at("eventsRefused"), &body), Ok(()));
    let statuses = [
        event_stream::status_of("anything else"),
        event_stream::status_of("failed to authenticate token : bad signature"),
        event_stream::status_of("unauthorized account id"),
        event_stream::status_of("too many subjects : at most 5 per account"),
        event_stream::status_of_close(Close::Restart),
    ];
    assert!(statuses.iter().all(|status| event_stream::REFUSALS.contains(&status.as_u16())));
}

#[test]
fn bindings_have_the_forms_of_the_catalogue() {
    let document = document();
    for valid in [
        "call.*.*",
        "call.CHANNEL_CREATE.1f3c9a%2E77e2@10%2E0%2E4%2E17",
        "call.#",
        "call.CHANNEL_CREATE.#",
        "call.*.*.#",
        "conference.event.c.*",
        "conference.command.#",
        "doc_created.*.user.*",
        "doc_edited.#",
        "fax.status.#1",
        "object.*.*",
        "qubicle.queue",
        "relay.*",
    ] {
        assert!(document.accepts(&at("binding"), &json!(valid)), "{valid}");
    }
    for invalid in ["call", "conference.#", "call.#.*", "no.such.family", "call.*.*.*", "*.#", ""] {
        assert!(!document.accepts(&at("binding"), &json!(invalid)), "{invalid}");
    }
}

#[test]
fn members_have_the_types_of_the_reference_events() {
    let call = &asyncapi(&catalogue())["components"]["schemas"]["callArgs"];
    assert_eq!(call["properties"]["Timestamp"]["type"], json!(["integer", "null"]));
    assert_eq!(
        call["properties"]["Custom-Channel-Vars"]["properties"]["Owner-ID"]["type"],
        json!(["string", "null"])
    );
    let data = &asyncapi(&catalogue())["components"]["schemas"]["callData"];
    assert_eq!(
        data["properties"]["custom_channel_vars"]["properties"]["owner_id"]["type"],
        json!(["string", "null"])
    );
    assert_eq!(data["required"], json!(["event_name"]));
}

/// The simulated KAZOO publishes what the schemas say.
#[test]
fn the_simulated_events_have_these_types() {
    use blackhole_dev::simulator::{Plan, Settings, sample};
    let catalogue = catalogue();
    let mut plan = Plan::new(Settings {
        seed: 1,
        calls_per_second: 1.0,
        start: std::time::SystemTime::now(),
        accounts: sample().unwrap(),
    });
    let mut seen = std::collections::BTreeSet::new();
    let document = document();
    for _ in 0..2000 {
        let Some(event) = plan.next() else { break };
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        for (_, family, _) in catalogue.kinds_of_key(&event.routing_key) {
            let checked = document.check(&at(&format!("{family}Args")), &body);
            assert_eq!(checked, Ok(()), "{family}: {body}");
            seen.insert(family.to_owned());
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

#[test]
fn yaml_has_blocks_and_quoted_texts() {
    let document = json!({ "a": { "b": [1, "x: y"], "4401": [{ "c": null, "d": {} }, []] }, "on": true });
    let text = "# Generated by `cargo dev schema`.\na:\n  \"4401\":\n    - c: null\n      d: {}\n    - []\n  b: [1,\"x: y\"]\n\"on\": true\n";
    assert_eq!(yaml::write(&document), text);
}
