//! `GET /events`: event streams for clients without WebSockets. The query is read into the request to subscribe that a
//! WebSocket session would send.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{self, HeaderName, HeaderValue},
};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::{
    admission::{Peer, Shown, admit, authorization},
    refusal::Refusal,
};
use crate::{
    edge::Edge,
    protocol::{cursor::Cursor, token::Token, view::View},
    session::{event_stream::StreamRequest, start::SessionStart, transport::Carrier},
};

/// The path.
const PATH: &str = "/events";
/// What a client says it got last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The header in which KAZOO's API takes tokens.
const X_AUTH_TOKEN: HeaderName = HeaderName::from_static("x-auth-token");

/// What a valid request asks for.
#[derive(Debug)]
pub struct Asked {
    /// The view; `None`: the edge's.
    pub view: Option<View>,
    /// The request to subscribe, as JSON.
    pub subscribe: String,
    /// The token in the query.
    pub token: Option<Token>,
    /// The cursor that it resumes with.
    pub since: Option<Cursor>,
}

/// Whether the request is for an event stream.
pub(super) fn is_for_events<B>(request: &Request<B>) -> bool {
    request.uri().path() == PATH
}

/// The answer to a browser that asks whether a page of another origin may send a token in a header.
pub(super) fn preflight<B>(request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    (*request.method() == Method::OPTIONS).then(|| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::NO_CONTENT;
        for (name, value) in [
            (header::ALLOW, "GET, OPTIONS"),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, x-auth-token, last-event-id"),
            (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        ] {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    })
}

/// Validates the request, enforces the limits for new sessions, and authenticates the token. The session answers it.
pub(super) async fn accept<B>(
    edge: &Edge,
    peer: &Peer,
    request: &Request<B>,
) -> Result<SessionStart, Refusal> {
    let asked = check(request)?;
    let shown = token(request.headers(), asked.token);
    if let Ok(None) = shown {
        let text = "authentication token required";
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "token", text)
            .with_header(header::WWW_AUTHENTICATE, "Bearer"));
    }
    let admitted = admit(edge, peer, request.headers(), shown, StatusCode::UNAUTHORIZED).await?;
    let request = StreamRequest { subscribe: asked.subscribe.into(), since: asked.since };
    Ok(admitted.start(asked.view.unwrap_or(edge.config.view), Carrier::EventStream(request)))
}

/// Checks a request, without its token and its limits.
///
/// # Errors
/// The refusal.
pub fn check<B>(request: &Request<B>) -> Result<Asked, Refusal> {
    if *request.method() != Method::GET {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET here")
            .with_header(header::ALLOW, "GET, OPTIONS"));
    }
    let bad = |text: String| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", text);
    let headers = request.headers();
    // Nothing may be behind the request that a proxy takes for another one.
    let has_length = headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(bad("the request must not have a body".to_owned()));
    }
    let last = headers.get(LAST_EVENT_ID).map(|id| String::from_utf8_lossy(id.as_bytes()));
    read(request.uri().query().unwrap_or_default(), last.as_deref()).map_err(bad)
}

/// Reads a query. `last` is the id of the last event that the client got; with an id, `since` does not count.
fn read(query: &str, last: Option<&str>) -> Result<Asked, String> {
    let mut asked = Asked { view: None, subscribe: String::new(), token: None, since: None };
    let mut bindings = Vec::new();
    let mut data = Map::new();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = || decode(value).ok_or_else(|| format!("invalid {name} : not percent-encoded UTF-8"));
        let earlier = match name {
            "binding" => {
                bindings.push(value()?);
                None
            }
            "account_id" | "name" | "since" => data.insert(name.to_owned(), json!(value()?)),
            "state" => {
                let state = match value()?.as_str() {
                    "true" => true,
                    "false" => false,
                    _ => return Err("invalid state : must be true or false".to_owned()),
                };
                data.insert(name.to_owned(), json!(state))
            }
            "view" => asked.view.replace(value()?.parse()?).map(|_| Value::Null),
            "auth_token" => asked.token.replace(Token::new(&value()?)).map(|_| Value::Null),
            _ => None,
        };
        if earlier.is_some() {
            return Err(format!("invalid {name} : only binding may be there several times"));
        }
    }
    if bindings.is_empty() {
        return Err("missing required keys : binding".to_owned());
    }
    data.insert("bindings".to_owned(), json!(bindings));
    if let Some(last) = last.filter(|last| !last.is_empty()) {
        data.insert("since".to_owned(), json!(last));
    }
    asked.since = data.get("since").and_then(Value::as_str).and_then(|since| Cursor::parse(since).ok());
    asked.subscribe = json!({ "action": "subscribe", "data": data }).to_string();
    Ok(asked)
}

