//! The WebSocket client of the functional tests, based on tungstenite.

use std::collections::VecDeque;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::mpsc};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderName},
};

use crate::{accounts::Account, messages, soon};

/// A frame from the edge, or the end of the connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A text frame.
    Json(Value),
    /// The code of a close frame; none if the connection ended without one.
    Closed(Option<u16>),
}

/// A frame for the edge.
enum Outgoing {
    Text(String),
    Binary(Vec<u8>),
    Close,
}

/// A connected client. A task reads its frames, so that a test that does not read is not a slow consumer.
pub struct Client {
    outgoing: mpsc::Sender<Outgoing>,
    incoming: mpsc::Receiver<Incoming>,
    /// Events that arrived while the test waited for a reply.
    events: VecDeque<Value>,
    last_request: u64,
}

/// Large, because tests may read events long after they arrived.
const QUEUE: usize = 1 << 20;

impl Client {
    /// Connects.
    pub async fn connect(url: &str) -> Client {
        Self::try_connect(url, &[]).await.unwrap()
    }

    /// Connects with additional headers. The error is the HTTP status of a refusal.
    pub async fn try_connect(url: &str, headers: &[(&str, &str)]) -> Result<Client, u16> {
        match Self::open(url, headers).await {
            Ok(client) => Ok(client),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("cannot connect to {url}: {error}"),
        }
    }

    /// Connects; `None` if nobody is there who takes it.
    pub async fn if_up(url: &str) -> Option<Client> {
        Self::open(url, &[]).await.ok()
    }

    async fn open(url: &str, headers: &[(&str, &str)]) -> Result<Client, tungstenite::Error> {
        let mut request = url.into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let (outgoing, to_send) = mpsc::channel(1024);
        let (received, incoming) = mpsc::channel(QUEUE);
        let (socket, _) = soon("the connection", tokio_tungstenite::connect_async(request)).await?;
        tokio::spawn(run(socket, to_send, received));
        Ok(Client { outgoing, incoming, events: VecDeque::new(), last_request: 0 })
    }

    /// Sends a text frame.
    pub async fn send_text(&self, text: impl Into<String>) {
        // A closed connection shows at the next read.
        let _ = self.outgoing.send(Outgoing::Text(text.into())).await;
    }

    /// Sends a binary frame.
    pub async fn send_binary(&self, bytes: Vec<u8>) {
        let _ = self.outgoing.send(Outgoing::Binary(bytes)).await;
    }

    /// Closes the connection with a close frame.
    pub async fn close(&self) {
        let _ = self.outgoing.send(Outgoing::Close).await;
    }

    /// Sends a request and waits for its reply. Adds a request id if there is none.
    pub async fn request(&mut self, mut request: Value) -> Value {
        if request.get("request_id").is_none() {
            self.last_request += 1;
            request["request_id"] = json!(format!("r{}", self.last_request));
        }
        let id = request["request_id"].clone();
        self.send_text(request.to_string()).await;
        let reply = self.reply().await;
        assert_eq!(reply["request_id"], id, "the reply to another request: {reply}");
        messages::check_exchange(&request, &reply);
        reply
    }

    /// The next reply. Events before it are kept for [`Client::event`].
    pub async fn reply(&mut self) -> Value {
        loop {
            let frame = self.frame().await;
            if frame["action"] == "reply" {
                return frame;
            }
            self.events.push_back(frame);
        }
    }

    /// Subscribes; panics if that is refused.
    pub async fn subscribe(&mut self, account: &Account, bindings: &[&str]) -> Value {
        self.subscribe_with(&account.token(), &account.id, bindings).await
    }

    /// Subscribes to an account with a token; panics if that is refused.
    pub async fn subscribe_with(&mut self, token: &str, account_id: &str, bindings: &[&str]) -> Value {
        let data = json!({ "account_id": account_id, "bindings": bindings });
        let reply = self.request(json!({ "action": "subscribe", "auth_token": token, "data": data })).await;
        assert_eq!(reply["status"], "success", "{reply}");
        reply
    }

    /// The next event.
    pub async fn event(&mut self) -> Value {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let frame = self.frame().await;
        assert_eq!(frame["action"], "event", "{frame}");
        frame
    }

    /// The events before the first one whose routing key contains `last`.
    pub async fn events_until(&mut self, last: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            if event["routing_key"].as_str().is_some_and(|key| key.contains(last)) {
                return events;
            }
            events.push(event);
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        match self.incoming().await {
            Incoming::Json(frame) => {
                messages::check_frame(&frame);
                frame
            }
            Incoming::Closed(code) => {
                panic!("the connection was closed with {code:?} instead of another frame")
            }
        }
    }

    /// The next frame, or the end of the connection.
    pub async fn incoming(&mut self) -> Incoming {
        soon("a frame", self.incoming.recv()).await.unwrap_or(Incoming::Closed(None))
    }

    /// Skips frames until the connection ends, and returns the close code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            if let Incoming::Closed(code) = self.incoming().await {
                return code;
            }
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn run(socket: Socket, mut to_send: mpsc::Receiver<Outgoing>, received: mpsc::Sender<Incoming>) {
    let (mut sink, mut stream) = socket.split();
    let mut sending = true;
    loop {
        tokio::select! {
            outgoing = to_send.recv(), if sending => {
                let message = match outgoing {
                    Some(Outgoing::Text(text)) => Message::text(text),
                    Some(Outgoing::Binary(bytes)) => Message::binary(bytes),
                    Some(Outgoing::Close) => Message::Close(None),
                    // The test has dropped the client.
                    None => return,
                };
                sending = sink.send(message).await.is_ok();
            }
            message = stream.next() => {
                let incoming = match message {
                    Some(Ok(Message::Text(text))) => Incoming::Json(serde_json::from_str(&text).expect("a frame that is not JSON")),
                    Some(Ok(Message::Close(frame))) => Incoming::Closed(frame.map(|frame| frame.code.into())),
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => Incoming::Closed(None),
                };
                let end = matches!(incoming, Incoming::Closed(_));
                let _ = received.send(incoming).await;
                if end {
                    return;
                }
            }
        }
    }
}
