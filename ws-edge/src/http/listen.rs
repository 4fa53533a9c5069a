//! Accepts connections and serves HTTP on them until they are upgraded to sessions.

use std::{
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use blackhole_common::config::InvalidValue;
use futures_util::future::join_all;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Peer,
    certificate::Certificate,
    client_address::is_trusted,
    events::{self, is_for_events, preflight},
    pages::page,
    refusal::Refusal,
    tls_socket::TlsSocket,
    upgrade::{Upgrade, is_upgrade, upgrade},
};
use crate::{
    config::WsConfig,
    edge::Edge,
    limits::{client_network::ClientNetwork, connection_limit::ConnectionPermit},
    metrics::{Metrics, Reason},
    session::{start::SessionStart, task::Session, transport::Carrier, websocket::ClientSocket},
};

/// The largest request header: a token and the headers of proxies.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Pause after a failed accept: usually the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Backlog of the listening socket, limited by `net.core.somaxconn`. Clients retry connections beyond it after one
/// second, then after two more.
const BACKLOG: u32 = 4096;
/// Unsent bytes that the kernel buffers per connection. By default it would buffer megabytes for a slow consumer;
/// frames are to wait in the session's outbox, which is bounded.
const MAX_UNSENT_BYTES: u32 = 128 << 10;

/// Intervals of pings after which a client of an event stream is gone that acknowledges nothing, or takes nothing.
const MAX_UNACKNOWLEDGED_INTERVALS: u32 = 3;

/// Binds the WebSocket port.
///
/// # Errors
/// Those of the system.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    blackhole_common::listen::listen(address, BACKLOG, |socket| {
        socket2::SockRef::from(socket).set_tcp_notsent_lowat(MAX_UNSENT_BYTES)
    })
}

/// A port where clients connect.
pub(crate) struct Port {
    /// The port.
    pub(crate) listener: TcpListener,
    /// The certificate, if TLS is spoken there.
    pub(crate) certificate: Option<Arc<Certificate>>,
}

/// Opens the ports: `ws.listen`, and `ws.tls.listen` if it is set.
///
/// # Errors
/// Those of the system, and unusable files of the certificate.
pub(crate) fn ports(config: &WsConfig, metrics: &Arc<Metrics>) -> io::Result<Vec<Port>> {
    let port = |key, address, certificate| {
        let listener = listen(address).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {key} = {address}: {error}"))
        })?;
        Ok::<Port, io::Error>(Port { listener, certificate })
    };
    let Some(tls) = &config.tls else { return Ok(vec![port("ws.listen", config.listen, None)?]) };
    let certificate = Certificate::open(tls.clone(), Arc::clone(metrics))
        .map_err(|InvalidValue { key, reason }| io::Error::other(format!("{key}: {reason}")))?;
    let certificate = Some(Arc::new(certificate));
    Ok(match tls.listen {
        None => vec![port("ws.listen", config.listen, certificate)?],
        Some(address) => {
            vec![port("ws.listen", config.listen, None)?, port("ws.tls.listen", address, certificate)?]
        }
    })
}

/// Accepts connections until `shutdown`, which drops connections that are not upgraded yet. Returns when the last
/// session has ended; the caller closes the sessions.
pub(crate) async fn serve(edge: Arc<Edge>, ports: Vec<Port>, shutdown: CancellationToken) {
    let sessions = TaskTracker::new();
    join_all(ports.into_iter().map(|port| accept(&edge, port, &sessions, &shutdown))).await;
    sessions.close();
    sessions.wait().await;
}

async fn accept(edge: &Arc<Edge>, port: Port, sessions: &TaskTracker, shutdown: &CancellationToken) {
    loop {
        let (stream, peer) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = port.listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let certificate = port.certificate.clone();
        let permit = match permit(edge, peer) {
            Ok(permit) => permit,
            Err(refusal) => {
                count(edge, &refusal);
                if certificate.is_none() {
                    // Without waiting: a client that does not take the answer gets none.
                    let _ = stream.into_std().and_then(|stream| refusal.answer_unread(&stream));
                }
                continue;
            }
        };
        let edge = Arc::clone(edge);
        let peer = Peer { address: peer, permit: Mutex::new(permit), has_waited: AtomicBool::new(false) };
        // Boxed, so that a session's task does not reserve space for its handshake.
        let open = Box::pin(open_session(Arc::clone(&edge), stream, peer, certificate, shutdown.clone()));
        sessions.spawn(async move {
            edge.metrics.connections.inc();
            if let Some(session) = open.await {
                session.run().await;
            }
            edge.metrics.connections.dec();
        });
    }
}

/// The permit of a new connection; `None` if it comes from a proxy, which has yet to name the client's address.
fn permit(edge: &Edge, peer: SocketAddr) -> Result<Option<ConnectionPermit>, Refusal> {
    if is_trusted(peer.ip(), &edge.config.trusted_proxies) {
        return Ok(None);
    }
    Ok(Some(edge.limits.connections.connection(ClientNetwork::of(peer.ip()))?))
}

fn count(edge: &Edge, refusal: &Refusal) {
    edge.metrics.handshakes_refused.get_or_create(&Reason { reason: refusal.reason }).inc();
}

