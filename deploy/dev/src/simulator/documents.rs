//! Changes to documents: users, devices, faxes, voicemail messages.

use serde_json::{Value, json};

use super::accounts::{Person, hex};
use super::script::{Script, Word, object};
use super::words::{account_database, gregorian, month_database};

/// Writes a user who is created with a phone, edited, and sometimes deleted.
pub(super) fn user_edits(script: &mut Script<'_>) {
    let Some(person) = script.people(1).pop() else { return };
    let database = account_database(&script.account.id);
    let user = Document { database: &database, kind: "user", id: &hex(script.rng, 32) };
    let device = Document { database: &database, kind: "device", id: &hex(script.rng, 32) };
    change(script, &user, "doc_created", 1, user_doc(&person, 20));
    script.wait(0.2, 0.8);
    change(script, &device, "doc_created", 1, device_doc(script, &person, user.id));
    script.wait(0.5, 2.0);
    change(script, &user, "doc_edited", 2, user_doc(&person, 40));
    if script.chance(50) {
        script.wait(0.5, 2.0);
        change(script, &device, "doc_deleted", 2, Value::Null);
        script.wait(0.1, 0.3);
        change(script, &user, "doc_deleted", 3, Value::Null);
    }
}

/// Writes an outgoing fax of two pages.
pub(super) fn fax(script: &mut Script<'_>) {
    let date = time::OffsetDateTime::from(script.time());
    let month = format!("{:04}{:02}", date.year(), u8::from(date.month()));
    let id = format!("{month}-{}", hex(script.rng, 32));
    let states = [("attempt", "dialing", 0), ("negotiate", "negotiated 14400", 0), ("send", "page sent", 1)];
    for (state, status, page) in states.into_iter().chain([("send", "page sent", 2), ("end", "success", 2)]) {
        let account = script.account;
        let mut body = script.header("fax", "fax", "status");
        body.extend(object(json!({
            "Account-ID": account.id,
            "Job-ID": id,
            "FaxBox-ID": "9d3c51e07fb248a6b0e4c27a1d85f639",
            "Fax-ID": id,
            "Direction": "outgoing",
            "Fax-State": state,
            "Status": status,
            "Page": page,
            "From-Number": "+14155550100",
            "To-Number": "+442079460018",
            "To-Name": "BENNETT & SONS",
            "Fax-Info": {
                "Fax-Bad-Rows": 0,
                "Fax-ECM-Used": true,
                "Fax-Encoding": 3,
                "Fax-Image-Resolution": "8031x7700",
                "Fax-Remote-Station-ID": "+44 20 7946 0018",
                "Fax-Result-Text": "OK",
                "Fax-Total-Pages": 2,
                "Fax-Transfer-Rate": 14400,
                "Fax-Transferred-Pages": page,
            },
            "Custom-Channel-Vars": {"Account-ID": account.id, "Account-Realm": account.realm, "Authorizing-Type": "fax"},
            "Timestamp": gregorian(script.time()),
        })));
        script.publish("faxes", &["fax", "status", &account.id, &id].map(Word::Plain), "status", body);
        script.wait(0.6, 1.5);
    }
    let database = month_database(&script.account.id, script.time());
    change(script, &Document { database: &database, kind: "fax", id: &id }, "doc_created", 1, Value::Null);
}

/// Writes the creation of a voicemail message, and returns its id.
pub(super) fn voicemail(script: &mut Script<'_>, extension: &str, call_id: &str) -> String {
    let database = month_database(&script.account.id, script.time());
    let date = time::OffsetDateTime::from(script.time());
    let id = format!("{:04}{:02}-{}", date.year(), u8::from(date.month()), hex(script.rng, 32));
    let doc = json!({
        "name": format!("mailbox {extension} message"),
        "metadata": {
            "call_id": call_id,
            "caller_id_name": "WIRELESS CALLER",
            "caller_id_number": "+14155550142",
            "folder": "new",
            "length": 12_400,
            "media_id": id,
            "timestamp": gregorian(script.time()),
        },
    });
    change(
        script,
        &Document { database: &database, kind: "mailbox_message", id: &id },
        "doc_created",
        1,
        doc,
    );
    id
}

struct Document<'a> {
    database: &'a str,
    kind: &'a str,
    id: &'a str,
}

fn change(script: &mut Script<'_>, document: &Document<'_>, action: &'static str, revision: u32, doc: Value) {
    let now = gregorian(script.time());
    let mut body = script.header("crossbar", "configuration", action);
    body.extend(object(json!({
        "Account-ID": script.account.id,
        "Database": document.database,
        "ID": document.id,
        "Type": document.kind,
        "Rev": format!("{revision}-{}", hex(script.rng, 32)),
        "Date-Created": now - u64::from(revision) * 3,
        "Date-Modified": now,
        "Is-Soft-Deleted": action == "doc_deleted",
        "Doc": doc,
    })));
    let key = [
        Word::Plain(action),
        Word::Encoded(document.database),
        Word::Plain(document.kind),
        Word::Plain(document.id),
    ];
    script.publish("configuration", &key, action, body);
}

fn user_doc(person: &Person, ring_seconds: u32) -> Value {
    json!({
        "first_name": person.name.split(' ').next(),
        "last_name": person.name.split(' ').nth(1),
        "username": format!("{}@mail.example.org", person.username),
        "email": format!("{}@mail.example.org", person.username),
        "enabled": true,
        "priv_level": "user",
        "timezone": "Europe/Berlin",
        "presence_id": person.extension,
        "caller_id": {
            "internal": {"name": person.name, "number": person.extension},
            "external": {"name": person.name, "number": "+14155550100"},
        },
        "call_forward": {"enabled": false, "keep_caller_id": true, "require_keypress": true},
        "call_waiting": {"enabled": true},
        "do_not_disturb": {"enabled": false},
        "ring_timeout": ring_seconds,
        "vm_to_email_enabled": true,
        "apps": [],
        "dial_plan": {},
        "hotdesk": {"enabled": false, "id": "", "keep_logged_in_elsewhere": false, "require_pin": false},
        "profile": {},
        "ui_metadata": {"origin": "voip", "ui": "monster-ui", "version": "4.3-92"},
    })
}

fn device_doc(script: &Script<'_>, person: &Person, owner_id: &str) -> Value {
    json!({
        "name": format!("{} – desk phone", person.name),
        "device_type": "sip_device",
        "enabled": true,
        "owner_id": owner_id,
        "mac_address": "02:00:5e:10:00:1f",
        "sip": {
            "username": person.username,
            "realm": script.account.realm,
            "method": "password",
            "invite_format": "contact",
            "expire_seconds": 300,
        },
        "media": {
            "audio": {"codecs": ["OPUS", "PCMU", "PCMA"]},
            "video": {"codecs": []},
            "encryption": {"enforce_security": false, "methods": []},
            "fax_option": "false",
        },
        "provision": {"endpoint_brand": "yealink", "endpoint_model": "t54w"},
        "suppress_unregister_notifications": false,
        "ui_metadata": {"origin": "voip", "ui": "monster-ui", "version": "4.3-92"},
    })
}
