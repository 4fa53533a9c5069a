//! The state of phones, published by realm: ringing, talking, messages waiting.

use serde_json::json;

use super::accounts::Person;
use super::script::{Script, Word, object};
use super::words::gregorian;

const EXCHANGE: &str = "presence";

/// Writes a change of the state of a person's phone (`early`, `confirmed`, `terminated`) because of a call: as a dialog
/// event and as a presence update.
pub(super) fn phone(script: &mut Script<'_>, person: &Person, call_id: &str, initiator: bool, state: &str) {
    let realm = &script.account.realm;
    let presence_id = format!("{}@{realm}", person.extension);
    let members = json!({
        "Presence-ID": presence_id,
        "From": presence_id,
        "From-User": person.extension,
        "From-Realm": realm,
        "From-Tag": person.username,
        "To": presence_id,
        "To-User": person.extension,
        "To-Realm": realm,
        "Call-ID": call_id,
        "Direction": if initiator { "initiator" } else { "recipient" },
        "State": state,
        "Expires": if state == "terminated" { 10 } else { 3600 },
        "Switch-URI": "sip:198.51.100.21:11000",
        "Timestamp": gregorian(script.time()),
    });
    for (name, package) in [("dialog", "dialog"), ("update", "presence")] {
        let mut body = script.header("ecallmgr", "presence", name);
        body.extend(object(members.clone()));
        body.insert("Event-Package".into(), package.into());
        script.publish(EXCHANGE, &[name, realm, call_id].map(Word::Plain), name, body);
    }
}

/// Writes the number of new messages for a person's phone.
pub(super) fn messages_waiting(script: &mut Script<'_>, person: &Person, call_id: &str, new: u32) {
    let realm = &script.account.realm;
    let mut body = script.header("callflow", "presence", "mwi");
    body.extend(object(json!({
        "To": format!("{}@{realm}", person.username),
        "Messages-Waiting": if new > 0 { "yes" } else { "no" },
        "Messages-New": new,
        "Messages-Saved": 2,
        "Messages-Urgent": 0,
        "Messages-Urgent-Saved": 0,
        "Message-Account": format!("sip:{}@{realm}", person.extension),
        "Extended-Presence-ID": format!("{}@{realm}", person.extension),
        "Call-ID": call_id,
        "Timestamp": gregorian(script.time()),
    })));
    script.publish(EXCHANGE, &["mwi_updates", realm, &person.username].map(Word::Plain), "mwi", body);
}
