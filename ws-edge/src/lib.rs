//! ws-edge serves WebSocket sessions with the events of their accounts. It holds no state that another edge would need:
//! any number of edges run side by side.
//!
//! Events flow through the modules in this order, and each module uses only those below it in `tests/rooms.rs`:
//!
//! | module | idea |
//! |---|---|
//! | `upstream` | NATS in: live events, repair of gaps, history |
//! | `delivery` | who gets which events, and what their frames look like |
//! | `catchup` | past events for sessions that resume or read slowly |
//! | `outbox` | what waits for a session, and writing it to its socket |
//! | `session` | one WebSocket session: its task, and how its requests are answered |
//! | `http` | the WebSocket port: upgrades, pages, refusals |
//! | `protocol` | requests, replies, close codes, cursors |
//! | `limits` | what one client and one account may take |
//! | `access` | auth-svc's decisions, bindings, stopped families |
//! | `kazoo` | requests that go on to KAZOO |
//! | `schema` | requests and events as AsyncAPI, and as types of the client packages |
//! | `operator` | listing sessions, requests over NATS, draining |

pub mod access;
mod catchup;
mod clock;
pub mod config;
pub mod delivery;
mod edge;
pub mod error;
pub mod http;
pub mod ids;
pub mod kazoo;
pub mod limits;
pub mod metrics;
mod operator;
pub mod outbox;
pub mod protocol;
pub mod schema;
pub mod session;
pub mod simulated;
#[cfg(test)]
mod tests;
pub mod upstream;

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use blackhole_common::{
    admin::AdminServer,
    catalogue::Catalogue,
    nats::{self, Latches, link::Servers},
    readiness::{Latch, Readiness},
    telemetry,
    wire::Subjects,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    catchup::Catchup,
    config::EdgeConfig,
    edge::{Edge, Events},
    error::EdgeError,
    http::listen::Port,
    kazoo::crossbar::Crossbar,
    metrics::{Metrics, Reason},
    operator::{admin_pages, control::Control, rechecks::Rechecks},
    protocol::close::Close,
    session::task::Session,
    upstream::{jetstream::JetStream, kept::Kept, reader},
};

/// Time for closed sessions to end; then they are cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// An edge whose ports are open.
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where they connect with TLS: the same, if `ws.tls.listen` is not set.
    pub tls_address: Option<SocketAddr>,
    /// Where metrics and health are.
    pub admin: SocketAddr,
    edge: Arc<Edge>,
    ports: Vec<Port>,
    catchup: Arc<Catchup>,
    reader: JoinHandle<()>,
    reader_shutdown: CancellationToken,
    accepting: Latch,
    control: Control,
    admin_server: AdminServer,
}

