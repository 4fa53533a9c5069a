//! The WebSocket port: the console and the client for browsers, the upgrade for everyone else, and refusals that say why.

mod address;
mod bindings;
mod pace;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tungstenite::handshake::derive_accept_key;

use crate::{
    Edge,
    authorizer::Token,
    frame::View,
    metrics::Reason,
    session::{Bearing, Opening, Session},
};
pub use address::Places;
use address::{Place, client_address};
pub use pace::Pace;

const CONSOLE: &str = include_str!("console.html");
const CLIENT: &str = include_str!("client.js");
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src *; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Enough for a token in a header and a proxy's additions.
const MOST_HEADER_BYTES: usize = 16 * 1024;
/// Out of descriptors: try again when some have been closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that may wait to be accepted, as far as the system lets them (`net.core.somaxconn`). Those of a storm that
/// find no room come back after a second, then after two more.
const MOST_WAITING: u32 = 4096;

/// What the system takes for a connection beyond what its client can be sent at once. It would take megabytes for a client
/// that reads slowly, of which nobody but the machine's memory knows; so what waits, waits in the session's queue, with
/// its bounds.
const MOST_UNSENT_BYTES: u32 = 128 << 10;

/// An upgrade that was agreed to.
struct Agreed {
    upgrade: OnUpgrade,
    opening: Opening,
    place: Place,
}

/// Takes the address for [`serve`].
///
/// # Errors
/// Those of the system.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket2::SockRef::from(&socket).set_tcp_notsent_lowat(MOST_UNSENT_BYTES)?;
    socket.bind(address)?;
    socket.listen(MOST_WAITING)
}

