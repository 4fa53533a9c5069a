use serde_json::json;

use super::*;
use crate::protocol::cursor::{EventPosition, Rank, StreamId};

fn action(value: Value) -> Result<Action, String> {
    Request::read(&value.to_string()).and_then(Request::action).map_err(|error| error.to_string())
}

fn subscribe(data: Value) -> Result<(Option<String>, Vec<String>, ClientInfo), String> {
    match action(json!({ "action": "subscribe", "data": data }))? {
        Action::Subscribe(subscribe) => Ok((subscribe.account_id, subscribe.bindings, subscribe.client)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn binding_takes_precedence_over_bindings() {
    let both = subscribe(json!({ "binding": "a", "bindings": ["b", "c"] })).unwrap();
    assert_eq!(both.1, ["a"]);
    let many = subscribe(json!({ "account_id": "x", "bindings": ["b", "c", "b"] })).unwrap();
    assert_eq!(many, (Some("x".into()), vec!["b".into(), "c".into()], ClientInfo::default()));
}

#[test]
fn without_data_the_members_beside_the_action_count() {
    let flat = json!({ "action": "subscribe", "account_id": "x", "binding": "a", "name": "n" });
    let Ok(Action::Subscribe(subscribe)) = action(flat) else { panic!() };
    assert_eq!((subscribe.account_id.as_deref(), subscribe.bindings), (Some("x"), vec!["a".into()]));
    assert_eq!(subscribe.client.name.as_deref(), Some("n"));
    let many = json!({ "action": "subscribe", "bindings": ["a", "b"] });
    assert!(matches!(action(many), Ok(Action::Subscribe(subscribe)) if subscribe.bindings == ["a", "b"]));
    let some = json!({ "action": "unsubscribe", "account_id": "x", "binding": "a" });
    let expected = Action::Unsubscribe { account_id: Some("x".into()), bindings: Some(vec!["a".into()]) };
    assert_eq!(action(some), Ok(expected));
    let account = |value: Value| Request::read(&value.to_string()).unwrap().account_id().map(str::to_owned);
    assert_eq!(account(json!({ "account_id": "x" })), Some("x".into()));
    assert_eq!(account(json!({ "account_id": "x", "data": { "account_id": "y" } })), Some("y".into()));
    let with_data = json!({ "action": "subscribe", "binding": "a", "data": {} });
    assert_eq!(action(with_data), Err("missing required keys : binding".into()), "`data` counts");
}

#[test]
fn name_and_metadata_are_accepted_in_either_place() {
    let inside = subscribe(json!({ "binding": "a", "name": "n", "metadata": { "test": "test" } })).unwrap().2;
    assert_eq!(inside, ClientInfo { name: Some("n".into()), metadata: Some(json!({ "test": "test" })) });
    let outside =
        action(json!({ "action": "subscribe", "name": "n", "metadata": 1, "data": { "binding": "a" } }))
            .unwrap();
    assert!(
        matches!(outside, Action::Subscribe(Subscribe { client, .. }) if client.name.as_deref() == Some("n") && client.metadata == Some(json!(1)))
    );
}

#[test]
fn state_is_true_or_false() {
    let state = |state: Value| match action(
        json!({ "action": "subscribe", "data": { "binding": "a", "state": state } }),
    ) {
        Ok(Action::Subscribe(subscribe)) => Ok(subscribe.state),
        Ok(_) => panic!(),
        Err(error) => Err(error),
    };
    assert_eq!([true.into(), false.into(), Value::Null].map(state), [Ok(true), Ok(false), Ok(false)]);
    assert_eq!(state(1.into()), Err("invalid state : must be true or false".into()));
}

#[test]
fn since_is_a_cursor_or_an_age() {
    let since = |since: Value| match action(
        json!({ "action": "subscribe", "data": { "binding": "a", "since": since } }),
    ) {
        Ok(Action::Subscribe(subscribe)) => Ok(subscribe.since),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error),
    };
    let position = EventPosition { stream: StreamId::new("t"), sequence: 7 };
    let cursor = Cursor { position, rank: Rank::of("a", "b") };
    let text = String::from_utf8(cursor.to_text().to_vec()).unwrap();
    assert_eq!(since(json!(text)), Ok(Some(Since::Cursor(cursor))));
    assert_eq!(since(json!("-5m")), Ok(Some(Since::Ago(Duration::from_secs(300)))));
    assert_eq!(since(json!("-1h 30m")), Ok(Some(Since::Ago(Duration::from_secs(5400)))));
    assert_eq!(since(Value::Null), Ok(None));
    for unknown in
        ["", "5m", "yesterday", &text[1..], "v2.xOjuWb8AAAAAAABHrCvbbUU5", "-a-cursor-that-was-changed"]
    {
        assert_eq!(since(json!(unknown)), Ok(Some(Since::Unknown)), "{unknown}");
    }
    for bad in ["-", "-5", "--5m", "-5 parsecs"] {
        let expected = "invalid since : must be the cursor of an event, or a time back such as -5m";
        assert_eq!(since(json!(bad)), Err(expected.to_owned()), "{bad}");
    }
    assert_eq!(since(json!({})), Err("invalid since : must be a string".to_owned()));
    assert_eq!(since(json!(5)), Err("invalid since : must be a string".to_owned()));
}

#[test]
fn unsubscribe_removes_some_bindings_or_all() {
    assert_eq!(action(json!({ "action": "unsubscribe" })), Ok(Action::UnsubscribeAll));
    assert_eq!(action(json!({ "action": "unsubscribe", "data": {} })), Ok(Action::UnsubscribeAll));
    assert_eq!(
        action(json!({ "action": "unsubscribe", "data": { "account_id": "x" } })),
        Ok(Action::Unsubscribe { account_id: Some("x".into()), bindings: None })
    );
    assert_eq!(
        action(json!({ "action": "unsubscribe", "data": { "binding": "b" } })),
        Ok(Action::Unsubscribe { account_id: None, bindings: Some(vec!["b".into()]) })
    );
}

#[test]
fn each_error_has_its_text() {
    for (request, expected) in [
        (json!({}), "missing required keys : action"),
        (json!({ "action": 5 }), "invalid action : must be a string"),
        (json!({ "action": "dance" }), "unknown action : dance"),
        (json!({ "action": "subscribe" }), "missing required keys : data"),
        (json!({ "action": "subscribe", "data": [] }), "invalid data : must be an object"),
        (json!({ "action": "subscribe", "data": {} }), "missing required keys : binding"),
        (json!({ "action": "subscribe", "data": { "bindings": [] } }), "empty subscription"),
        (json!({ "action": "subscribe", "data": { "binding": "" } }), "empty subscription"),
        (
            json!({ "action": "subscribe", "data": { "bindings": "a" } }),
            "invalid bindings : must be a list of strings",
        ),
        (
            json!({ "action": "subscribe", "data": { "bindings": [1] } }),
            "invalid bindings : must be a string",
        ),
        (json!({ "action": "subscribe", "data": { "binding": {} } }), "invalid binding : must be a string"),
        (
            json!({ "action": "subscribe", "data": { "binding": "a", "account_id": 1 } }),
            "invalid account_id : must be a string",
        ),
        (
            json!({ "action": "subscribe", "data": { "binding": "a", "account_id": "" } }),
            "invalid account_id : must have 1 to 256 bytes",
        ),
        (
            json!({ "action": "subscribe", "data": { "binding": "a", "name": 1 } }),
            "invalid name : must be a string",
        ),
        (
            json!({ "action": "subscribe", "data": { "binding": "a", "name": "x".repeat(257) } }),
            "invalid name : longer than 256 bytes",
        ),
        (
            json!({ "action": "subscribe", "data": { "binding": "a", "metadata": "x".repeat(5000) } }),
            "invalid metadata : larger than 4096 bytes",
        ),
        (json!({ "action": "ping", "request_id": [] }), "invalid request_id : must be a string or a number"),
        (
            json!({ "action": "ping", "request_id": "x".repeat(257) }),
            "invalid request_id : longer than 256 bytes",
        ),
        (json!({ "action": "ping", "auth_token": 1 }), "invalid auth_token : must be a string"),
        (json!([]), "a request is one JSON object"),
        (json!("ping"), "a request is one JSON object"),
    ] {
        assert_eq!(action(request.clone()), Err(expected.to_owned()), "{request}");
    }
    for text in ["", "{", "{\"action\":}", "nonsense"] {
        assert!(Request::read(text).unwrap_err().to_string().starts_with("malformed JSON : "), "{text}");
    }
    let deep = "[".repeat(50_000);
    assert!(Request::read(&deep).unwrap_err().to_string().starts_with("malformed JSON : recursion limit"));
}

#[test]
fn a_client_cannot_hide_its_session_with_metadata_that_other_services_cannot_read() {
    let metadata = r#"{"a":1,"$serde_json::private::RawValue":5}"#;
    let frame = format!(r#"{{"action":"subscribe","data":{{"binding":"a","metadata":{metadata}}}}}"#);
    let error = Request::read(&frame).unwrap_err().to_string();
    assert!(error.starts_with("malformed JSON : a member has a reserved name"), "{error}");
}
