//! An event from each broker to a WebSocket.

use std::{io, path::Path, pin::Pin};

use blackhole_common::{
    chance,
    config::ServerUrl,
    net::{Duplex, Socket},
    report::Report,
};
use futures_util::{SinkExt, StreamExt};
use lapin::{BasicProperties, options::BasicPublishOptions};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message, tungstenite::http::Uri};

use super::{TIMEOUT, brokers};
use crate::{amqp::short_string, config::IngestConfig};

/// Where KAZOO publishes the states of faxes. Few clients follow these.
const EXCHANGE: &str = "faxes";

type WebSocket = WebSocketStream<Pin<Box<dyn Duplex>>>;

pub(super) async fn examine(
    report: &mut Report,
    config: &IngestConfig,
    edge: &str,
    token_file: &Path,
    account: &str,
) {
    let id = format!("doctor-{:016x}", chance::random::<u64>());
    let began = Instant::now();
    let mut socket = match subscribed(edge, token_file, account, &id).await {
        Ok(socket) => socket,
        Err(reason) => return report.add(format!("edge {edge}"), Err(reason)),
    };
    report.add(format!("edge {edge}"), Ok(format!("connected and subscribed in {:.1?}", began.elapsed())));
    for broker in config.amqp.brokers() {
        let result = send(&broker.url, account, &id, &mut socket).await;
        report.add(format!("{broker} to {edge}"), result);
    }
    let _ = timeout(TIMEOUT, socket.close(None)).await;
}

async fn subscribed(edge: &str, token_file: &Path, account: &str, id: &str) -> Result<WebSocket, String> {
    let token = std::fs::read_to_string(token_file)
        .map_err(|error| format!("the token in {} cannot be read: {error}", token_file.display()))?;
    let opened = timeout(TIMEOUT, open(edge)).await.map_err(|_| "it does not answer".to_owned())?;
    let mut socket = opened.map_err(|error| error.to_string())?;
    let data = json!({ "account_id": account, "binding": format!("fax.status.{id}") });
    let request = json!({ "action": "subscribe", "auth_token": token.trim(), "data": data });
    socket.send(Message::text(request.to_string())).await.map_err(|error| error.to_string())?;
    let reply = next(&mut socket).await?;
    if reply.pointer("/status").is_some_and(|status| status == "success") {
        return Ok(socket);
    }
    Err(format!("the subscription is refused: {}", reply.pointer("/data/errors").unwrap_or(&reply)))
}

async fn open(edge: &str) -> io::Result<WebSocket> {
    let expected = || invalid("expected a URL such as ws://127.0.0.1:5555 or wss://kazoo.example.com");
    let uri: Uri = edge.parse().map_err(|_| expected())?;
    let host = uri.host().ok_or_else(expected)?;
    let is_tls = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => return Err(expected()),
    };
    let mut socket = Socket::connect(host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 })).await?;
    if is_tls {
        socket.encrypt(host, None).await?;
    }
    client_async(edge, socket.into_duplex()).await.map(|(socket, _)| socket).map_err(io::Error::other)
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

/// The next JSON frame.
async fn next(socket: &mut WebSocket) -> Result<Value, String> {
    let reading = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(|error| error.to_string());
                }
                Some(Ok(Message::Close(frame))) => return Err(format!("the edge closed it: {frame:?}")),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("the connection has ended".to_owned()),
            }
        }
    };
    timeout(TIMEOUT, reading).await.unwrap_or_else(|_| Err(format!("nothing within {} s", TIMEOUT.as_secs())))
}

/// Publishes as KAZOO does, and waits for the event.
async fn send(url: &ServerUrl, account: &str, id: &str, socket: &mut WebSocket) -> Result<String, String> {
    let failed = |error: lapin::Error| error.to_string();
    let connection = brokers::connect(url).await.map_err(|error| error.to_string())?;
    let channel = connection.create_channel().await.map_err(failed)?;
    let key = short_string(&format!("fax.status.{account}.{id}")).map_err(|error| error.to_string())?;
    let mark = format!("{:016x}", chance::random::<u64>());
    // Its end, so that nothing of it is kept as living.
    let body = json!({
        "App-Name": "blackhole", "App-Version": env!("CARGO_PKG_VERSION"), "Msg-ID": mark,
        "Event-Category": "fax", "Event-Name": "status", "Account-ID": account, "Fax-ID": id, "Fax-State": "end",
    });
    let body = body.to_string();
    let began = Instant::now();
    let options = BasicPublishOptions::default();
    let properties = BasicProperties::default().with_content_type("application/json".into());
    channel
        .basic_publish(EXCHANGE.into(), key, options, body.as_bytes(), properties)
        .await
        .map_err(failed)?;
    loop {
        let event = next(socket).await.map_err(|reason| format!("the event did not come: {reason}"))?;
        if event.pointer("/data/msg_id").is_some_and(|id| id == mark.as_str()) {
            let took = began.elapsed();
            let _ = timeout(TIMEOUT, connection.close(0, "".into())).await;
            return Ok(format!("an event came after {took:.1?}"));
        }
    }
}
