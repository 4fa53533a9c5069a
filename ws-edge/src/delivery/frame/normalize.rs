//! The `data` view: an AMQP body as KAZOO 4.3 and 5 send it.
//!
//! Keys are normalized at every depth (ASCII letters to lower case, `-` to `_`). Null members and the transport headers of
//! the top level are dropped. Strings, numbers and the order of members stay as they are: the text is rewritten while it
//! is scanned, without parsing it into a tree.

use thiserror::Error;

/// Top-level members for KAZOO's transport, not for clients: KAZOO 5's list. 4.3 drops `Node` as well.
pub const TRANSPORT_HEADERS: [&str; 13] = [
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

/// The limit of serde_json, with which amqp-ingest checks bodies.
const MAX_DEPTH: usize = 128;

/// The body is not a JSON object, or nested too deeply.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("not a JSON object of at most {MAX_DEPTH} levels")]
pub struct Malformed;

/// The `data` view of a body.
///
/// # Errors
/// [`Malformed`]; bodies that amqp-ingest accepted never are.
pub fn normalize(body: &[u8]) -> Result<String, Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed)?;
    let mut scanner = Scanner { text, position: 0, out: String::with_capacity(text.len()) };
    scanner.skip_space();
    if scanner.peek() != Some(b'{') {
        return Err(Malformed);
    }
    scanner.value(0)?;
    scanner.skip_space();
    if scanner.position == text.len() { Ok(scanner.out) } else { Err(Malformed) }
}

struct Scanner<'a> {
    text: &'a str,
    position: usize,
    out: String,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.position += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.peek() != Some(byte) {
            return Err(Malformed);
        }
        self.position += 1;
        Ok(())
    }

    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth >= MAX_DEPTH {
            return Err(Malformed);
        }
        match self.peek().ok_or(Malformed)? {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => {
                let string = self.string()?;
                self.out.push_str(string);
                Ok(())
            }
            _ => {
                let token = self.literal();
                if token.is_empty() {
                    return Err(Malformed);
                }
                self.out.push_str(token);
                Ok(())
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), Malformed> {
        self.expect(b'{')?;
        self.out.push('{');
        let mut is_first = true;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.position += 1;
            self.out.push('}');
            return Ok(());
        }
        loop {
            self.skip_space();
            let start = self.out.len();
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            if !is_first {
                self.out.push(',');
            }
            let is_dropped = self.write_key(key, depth)? || self.is_null();
            self.out.push(':');
            self.value(depth + 1)?;
            if is_dropped {
                self.out.truncate(start);
            } else {
                is_first = false;
            }
            self.skip_space();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => break,
                _ => return Err(Malformed),
            }
        }
        self.position += 1;
        self.out.push('}');
        Ok(())
    }

    fn array(&mut self, depth: usize) -> Result<(), Malformed> {
        self.expect(b'[')?;
        self.out.push('[');
        self.skip_space();
        if self.peek() == Some(b']') {
            self.position += 1;
            self.out.push(']');
            return Ok(());
        }
        loop {
            self.skip_space();
            self.value(depth + 1)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.position += 1;
                    self.out.push(',');
                }
                Some(b']') => break,
                _ => return Err(Malformed),
            }
        }
        self.position += 1;
        self.out.push(']');
        Ok(())
    }

    /// A string as written, with its quotes.
    fn string(&mut self) -> Result<&'a str, Malformed> {
        let start = self.position;
        self.expect(b'"')?;
        loop {
            match self.peek().ok_or(Malformed)? {
                b'"' => break,
                b'\\' => self.position += 2,
                _ => self.position += 1,
            }
        }
        self.position += 1;
        self.text.get(start..self.position).ok_or(Malformed)
    }

    /// A number, `true`, `false` or `null`.
    fn literal(&mut self) -> &'a str {
        let start = self.position;
        while self
            .peek()
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'))
        {
            self.position += 1;
        }
        self.text.get(start..self.position).unwrap_or_default()
    }

    fn is_null(&self) -> bool {
        // No other value begins with an `n`.
        self.peek() == Some(b'n')
    }

    /// Writes a normalized key; returns whether it is a transport header.
    fn write_key(&mut self, quoted: &str, depth: usize) -> Result<bool, Malformed> {
        let start = self.out.len();
        let is_transport;
        if quoted.contains('\\') {
            let key: String = serde_json::from_str(quoted).map_err(|_| Malformed)?;
            is_transport = TRANSPORT_HEADERS.contains(&key.as_str());
            let key: String =
                key.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect();
            self.out.push_str(&serde_json::Value::from(key).to_string());
        } else {
            is_transport = TRANSPORT_HEADERS.contains(&quoted.trim_matches('"'));
            self.out.push_str(quoted);
            if quoted.contains('-') {
                let key = self.out.split_off(start).replace('-', "_");
                self.out.push_str(&key);
            }
            if let Some(key) = self.out.get_mut(start..) {
                key.make_ascii_lowercase();
            }
        }
        Ok(is_transport && depth == 0)
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
    fn numbers_strings_and_order_stay_as_they_are() {
        let kept = r#"{"b":1.50,"a":12345678901234567890123,"c":-0e+5,"d":"\u00e9\n\"\\"}"#;
        assert_eq!(normalized(kept), kept);
    }

    #[test]
    fn null_members_and_transport_headers_are_dropped() {
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
    fn escaped_keys_are_decoded_before_they_are_compared() {
        assert_eq!(normalized(r#"{"Server\u002DID":1,"\u0041-\"b":2}"#), r#"{"a_\"b":2}"#);
    }

    #[test]
    fn anything_but_an_object_is_malformed() {
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
                    .filter(|(key, value)| {
                        !(value.is_null() || top && TRANSPORT_HEADERS.contains(&key.as_str()))
                    })
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
            // Keys that stay distinct when normalized: the reference cannot contain one twice.
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
        fn the_result_equals_that_of_a_parsed_tree(inner in any_json(), pretty in any::<bool>()) {
            let body = json!({ "Server-ID": inner, "Body": inner });
            let text = if pretty { serde_json::to_string_pretty(&body).unwrap() } else { body.to_string() };
            let result: Value = serde_json::from_str(&normalized(&text)).unwrap();
            prop_assert_eq!(result, reference(body, true));
        }
    }
}
