//! A client of event streams (Server-Sent Events) over any connection. It reads as browsers do, and keeps what they keep.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{accounts::Account, messages, soon};

/// An event stream.
pub struct EventStream {
    /// The response, with its status and headers.
    pub response: Response<Incoming>,
    /// The id that it would reconnect with.
    pub last_id: String,
    /// How long it would wait before, in milliseconds.
    pub retry: u64,
    /// Comments that came.
    pub comments: u32,
    received: BytesMut,
    is_over: bool,
    _connection: AbortOnDropHandle<()>,
}

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name: `message` if it has none.
    pub name: String,
    /// Its data, parsed.
    pub data: Value,
    /// The id that it came with, if it had one.
    pub id: Option<String>,
}

/// A query of these members, percent-encoded.
pub fn query(members: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish()
}

impl EventStream {
    /// Asks a port of this machine. `headers` are further headers.
    pub async fn ask(port: u16, query: &str, headers: &[(&str, &str)]) -> EventStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        EventStream::ask_over(stream, query, headers).await
    }

    /// As [`EventStream::ask`], with a receive buffer of this many bytes.
    pub async fn ask_with_receive_buffer(
        bytes: u32,
        port: u16,
        query: &str,
        headers: &[(&str, &str)],
    ) -> EventStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await.unwrap();
        EventStream::ask_over(stream, query, headers).await
    }

    /// As [`EventStream::ask`], over a connection.
    pub async fn ask_over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        query: &str,
        headers: &[(&str, &str)],
    ) -> EventStream {
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::get(format!("/events?{query}")).header("host", "edge");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = soon("a response", sender.send_request(request)).await.unwrap();
        EventStream {
            response,
            last_id: String::new(),
            retry: 0,
            comments: 0,
            received: BytesMut::new(),
            is_over: false,
            _connection: AbortOnDropHandle::new(connection),
        }
    }

    /// Subscribes with a token in `Authorization`. `more` are further members of the query. Returns the reply's data, too.
    pub async fn subscribe(
        port: u16,
        account: &Account,
        bindings: &[&str],
        more: &[(&str, &str)],
    ) -> (EventStream, Value) {
        let token = format!("Bearer {}", account.token());
        let query = members(account, bindings, more);
        let mut stream = EventStream::ask(port, &query, &[("authorization", &token)]).await;
        let data = stream.reply().await;
        (stream, data)
    }

    /// As [`EventStream::subscribe`], after the event with this id.
    pub async fn resume(
        port: u16,
        account: &Account,
        bindings: &[&str],
        last_id: &str,
    ) -> (EventStream, Value) {
        let token = format!("Bearer {}", account.token());
        let headers = [("authorization", token.as_str()), ("last-event-id", last_id)];
        let mut stream = EventStream::ask(port, &members(account, bindings, &[]), &headers).await;
        let data = stream.reply().await;
        (stream, data)
    }

    /// The data of the reply, which is the first event.
    pub async fn reply(&mut self) -> Value {
        assert_eq!(self.response.status(), 200);
        let reply = self.next().await.expect("a reply");
        assert_eq!((reply.name.as_str(), &reply.data["status"]), ("reply", &"success".into()), "{reply:?}");
        reply.data["data"].clone()
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        soon("an event, or the end", self.read()).await
    }

    /// The next event of KAZOO. Its id is its cursor.
    pub async fn event(&mut self) -> Value {
        let event = self.next().await.expect("an event");
        assert_eq!((event.name.as_str(), &event.data["action"]), ("message", &"event".into()), "{event:?}");
        assert_eq!(event.id.as_deref(), event.data["cursor"].as_str(), "{event:?}");
        event.data
    }

    /// Everything that the server still sends, as it is sent.
    pub async fn rest(&mut self) -> String {
        while self.receive().await {}
        let rest = String::from_utf8(self.received.split().to_vec()).unwrap();
        let status = self.response.status();
        if status.is_client_error() || status.is_server_error() {
            messages::check_stream_refusal(status.as_u16(), &serde_json::from_str(&rest).unwrap());
        }
        rest
    }

    /// Waits until the server has told an id that is not this one, in an event or without one.
    pub async fn id_after(&mut self, id: &str) {
        let moved = async {
            while self.last_id == id {
                let block = self.block().await.expect("the stream goes on");
                assert!(self.take(&block).is_none(), "an event: {block}");
            }
        };
        soon("another id", moved).await;
    }

    async fn read(&mut self) -> Option<Event> {
        loop {
            let block = self.block().await?;
            if let Some(event) = self.take(&block) {
                return Some(event);
            }
        }
    }

    /// The lines up to an empty one.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.windows(2).position(|bytes| bytes == b"\n\n") {
                let block = self.received.split_to(end + 2);
                return Some(String::from_utf8(block[..end].to_vec()).unwrap());
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    fn take(&mut self, block: &str) -> Option<Event> {
        let (mut name, mut data, mut id) = ("message", None, None);
        for line in block.split('\n') {
            assert!(!line.contains('\r'), "{line}");
            match line.split_once(": ") {
                Some(("event", value)) => name = value,
                Some(("data", value)) => assert!(data.replace(value).is_none(), "two lines of data: {block}"),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("retry", value)) => self.retry = value.parse().unwrap(),
                _ if line.starts_with(':') => self.comments += 1,
                _ => panic!("{block}"),
            }
        }
        self.last_id = id.clone().unwrap_or_else(|| self.last_id.clone());
        let data = serde_json::from_str(data?).unwrap_or_else(|error| panic!("{error}: {block}"));
        messages::check_stream_event(name, &data);
        Some(Event { name: name.to_owned(), data, id })
    }

    /// Receives more bytes; false at the end.
    async fn receive(&mut self) -> bool {
        while !self.is_over {
            match self.response.body_mut().frame().await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.received.extend_from_slice(&bytes);
                        return true;
                    }
                }
                Some(Err(_)) | None => self.is_over = true,
            }
        }
        false
    }
}

/// The query of a subscription. `more` are further members.
pub fn members(account: &Account, bindings: &[&str], more: &[(&str, &str)]) -> String {
    let mut members = vec![("account_id", account.id.as_str()), ("view", "args")];
    members.extend(bindings.iter().map(|binding| ("binding", *binding)));
    members.extend(more);
    query(&members)
}
