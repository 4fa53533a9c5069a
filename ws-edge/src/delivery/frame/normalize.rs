//! The `data` view: an AMQP body as KAZOO 4.3 and 5 send it.
//!
//! Keys are normalized at every depth (ASCII upper case to lower, `-` to `_`), members whose value is null are
//! dropped, and so are transport headers at the top. Strings, numbers and the order of members are kept to the
//! letter: the text is rewritten while it is scanned, without a tree in between.

use thiserror::Error;

/// Members of the top level that concern KAZOO's transport, not its clients. KAZOO 5's list; 4.3 drops `Node`
/// as well.
const TRANSPORT: [&str; 13] = [
    "Access-Group",
    "Defer-Response",
    "Destination-Server",
    "Geo-Location",
    "System-Log-ID",
    "Server-Queue-ID",
    "Raw-Headers",
    "Server-ID",
    "Request-From-PID",
    "Reply-To-PID",
    "AMQP-Broker",
    "AMQP-Broker-Zone",
    "Deliver-To-PID",
];

/// As deep as serde_json reads, which amqp-ingest checks bodies with.
const MAX_LEVELS: usize = 128;

/// The text is no JSON object, or too deep.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a JSON object of at most {MAX_LEVELS} levels")]
pub struct Malformed;

/// The `data` view of a body.
///
/// # Errors
/// [`Malformed`]; texts that amqp-ingest accepted are not.
pub fn normalize(body: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed)?;
    let mut scanner = Scanner { text, at: 0, out: String::with_capacity(text.len()) };
    scanner.skip_space();
    if scanner.peek() != Some(b'{') {
        return Err(Malformed);
    }
    scanner.value(0)?;
    scanner.skip_space();
    if scanner.at == text.len() { Ok(scanner.out) } else { Err(Malformed) }
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    out: String,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(())
    }

    fn value(&mut self, level: usize) -> Result<(), Malformed> {
        if level >= MAX_LEVELS {
            return Err(Malformed);
        }
        match self.peek().ok_or(Malformed)? {
            b'{' => self.object(level),
            b'[' => self.array(level),
            b'"' => {
                let string = self.string()?;
                self.out.push_str(string);
                Ok(())
            }
            _ => {
                let token = self.bare();
                if token.is_empty() {
                    return Err(Malformed);
                }
                self.out.push_str(token);
                Ok(())
            }
        }
    }

    fn object(&mut self, level: usize) -> Result<(), Malformed> {
        self.expect(b'{')?;
        self.out.push('{');
        let mut first = true;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.out.push('}');
            return Ok(());
        }
        loop {
            self.skip_space();
            let before = self.out.len();
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            if !first {
                self.out.push(',');
            }
            let dropped = self.key(key, level)? || self.is_null();
            self.out.push(':');
            self.value(level + 1)?;
            if dropped {
                self.out.truncate(before);
            } else {
                first = false;
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(Malformed),
            }
        }
        self.at += 1;
        self.out.push('}');
        Ok(())
    }

    fn array(&mut self, level: usize) -> Result<(), Malformed> {
        self.expect(b'[')?;
        self.out.push('[');
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.out.push(']');
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value(level + 1)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.out.push(',');
                }
                Some(b']') => break,
                _ => return Err(Malformed),
            }
        }
        self.at += 1;
        self.out.push(']');
        Ok(())
    }

    /// A string with its quotes, as it stands.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// A number, `true`, `false` or `null`.
    fn bare(&mut self) -> &'a str {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'))
        {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn is_null(&self) -> bool {
        // What begins with an `n` is nothing else.
        self.peek() == Some(b'n')
    }

    /// Writes a normalized key; says whether it is a transport header.
    fn key(&mut self, quoted: &str, level: usize) -> Result<bool, Malformed> {
        let from = self.out.len();
        let transport;
        if quoted.contains('\\') {
            let key: String = serde_json::from_str(quoted).map_err(|_| Malformed)?;
            transport = TRANSPORT.contains(&key.as_str());
            let key: String =
                key.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect();
            self.out.push_str(&serde_json::Value::from(key).to_string());
        } else {
            transport = TRANSPORT.contains(&quoted.trim_matches('"'));
            self.out.push_str(quoted);
            if quoted.contains('-') {
                let key = self.out.split_off(from).replace('-', "_");
                self.out.push_str(&key);
            }
            if let Some(key) = self.out.get_mut(from..) {
                key.make_ascii_lowercase();
            }
        }
        Ok(transport && level == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn normalized(body: &str) -> String {
        normalize(body.as_bytes()).unwrap()
    }

    #[test]
    fn keys_are_normalized_at_every_depth_and_values_kept() {
        assert_eq!(
            normalized(
                r#"{"Call-ID":"A-B","Custom-Channel-Vars":{"Account-ID":"X"},"List-Of":[{"Is-It":true},null,"A-B"],"ÄB":1}"#
            ),
            r#"{"call_id":"A-B","custom_channel_vars":{"account_id":"X"},"list_of":[{"is_it":true},null,"A-B"],"Äb":1}"#
        );
    }

    #[test]
    fn numbers_strings_and_order_are_kept_to_the_letter() {
        let kept = r#"{"b":1.50,"a":12345678901234567890123,"c":-0e+5,"d":"\u00e9\n\"\\"}"#;
        assert_eq!(normalized(kept), kept);
    }

    #[test]
    fn null_members_and_transport_headers_go() {
        assert_eq!(normalized(r#"{"A":null}"#), "{}");
        assert_eq!(
            normalized(r#" { "A" : null , "Server-ID" : { "x" : [ 1 ] } , "B" : 1 , "C" : null } "#),
            r#"{"b":1}"#
        );
        assert_eq!(
            normalized(r#"{"Node":"n","In":{"Server-ID":"kept","N":null}}"#),
            r#"{"node":"n","in":{"server_id":"kept"}}"#
        );
    }

    #[test]
    fn escaped_keys_are_read_before_they_are_judged() {
        assert_eq!(normalized(r#"{"Server\u002DID":1,"\u0041-\"b":2}"#), r#"{"a_\"b":2}"#);
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(50_000), "]".repeat(50_000));
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{\"a",
            "{\"a\\",
            deep.as_str(),
        ] {
            assert_eq!(normalize(text.as_bytes()), Err(Malformed), "{text:.20}");
        }
        assert_eq!(normalize(b"{\"a\":\"\xff\"}"), Err(Malformed));
    }

    fn reference(value: Value, top: bool) -> Value {
        match value {
            Value::Object(members) => Value::Object(
                members
                    .into_iter()
                    .filter(|(key, value)| !(value.is_null() || top && TRANSPORT.contains(&key.as_str())))
                    .map(|(key, value)| (key.to_ascii_lowercase().replace('-', "_"), reference(value, false)))
                    .collect::<Map<_, _>>(),
            ),
            Value::Array(items) => {
                Value::Array(items.into_iter().map(|item| reference(item, false)).collect())
            }
            other => other,
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            // Keys that stay different when they are normalized: the reference cannot hold one twice.
            let object = prop::collection::btree_map("[a-m\"\\\\é]{0,4}", inner.clone(), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|members| {
                    members.into_iter().map(|(key, value)| (key.to_ascii_uppercase() + "-Z", value)).collect()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_a_tree_would_give(inner in any_json(), pretty in any::<bool>()) {
            let body = json!({ "Server-ID": inner, "Body": inner });
            let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
            let result: Value = serde_json::from_str(&normalized(&text)).unwrap();
            prop_assert_eq!(result, reference(body, true));
        }
    }
}
