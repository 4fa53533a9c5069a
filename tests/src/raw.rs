//! A client made of a TCP stream and nothing else: it says what no library would, and shows what came word by word.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::soon;

/// The first byte of a frame: the last of its message, and its kind.
pub const TEXT: u8 = 0x81;
/// A text that goes on in further frames.
pub const TEXT_BEGINS: u8 = 0x01;
/// A further frame, not the last.
pub const GOES_ON: u8 = 0x00;
/// The last of several frames.
pub const ENDS: u8 = 0x80;
/// A close frame.
pub const CLOSE: u8 = 0x88;
/// A ping.
pub const PING: u8 = 0x89;
/// A pong.
pub const PONG: u8 = 0x8A;

/// A connection.
pub struct Raw {
    stream: TcpStream,
    /// What was read and not taken.
    read: Vec<u8>,
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and headers, as they came.
    pub head: String,
    /// The body, as long as the header says.
    pub body: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Raw {
    /// Connects to a port of this machine.
    pub async fn connect(port: u16) -> Raw {
        let stream = soon("the connection", TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        Raw { stream, read: Vec::new() }
    }

    /// Connects from another address of this machine than the usual one, such as 127.0.0.2.
    pub async fn connect_from(address: std::net::Ipv4Addr, port: u16) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        let connection = socket.connect(([127, 0, 0, 1], port).into());
        Raw { stream: soon("the connection", connection).await.unwrap(), read: Vec::new() }
    }

    /// Connects with hardly any room for what it does not read.
    pub async fn connect_with_little_room(port: u16) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let connection = socket.connect(([127, 0, 0, 1], port).into());
        Raw { stream: soon("the connection", connection).await.unwrap(), read: Vec::new() }
    }

    /// Connects and begins a session.
    pub async fn session(port: u16, query: &str) -> Raw {
        let mut raw = Raw::connect(port).await;
        raw.begin_session(query).await;
        raw
    }

    /// Begins a session on this connection.
    pub async fn begin_session(&mut self, query: &str) {
        self.send(upgrade(&format!("/?{query}"), &[])).await;
        let answer = self.answer().await;
        assert_eq!(answer.status, 101, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    /// Sends bytes. A closed connection shows when something is waited for.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Sends a masked frame.
    pub async fn send_frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.send(frame(first, payload.as_ref())).await;
    }

    /// Reads an HTTP answer.
    pub async fn answer(&mut self) -> Answer {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            assert!(
                self.fill().await,
                "the connection ended before an answer: {:?}",
                String::from_utf8_lossy(&self.read)
            );
        };
        let head = String::from_utf8(self.read.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        answer.body = String::from_utf8(self.take(length).await.unwrap()).unwrap();
        answer
    }

    /// The next frame's first byte and payload; none when the connection has ended.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.take(2).await?;
        let length = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.take(2).await?.try_into().unwrap())),
            127 => u64::from_be_bytes(self.take(8).await?.try_into().unwrap()),
            length => u64::from(length),
        };
        Some((head[0], self.take(usize::try_from(length).unwrap()).await?))
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        loop {
            match self.frame().await {
                Some((TEXT, payload)) => return String::from_utf8(payload).unwrap(),
                Some((CLOSE, payload)) => panic!("closed: {}", String::from_utf8_lossy(&payload)),
                Some(_) => {}
                None => panic!("the connection ended while a text frame was waited for"),
            }
        }
    }

    /// Waits for the end, whatever comes before it, and tells the close code if there was one.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((first, payload)) = self.frame().await {
            if first == CLOSE {
                code = Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
        code
    }

    /// Everything until the other side ends the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.read)
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.read.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.read.drain(..length).collect())
    }

    /// Reads some; false at the end, or where the connection was reset.
    async fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 * 1024];
        match soon("something from the edge", self.stream.read(&mut bytes)).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.read.extend_from_slice(&bytes[..count]);
                true
            }
        }
    }
}

/// A frame as a client has to send it: masked.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
        length @ 126..=0xFFFF => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend(u64::try_from(length).unwrap().to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// An upgrade request, correct but for `changes`: a header with another value, with none, or a further one.
pub fn upgrade(target: &str, changes: &[(&str, Option<&str>)]) -> String {
    let mut headers = vec![
        ("Host", "localhost"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for &(name, value) in changes {
        headers.retain(|(own, _)| *own != name);
        headers.extend(value.map(|value| (name, value)));
    }
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{headers}\r\n")
}