/// Accepts connections until `shutdown`, and returns when the last session has ended. What is no session yet is cut off
/// by the shutdown; sessions have to be closed.
pub async fn serve(edge: Arc<Edge>, listener: TcpListener, shutdown: CancellationToken) {
    let sessions = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let edge = Arc::clone(&edge);
        // Boxed: a session carries no room for its handshake.
        let upgraded = Box::pin(upgraded(Arc::clone(&edge), stream, peer, shutdown.clone()));
        sessions.spawn(async move {
            edge.metrics.connections.inc();
            if let Some((session, place)) = upgraded.await {
                session.run().await;
                drop(place);
            }
            edge.metrics.connections.dec();
        });
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

/// A session, once the client has agreed on one.
async fn upgraded(
    edge: Arc<Edge>,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: CancellationToken,
) -> Option<(Box<Session>, Place)> {
    // Small frames must not wait for one another.
    let _ = stream.set_nodelay(true);
    let Agreed { upgrade, opening, place } = handshake(&edge, stream, peer, &shutdown).await?;
    let parts = upgrade.await.ok()?.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((Session::new(edge, parts.io.into_inner(), parts.read_buf, opening), place))
}

/// Speaks HTTP until the client has agreed on an upgrade, has left, or has taken too long.
async fn handshake(
    edge: &Arc<Edge>,
    stream: TcpStream,
    peer: SocketAddr,
    shutdown: &CancellationToken,
) -> Option<Agreed> {
    let agreed: Mutex<Option<Agreed>> = Mutex::default();
    let service = service_fn(|request| async {
        let response = match answer(edge, peer, request).await {
            Ok(Answer::Page(page)) => page,
            Ok(Answer::Upgrade(response, upgrade)) => {
                *agreed.lock() = Some(*upgrade);
                response
            }
            Err(refusal) => {
                edge.metrics.handshakes_refused.get_or_create(&Reason { reason: refusal.reason }).inc();
                refusal.response()
            }
        };
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.config.handshake_timeout)
        .max_buf_size(MOST_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // The header's time, and that of one question to auth-svc.
    let most = edge.config.handshake_timeout + edge.config.request_timeout;
    tokio::select! {
        () = shutdown.cancelled() => return None,
        ended = tokio::time::timeout(most, connection) => {
            let reason = match ended {
                Ok(Ok(())) => None,
                Ok(Err(error)) if error.is_timeout() => Some("timeout"),
                Ok(Err(error)) if error.is_parse() => Some("not_http"),
                Ok(Err(_)) => Some("broken_off"),
                Err(_) => Some("timeout"),
            };
            if let Some(reason) = reason {
                edge.metrics.handshakes_refused.get_or_create(&Reason { reason }).inc();
            }
        }
    }
    agreed.into_inner()
}

enum Answer {
    Page(Response<Full<Bytes>>),
    Upgrade(Response<Full<Bytes>>, Box<Agreed>),
}

/// Why there is no session.
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    text: String,
    header: Option<(HeaderName, &'static str)>,
}

impl Refusal {
    fn new(status: StatusCode, reason: &'static str, text: impl Into<String>) -> Refusal {
        Refusal { status, reason, text: text.into(), header: None }
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Refusal {
        self.header = Some((name, value));
        self
    }

    fn response(self) -> Response<Full<Bytes>> {
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

async fn answer(edge: &Arc<Edge>, peer: SocketAddr, request: Request<Incoming>) -> Result<Answer, Refusal> {
    if !has_word(request.headers(), &header::UPGRADE, "websocket") {
        return page(edge, &request).map(Answer::Page);
    }
    upgrade(edge, peer, request).await
}

fn page(edge: &Edge, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
    let (kind, content) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", Full::from(CONSOLE)),
        "/client.js" => ("text/javascript; charset=utf-8", Full::from(CLIENT)),
        "/bindings" => ("application/json", Full::from(bindings::json(&edge.catalogue))),
        _ => {
            let text = "nothing here: open a WebSocket at any path, or / for the console";
            return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", text));
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET here")
            .with(header::ALLOW, "GET, HEAD"));
    }
    let mut response = Response::new(content);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, CONSOLE_POLICY),
        // Pages from elsewhere may use the client, and offer the bindings, too.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

async fn upgrade(
    edge: &Arc<Edge>,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let headers = request.headers();
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, "bad_request", text);
    if *request.method() != Method::GET || !has_word(headers, &header::CONNECTION, "upgrade") {
        return Err(bad("a WebSocket begins with GET and `Connection: Upgrade`"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Refusal::new(
            StatusCode::UPGRADE_REQUIRED,
            "version",
            "only WebSocket version 13 is spoken here",
        )
        .with(header::SEC_WEBSOCKET_VERSION, "13"));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "sub_protocol", "there are no sub-protocols here"));
    }
    let Some(accept) = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        return Err(bad("Sec-WebSocket-Key is missing"));
    };
    let view = view(request.uri().query(), edge.config.view).map_err(|text| bad(&text))?;
    let address = client_address(peer.ip(), headers, &edge.config.trusted_proxies);
    let place = edge.places.take(address)?;
    edge.pace.turn().await?;
    let bearing = authenticate(edge, headers).await?;

    let number = {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed)
    };
    let opening = Opening { number, address, view, bearing };
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(Answer::Upgrade(response, Box::new(Agreed { upgrade, opening, place })))
}

/// KAZOO 5 takes a token at the upgrade as well, with or without `Bearer`.
async fn authenticate(edge: &Edge, headers: &HeaderMap) -> Result<Option<Bearing>, Refusal> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let forbidden = |reason: &str| {
        Refusal::new(StatusCode::FORBIDDEN, "token", format!("failed to authenticate token : {reason}"))
    };
    let text = value.to_str().map_err(|_| forbidden("not readable"))?.trim();
    let token = match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Token::new(token.trim()),
        _ => Token::new(text),
    };
    match edge.authorizer.check(&token, None).await {
        Ok(reply) => match &*reply {
            blackhole_common::wire::AuthReply::Accepted { bearer, .. } => {
                Ok(Some(Bearing::new(token, bearer.clone())))
            }
            blackhole_common::wire::AuthReply::Refused { reason } => Err(forbidden(reason)),
        },
        Err(unavailable) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable", unavailable.to_string())
                .with(header::RETRY_AFTER, "1"))
        }
    }
}

fn view(query: Option<&str>, default: View) -> Result<View, String> {
    let asked = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("view="));
    asked.map_or(Ok(default), str::parse)
}

fn has_word(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|own| own.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_system_takes_little_for_a_client_that_does_not_read() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let (client, accepted) =
            tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (_client, (server, _)) = (client.unwrap(), accepted.unwrap());
        let mut taken = 0;
        server.writable().await.unwrap();
        while let Ok(bytes) = server.try_write(&[0; 16 << 10]) {
            taken += bytes;
        }
        assert!(taken < 2 * MOST_UNSENT_BYTES as usize, "{taken} bytes");
    }
}
