//! AMQP events as KAZOO publishes them.

use blackhole_dev::simulator::{Publisher, account_database, encode_word};
use serde_json::{Value, json};

use crate::accounts::Account;

/// A message to an exchange.
#[derive(Clone, Debug)]
pub struct Event {
    /// The exchange.
    pub exchange: &'static str,
    /// The routing key.
    pub key: String,
    /// The body.
    pub body: Value,
}

impl Event {
    /// Publishes it and waits for the confirm.
    pub async fn publish(&self, publisher: &Publisher) {
        publisher.publish(self.exchange, &self.key, self.body.to_string().as_bytes()).await.unwrap();
    }
}

/// A call event whose body has about 100 KB.
pub fn large_call(account: &Account, number: u64) -> Event {
    let mut event = call(account, "CHANNEL_CREATE", &number.to_string());
    event.body["Number"] = number.into();
    event.body["Padding"] = "x".repeat(100_000).into();
    event
}

/// A call event with this name.
pub fn call(account: &Account, name: &str, call_id: &str) -> Event {
    Event {
        exchange: "callevt",
        key: format!("call.{name}.{}", encode_word(call_id)),
        body: json!({
            "App-Name": "ecallmgr",
            "Event-Category": "call_event",
            "Event-Name": name,
            "Msg-ID": format!("{:032x}", rand::random::<u128>()),
            "Node": "ecallmgr@apps01.example.com",
            "Call-ID": call_id,
            "Call-Direction": "inbound",
            "Caller-ID-Name": "Zoë Ångström",
            "Custom-Channel-Vars": { "Account-ID": account.id, "Realm": account.realm },
            "Server-ID": "",
            "Media-Server": null,
        }),
    }
}

/// An event that names only a realm, as the first ones of an inbound call do.
pub fn call_of_realm(realm: &str, name: &str, call_id: &str) -> Event {
    let mut event = call(&Account { id: String::new(), realm: realm.to_owned() }, name, call_id);
    event.body["Custom-Channel-Vars"] = json!({ "Realm": realm });
    event
}

/// An event of a call to a number from outside, which names no account: the number, and the realm to which it came.
pub fn call_to(number: &str, realm: &str, name: &str, call_id: &str) -> Event {
    let mut event = call_of_realm(realm, name, call_id);
    event.body["Custom-Channel-Vars"] = json!({ "Fetch-ID": "f1" });
    event.body["Request"] = format!("{number}@{realm}").into();
    event.body["To"] = format!("{number}@{realm}").into();
    event.body["From"] = "+15005551234@carrier.example".into();
    event
}

/// A conference event.
pub fn conference(account: &Account, name: &str, conference_id: &str, call_id: &str) -> Event {
    Event {
        exchange: "conference",
        key: format!("conference.event.{name}.{}.{conference_id}.{}", account.id, encode_word(call_id)),
        body: json!({
            "Event-Category": "conference",
            "Event-Name": "event",
            "Event": name,
            "Msg-ID": format!("{:032x}", rand::random::<u128>()),
            "Account-ID": account.id,
            "Conference-ID": conference_id,
            "Call-ID": call_id,
        }),
    }
}

/// A command to a conference.
pub fn conference_command(account: &Account, conference_id: &str) -> Event {
    Event {
        exchange: "conference",
        key: format!("conference.command.{conference_id}"),
        body: json!({
            "Event-Category": "conference",
            "Event-Name": "command",
            "Application-Name": "mute_participant",
            "Msg-ID": format!("{:032x}", rand::random::<u128>()),
            "Account-ID": account.id,
            "Conference-ID": conference_id,
        }),
    }
}

/// A change of a document in an account's database.
pub fn document(account: &Account, action: &str, kind: &str, id: &str) -> Event {
    document_in(&account_database(&account.id), action, kind, id)
}

/// A change of a document in any database.
pub fn document_in(database: &str, action: &str, kind: &str, id: &str) -> Event {
    Event {
        exchange: "configuration",
        key: format!("{action}.{database}.{kind}.{}", encode_word(id)),
        body: json!({
            "Event-Category": "configuration",
            "Event-Name": action,
            "Msg-ID": format!("{:032x}", rand::random::<u128>()),
            "Database": database,
            "ID": id,
            "Type": kind,
            "Doc": null,
        }),
    }
}

/// A fax status event.
pub fn fax(account: &Account, id: &str) -> Event {
    Event {
        exchange: "faxes",
        key: format!("fax.status.{}.{}", account.id, encode_word(id)),
        body: json!({
            "Event-Category": "fax",
            "Event-Name": "status",
            "Msg-ID": format!("{:032x}", rand::random::<u128>()),
            "Account-ID": account.id,
            "Job-ID": id,
        }),
    }
}

/// An event of any kind. The words of `key` are encoded already; `members` are added to the body.
pub fn any(exchange: &'static str, key: String, name: &str, members: Value) -> Event {
    let mut body = json!({
        "Event-Category": exchange,
        "Event-Name": name,
        "Msg-ID": format!("{:032x}", rand::random::<u128>()),
    });
    if let (Some(body), Value::Object(members)) = (body.as_object_mut(), members) {
        body.extend(members);
    }
    Event { exchange, key, body }
}
