//! Calls: two legs that ring, are answered, held or parked, and end.

use std::time::Duration;

use serde_json::{Value, json};

use super::accounts::{Person, hex, letters};
use super::presence;
use super::script::{Object, Script, Word, object};
use super::words::gregorian;

/// The domain of the simulated cluster's machines.
pub(super) const CLUSTER: &str = "zone1.example.com";

const EXCHANGE: &str = "callevt";
const OUTSIDE: &[(&str, &str)] = &[
    ("+14155550142", "WIRELESS CALLER"),
    ("+14155550187", "Redwood Pharmacy"),
    ("+442079460018", "BENNETT & SONS"),
    ("+493023125014", "Praxis Dr. Yıldız"),
    ("+33199001234", "Hôtel Étoile"),
    ("+81355550123", "株式会社みなと"),
];

/// One side of a call.
struct Leg {
    call_id: String,
    other_call_id: String,
    direction: &'static str,
    caller: (String, String),
    callee: (String, String),
    uri: String,
    request: String,
    person: Option<Person>,
    address: String,
    tag: String,
    created: Duration,
    answered: Option<Duration>,
}

/// What happens in a call.
#[derive(Clone, Copy)]
enum Scenario {
    Talk,
    TalkWithHold,
    ParkedAndRetrieved,
    ParkedAndAbandoned,
    Busy,
    NoAnswer,
}

/// Writes a call: incoming, outgoing, or between two people of the account.
pub(super) fn call(script: &mut Script<'_>) {
    let scenarios = [
        Scenario::Talk,
        Scenario::Talk,
        Scenario::TalkWithHold,
        Scenario::TalkWithHold,
        Scenario::ParkedAndRetrieved,
        Scenario::ParkedAndAbandoned,
        Scenario::Busy,
        Scenario::NoAnswer,
    ];
    let scenario = script.one_of(&scenarios, Scenario::Talk);
    let (mut a, mut b) = legs(script);
    create(script, &mut a);
    script.wait(0.1, 0.3);
    create(script, &mut b);
    script.wait(0.6, 2.0);
    match scenario {
        Scenario::Busy => return hang_up(script, &b, &a, "USER_BUSY", "sip:486"),
        Scenario::NoAnswer => return hang_up(script, &b, &a, "NO_ANSWER", "sip:480"),
        _ => {}
    }
    answer(script, &mut b);
    answer(script, &mut a);
    bridge(script, &a, &b);
    let streamed = script.chance(30);
    if streamed {
        stream(script, &a, "start");
    }
    script.wait(1.0, 3.0);
    match scenario {
        Scenario::TalkWithHold => hold(script, &b),
        Scenario::ParkedAndRetrieved => park(script, &a, &b, "PARK_RETRIEVED"),
        Scenario::ParkedAndAbandoned => park(script, &a, &b, "PARK_ABANDONED"),
        _ => {}
    }
    script.wait(0.5, 3.0);
    if streamed {
        stream(script, &a, "stop");
    }
    hang_up(script, &a, &b, "NORMAL_CLEARING", "sip:200");
}

fn create(script: &mut Script<'_>, leg: &mut Leg) {
    leg.created = script.now();
    event(
        script,
        leg,
        "CHANNEL_CREATE",
        json!({"Channel-Call-State": "RINGING", "Channel-State": "ROUTING"}),
    );
}

fn answer(script: &mut Script<'_>, leg: &mut Leg) {
    leg.answered = Some(script.now());
    event(script, leg, "CHANNEL_ANSWER", json!({"Channel-Call-State": "ACTIVE", "Answer-State": "answered"}));
    script.wait(0.01, 0.05);
}

fn bridge(script: &mut Script<'_>, a: &Leg, b: &Leg) {
    for (leg, role) in [(a, "originator"), (b, "originatee")] {
        let more = json!({
            "Other-Leg-Call-ID": leg.other_call_id,
            "Other-Leg-Direction": if leg.direction == "inbound" { "outbound" } else { "inbound" },
            "Bridge-Role": role,
            "Channel-Call-State": "ACTIVE",
        });
        event(script, leg, "CHANNEL_BRIDGE", more);
        script.wait(0.01, 0.03);
    }
}

