//! The events: routing keys and bodies like those of KAZOO, 1.3 to 1.7 KB.

use std::fmt::Write as _;

use crate::load::{Kind, Lane, Load, account_id, realm};
use crate::stamp::Stamp;

/// The minimum size of a body, and the range of sizes above it, in bytes.
const MIN_SIZE: usize = 1300;
const SPREAD: u64 = 400;
/// Fills a body up to its size, as the phone's SDP and headers do in KAZOO's events.
const FILLER: &str = "v=0 o=- 1795431692 1795431692 IN IP4 192.0.2.17 s=- c=IN IP4 192.0.2.17 t=0 0 m=audio 11780 RTP/AVP 9 0 8 18 101 a=rtpmap:9 G722/8000 a=rtpmap:0 PCMU/8000 a=rtpmap:8 PCMA/8000 a=rtpmap:18 G729/8000 a=fmtp:18 annexb=no a=rtpmap:101 telephone-event/8000 a=fmtp:101 0-16 a=ptime:20 a=sendrecv ";

/// Whether routing keys contain the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Keys {
    /// As in KAZOO: the account of a call is only in the body.
    Kazoo,
    /// Every key contains the account, for servers that route by key only.
    WithAccount,
}

/// A message to publish.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// The AMQP exchange.
    pub(crate) exchange: &'static str,
    /// The routing key.
    pub(crate) key: String,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// When it is due, by [`crate::clock::now`].
    pub(crate) due: u64,
    /// Its lane.
    pub(crate) lane: u32,
}

impl Message {
    /// Overwrites it with event number `event` of a load.
    pub(crate) fn write(&mut self, load: &Load, keys: Keys, event: u64, due: u64) {
        let lanes = u64::from(load.lanes());
        let (lane, number) = ((event % lanes) as u32, (event / lanes) as u32);
        let of = load.lane(lane);
        let id = id(&of, lane, number);
        self.exchange = exchange(of.kind);
        (self.due, self.lane) = (due, lane);
        self.key.clear();
        push_key(&mut self.key, keys, &of, &id);
        self.body.clear();
        let size = MIN_SIZE + (event.wrapping_mul(37) % SPREAD) as usize;
        write_body(&mut self.body, &of, &id, Stamp { lane, number, due }, size);
    }
}

/// The exchange for a kind of event.
pub(crate) fn exchange(kind: Kind) -> &'static str {
    match kind {
        Kind::Call(_) => "callevt",
        Kind::Fax => "faxes",
    }
}

/// The routing-key pattern of a binding, with `*` for a missing id.
pub(crate) fn pattern(keys: Keys, binding: &Lane) -> String {
    let mut key = String::new();
    let id = binding.id.map_or_else(|| "*".into(), shared_id);
    push_key(&mut key, keys, binding, &id);
    key
}

/// The binding as a client of Blackhole writes it.
pub(crate) fn binding(binding: &Lane) -> String {
    let id = binding.id.map_or_else(|| "*".into(), shared_id);
    match binding.kind {
        Kind::Call(name) => format!("call.{name}.{id}"),
        Kind::Fax => format!("fax.status.{id}"),
    }
}

fn id(lane: &Lane, number_of_lane: u32, number: u32) -> String {
    match lane.id {
        Some(lane) => shared_id(lane),
        None => format!("{number_of_lane:08x}-{number:08x}-5253-203-0-113-7"),
    }
}

fn shared_id(lane: u32) -> String {
    format!("{lane:08x}-5d4639ef-5253-203-0-113-7")
}

fn push_key(key: &mut String, keys: Keys, lane: &Lane, id: &str) {
    // Writing to a String cannot fail.
    let _ = match (lane.kind, keys) {
        (Kind::Call(name), Keys::Kazoo) => write!(key, "call.{name}.{id}"),
        (Kind::Call(name), Keys::WithAccount) => write!(key, "call.{}.{name}.{id}", account_id(lane.account)),
        (Kind::Fax, _) => write!(key, "fax.status.{}.{id}", account_id(lane.account)),
    };
}

