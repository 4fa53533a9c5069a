//! Conferences: people join, talk, are muted and leave.

use serde_json::{Value, json};

use super::accounts::{Person, hex, letters};
use super::script::{Script, Word, object};
use super::words::gregorian;

const EXCHANGE: &str = "conference";

struct Room {
    id: String,
    instance: String,
}

struct Member {
    number: usize,
    call_id: String,
    person: Person,
}

/// Writes a conference of three or four people.
pub(super) fn conference(script: &mut Script<'_>) {
    let room = Room { id: hex(script.rng, 32), instance: letters(script.rng, 20) };
    let size = script.one_of(&[3, 4], 3);
    let people = script.people(size);
    let joined: Vec<Member> = people
        .into_iter()
        .enumerate()
        .map(|(number, person)| Member {
            number: number + 1,
            call_id: format!("{}.{}@{}", hex(script.rng, 8), hex(script.rng, 4), person.address),
            person,
        })
        .collect();
    for (number, member) in joined.iter().enumerate() {
        if number == 0 {
            event(script, &room, member, "conference-create", json!({}));
        }
        event(script, &room, member, "add-member", json!({}));
        script.wait(0.3, 1.2);
    }
    for member in joined.iter().take(2) {
        event(script, &room, member, "start-talking", json!({}));
        script.wait(0.5, 1.5);
        event(script, &room, member, "stop-talking", json!({}));
    }
    for (number, name) in ["info", "array", "caption", "chat", "broadcast"].into_iter().enumerate() {
        if let Some(member) = joined.get(number % joined.len().max(1)) {
            live(script, &room, member, name);
            script.wait(0.1, 0.4);
        }
    }
    if let (Some(from), Some(to)) = (joined.first(), joined.last()) {
        relay(script, &room, from, to);
    }
    if let Some(member) = joined.last() {
        command(script, &room, member, "mute_participant");
        script.wait(0.05, 0.2);
        event(script, &room, member, "mute-member", json!({"Mute": true}));
        script.wait(0.8, 2.0);
        command(script, &room, member, "unmute_participant");
        script.wait(0.05, 0.2);
        event(script, &room, member, "unmute-member", json!({"Mute": false}));
    }
    script.wait(0.5, 2.0);
    for member in &joined {
        event(script, &room, member, "del-member", json!({"Hangup-Cause": "NORMAL_CLEARING"}));
        script.wait(0.1, 0.5);
    }
    if let Some(member) = joined.last() {
        event(script, &room, member, "conference-destroy", json!({}));
    }
}

fn event(script: &mut Script<'_>, room: &Room, member: &Member, event: &'static str, more: Value) {
    let account = script.account;
    let mut body = script.header("ecallmgr", "conference", "event");
    body.extend(object(json!({
        "Event": event,
        "Account-ID": account.id,
        "Conference-ID": room.id,
        "Instance-ID": room.instance,
        "Call-ID": member.call_id,
        "Participant-ID": member.number,
        "Caller-ID-Name": member.person.name,
        "Caller-ID-Number": member.person.extension,
        "Channel-Presence-ID": format!("{}@{}", member.person.extension, account.realm),
        "Conference-Channel-Vars": {
            "Current-Energy": 120,
            "Deaf": false,
            "Floor": member.number == 1,
            "Hear": true,
            "Is-Moderator": member.number == 1,
            "Mute": false,
            "Mute-Detect": false,
            "Speak": true,
            "Talking": event == "start-talking",
            "Video": false,
        },
        "Custom-Channel-Vars": {
            "Account-ID": account.id,
            "Account-Name": account.name,
            "Account-Realm": account.realm,
            "Authorizing-ID": member.person.device_id,
            "Authorizing-Type": "device",
            "Ecallmgr-Node": format!("ecallmgr@apps01.{}", super::calls::CLUSTER),
            "Owner-ID": member.person.user_id,
            "Realm": account.realm,
            "Username": member.person.username,
        },
        "Media-Server": format!("fs01.{}", super::calls::CLUSTER),
        "Profile": "default",
        "Switch-Hostname": format!("fs01.{}", super::calls::CLUSTER),
        "Timestamp": gregorian(script.time()),
    })));
    body.extend(object(more));
    let key = ["conference", "event", event, &account.id, &room.id, &member.call_id].map(Word::Plain);
    script.publish(EXCHANGE, &key, "event", body);
}

/// Events of KAZOO 5 for showing a conference in a browser.
fn live(script: &mut Script<'_>, room: &Room, member: &Member, event: &'static str) {
    let account = script.account;
    let data = match event {
        "chat" => json!({"text": "Can everybody hear me? 👋"}),
        "caption" => json!({"text": "let us begin", "final": true, "language": "en"}),
        "array" => json!([{"id": member.number, "name": member.person.name, "muted": false}]),
        "broadcast" => json!({"layout": "grid", "recording": false}),
        _ => json!({"participants": 3, "locked": false, "profile": "default"}),
    };
    let mut body = script.header("live", "live", event);
    body.extend(object(json!({
        "Account-ID": account.id,
        "Conference-ID": room.id,
        "Event": event,
        "Participant-ID": member.number,
        "Caller-ID-Name": member.person.name,
        "Call-ID": member.call_id,
        "Data": data,
        "Timestamp": gregorian(script.time()),
    })));
    let key = ["live", "conference", &account.id, event, &room.id].map(Word::Plain);
    script.publish("live", &key, event, body);
}

/// A message from one member to the browser of another one (KAZOO 5). It is addressed to the id of that member's token,
/// which is the user id for people who have logged in.
fn relay(script: &mut Script<'_>, room: &Room, from: &Member, to: &Member) {
    let account = script.account;
    let mut body = script.header("live", "relay", "whisper");
    body.extend(object(json!({
        "Account-ID": account.id,
        "Conference-ID": room.id,
        "Event": "whisper",
        "From-ID": from.person.user_id,
        "From-Name": from.person.name,
        "To-ID": to.person.user_id,
        "Data": {"text": "you are muted"},
        "Timestamp": gregorian(script.time()),
    })));
    let key = ["relay", &account.id, "whisper", &to.person.user_id].map(Word::Plain);
    script.publish("live", &key, "whisper", body);
}

fn command(script: &mut Script<'_>, room: &Room, member: &Member, command: &'static str) {
    let account = script.account;
    let mut body = script.header("conference", "conference", "command");
    body.extend(object(json!({
        "Application-Name": command,
        "Account-ID": account.id,
        "Conference-ID": room.id,
        "Participant-ID": member.number,
        "Custom-Channel-Vars": {"Account-ID": account.id, "Account-Realm": account.realm},
        "Requested-By": {"User-ID": member.person.user_id, "Name": member.person.name},
    })));
    script.publish(EXCHANGE, &["conference", "command", &room.id].map(Word::Plain), "command", body);
}