/// The token in a header, or else in the query.
fn token(headers: &HeaderMap, in_query: Option<Token>) -> Shown {
    if let Some(token) = authorization(headers)? {
        return Ok(Some(token));
    }
    match headers.get(X_AUTH_TOKEN) {
        Some(value) => Ok(Some(Token::new(value.to_str().map_err(|_| "not readable")?.trim()))),
        None => Ok(in_query),
    }
}

/// Decodes a value as HTML forms encode it; `None` if it is not encoded so.
fn decode(text: &str) -> Option<String> {
    let hex = |digits: &[u8]| digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit);
    let is_encoded = |rest: &str| hex(rest.as_bytes().get(..2).unwrap_or_default());
    if !text.split('%').skip(1).all(is_encoded) {
        return None;
    }
    percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(query: &str, last: Option<&str>) -> Result<Value, String> {
        let subscribe: Value = serde_json::from_str(&read(query, last)?.subscribe).unwrap();
        assert_eq!(subscribe["action"], "subscribe");
        Ok(subscribe["data"].clone())
    }

    #[test]
    fn a_query_is_a_request_to_subscribe() {
        let query = "binding=call.*.*&binding=fax.status.*&account_id=a&since=-5m&state=true&name=Front+desk%21&x=%zz";
        let expected = json!({
            "bindings": ["call.*.*", "fax.status.*"], "account_id": "a", "since": "-5m", "state": true,
            "name": "Front desk!",
        });
        assert_eq!(data(query, None), Ok(expected));
        assert_eq!(data("binding=call.*.a%252Eb", None).unwrap()["bindings"][0], "call.*.a%2Eb");
    }

    #[test]
    fn the_last_event_comes_before_since() {
        let since = |query: &str, last| data(query, last).unwrap().get("since").cloned();
        let cursor = "xOjuWb8AAAAAAABHrCvbbUU5";
        assert_eq!(since("binding=b", None), None);
        assert_eq!(since("binding=b&since=-5m", Some("")), Some(json!("-5m")));
        assert_eq!(since("binding=b&since=-5m", Some(cursor)), Some(json!(cursor)));
        assert!(read("binding=b", Some(cursor)).unwrap().since.is_some());
        assert!(read("binding=b&since=-5m", None).unwrap().since.is_none());
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (query, error) in [
            ("", "missing required keys : binding"),
            ("bindings=call.*.*", "missing required keys : binding"),
            ("binding=%", "invalid binding : not percent-encoded UTF-8"),
            ("binding=%2", "invalid binding : not percent-encoded UTF-8"),
            ("binding=%g0", "invalid binding : not percent-encoded UTF-8"),
            ("binding=%ff", "invalid binding : not percent-encoded UTF-8"),
            ("binding=a&state=yes", "invalid state : must be true or false"),
            ("binding=a&view=nice", "view is one of args, data and both"),
            (
                "binding=a&account_id=a&account_id=b",
                "invalid account_id : only binding may be there several times",
            ),
            ("auth_token=a&auth_token=b", "invalid auth_token : only binding may be there several times"),
        ] {
            assert_eq!(data(query, None), Err(error.to_owned()), "{query}");
        }
    }

    #[test]
    fn a_token_in_a_header_comes_before_one_in_the_query() {
        let mut headers = HeaderMap::new();
        let shown = |headers: &HeaderMap| {
            token(headers, Some(Token::new("query"))).map(|token| token.unwrap().reveal().to_owned())
        };
        assert_eq!(shown(&headers), Ok("query".to_owned()));
        headers.insert(X_AUTH_TOKEN, HeaderValue::from_static("kazoo"));
        assert_eq!(shown(&headers), Ok("kazoo".to_owned()));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer bearer"));
        assert_eq!(shown(&headers), Ok("bearer".to_owned()));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(shown(&headers), Err("not readable"));
    }
}