fn write_body(body: &mut Vec<u8>, lane: &Lane, id: &str, stamp: Stamp, size: usize) {
    let (account, realm) = (account_id(lane.account), realm(lane.account));
    let (category, name) = match lane.kind {
        Kind::Call(name) => ("call_event", name),
        Kind::Fax => ("fax", "status"),
    };
    let mut put = |parts: &[&str]| parts.iter().for_each(|part| body.extend_from_slice(part.as_bytes()));
    put(&["{\"App-Name\":\"ecallmgr\",\"App-Version\":\"4.3.142\",\"Event-Category\":\"", category]);
    put(&["\",\"Event-Name\":\"", name, "\",\"Msg-ID\":\""]);
    stamp.write(body);
    let mut put = |parts: &[&str]| parts.iter().for_each(|part| body.extend_from_slice(part.as_bytes()));
    put(&[
        "\",\"Node\":\"ecallmgr@apps01.zone1.example.com\",\"Server-ID\":\"\",\"Call-Direction\":\"inbound\",",
    ]);
    put(&["\"Call-ID\":\"", id, "\",\"Job-ID\":\"", id, "\",\"Account-ID\":\"", &account]);
    put(&["\",\"Caller-ID-Name\":\"Zo\u{eb} \u{c5}ngstr\u{f6}m\",\"Caller-ID-Number\":\"+14155550142\","]);
    put(&[
        "\"Callee-ID-Name\":\"Front desk\",\"Callee-ID-Number\":\"1003\",\"Custom-Channel-Vars\":{\"Account-ID\":\"",
    ]);
    put(&[&account, "\",\"Account-Realm\":\"", &realm, "\",\"Realm\":\"", &realm]);
    put(&[
        "\",\"Authorizing-ID\":\"8f2c1d7e9b3a45f6a1c0d2e4f6b8a9c1\",\"Authorizing-Type\":\"device\",\"Owner-ID\":null,",
    ]);
    put(&[
        "\"Username\":\"user_1003\"},\"Custom-SIP-Headers\":{\"X-AUTH-IP\":\"203.0.113.7\"},\"Disposition\":\"ANSWER\",",
    ]);
    put(&["\"From\":\"1003@", &realm, "\",\"From-Tag\":\"hq7k2mxw0p\",\"From-Uri\":\"1003@", &realm]);
    put(&["\",\"Media-Server\":\"fs01.zone1.example.com\",\"Presence-ID\":\"1003@", &realm]);
    put(&["\",\"Request\":\"1005@", &realm, "\",\"Switch-URI\":\"sip:198.51.100.21:11000\","]);
    put(&["\"Timestamp\":63962650892,\"To\":\"1005@", &realm, "\",\"Remote-SDP\":\""]);
    let end = "\"}";
    let room = size.saturating_sub(body.len() + end.len());
    body.extend(FILLER.bytes().cycle().take(room));
    body.extend_from_slice(end.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Pattern;

    #[test]
    fn bodies_are_json_of_the_documented_size_and_contain_their_stamp() {
        let load = Load { pattern: Pattern::Sharded, sessions: 3 };
        let mut message = Message::default();
        for event in 0..500 {
            message.write(&load, Keys::Kazoo, event, 7);
            assert!((1300..1700).contains(&message.body.len()), "{} bytes", message.body.len());
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            assert_eq!(body["Custom-Channel-Vars"]["Account-ID"], account_id((event % 3) as u32));
            let stamp = Stamp::find(&message.body, &mut 0).unwrap();
            assert_eq!((u64::from(stamp.lane), u64::from(stamp.number)), (event % 3, event / 3));
        }
    }

    #[test]
    fn a_pattern_equals_the_routing_key_of_its_lane() {
        let load = Load { pattern: Pattern::Mixed, sessions: 10 };
        let mut message = Message::default();
        message.write(&load, Keys::WithAccount, 5, 0);
        let binding = load.bindings(1).pop().unwrap();
        assert_eq!(message.key, pattern(Keys::WithAccount, &binding));
    }
}
