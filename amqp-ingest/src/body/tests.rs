use proptest::prelude::*;

use super::*;

fn name(body: impl AsRef<[u8]>) -> Result<String, Rejection> {
    parse(body.as_ref(), &[]).map(|parsed| parsed.name.into_owned())
}

fn member(body: &str, path: &str) -> Option<String> {
    let parsed = parse(body.as_bytes(), &[path]).unwrap();
    parsed.members[0].as_ref().map(|text| text.to_string())
}

#[test]
fn a_name_is_a_string_of_limited_length() {
    let longest = "x".repeat(MAX_NAME_BYTES);
    for (body, expected) in [
        (r#" {"a": [1, -2, 3.5, true, null, {}], "Event-Name": "CHANNEL_CREATE"} "#, "CHANNEL_CREATE"),
        (r#"{"Event-Name": "\u00e9\ud83d\ude00\n"}"#, "é😀\n"),
        (&format!(r#"{{"Event-Name": "{longest}"}}"#), &longest),
    ] {
        assert_eq!(name(body).as_deref(), Ok(expected), "{body}");
    }
    for body in [
        r#"{}"#,
        r#"{"Event-Name": ""}"#,
        r#"{"Event-Name": 1}"#,
        r#"{"Event-Name": null}"#,
        r#"{"Event-Name": ["x"]}"#,
        r#"{"Event-Name": {"Event-Name": "x"}}"#,
        r#"{"a": {"Event-Name": "x"}}"#,
        r#"{"event-name": "x"}"#,
        &format!(r#"{{"Event-Name": "{longest}x"}}"#),
    ] {
        assert_eq!(name(body), Err(Rejection::NoName), "{body}");
    }
}

#[test]
fn only_objects_are_accepted() {
    for body in ["[]", "1", "null", "\"x\"", "true", "-1.5e3", r#"[{"Event-Name": "x"}]"#] {
        assert_eq!(name(body), Err(Rejection::NotAnObject), "{body}");
    }
}

#[test]
fn json_that_some_parsers_refuse_is_rejected() {
    let nested = |levels: usize, open: &str, close: &str| {
        format!(r#"{{"Event-Name": "x", "a": {}1{}}}"#, open.repeat(levels), close.repeat(levels))
    };
    // The object itself is the first of 127 levels.
    assert_eq!(name(nested(126, "[", "]")).as_deref(), Ok("x"));
    for body in [
        Vec::new(),
        b" ".to_vec(),
        b"{".to_vec(),
        br#"{"Event-Name": "x"}}"#.to_vec(),
        br#"{"Event-Name": "x"} {}"#.to_vec(),
        br#"{"Event-Name": "x",}"#.to_vec(),
        br#"{"Event-Name": "x", "a": 01}"#.to_vec(),
        br#"{"Event-Name": "x", "a": 1e999}"#.to_vec(),
        br#"{"Event-Name": "x", "a": NaN}"#.to_vec(),
        br#"{"Event-Name": "x", "a": "\ud800"}"#.to_vec(),
        br#"{"Event-Name": "x", "a": "\x"}"#.to_vec(),
        b"{\"Event-Name\": \"x\", \"a\": \"\n\"}".to_vec(),
        b"{\"Event-Name\": \"x\", \"a\": \"\xff\"}".to_vec(),
        b"{\"Event-Name\": \"x\xff\"}".to_vec(),
        b"\xef\xbb\xbf{\"Event-Name\": \"x\"}".to_vec(),
        b"{\"Event-Name\": \"x\"}\0".to_vec(),
        nested(127, "[", "]").into_bytes(),
        nested(50_000, "[", "]").into_bytes(),
        nested(50_000, "{\"a\":", "}").into_bytes(),
        nested(50_000, "[", "").into_bytes(),
    ] {
        assert_eq!(name(&body), Err(Rejection::NotJson), "{:?}", String::from_utf8_lossy(&body).get(..60));
    }
    assert_eq!(name("[".repeat(50_000)), Err(Rejection::NotAnObject));
}

#[test]
fn the_last_of_several_members_with_one_name_counts() {
    assert_eq!(name(r#"{"Event-Name": "a", "Event-Name": "b"}"#).as_deref(), Ok("b"));
    assert_eq!(name(r#"{"Event-Name": "a", "Event-Name": 1}"#), Err(Rejection::NoName));
    let twice = r#"{"Event-Name": "x", "V": {"A": "1"}, "V": {"B": "2"}}"#;
    assert_eq!(member(twice, "V.A"), None);
    assert_eq!(member(twice, "V.B").unwrap(), "2");
    assert_eq!(member(r#"{"Event-Name": "x", "V": {"A": "1"}, "V": 7}"#, "V.A"), None);
}

#[test]
fn members_are_found_by_path() {
    let body =
        r#"{"V": {"W": {"A": "deep"}, "A": "near"}, "Event-Name": "x", "A": "top", "N": 5, "V.A": "flat"}"#;
    assert_eq!(member(body, "A").unwrap(), "top");
    assert_eq!(member(body, "V.A").unwrap(), "near");
    assert_eq!(member(body, "V.W.A").unwrap(), "deep");
    for path in ["N", "V", "V.W", "A.A", "W.A", "x"] {
        assert_eq!(member(body, path), None, "{path}");
    }
    let parsed = parse(body.as_bytes(), &["V.A", "Event-Name", "V.A"]).unwrap();
    assert_eq!(parsed.members, [Some("near".into()), Some("x".into()), Some("near".into())]);
}

/// JSON of all types and various depths.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        ".{0,4}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[ab]|Event-Name", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An object with a name, and possibly with the members `a.b` and `b`.
fn any_event() -> impl Strategy<Value = serde_json::Value> {
    let text_or_json = || prop_oneof![".{0,4}".prop_map(Into::into), any_json()];
    (".{1,4}", text_or_json(), text_or_json(), any_json()).prop_map(|(name, nested, flat, other)| {
        serde_json::json!({ "Event-Name": name, "a": { "b": nested, "c": other }, "b": flat })
    })
}

proptest! {
    #[test]
    fn the_result_agrees_with_a_full_parse(body in prop_oneof![any_json(), any_event()]) {
        let text = body.to_string();
        let result = parse(text.as_bytes(), &["a.b", "b"]);
        let text_at = |path: &str| body.pointer(path).and_then(|value| value.as_str()).map(str::to_owned);
        match text_at("/Event-Name") {
            _ if !body.is_object() => prop_assert_eq!(result, Err(Rejection::NotAnObject)),
            Some(name) if !name.is_empty() => {
                let parsed = result.unwrap();
                prop_assert_eq!(parsed.name, name);
                let members: Vec<_> =
                    parsed.members.into_iter().map(|text| text.map(Cow::into_owned)).collect();
                prop_assert_eq!(members, vec![text_at("/a/b"), text_at("/b")]);
            }
            _ => prop_assert_eq!(result, Err(Rejection::NoName)),
        }
    }

    #[test]
    fn json_like_text_is_accepted_exactly_if_serde_json_accepts_it(value in r#"[\[\]{}",:0-9eE.+\-tnul\\ ]{0,12}"#) {
        let text = format!(r#"{{"Event-Name":"x","a":{value}}}"#);
        let is_json = serde_json::from_str::<serde_json::Value>(&text).is_ok();
        prop_assert_eq!(name(&text), if is_json { Ok("x".to_owned()) } else { Err(Rejection::NotJson) });
    }

    #[test]
    fn arbitrary_bytes_are_accepted_only_if_serde_json_accepts_them(
        value in prop::collection::vec(any::<u8>(), 0..8)
    ) {
        let body = [br#"{"Event-Name":"x","a":""#, value.as_slice(), br#""}"#].concat();
        let is_json = serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        prop_assert_eq!(name(&body), if is_json { Ok("x".to_owned()) } else { Err(Rejection::NotJson) });
    }

    #[test]
    fn a_corrupted_body_is_accepted_exactly_if_serde_json_accepts_it(
        body in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = format!("{{\"Event-Name\":\"x\",\"y\":{body}}}").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let parsed = serde_json::from_slice::<serde_json::Value>(&bytes);
        match parse(&bytes, &[]) {
            Ok(_) | Err(Rejection::NoName) => prop_assert!(parsed.is_ok()),
            Err(Rejection::NotJson) => prop_assert!(parsed.is_err()),
            // Parsing stops at once if the body does not begin like an object.
            Err(Rejection::NotAnObject) => prop_assert_eq!(at, 0),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }
}