fn hold(script: &mut Script<'_>, leg: &Leg) {
    event(
        script,
        leg,
        "CHANNEL_HOLD",
        json!({"Channel-Call-State": "HELD", "Hold-Music": "silence_stream://-1"}),
    );
    script.wait(0.8, 2.5);
    event(script, leg, "CHANNEL_UNHOLD", json!({"Channel-Call-State": "ACTIVE"}));
    script.wait(0.5, 1.5);
}

/// The caller is parked; then the call is retrieved, or the caller hangs up.
fn park(script: &mut Script<'_>, caller: &Leg, desk: &Leg, end: &'static str) {
    let slot = json!({
        "Parking-Slot": script.one_of(&["*3101", "*3102", "*3103"], "*3101"),
        "Parking-Lot": "main",
        "Parked-Call": caller.call_id,
        "Attendant": desk.callee.0,
    });
    event(script, caller, "PARK_PARKED", slot.clone());
    script.wait(1.0, 3.0);
    event(script, caller, end, slot);
}

/// The caller's audio is streamed to an external program (KAZOO 5).
fn stream(script: &mut Script<'_>, leg: &Leg, event: &'static str) {
    let account = script.account;
    let mut body = script.header("pivot", "stream", event);
    body.extend(object(json!({
        "Account-ID": account.id,
        "Call-ID": leg.call_id,
        "Stream-ID": format!("{}-stream", leg.tag),
        "Direction": "inbound",
        "Format": "audio/l16;rate=8000",
        "URL": "wss://transcribe.example.com/streams",
        "Caller-ID-Name": leg.caller.0,
        "Caller-ID-Number": leg.caller.1,
        "Timestamp": gregorian(script.time()),
    })));
    let key = ["pivot", "stream", event, &account.id, &leg.call_id].map(Word::Plain);
    script.publish("pivot", &key, event, body);
}

fn hang_up(script: &mut Script<'_>, first: &Leg, second: &Leg, cause: &str, code: &str) {
    for leg in [first, second] {
        let seconds = |from: Duration| script.now().saturating_sub(from).as_secs().to_string();
        let more = json!({
            "Billing-Seconds": leg.answered.map_or_else(|| "0".into(), seconds),
            "Duration-Seconds": seconds(leg.created),
            "Ringing-Seconds": leg.answered.unwrap_or(script.now()).saturating_sub(leg.created).as_secs().to_string(),
            "Hangup-Cause": cause,
            "Hangup-Code": code,
            "Channel-State": "HANGUP",
            "Channel-Call-State": "HANGUP",
        });
        event(script, leg, "CHANNEL_DESTROY", more);
        script.wait(0.01, 0.04);
    }
}

fn legs(script: &mut Script<'_>) -> (Leg, Leg) {
    let people = script.people(2);
    let outside = script.one_of(OUTSIDE, ("+14155550100", "UNKNOWN"));
    let outside = (outside.1.to_owned(), outside.0.to_owned());
    let desk = |person: &Person| (person.name.to_owned(), person.extension.clone());
    let (Some(one), Some(other)) = (people.first(), people.last()) else {
        return (
            leg(script, "inbound", &outside, &outside, None),
            leg(script, "outbound", &outside, &outside, None),
        );
    };
    let (caller, from, callee, to) = match script.one_of(&[0, 0, 1, 1, 2], 0) {
        0 => (outside, None, desk(one), Some(one.clone())),
        1 => (desk(one), Some(one.clone()), outside, None),
        _ => (desk(one), Some(one.clone()), desk(other), Some(other.clone())),
    };
    let mut a = leg(script, "inbound", &caller, &callee, from);
    let mut b = leg(script, "outbound", &caller, &callee, to);
    a.other_call_id.clone_from(&b.call_id);
    b.other_call_id.clone_from(&a.call_id);
    (a, b)
}

type Party = (String, String);

