//! Queues of KAZOO 5: a caller waits, an agent is offered the call in a dialog, takes it, and finishes it.

use serde_json::{Value, json};

use super::accounts::{Person, hex, letters};
use super::script::{Script, Word, object};
use super::words::gregorian;

struct Waiting {
    session: String,
    queue: String,
    call_id: String,
}

/// Writes a caller's way through a queue.
pub(super) fn caller(script: &mut Script<'_>) {
    let Some(agent) = script.people(1).pop() else { return };
    let waiting = Waiting {
        session: hex(script.rng, 32),
        queue: hex(script.rng, 32),
        call_id: format!("{}.{}@203.0.113.7", hex(script.rng, 8), hex(script.rng, 4)),
    };
    event(script, &waiting, &agent, ["session", &waiting.session, "created"], json!({"Position": 1}));
    event(script, &waiting, &agent, ["queue", &waiting.queue, "stats"], json!({"Waiting": 1, "Ready": 2}));
    script.wait(0.5, 2.0);
    let recipient = agent.user_id.clone();
    event(
        script,
        &waiting,
        &agent,
        ["session", &waiting.session, "offered"],
        json!({"Recipient-ID": recipient}),
    );
    event(script, &waiting, &agent, ["recipient", &recipient, "offered"], json!({"State": "offered"}));
    let instance = letters(script.rng, 12);
    dialog(script, &waiting, &instance, "opened");
    script.wait(0.5, 2.0);
    dialog(script, &waiting, &instance, "closed");
    event(script, &waiting, &agent, ["recipient", &recipient, "busy"], json!({"State": "busy"}));
    event(script, &waiting, &agent, ["queue", &waiting.queue, "stats"], json!({"Waiting": 0, "Ready": 1}));
    script.wait(1.0, 4.0);
    event(script, &waiting, &agent, ["session", &waiting.session, "completed"], json!({"Result": "handled"}));
    event(script, &waiting, &agent, ["recipient", &recipient, "ready"], json!({"State": "ready"}));
}

fn event(script: &mut Script<'_>, waiting: &Waiting, agent: &Person, key: [&str; 3], more: Value) {
    let [kind, id, event] = key;
    let account = script.account;
    let mut body = script.header("qubicle", "qubicle", kind_name(kind));
    body.extend(object(json!({
        "Account-ID": account.id,
        "Event": event,
        "Session-ID": waiting.session,
        "Queue-ID": waiting.queue,
        "Queue-Name": "Front desk",
        "Call-ID": waiting.call_id,
        "Caller-ID-Name": "Redwood Pharmacy",
        "Caller-ID-Number": "+14155550187",
        "Recipient-Name": agent.name,
        "Timestamp": gregorian(script.time()),
    })));
    body.extend(object(more));
    let key = ["qubicle", kind, &account.id, id, event].map(Word::Plain);
    // Those of queues as in KAZOO 4.3, whose keys have no event.
    let words = if kind == "queue" { key.len() - 1 } else { key.len() };
    script.publish("qubicle", key.get(..words).unwrap_or_default(), kind_name(kind), body);
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "session" => "session_event",
        "queue" => "queue_event",
        _ => "recipient_event",
    }
}

fn dialog(script: &mut Script<'_>, waiting: &Waiting, instance: &str, event: &str) {
    let account = script.account;
    let mut body = script.header("dialog", "dialog", "event");
    body.extend(object(json!({
        "Account-ID": account.id,
        "Dialog-ID": "queue-offer",
        "Instance-ID": instance,
        "Event": event,
        "Title": "Redwood Pharmacy is waiting",
        "Buttons": ["take", "decline"],
        "Data": {"queue": waiting.queue, "session": waiting.session},
        "Timestamp": gregorian(script.time()),
    })));
    let key = ["dialog", "event", &account.id, "queue-offer", instance].map(Word::Plain);
    script.publish("dialog", &key, "event", body);
}
