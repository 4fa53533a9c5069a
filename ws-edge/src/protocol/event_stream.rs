//! Server-Sent Events: the text that an event stream consists of, and the HTTP response that carries it
//! (HTML standard, 9.2).

use bytes::{BufMut, Bytes, BytesMut};
use hyper::StatusCode;
use serde_json::json;

use super::close::Close;

/// How a session's messages go over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Framing {
    /// As text frames of a WebSocket.
    #[default]
    WebSocket,
    /// The same, where long ones may be compressed (RFC 7692).
    CompressedWebSocket,
    /// As events of an event stream.
    EventStream,
}

/// The name of an event that does not come from KAZOO; those that do have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// The reply to the subscription.
    Reply,
    /// Events may be missing.
    Gap,
    /// The kept events are complete.
    State,
    /// Bindings have ended.
    Revoked,
    /// The edge ends the stream.
    Close,
}

impl Name {
    /// All names.
    pub(crate) const ALL: [Name; 5] = [Name::Reply, Name::Gap, Name::State, Name::Revoked, Name::Close];

    /// The text of the name.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Name::Reply => "reply",
            Name::Gap => "gap",
            Name::State => "state",
            Name::Revoked => "revoked",
            Name::Close => "close",
        }
    }
}

/// An event whose data is one JSON text in these parts. `id` is what a client resumes with after it: a cursor.
pub(crate) fn event(name: Option<Name>, id: Option<&[u8]>, json: &[&[u8]]) -> Bytes {
    let name = name.map_or("", Name::text);
    let bytes: usize = json.iter().map(|part| part.len()).sum();
    let mut text = BytesMut::with_capacity(bytes + name.len() + id.map_or(0, <[u8]>::len) + 24);
    if !name.is_empty() {
        text.put_slice(b"event: ");
        text.put_slice(name.as_bytes());
        text.put_u8(b'\n');
    }
    put_id(&mut text, id);
    text.put_slice(b"data: ");
    let start = text.len();
    json.iter().for_each(|part| text.put_slice(part));
    // A line break would end the data. JSON has them only as white space: in strings they are escaped.
    for byte in text.get_mut(start..).unwrap_or_default() {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    text.put_slice(b"\n\n");
    text.freeze()
}

/// What shows that the connection lives: a comment, and the position that the client has reached without an event.
pub(crate) fn heartbeat(id: Option<&[u8]>) -> Bytes {
    let mut text = BytesMut::from(&b":\n"[..]);
    put_id(&mut text, id);
    text.put_u8(b'\n');
    text.freeze()
}

fn put_id(text: &mut BytesMut, id: Option<&[u8]>) {
    if let Some(id) = id {
        text.put_slice(b"id: ");
        text.put_slice(id);
        text.put_u8(b'\n');
    }
}

/// That events may be missing, and why.
pub(crate) fn gap(reason: &str) -> Bytes {
    event(Some(Name::Gap), None, &[json!({ "action": "gap", "reason": reason }).to_string().as_bytes()])
}

/// The last event: why the stream ends. If events are lost with it, the gap comes before.
pub(crate) fn close(close: Close) -> Bytes {
    let frame = close.frame();
    let json = json!({ "action": "close", "code": close.code(), "reason": frame.reason.as_str() });
    let last = event(Some(Name::Close), None, &[json.to_string().as_bytes()]);
    if !matches!(close, Close::Behind | Close::TooSlow) {
        return last;
    }
    [gap(frame.reason.as_str()), last].concat().into()
}

/// The head of the response, and the time in milliseconds after which the client reconnects.
///
/// The stream has no length, and no chunks: it ends with the connection. So HTTP/1.0 is enough for it, and events are
/// sent as they are.
pub(crate) fn head(retry_ms: u32) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n\
         Content-Type: text/event-stream\r\n\
         Cache-Control: no-store, no-transform\r\n\
         X-Accel-Buffering: no\r\n\
         X-Content-Type-Options: nosniff\r\n\
         Referrer-Policy: no-referrer\r\n\
         Access-Control-Allow-Origin: *\r\n\
         Connection: close\r\n\r\n\
         retry: {retry_ms}\n"
    )
}

/// The response to a subscription that failed.
pub(crate) fn refusal(status: StatusCode, error: &str) -> Bytes {
    let body = error_json(error) + "\n";
    let length = body.len();
    let more = match status {
        StatusCode::UNAUTHORIZED => "WWW-Authenticate: Bearer\r\n",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "Retry-After: 5\r\n",
        _ => "",
    };
    format!(
        "HTTP/1.1 {status}\r\n\
         Content-Type: application/json\r\n\
         Content-Length: {length}\r\n\
         Cache-Control: no-store\r\n\
         Access-Control-Allow-Origin: *\r\n\
         {more}\
         Connection: close\r\n\r\n\
         {body}"
    )
    .into()
}

