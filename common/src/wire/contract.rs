//! The messages of `tests/contract/v1/`: releases that run side by side read and write exactly these. A line may be added;
//! one that is there must not change (docs/compatibility.md).

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::*;

fn text(file: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/contract/v1");
    std::fs::read_to_string(dir.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Each message is read and written again as it is, and those of a later release are read.
fn check<T: Serialize + DeserializeOwned>(name: &str) {
    for line in text(&format!("{name}.jsonl")).lines() {
        let message: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
        assert_eq!(serde_json::to_string(&message).unwrap(), line, "{name}");
    }
    for line in text(&format!("newer/{name}.jsonl")).lines() {
        serde_json::from_str::<T>(line).unwrap_or_else(|error| panic!("newer {name}: {error}: {line}"));
    }
}

#[test]
fn messages_are_those_of_the_contract() {
    check::<AuthRequest>("auth_request");
    check::<AuthReply>("auth_reply");
    check::<AuthChanged>("auth_changed");
    check::<NumberRequest>("number_request");
    check::<NumberReply>("number_reply");
    check::<SessionsRequest>("sessions_request");
    check::<SessionsReply>("sessions_reply");
    // As the ingest reads it.
    check::<SessionsReply<Box<serde_json::value::RawValue>>>("sessions_reply");
    check::<EdgeHeartbeat>("edge_heartbeat");
    check::<FamilyRequest>("family_request");
    check::<FamilyReply>("family_reply");
    check::<TargetedRequest>("targeted_request");
    check::<TargetedReply>("targeted_reply");
    check::<StateProgress>("state_progress");
}

#[test]
fn names_are_those_of_the_contract() {
    let names: Value = serde_json::from_str(&text("names.json")).unwrap();
    let subjects = Subjects::new(names["prefix"].as_str().unwrap());
    for (name, own) in [
        ("ingest", subjects.ingest()),
        ("event", subjects.event()),
        ("auth_check", subjects.auth_check()),
        ("auth_number", subjects.auth_number()),
        ("auth_changed", subjects.auth_changed()),
        ("sessions", subjects.sessions()),
        ("edges", subjects.edges()),
        ("families", subjects.families()),
        ("targeted", subjects.targeted()),
        ("stream", subjects.stream()),
        ("state", subjects.state()),
        ("state_progress", subjects.state_progress()),
        ("state_stream", subjects.state_stream()),
        ("stopped_families", subjects.stopped_families()),
    ] {
        assert_eq!(names[name], own, "{name}");
    }
}
