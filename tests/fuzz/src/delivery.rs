//! Deliveries: from the exchange, routing key and body of an event to its subject, and back.

use std::sync::LazyLock;

use blackhole_common::{catalogue::Catalogue, subject::decode_key};
use bytes::Bytes;

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
    true
}
