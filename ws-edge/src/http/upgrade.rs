//! Upgrades to WebSockets: validation and authentication of the request.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    upgrade::OnUpgrade,
};
use tungstenite::handshake::derive_accept_key;

use super::{
    admission::{Admitted, Peer, admit, authorization},
    compression,
    refusal::Refusal,
};
use crate::{edge::Edge, protocol::view::View};

/// Length of the nonce in `Sec-WebSocket-Key` (RFC 6455, 4.1).
const KEY_BYTES: usize = 16;

/// An accepted upgrade.
pub(super) struct Upgrade {
    pub(super) connection: OnUpgrade,
    pub(super) admitted: Admitted,
    pub(super) view: View,
    pub(super) is_compressed: bool,
}

/// Whether the request asks for a WebSocket.
pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    has_word(request.headers(), &header::UPGRADE, "websocket")
}

/// Validates the request, enforces the limits for new sessions, and authenticates the token, if there is one.
pub(super) async fn upgrade(
    edge: &Edge,
    peer: &Peer,
    mut request: Request<Incoming>,
) -> Result<(Response<Full<Bytes>>, Upgrade), Refusal> {
    let Checked { accept, view } = check(&request, edge.config.view)?;
    let headers = request.headers();
    let shown = authorization(headers);
    let admitted = admit(edge, peer, headers, shown, StatusCode::FORBIDDEN).await?;
    let compression = edge.config.compression.then(|| compression::answer(headers)).flatten();
    let connection = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(compression) = compression {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(compression));
    }
    Ok((response, Upgrade { connection, admitted, view, is_compressed: compression.is_some() }))
}

/// What a valid upgrade request asks for.
#[derive(Debug)]
pub struct Checked {
    /// The value of `Sec-WebSocket-Accept`.
    pub accept: String,
    /// The view.
    pub view: View,
}

/// Checks an upgrade request, without its token and its limits. `default` is the view if it names none.
///
/// # Errors
/// The refusal.
pub fn check<B>(request: &Request<B>, default: View) -> Result<Checked, Refusal> {
    let headers = request.headers();
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", text);
    if *request.method() != Method::GET || !has_word(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("a WebSocket begins with GET and `Connection: Upgrade`"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let text = "only WebSocket version 13 is spoken here";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "version", text)
            .with_header(header::SEC_WEBSOCKET_VERSION, "13"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "sub_protocol", "there are no sub-protocols here"));
    }
    check_framing(request).map_err(bad)?;
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    if BASE64_STANDARD.decode(key).map(|nonce| nonce.len()) != Ok(KEY_BYTES) {
        return Err(bad("Sec-WebSocket-Key must be 16 bytes in base64"));
    }
    let accept = derive_accept_key(key.as_bytes());
    let view = requested_view(request.uri().query(), default).map_err(|text| bad(&text))?;
    Ok(Checked { accept, view })
}

/// Refuses what proxies and servers may read differently, so that nobody smuggles a second request behind the first.
fn check_framing<B>(request: &Request<B>) -> Result<(), &'static str> {
    let headers = request.headers();
    if request.version() < Version::HTTP_11 {
        return Err("a WebSocket needs HTTP/1.1");
    }
    if only(headers, &header::HOST).is_none() {
        return Err("a WebSocket needs one Host header");
    }
    let has_length = headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length != "0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) {
        return Err("the upgrade request must not have a body");
    }
    Ok(())
}

/// The value of a header that is present once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn requested_view(query: Option<&str>, default: View) -> Result<View, String> {
    let requested = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("view="));
    requested.map_or(Ok(default), str::parse)
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(word))
}