/// The body of every refusal: an error reply as WebSocket sessions get it, but for the id.
pub(crate) fn error_json(error: &str) -> String {
    json!({ "action": "reply", "status": "error", "data": { "errors": [error] } }).to_string()
}

/// The statuses of all refusals that have a body of [`error_json`].
pub(crate) const REFUSALS: [u16; 6] = [400, 401, 403, 405, 429, 503];

/// The status for an error of a subscription. Errors are texts that do not change.
pub(crate) fn status_of(error: &str) -> StatusCode {
    const STATUSES: [(&str, StatusCode); 9] = [
        ("failed to authenticate token", StatusCode::UNAUTHORIZED),
        ("authentication token required", StatusCode::UNAUTHORIZED),
        ("unauthorized ", StatusCode::FORBIDDEN),
        ("events of ", StatusCode::FORBIDDEN),
        ("too many bindings", StatusCode::BAD_REQUEST),
        ("too many ", StatusCode::TOO_MANY_REQUESTS),
        ("the authentication service ", StatusCode::SERVICE_UNAVAILABLE),
        ("events are not available", StatusCode::SERVICE_UNAVAILABLE),
        ("the server of the events", StatusCode::SERVICE_UNAVAILABLE),
    ];
    let status = STATUSES.iter().find(|(start, _)| error.starts_with(start));
    status.map_or(StatusCode::BAD_REQUEST, |(_, status)| *status)
}

/// The status for a stream that is ended before it began.
pub(crate) fn status_of_close(close: Close) -> StatusCode {
    match close.code() {
        4401 => StatusCode::UNAUTHORIZED,
        4429 => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_has_its_name_its_id_and_one_line_of_data() {
        let whole = event(Some(Name::Reply), Some(b"abc"), &[b"{", b"\"a\":\r\n1}"]);
        assert_eq!(text(&whole), "event: reply\nid: abc\ndata: {\"a\":  1}\n\n");
        assert_eq!(text(&event(None, None, &[b"{}"])), "data: {}\n\n");
    }

    #[test]
    fn a_heartbeat_is_a_comment_that_may_move_the_position() {
        assert_eq!(text(&heartbeat(None)), ":\n\n");
        assert_eq!(text(&heartbeat(Some(b"abc"))), ":\nid: abc\n\n");
    }

    #[test]
    fn a_close_that_loses_events_tells_of_the_gap_first() {
        assert_eq!(
            text(&close(Close::Restart)),
            "event: close\ndata: {\"action\":\"close\",\"code\":1012,\"reason\":\"the server is restarting, come back\"}\n\n"
        );
        for lost in [Close::Behind, Close::TooSlow] {
            let all = close(lost);
            assert!(text(&all).starts_with("event: gap\ndata: {\"action\":\"gap\""), "{all:?}");
            assert!(text(&all).contains("\n\nevent: close\ndata: "), "{all:?}");
        }
    }

    #[test]
    fn errors_have_the_status_that_says_what_to_do() {
        for (error, status) in [
            ("failed to authenticate token : bad signature", 401),
            ("unauthorized account id", 403),
            ("unauthorized wildcard account id", 403),
            (
                "events of fax do not say whose they are, and the token may have only those of its own user",
                403,
            ),
            ("too many bindings : at most 1000 per session", 400),
            ("too many subjects : at most 5 per account", 429),
            ("the authentication service did not answer, try again", 503),
            ("events are not available at the moment, try again", 503),
            ("no available subscriptions to requested binding", 400),
            ("event X not supported", 400),
        ] {
            assert_eq!(status_of(error).as_u16(), status, "{error}");
        }
    }

    proptest! {
        /// Whatever white space is in a body, the data is one line, and the same JSON.
        #[test]
        fn any_json_is_one_line(texts in prop::collection::vec(".{0,20}", 0..4), space in "[ \t\r\n]{0,4}") {
            let list: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
            let body = format!("{space}[{space}{}{space}]{space}", list.join(&format!("{space},{space}")));
            let event = event(None, None, &[body.as_bytes()]);
            let data = text(&event).strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            prop_assert!(!data.contains(['\n', '\r']));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(data).unwrap(), texts);
        }
    }
}
