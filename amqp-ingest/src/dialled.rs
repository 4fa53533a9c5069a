//! What was dialled: the numbers that an event names, and writing the account of one of them into its body.

use std::collections::BTreeMap;

use blackhole_common::wire::{MAX_NUMBER_BYTES, NumberRequest};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::body;

/// Where KAZOO finds the number that was dialled. Which of these counts depends on its configuration.
const MEMBERS: [&str; 3] = ["Request", "To", "To-DID"];

/// What KAZOO writes for a user part that is missing.
const NO_USER: &str = "nouser";

/// What was dialled in an event that names no account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dialled {
    /// The numbers.
    pub(crate) numbers: NumberRequest,
    /// The length of the part of the subject before the tenant, without the dot.
    pub(crate) root_bytes: usize,
    /// The member of the body in which KAZOO would have written the account, and the member of that.
    member: (String, String),
}

impl Dialled {
    /// What was dialled according to a valid body; `None` if no number is named. The account is written to the member of a
    /// member with this `path`.
    pub(crate) fn read(body: &[u8], path: &str, root_bytes: usize) -> Option<Dialled> {
        let members = body::parse(body, &MEMBERS).ok()?.members;
        let mut numbers = members.iter().map(|member| number(member.as_deref()?));
        let mut next = || numbers.next().flatten();
        let numbers = NumberRequest { request: next(), to: next(), to_did: next() };
        let has_one =
            [&numbers.request, &numbers.to, &numbers.to_did].into_iter().flatten().any(|n| !n.is_empty());
        let (object, member) = path.split_once('.')?;
        has_one.then(|| Dialled { numbers, root_bytes, member: (object.to_owned(), member.to_owned()) })
    }

    /// The body with this account; `None` if it is no JSON object. Everything else stays byte for byte.
    pub(crate) fn with_account(&self, body: &[u8], account_id: &str) -> Option<Bytes> {
        let (object, member) = &self.member;
        let body = std::str::from_utf8(body).ok()?;
        // Of several members with one name the last one counts, here and everywhere.
        let outer: Members<'_> = serde_json::from_str(body).ok()?;
        let [object, member, id] = [object, member, account_id].map(|text| serde_json::to_string(text).ok());
        let (object, member, id) = (object?, member?, id?);
        let (place, text) = match outer.get(self.member.0.as_str()) {
            None => (first(body, body)?, separated(&format!("{object}:{{{member}:{id}}}"), outer.is_empty())),
            Some(value) => match serde_json::from_str::<Members<'_>>(value.get()) {
                Err(_) => (range(body, value.get())?, format!("{{{member}:{id}}}")),
                Ok(inner) => match inner.get(self.member.1.as_str()) {
                    Some(value) => (range(body, value.get())?, id),
                    None => {
                        (first(body, value.get())?, separated(&format!("{member}:{id}"), inner.is_empty()))
                    }
                },
            },
        };
        Some(Bytes::from([body.get(..place.start)?, &text, body.get(place.end..)?].concat()))
    }
}

/// The members of a JSON object.
type Members<'b> = BTreeMap<String, &'b RawValue>;

/// A member before others, if there are any.
fn separated(member: &str, is_only: bool) -> String {
    if is_only { member.to_owned() } else { format!("{member},") }
}

/// The place of a part of a text.
fn range(text: &str, part: &str) -> Option<std::ops::Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(text.as_ptr().addr())?;
    Some(start..start + part.len())
}

/// The place after the opening brace of an object that is part of a text.
fn first(text: &str, object: &str) -> Option<std::ops::Range<usize>> {
    let start = range(text, object)?.start + object.find('{')? + 1;
    Some(start..start)
}