/// Opens the ports and starts to connect to NATS, which may be started later.
///
/// # Errors
/// Everything that waiting does not mend.
pub async fn start(config: EdgeConfig) -> Result<Running, EdgeError> {
    let catalogue = Catalogue::load(config.catalogue.file.as_deref())?;
    let mut registry = telemetry::registry("ws-edge");
    let metrics = Arc::new(Metrics::default());
    metrics.register(&mut registry);
    // From 0 on, so that the first of its kind is seen.
    let reasons = Close::ALL.iter().map(|close| close.label()).chain(Session::GONE);
    reasons.for_each(|reason| drop(metrics.sessions_closed.get_or_create(&Reason { reason })));
    metrics.sessions_limit.set(i64::try_from(config.ws.max_connections).unwrap_or(i64::MAX));
    let readiness = Readiness::default();

    let ports = http::listen::ports(&config.ws, &metrics)?;
    let certificate = ports.iter().find_map(|port| port.certificate.clone());
    let addresses: Vec<SocketAddr> =
        ports.iter().map(|port| port.listener.local_addr()).collect::<Result<_, _>>()?;
    let admin_server = AdminServer::bind(&config.admin, registry, readiness.clone()).await?;

    let subjects = Subjects::new(&config.nats.prefix);
    // Beside the event reader's connection, so that a flood of events does not delay questions to auth-svc.
    let client =
        nats::connect(&config.nats, "ws-edge", Latches::new(&readiness, readiness.latch("nats"))).await?;
    // Unreadable credentials are a mistake of the configuration.
    nats::options(&config.nats, reader::CLIENT_NAME).await?;
    let crossbar = match &config.ws.crossbar_url {
        Some(url) => Some(
            Crossbar::new(url, &config.ws)
                .map_err(|error| io::Error::new(error.kind(), format!("ws.crossbar_url = {url}: {error}")))?,
        ),
        None => None,
    };
    let stored = Arc::new(JetStream::new(client.clone(), subjects.clone()));
    let servers = Servers::new(config.nats);
    let (events, reader) = Events::new(&config.ws, &subjects, servers, stored, metrics, &readiness);
    let reader_shutdown = CancellationToken::new();
    let reader = reader.start(reader_shutdown.clone())?;
    let catchup = Arc::clone(&events.catchup);
    let requests = Arc::new(client.clone());
    let kept = Kept::new(client.clone(), subjects.clone(), config.ws.state_bytes.as_u64());
    let mut edge = Edge::new(config.ws, catalogue, &subjects, requests, events, crossbar);
    edge.kept = Some(kept);
    let (listed, switched) = (Arc::clone(&edge.registry), Arc::clone(&edge.families));
    let control =
        Control::start(client.clone(), subjects.clone(), &edge.config.host, listed, switched).await?;
    let admin_server = admin_pages::sessions(admin_server, control.edge(), &edge.registry);
    let interval = edge.config.recheck_interval;
    let rechecks = Rechecks::new(Arc::clone(&edge.sessions), edge.authorizer.clone(), interval);
    tokio::spawn(rechecks.run(client.clone(), subjects.auth_changed(), reader_shutdown.clone()));
    if let Some(certificate) = certificate.clone() {
        tokio::spawn(certificate.follow(reader_shutdown.clone()));
    }
    let (releases, ended) = (Arc::clone(&edge.releases), reader_shutdown.clone());
    tokio::spawn(async move { releases.follow(client, ended).await });
    Ok(Running {
        address: addresses.first().copied().unwrap_or(edge.config.listen),
        tls_address: certificate.as_ref().and(addresses.last().copied()),
        admin: admin_server.address()?,
        edge: Arc::new(edge),
        ports,
        catchup,
        reader,
        reader_shutdown,
        accepting: readiness.latch("the end: it is draining"),
        control,
        admin_server,
    })
}

impl Running {
    /// Serves until `shutdown`, then drains: it is no longer ready, accepts no sessions after `ws.drain_wait`, and closes all
    /// sessions with code 1012 at a limited rate, after sending what waits for them.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Running {
            edge, ports, catchup, reader, reader_shutdown, accepting, control, admin_server, ..
        } = self;
        let tls = self.tls_address.map(tracing::field::display);
        tracing::info!(address = %self.address, tls, admin = %self.admin, "serving");
        let admin_shutdown = CancellationToken::new();
        let admin_server = admin_pages::drain(admin_server, shutdown.clone());
        let admin = tokio::spawn(admin_server.serve(admin_shutdown.clone()));
        let accept_shutdown = CancellationToken::new();
        let control_shutdown = CancellationToken::new();
        let control = tokio::spawn(control.serve(control_shutdown.clone()));
        tokio::spawn(Arc::clone(&edge.flusher).run(reader_shutdown.clone()));
        tokio::spawn(catchup.run(reader_shutdown.clone()));
        let sessions = tokio::spawn(http::listen::serve(Arc::clone(&edge), ports, accept_shutdown.clone()));
        accepting.set(true);

        shutdown.cancelled().await;
        edge.metrics.draining.set(1);
        accepting.set(false);
        sleep(edge.config.drain_wait).await;
        accept_shutdown.cancel();
        edge.sessions.close_all(edge.config.drain, edge.config.drain_per_second).await;
        if timeout(STOP_TIMEOUT, sessions).await.is_err() {
            tracing::warn!("some sessions did not end in time and are cut off");
        }
        // Sessions are listed until they have ended.
        control_shutdown.cancel();
        let _ = control.await;
        reader_shutdown.cancel();
        admin_shutdown.cancel();
        let _ = admin.await;
        let _ = tokio::task::spawn_blocking(|| reader.join()).await;
    }
}
