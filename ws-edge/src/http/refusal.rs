//! The HTTP response to a connection that does not become a session.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

use crate::{
    limits::{accept_limiter::Busy, accounts::Exceeded, connection_limit::LimitReached},
    protocol::event_stream,
};

/// Why a connection does not become a session.
#[derive(Debug)]
pub struct Refusal {
    pub(super) status: StatusCode,
    /// The label of the metric.
    pub(super) reason: &'static str,
    text: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: &'static str, text: impl Into<String>) -> Refusal {
        Refusal { status, reason, text: text.into(), header: None }
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: &'static str) -> Refusal {
        self.header = Some((name, value));
        self
    }

    /// Answers a connection at once, before its request is read: to wait for that would keep a connection open. What has already
    /// arrived is read, because closing a connection with unread bytes resets it, and the client could lose the answer.
    pub(super) fn answer_unread(self, mut stream: &TcpStream) -> io::Result<()> {
        let Refusal { status, text, header, .. } = self;
        let header = header.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
        let length = text.len() + 1;
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{header}Connection: close\r\n\r\n{text}\n"
        );
        stream.write_all(answer.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.read(&mut [0; 4096]).map(drop)
    }

    /// The response to a request for an event stream: an error reply, as its session would give it.
    pub(super) fn json_response(mut self) -> Response<Full<Bytes>> {
        self.text = event_stream::error_json(&self.text);
        let mut response = self.response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        response
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(self.text + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

impl From<LimitReached> for Refusal {
    fn from(reached: LimitReached) -> Refusal {
        let (status, reason, text) = match reached {
            LimitReached::Edge => (
                StatusCode::SERVICE_UNAVAILABLE,
                "full",
                "this server has as many sessions as it may, come back later",
            ),
            LimitReached::Client => {
                (StatusCode::TOO_MANY_REQUESTS, "per_address", "too many connections from your address")
            }
            LimitReached::Tokenless => (
                StatusCode::TOO_MANY_REQUESTS,
                "tokenless",
                "too many connections from your address that have not sent a token",
            ),
        };
        Refusal::new(status, reason, text).with_header(header::RETRY_AFTER, "5")
    }
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Refusal {
        let (status, reason, text) = match busy {
            Busy::Edge => (
                StatusCode::SERVICE_UNAVAILABLE,
                "pace",
                "too many sessions begin at the moment, come back in a few seconds",
            ),
            Busy::Client => (
                StatusCode::TOO_MANY_REQUESTS,
                "pace_per_address",
                "too many sessions from your address begin at the moment, come back in a few seconds",
            ),
        };
        Refusal::new(status, reason, text).with_header(header::RETRY_AFTER, "5")
    }
}

impl From<Exceeded> for Refusal {
    fn from(exceeded: Exceeded) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, exceeded.label(), exceeded.to_string())
            .with_header(header::RETRY_AFTER, "5")
    }
}
