//! A client that is only a TCP stream: it sends what no library would send, and shows the bytes that come back.

use std::{io, io::ErrorKind, net::Ipv4Addr};

use blackhole_dev::websocket::{ACCEPT, CLOSE, Frame, TEXT, client_frame, upgrade_request};
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::soon;

/// A connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    /// Bytes that were received and not taken yet.
    pub(crate) received: BytesMut,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and headers, unchanged.
    pub head: String,
    /// The body, as long as `Content-Length` says.
    pub body: String,
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl RawClient {
    /// Connects to a port of this machine.
    pub async fn connect(port: u16) -> RawClient {
        let socket = TcpSocket::new_v4().unwrap();
        soon("the connection", Self::connect_socket(socket, port)).await.unwrap()
    }

    /// Connects from another loopback address than 127.0.0.1, such as 127.0.0.2.
    pub async fn connect_from(address: Ipv4Addr, port: u16) -> RawClient {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        soon("the connection", Self::connect_socket(socket, port)).await.unwrap()
    }

    /// Connects with a receive buffer of this many bytes, so that a client that stops reading soon blocks the server.
    pub async fn connect_with_receive_buffer(bytes: u32, port: u16) -> RawClient {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        soon("the connection", Self::connect_socket(socket, port)).await.unwrap()
    }

    /// Connects a socket to a port of this machine.
    pub(crate) async fn connect_socket(socket: TcpSocket, port: u16) -> io::Result<RawClient> {
        let stream = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
        Ok(RawClient { stream, received: BytesMut::new() })
    }

    /// Connects and begins a session.
    pub async fn session(port: u16, query: &str) -> RawClient {
        let mut client = RawClient::connect(port).await;
        client.begin_session(query).await;
        client
    }

    /// Begins a session on this connection.
    pub async fn begin_session(&mut self, query: &str) {
        self.send(upgrade_request(&format!("/?{query}"), &[])).await;
        let response = self.response().await;
        assert_eq!(response.status, 101, "{response:?}");
        assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
    }

    /// Sends bytes. A closed connection shows at the next read.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.write(bytes.as_ref()).await;
    }

    /// Sends a masked frame. A closed connection shows at the next read.
    pub async fn send_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.send(client_frame(first, payload.as_ref())).await;
    }

    /// Reads an HTTP response.
    pub async fn response(&mut self) -> Response {
        let end = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.receive().await, "the connection ended before a response: {:?}", self.received);
        };
        let head = String::from_utf8(self.received.split_to(end).to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut response = Response { status, head, body: String::new() };
        let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.receive().await, "the connection ended inside a body: {response:?}");
        }
        response.body = String::from_utf8(self.received.split_to(length).to_vec()).unwrap();
        response
    }

    /// The next frame's first byte and payload; none once the connection has ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some((first, payload)) = self.take_frame() {
                return Some((first, payload.into()));
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        loop {
            match self.frame().await {
                Some((TEXT, payload)) => return String::from_utf8(payload).unwrap(),
                Some((CLOSE, payload)) => panic!("closed: {}", String::from_utf8_lossy(&payload)),
                Some(_) => {}
                None => panic!("the connection ended before a text frame"),
            }
        }
    }

    /// Skips frames until the connection ends; returns the close code if there was a close frame.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((first, payload)) = self.frame().await {
            if first == CLOSE {
                code = Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
        code
    }

    /// Receives until these bytes have come.
    pub async fn until_received(&mut self, bytes: &[u8]) {
        while !self.received.windows(bytes.len()).any(|window| window == bytes) {
            assert!(self.receive().await, "the connection ended: {:?}", self.received);
        }
    }

    /// Everything until the server ends the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.receive().await {}
        self.received.split().to_vec()
    }

    /// Sends bytes.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Takes a frame that has been received completely.
    pub(crate) fn take_frame(&mut self) -> Option<(u8, Bytes)> {
        let Frame { first, payload } = Frame::parse(&self.received, 0)?;
        let mut frame = self.received.split_to(payload.end);
        Some((first, frame.split_off(payload.start).freeze()))
    }

    /// Receives more bytes. Dropping the future loses none of them.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        self.received.reserve(4096);
        match self.stream.read_buf(&mut self.received).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Receives more bytes; false at the end, or where the connection was reset.
    async fn receive(&mut self) -> bool {
        soon("something from the server", self.fill()).await.is_ok()
    }
}
