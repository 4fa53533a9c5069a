//! Messages of the services to each other.

use blackhole_common::wire::{
    AuthChanged, AuthReply, AuthRequest, EdgeHeartbeat, FamilyReply, FamilyRequest, NumberReply,
    NumberRequest, SessionsReply, SessionsRequest, TargetedReply, TargetedRequest, header_text,
    is_header_text,
};
use serde::{Serialize, de::DeserializeOwned};

/// Tried as each message. What is read, written and read again is the same.
pub(crate) fn run(input: &[u8]) -> bool {
    if let Ok(text) = std::str::from_utf8(input) {
        let header = header_text(text);
        assert!(is_header_text(&header) && header.trim() == header, "{header}");
        assert_eq!(serde_json::from_str::<String>(&format!("\"{header}\"")).unwrap(), text);
    }
    // These accept every object, as all their members are optional.
    round_trip::<AuthChanged>(input);
    round_trip::<NumberRequest>(input);
    round_trip::<SessionsRequest>(input);
    round_trip::<TargetedReply>(input);
    let is_accepted = [
        round_trip::<AuthRequest>(input),
        round_trip::<AuthReply>(input),
        round_trip::<EdgeHeartbeat>(input),
        round_trip::<FamilyReply>(input),
        round_trip::<FamilyRequest>(input),
        round_trip::<NumberReply>(input),
        round_trip::<SessionsReply>(input),
        round_trip::<TargetedRequest>(input),
    ];
    is_accepted.contains(&true)
}

fn round_trip<M: Serialize + DeserializeOwned>(input: &[u8]) -> bool {
    let Ok(message) = serde_json::from_slice::<M>(input) else { return false };
    let written = serde_json::to_string(&message).unwrap();
    let again: M = serde_json::from_str(&written).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    true
}
