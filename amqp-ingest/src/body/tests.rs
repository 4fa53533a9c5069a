use proptest::prelude::*;

use super::*;

fn name(body: impl AsRef<[u8]>) -> Result<String, Rejection> {
    read(body.as_ref(), &[]).map(|facts| facts.name.into_owned())
}

fn member(body: &str, path: &str) -> Option<String> {
    let facts = read(body.as_bytes(), &[path]).unwrap();
    facts.members[0].as_ref().map(|text| text.to_string())
}

#[test]
fn a_name_is_a_text_that_is_neither_empty_nor_absurd() {
    assert_eq!(
        name(r#" {"a": [1, -2, 3.5, true, null, {}], "Event-Name": "CHANNEL_CREATE"} "#).unwrap(),
        "CHANNEL_CREATE"
    );
    assert_eq!(name(r#"{"Event-Name": "\u00e9\ud83d\ude00\n"}"#).unwrap(), "é😀\n");
    for body in [
        r#"{}"#,
        r#"{"Event-Name": ""}"#,
        r#"{"Event-Name": 1}"#,
        r#"{"Event-Name": null}"#,
        r#"{"Event-Name": ["x"]}"#,
        r#"{"Event-Name": {"Event-Name": "x"}}"#,
        r#"{"a": {"Event-Name": "x"}}"#,
        r#"{"event-name": "x"}"#,
        &format!(r#"{{"Event-Name": "{}"}}"#, "x".repeat(257)),
    ] {
        assert_eq!(name(body), Err(Rejection::NoName), "{body}");
    }
}

#[test]
fn only_objects_pass() {
    for body in ["[]", "1", "null", "\"x\"", "true", "-1.5e3", r#"[{"Event-Name": "x"}]"#] {
        assert_eq!(name(body), Err(Rejection::NotAnObject), "{body}");
    }
}

#[test]
fn what_some_parser_would_refuse_is_refused() {
    let nested = |levels: usize, open: &str, close: &str| {
        format!(r#"{{"Event-Name": "x", "a": {}1{}}}"#, open.repeat(levels), close.repeat(levels))
    };
    assert!(name(nested(100, "[", "]")).is_ok());
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
        nested(200, "[", "]").into_bytes(),
        nested(50_000, "[", "]").into_bytes(),
        nested(50_000, "{\"a\":", "}").into_bytes(),
        nested(50_000, "[", "").into_bytes(),
    ] {
        assert_eq!(name(&body), Err(Rejection::NotJson), "{:?}", String::from_utf8_lossy(&body).get(..60));
    }
    assert_eq!(name("[".repeat(50_000)), Err(Rejection::NotAnObject));
}

#[test]
fn the_last_of_several_members_counts() {
    assert_eq!(name(r#"{"Event-Name": "a", "Event-Name": "b"}"#).unwrap(), "b");
    assert_eq!(name(r#"{"Event-Name": "a", "Event-Name": 1}"#), Err(Rejection::NoName));
    let twice = r#"{"Event-Name": "x", "V": {"A": "1"}, "V": {"B": "2"}}"#;
    assert_eq!(member(twice, "V.A"), None);
    assert_eq!(member(twice, "V.B").unwrap(), "2");
    assert_eq!(member(r#"{"Event-Name": "x", "V": {"A": "1"}, "V": 7}"#, "V.A"), None);
}

#[test]
fn members_are_found_by_their_path() {
    let body =
        r#"{"V": {"W": {"A": "deep"}, "A": "near"}, "Event-Name": "x", "A": "top", "N": 5, "V.A": "flat"}"#;
    assert_eq!(member(body, "A").unwrap(), "top");
    assert_eq!(member(body, "V.A").unwrap(), "near");
    assert_eq!(member(body, "V.W.A").unwrap(), "deep");
    for path in ["N", "V", "V.W", "A.A", "W.A", "x"] {
        assert_eq!(member(body, path), None, "{path}");
    }
    let facts = read(body.as_bytes(), &["V.A", "Event-Name", "V.A"]).unwrap();
    assert_eq!(facts.members, [Some("near".into()), Some("x".into()), Some("near".into())]);
}

/// Any JSON value, as text and with all kinds of values and depths.
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

proptest! {
    #[test]
    fn the_verdict_is_that_of_a_whole_parse(body in any_json()) {
        let text = body.to_string();
        let result = read(text.as_bytes(), &["a.b", "b"]);
        let text_at = |path: &str| body.pointer(path).and_then(|value| value.as_str()).map(str::to_owned);
        match text_at("/Event-Name") {
            _ if !body.is_object() => prop_assert_eq!(result, Err(Rejection::NotAnObject)),
            Some(name) if !name.is_empty() => {
                let facts = result.unwrap();
                prop_assert_eq!(facts.name, name);
                let members: Vec<_> = facts.members.into_iter().map(|text| text.map(Cow::into_owned)).collect();
                prop_assert_eq!(members, vec![text_at("/a/b"), text_at("/b")]);
            }
            _ => prop_assert_eq!(result, Err(Rejection::NoName)),
        }
    }

    #[test]
    fn whatever_passes_parses_and_no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        let passes = read(&body, &["a"]).is_ok();
        prop_assert!(!passes || serde_json::from_slice::<serde_json::Value>(&body).is_ok());
    }

    #[test]
    fn a_broken_body_passes_only_where_serde_json_takes_it(
        body in any_json(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = format!("{{\"Event-Name\":\"x\",\"y\":{body}}}").into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let parsed = serde_json::from_slice::<serde_json::Value>(&bytes);
        match read(&bytes, &[]) {
            Ok(_) | Err(Rejection::NoName) => prop_assert!(parsed.is_ok()),
            // What does not begin as an object is not read to its end.
            Err(Rejection::NotAnObject) => {}
            Err(_) => prop_assert!(parsed.is_err()),
        }
    }
}
