//! What clients send to each server, and how they interpret its answers.

use std::time::{SystemTime, UNIX_EPOCH};

use blackhole_dev::websocket::upgrade_request;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::event::{self, Keys};
use crate::load::{Load, account_id};

/// The HS256 secret that signs the tokens.
pub(crate) const SECRET: &str = "a secret for the bench only, and long enough";
/// Bindings per request, to stay below `ws.max_frame`.
const BINDINGS_PER_REQUEST: usize = 200;

/// Address and protocol for clients.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Target {
    /// Ports on 127.0.0.1. Sessions are spread over them.
    pub(crate) ports: Vec<u16>,
    /// The protocol inside the WebSocket.
    pub(crate) protocol: Protocol,
    /// The certificate that the server has to have, in PEM, if it speaks TLS.
    pub(crate) tls: Option<String>,
}

/// The protocol inside the WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    /// Blackhole's with this `view`, which the Node bridge speaks too.
    Blackhole(String),
    /// None: the path determines the lane.
    Path(String),
    /// The NATS client protocol.
    Nats,
    /// STOMP, with RabbitMQ.
    Stomp,
}

/// What an answer means to a session that is not subscribed yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing.
    None,
    /// One of the expected confirmations.
    Confirmed,
    /// The session has to send something.
    Send(Vec<u8>),
    /// The session is refused.
    Refused(String),
}

impl Protocol {
    /// The upgrade request of a session.
    pub(crate) fn upgrade(&self, load: &Load, session: u32) -> Vec<u8> {
        let (path, changes): (_, &[_]) = match self {
            Self::Blackhole(view) => (format!("/?view={view}"), &[]),
            Self::Path(prefix) => {
                let lane = load.lanes_of(session).first().copied().unwrap_or_default();
                (format!("{prefix}{lane}"), &[])
            }
            Self::Nats => ("/".into(), &[]),
            Self::Stomp => ("/ws".into(), &[("Sec-WebSocket-Protocol", Some("v12.stomp"))]),
        };
        upgrade_request(&path, changes).into_bytes()
    }

    /// What a session sends after the upgrade, and how many confirmations it then waits for. `since` is the cursor to resume
    /// from.
    pub(crate) fn opening(&self, load: &Load, session: u32, since: Option<&str>) -> (Vec<Vec<u8>>, u32) {
        match self {
            Self::Blackhole(_) => {
                let requests = requests(load, session, since);
                let count = requests.len() as u32;
                (requests, count)
            }
            Self::Path(_) => (Vec::new(), 0),
            Self::Nats => {
                let mut text = "CONNECT {\"verbose\":false,\"pedantic\":false,\"protocol\":1}\r\n".to_owned();
                for (sid, lane) in load.bindings(session).iter().enumerate() {
                    text += &format!("SUB {} {}\r\n", event::pattern(Keys::WithAccount, lane), sid + 1);
                }
                text += "PING\r\n";
                (vec![text.into_bytes()], 1)
            }
            Self::Stomp => {
                let connect =
                    b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n\0";
                (vec![connect.to_vec()], load.bindings(session).len() as u32)
            }
        }
    }

    /// Interprets an answer.
    pub(crate) fn interpret(&self, load: &Load, session: u32, text: &[u8]) -> Progress {
        let refused = || Progress::Refused(String::from_utf8_lossy(text).into_owned());
        let has = |needle: &str| memmem::find(text, needle.as_bytes()).is_some();
        match self {
            Self::Blackhole(_) if has("\"status\":\"success\"") => Progress::Confirmed,
            Self::Blackhole(_) if has("\"status\":\"error\"") => refused(),
            Self::Nats if text.starts_with(b"PONG") => Progress::Confirmed,
            Self::Nats if text.starts_with(b"PING") => Progress::Send(b"PONG\r\n".to_vec()),
            Self::Nats if text.starts_with(b"-ERR") => refused(),
            Self::Stomp if text.starts_with(b"CONNECTED") => {
                Progress::Send(stomp_subscriptions(load, session))
            }
            Self::Stomp if text.starts_with(b"RECEIPT") => Progress::Confirmed,
            Self::Stomp if text.starts_with(b"ERROR") => refused(),
            _ => Progress::None,
        }
    }
}

/// A token of an account, valid for the whole run.
pub(crate) fn token(account: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let claims = json!({ "iss": "kazoo", "account_id": account_id(account), "exp": now + 12 * 3600 });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap_or_default()
}

/// The cursor in Blackhole's reply, if there is one.
pub(crate) fn cursor(reply: &[u8]) -> Option<String> {
    let reply: serde_json::Value = serde_json::from_slice(reply).ok()?;
    Some(reply["data"]["cursor"].as_str()?.to_owned())
}

fn requests(load: &Load, session: u32, since: Option<&str>) -> Vec<Vec<u8>> {
    let account = load.account_of(session);
    let bindings: Vec<String> = load.bindings(session).iter().map(event::binding).collect();
    let request = |(number, bindings): (usize, &[String])| {
        let mut data = json!({ "account_id": account_id(account), "bindings": bindings });
        if let (Some(since), Some(members)) = (since, data.as_object_mut()) {
            members.insert("since".into(), since.into());
        }
        let mut request = json!({ "action": "subscribe", "request_id": number.to_string(), "data": data });
        if number == 0
            && let Some(members) = request.as_object_mut()
        {
            members.insert("auth_token".into(), token(account).into());
        }
        request.to_string().into_bytes()
    };
    bindings.chunks(BINDINGS_PER_REQUEST).enumerate().map(request).collect()
}

/// All subscriptions in one WebSocket message; RabbitMQ accepts that.
fn stomp_subscriptions(load: &Load, session: u32) -> Vec<u8> {
    let mut text = String::new();
    for (id, lane) in load.bindings(session).iter().enumerate() {
        let (exchange, key) = (event::exchange(lane.kind), event::pattern(Keys::WithAccount, lane));
        text += &format!(
            "SUBSCRIBE\nid:{id}\nreceipt:{id}\ndestination:/exchange/{exchange}/{key}\nack:auto\n\n\0"
        );
    }
    text.into_bytes()
}
