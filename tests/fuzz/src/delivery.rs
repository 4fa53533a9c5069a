//! Deliveries: from the exchange, routing key and body of an event to its subject, and back.

use std::sync::LazyLock;

use blackhole_common::{catalogue::Catalogue, subject::decode_key};
use bytes::Bytes;
use serde_json::Value;

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load(None).unwrap());

/// Lines: the exchange, the routing key, the body. The subject has one word for the tenant, and the whole key.
pub(crate) fn run(input: &[u8]) -> bool {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let (exchange, key) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let (Ok(exchange), Ok(key)) = (std::str::from_utf8(exchange), std::str::from_utf8(key)) else {
        return false;
    };
    let body = Bytes::copy_from_slice(lines.next().unwrap_or_default());
    let Some((subject, _)) = amqp_ingest::subject(&CATALOGUE, "in", exchange, key, &body) else {
        return false;
    };
    let (tenant, escaped) = subject.strip_prefix("in.").unwrap().split_once('.').unwrap();
    assert!(!tenant.is_empty() && !tenant.contains(['*', '>', ' ']), "{subject}");
    assert_eq!(decode_key(escaped), Ok(key.as_bytes().to_vec()));
    if let Some((given, written)) = amqp_ingest::dialled_event(&CATALOGUE, "in", exchange, key, &body, "acc")
    {
        assert_eq!(given, format!("in.acc.{escaped}"));
        // Whoever reads the body finds the account; all else is as it was.
        let own = amqp_ingest::subject(&CATALOGUE, "in", exchange, key, &written);
        assert_eq!(own.map(|(subject, _)| subject), Some(given));
        let strip = |body: &[u8]| {
            let mut body: Value = serde_json::from_slice(body).unwrap();
            if let Some(variables) = body["Custom-Channel-Vars"].as_object_mut() {
                variables.remove("Account-ID");
            }
            body
        };
        let (before, after) = (strip(String::from_utf8_lossy(&body).as_bytes()), strip(&written));
        let had_variables = before["Custom-Channel-Vars"].is_object();
        assert!(before == after || !had_variables, "{before} {after}");
    }
    true
}
