//! A WebSocket client that subscribes to all accounts and formats each event as one line.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bindings for everything that the simulated KAZOO publishes, as the documentation writes them. Relayed events are
/// missing: they go only to the session whose token they name.
const BINDINGS: &[&str] = &[
    "call.*.*",
    "conference.event.*.*.*",
    "conference.command.*",
    "doc_created.*.user.*",
    "doc_edited.*.user.*",
    "doc_deleted.*.user.*",
    "object.*.device",
    "object.*.fax",
    "object.*.mailbox_message",
    "fax.status.*",
    "presence.dialog.*",
    "presence.update.*",
    "presence.mwi_updates.*",
    "stream.*.*",
    "live.conference.*.*",
    "dialog.event.*.*",
    "qubicle.*.*.*",
    "notifications.*.*",
];

/// The client.
pub(super) struct Watcher {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    names: HashMap<String, String>,
}

impl Watcher {
    /// Connects and subscribes. `names` has the accounts' names by id and by realm.
    pub(super) async fn connect(port: u16, token: &str, names: HashMap<String, String>) -> Result<Self> {
        let url = format!("ws://127.0.0.1:{port}/");
        let (socket, _) = connect_async(&url).await.with_context(|| format!("cannot connect to {url}"))?;
        let mut watcher = Self { socket, names };
        let request = json!({
            "action": "subscribe",
            "auth_token": token,
            "request_id": "cargo-dev-up",
            "data": {"account_id": "*", "bindings": BINDINGS, "name": "cargo dev up"},
        });
        watcher.socket.send(Message::text(request.to_string())).await?;
        let reply = tokio::time::timeout(REPLY_TIMEOUT, watcher.frame())
            .await
            .context("no reply within the timeout")??;
        if reply.get("status") != Some(&json!("success")) {
            bail!("the subscription was refused: {reply}");
        }
        Ok(watcher)
    }

    /// The next event, as a line.
    pub(super) async fn next(&mut self) -> Result<String> {
        loop {
            let frame = self.frame().await?;
            if frame.get("action").is_none_or(|action| action == "event") {
                return Ok(self.line(&frame, SystemTime::now()));
            }
        }
    }

    async fn frame(&mut self) -> Result<Value> {
        loop {
            match self.socket.next().await.context("the edge closed the connection")?? {
                Message::Text(text) => {
                    return serde_json::from_str(&text).context("a frame that is not JSON");
                }
                Message::Close(why) => bail!("the edge closed the connection: {why:?}"),
                _ => {}
            }
        }
    }

    fn line(&self, frame: &Value, now: SystemTime) -> String {
        let body = frame.get("args").or_else(|| frame.get("data")).unwrap_or(&Value::Null);
        let vars = &body["Custom-Channel-Vars"];
        let account = text(body, &["Account-ID", "account_id"]);
        let account = account.or_else(|| text(vars, &["Account-ID", "Realm"]));
        let account = account.or_else(|| text(body, &["To"])?.rsplit('@').next());
        let account = account.map_or("-", |id| self.names.get(id).map_or(id, String::as_str));
        let name = frame.get("name").and_then(Value::as_str).unwrap_or("-");
        // Names such as "event" and "status" need the family and the kind of event to be understood.
        let family =
            text(frame, &["subscribed_key"]).and_then(|key| key.split('.').next()).unwrap_or_default();
        let name = match (family, text(body, &["Event", "Fax-State", "Type", "State"])) {
            ("conference" | "dialog" | "live", Some(event)) => format!("{family} {event}"),
            ("qubicle", Some(event)) => format!("{} {event}", name.replace("_event", "")),
            ("fax" | "presence", Some(state)) => format!("{family} {name} {state}"),
            ("conference" | "fax" | "presence" | "stream", None) => format!("{family} {name}"),
            (_, Some(kind)) => format!("{name} {kind}"),
            (_, None) => name.to_owned(),
        };
        let id = text(body, &["Call-ID", "Job-ID", "Conference-ID", "Instance-ID", "ID"]).unwrap_or("-");
        let seconds = crate::simulator::gregorian(now) % 86_400;
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let account = pad(account, 21);
        format!("{hours:02}:{minutes:02}:{seconds:02}Z  {account}  {name:<27}  {id}")
    }
}

fn text<'a>(body: &'a Value, members: &[&str]) -> Option<&'a str> {
    members.iter().find_map(|member| body.get(*member).and_then(Value::as_str))
}

fn pad(text: &str, width: usize) -> String {
    let length = text.chars().count();
    format!("{text}{}", " ".repeat(width.saturating_sub(length)))
}