/// Opens the session of a connection; `None` if it does not become one.
async fn open_session(
    edge: Arc<Edge>,
    stream: TcpStream,
    peer: Peer,
    certificate: Option<Arc<Certificate>>,
    shutdown: CancellationToken,
) -> Option<Box<Session>> {
    // Send small frames at once.
    let _ = stream.set_nodelay(true);
    let (socket, start) = match certificate {
        None => handshake(&edge, stream, &peer, &shutdown).await?,
        Some(certificate) => {
            let encrypted = encrypt(&edge, stream, &peer, &certificate);
            let stream = shutdown.run_until_cancelled(encrypted).await??;
            handshake(&edge, stream, &peer, &shutdown).await?
        }
    };
    Some(Session::new(edge, socket, start))
}

/// Does the TLS handshake, which costs more than all else that a new session does: so it waits for its turn before. That of
/// a trusted proxy does not: its requests wait, as those of the clients that they name.
async fn encrypt(
    edge: &Edge,
    stream: TcpStream,
    peer: &Peer,
    certificate: &Certificate,
) -> Option<TlsStream<TcpStream>> {
    let is_client = peer.permit.lock().is_some();
    let client = ClientNetwork::of(peer.address.ip());
    if is_client {
        if let Err(busy) = edge.limits.accepts.wait(client).await {
            count(edge, &busy.into());
            return None;
        }
        peer.has_waited.store(true, Ordering::Relaxed);
    }
    let reason = match timeout(edge.config.handshake_timeout, certificate.accept(client, stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(_)) => "tls",
        Err(_) => "timeout",
    };
    edge.metrics.handshakes_refused.get_or_create(&Reason { reason }).inc();
    None
}

/// A connection that HTTP is spoken on.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    fn tcp(&self) -> &TcpStream;

    /// As a session uses it.
    fn into_socket(self) -> io::Result<Arc<dyn ClientSocket>>;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn into_socket(self) -> io::Result<Arc<dyn ClientSocket>> {
        Ok(Arc::new(self))
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }

    fn into_socket(self) -> io::Result<Arc<dyn ClientSocket>> {
        let (tcp, connection) = self.into_inner();
        Ok(Arc::new(TlsSocket::new(tcp, connection)?))
    }
}

/// Serves HTTP until the connection is upgraded, asks for an event stream, is closed or timed out.
async fn handshake<S: Stream>(
    edge: &Edge,
    stream: S,
    peer: &Peer,
    shutdown: &CancellationToken,
) -> Option<(Arc<dyn ClientSocket>, SessionStart)> {
    let upgraded: Mutex<Option<Upgrade>> = Mutex::default();
    let streams: Mutex<Option<SessionStart>> = Mutex::default();
    let service = service_fn(|request| async {
        let response = if is_upgrade(&request) {
            upgrade(edge, peer, request).await.map(|(response, upgrade)| {
                *upgraded.lock() = Some(upgrade);
                response
            })
        } else if is_for_events(&request) {
            if let Some(response) = preflight(&request) {
                return Ok(response);
            }
            match events::accept(edge, peer, &request).await {
                Ok(start) => {
                    *streams.lock() = Some(start);
                    // The session answers.
                    return pending().await;
                }
                Err(refusal) => {
                    count(edge, &refusal);
                    return Ok(refusal.json_response());
                }
            }
        } else {
            page(edge, &request)
        };
        Ok::<_, Infallible>(response.unwrap_or_else(|refusal| {
            count(edge, &refusal);
            refusal.response()
        }))
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.config.handshake_timeout)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let served = poll_fn(|context| {
        let ended = Pin::new(&mut connection).poll(context);
        if streams.lock().is_some() { Poll::Ready(Ok(())) } else { ended }
    });
    // Time for the header and one request to auth-svc.
    let deadline = edge.config.handshake_timeout + edge.config.request_timeout;
    tokio::select! {
        () = shutdown.cancelled() => return None,
        ended = tokio::time::timeout(deadline, served) => {
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
    let upgrade = upgraded.lock().take();
    if let Some(Upgrade { connection, admitted, view, is_compressed }) = upgrade {
        let parts = connection.await.ok()?.downcast::<TokioIo<S>>().ok()?;
        let carrier = Carrier::WebSocket { early: parts.read_buf, is_compressed };
        return Some((parts.io.into_inner().into_socket().ok()?, admitted.start(view, carrier)));
    }
    let start = streams.lock().take()?;
    let stream = connection.into_parts()?.io.into_inner();
    // The client says nothing more, so only TCP can tell that it is gone.
    let silence = edge.config.ping_interval.saturating_mul(MAX_UNACKNOWLEDGED_INTERVALS);
    let _ = socket2::SockRef::from(stream.tcp()).set_tcp_user_timeout(Some(silence));
    Some((stream.into_socket().ok()?, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_buffers_little_for_a_slow_consumer() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = tokio::net::TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(4096).unwrap();
        let (client, accepted) =
            tokio::join!(client.connect(listener.local_addr().unwrap()), listener.accept());
        let (_client, (server, _)) = (client.unwrap(), accepted.unwrap());
        let mut written = 0;
        server.writable().await.unwrap();
        while let Ok(bytes) = server.try_write(&[0; 16 << 10]) {
            written += bytes;
        }
        assert!(written < 2 * MAX_UNSENT_BYTES as usize, "{written} bytes");
    }
}
