//! Voicemail: a new message causes a document, a message-waiting update and a notification.

use serde_json::json;

use super::accounts::hex;
use super::documents;
use super::presence;
use super::script::{Script, Word, object};
use super::words::gregorian;

/// Writes a message that is left and heard a few seconds later.
pub(super) fn message(script: &mut Script<'_>) {
    let Some(person) = script.people(1).pop() else { return };
    let call_id = format!("{}@203.0.113.7", hex(script.rng, 16));
    let message = documents::voicemail(script, &person.extension, &call_id);
    script.wait(0.05, 0.2);
    presence::messages_waiting(script, &person, &call_id, 1);

    let account = script.account;
    let mut body = script.header("callflow", "notification", "voicemail_new");
    body.extend(object(json!({
        "Account-ID": account.id,
        "From-User": "+14155550142",
        "From-Realm": account.realm,
        "To-User": person.extension,
        "To-Realm": account.realm,
        "Caller-ID-Name": "WIRELESS CALLER",
        "Caller-ID-Number": "+14155550142",
        "Call-ID": call_id,
        "Voicemail-Box": hex(script.rng, 32),
        "Voicemail-ID": message,
        "Voicemail-Length": 12_400,
        "Voicemail-Timestamp": gregorian(script.time()),
    })));
    let key = ["notifications", "voicemail", "new"].map(Word::Plain);
    script.publish("notifications", &key, "voicemail_new", body);

    script.wait(2.0, 6.0);
    presence::messages_waiting(script, &person, &call_id, 0);
}