fn leg(
    script: &mut Script<'_>,
    direction: &'static str,
    caller: &Party,
    callee: &Party,
    person: Option<Person>,
) -> Leg {
    let address = person.as_ref().map_or("203.0.113.7".to_owned(), |person| person.address.clone());
    let rng = &mut *script.rng;
    // As in a real cluster: call ids of phones and carriers contain their address, the switch uses UUIDs, browsers
    // letters.
    let call_id = match (direction, &person) {
        ("outbound", _) => uuid(&hex(rng, 32)),
        (_, Some(person)) if person.phone.starts_with("SIP.js") => letters(rng, 20),
        _ => format!("{}.{}@{address}", hex(rng, 8), hex(rng, 4)),
    };
    let realm = &script.account.realm;
    Leg {
        call_id,
        other_call_id: String::new(),
        direction,
        caller: caller.clone(),
        callee: callee.clone(),
        uri: format!("{}@{}", caller.1, if person.is_some() { realm } else { "carrier.example.net" }),
        request: format!("{}@{realm}", callee.1),
        person,
        address,
        tag: letters(rng, 10),
        created: Duration::ZERO,
        answered: None,
    }
}

fn uuid(hex: &str) -> String {
    let cut = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", cut(0, 8), cut(8, 12), cut(12, 16), cut(16, 20), cut(20, 32))
}

fn event(script: &mut Script<'_>, leg: &Leg, name: &'static str, more: Value) {
    let app = if name.starts_with("PARK") { "callflow" } else { "ecallmgr" };
    let mut body = script.header(app, "call_event", name);
    body.extend(members(script, leg));
    body.extend(object(more));
    if name == "CHANNEL_CREATE" && leg.person.is_none() && leg.direction == "inbound" {
        // At this point KAZOO has not looked up the account of the called number.
        body.insert("Custom-Channel-Vars".into(), json!({ "Realm": script.account.realm }));
    }
    script.publish(
        EXCHANGE,
        &[Word::Plain("call"), Word::Plain(name), Word::Plain(&leg.call_id)],
        name,
        body,
    );
    let state = match name {
        "CHANNEL_CREATE" => "early",
        "CHANNEL_ANSWER" => "confirmed",
        "CHANNEL_DESTROY" => "terminated",
        _ => return,
    };
    if let Some(person) = &leg.person {
        presence::phone(script, person, &leg.call_id, leg.direction == "inbound", state);
    }
}

fn members(script: &Script<'_>, leg: &Leg) -> Object {
    let disposition = if leg.answered.is_some() { "ANSWER" } else { "DELAYED NEGOTIATION" };
    let now = script.time();
    object(json!({
        "Call-Direction": leg.direction,
        "Call-ID": leg.call_id,
        "Caller-ID-Name": leg.caller.0,
        "Caller-ID-Number": leg.caller.1,
        "Callee-ID-Name": leg.callee.0,
        "Callee-ID-Number": leg.callee.1,
        "Custom-Channel-Vars": channel_vars(script, leg),
        "Custom-SIP-Headers": {"X-AUTH-IP": leg.address},
        "Disposition": disposition,
        "From": leg.uri,
        "From-Tag": leg.tag,
        "From-Uri": leg.uri,
        "Media-Server": format!("fs01.{CLUSTER}"),
        "Presence-ID": leg.request,
        "Request": leg.request,
        "Switch-URI": "sip:198.51.100.21:11000",
        "Switch-URL": "sip:mod_sofia@198.51.100.21:11000",
        "Timestamp": gregorian(now),
        "To": leg.request,
        "To-Uri": leg.request,
    }))
}

fn channel_vars(script: &Script<'_>, leg: &Leg) -> Object {
    let account = script.account;
    let mut vars = object(json!({
        "Account-ID": account.id,
        "Account-Name": account.name,
        "Account-Realm": account.realm,
        "Bridge-ID": if leg.direction == "inbound" { &leg.call_id } else { &leg.other_call_id },
        "Channel-Authorized": "true",
        "Global-Resource": "false",
        "Realm": account.realm,
    }));
    vars.extend(object(match &leg.person {
        Some(person) => json!({
            "Authorizing-ID": person.device_id,
            "Authorizing-Type": "device",
            "Owner-ID": person.user_id,
            "Register-Overwrite-Notify": "false",
            "Suppress-Unregister-Notifications": "false",
            "Username": person.username,
        }),
        None => json!({
            "Authorizing-Type": "resource",
            "Inception": leg.callee.1,
            "Resource-ID": "b1d7c0a35e924f86ac5d2e9073b4f168",
            "Resource-Type": "offnet-origination",
        }),
    }));
    vars
}