/// The number in an address: its user part, as KAZOO takes it. Empty if it cannot be a number; `None` if there is none.
fn number(address: &str) -> Option<String> {
    let user = address.split_once('@').map_or(address, |(user, _)| user);
    if user.is_empty() || user == NO_USER {
        return None;
    }
    let is_plausible = user.len() <= MAX_NUMBER_BYTES && user.bytes().all(|byte| byte.is_ascii_graphic());
    Some(if is_plausible { user.to_owned() } else { String::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PATH: &str = "Custom-Channel-Vars.Account-ID";

    fn read(body: &Value) -> Option<NumberRequest> {
        let mut body = body.clone();
        body["Event-Name"] = "CHANNEL_CREATE".into();
        Dialled::read(body.to_string().as_bytes(), PATH, 0).map(|dialled| dialled.numbers)
    }

    fn numbers(request: Option<&str>, to: Option<&str>, to_did: Option<&str>) -> NumberRequest {
        let [request, to, to_did] = [request, to, to_did].map(|number| number.map(str::to_owned));
        NumberRequest { request, to, to_did }
    }

    #[test]
    fn numbers_are_the_user_parts_of_addresses() {
        let body = json!({ "Request": "14155550123@10.0.0.4", "To": "+14155550123@carrier.example@x", "To-DID": "4155550123" });
        let expected = numbers(Some("14155550123"), Some("+14155550123"), Some("4155550123"));
        assert_eq!(read(&body), Some(expected));
        // A number that is none keeps its place: KAZOO takes the first that is there, whatever it is.
        let longest = "1".repeat(MAX_NUMBER_BYTES);
        for (body, expected) in [
            (json!({ "Request": "nouser@x", "To": "1002" }), Some(numbers(None, Some("1002"), None))),
            (json!({ "Request": longest }), Some(numbers(Some(&longest), None, None))),
            (
                json!({ "Request": format!("{longest}1@x"), "To": "1@x" }),
                Some(numbers(Some(""), Some("1"), None)),
            ),
            (json!({ "Request": "1 2@x", "To": "\u{0}1@x", "To-DID": "é1" }), None),
            (json!({ "Request": 5, "To": "@x", "To-DID": null }), None),
            (json!({}), None),
        ] {
            assert_eq!(read(&body), expected, "{body}");
        }
    }

    #[test]
    fn the_account_is_written_where_it_is_missing_and_nothing_else_changes() {
        let written = |body: &str, id: &str| {
            let dialled = Dialled {
                numbers: NumberRequest::default(),
                root_bytes: 0,
                member: ("Custom-Channel-Vars".into(), "Account-ID".into()),
            };
            dialled.with_account(body.as_bytes(), id).map(|body| String::from_utf8(body.to_vec()).unwrap())
        };
        for (body, expected) in [
            (
                r#" { "a" : 1.50, "b":[] } "#,
                r#" {"Custom-Channel-Vars":{"Account-ID":"acc"}, "a" : 1.50, "b":[] } "#,
            ),
            (
                r#"{"Custom-Channel-Vars": { "x": 1 },"é":2}"#,
                r#"{"Custom-Channel-Vars": {"Account-ID":"acc", "x": 1 },"é":2}"#,
            ),
            (r#"{"Custom-Channel-Vars":{ }}"#, r#"{"Custom-Channel-Vars":{"Account-ID":"acc" }}"#),
            (r#"{"Custom-Channel-Vars":null}"#, r#"{"Custom-Channel-Vars":{"Account-ID":"acc"}}"#),
            (r#"{"Custom-Channel-Vars":["Account-ID"]}"#, r#"{"Custom-Channel-Vars":{"Account-ID":"acc"}}"#),
            (
                r#"{"Custom-Channel-Vars":{"Account-ID":7,"Account-ID": null ,"b":{"Account-ID":1}}}"#,
                r#"{"Custom-Channel-Vars":{"Account-ID":7,"Account-ID": "acc" ,"b":{"Account-ID":1}}}"#,
            ),
            (
                r#"{"Custom-Channel-Vars":{"x":1},"Account-ID":"top","Custom-Channel-Vars":{"y":2}}"#,
                r#"{"Custom-Channel-Vars":{"x":1},"Account-ID":"top","Custom-Channel-Vars":{"Account-ID":"acc","y":2}}"#,
            ),
            (r#"{"Custom-Channel-\u0056ars":{}}"#, r#"{"Custom-Channel-\u0056ars":{"Account-ID":"acc"}}"#),
        ] {
            assert_eq!(written(body, "acc").as_deref(), Some(expected));
            let value: Value = serde_json::from_str(expected).unwrap();
            assert_eq!(value["Custom-Channel-Vars"]["Account-ID"], "acc");
        }
        assert_eq!(
            written("{}", "a\"b").as_deref(),
            Some(r#"{"Custom-Channel-Vars":{"Account-ID":"a\"b"}}"#)
        );
        assert_eq!(written("[]", "acc"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_event_has_the_account_and_its_other_members(
            (before, inner, after) in ("( \"a\": ?[1-9][0-9]{0,2},){0,2}", "(\"b\":\"[a-z{}é,]{0,4}\",){0,2}", "(,\"c\":\\{\\}){0,2}"),
            id in ".{0,8}",
        ) {
            let body = format!("{{{before}\"Custom-Channel-Vars\":{{{inner}\"z\":0}}{after}}}");
            let dialled = Dialled {
                numbers: NumberRequest::default(),
                root_bytes: 0,
                member: ("Custom-Channel-Vars".into(), "Account-ID".into()),
            };
            let written: Value = serde_json::from_slice(&dialled.with_account(body.as_bytes(), &id).unwrap()).unwrap();
            let mut expected: Value = serde_json::from_str(&body).unwrap();
            expected["Custom-Channel-Vars"]["Account-ID"] = id.into();
            proptest::prop_assert_eq!(written, expected);
        }
    }
}
