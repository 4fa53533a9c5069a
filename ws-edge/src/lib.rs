//! ws-edge serves WebSocket sessions with the events of their accounts. It holds nothing that another edge would
//! need: any number of them run side by side.
//!
//! | module | idea |
//! |---|---|
//! | [`http`] | the port: console, upgrade, refusals |
//! | [`session`] | one session, one task |
//! | [`request`], [`reply`], [`close`] | what clients and the edge say to each other |
//! | [`binding`] | a client's binding as NATS subjects |
//! | [`authorizer`] | what auth-svc says of tokens and accounts |
//! | [`feed`] | from NATS to the table |
//! | [`families`] | which binding families serve |
//! | [`fanout`] | the table: who gets which events |
//! | [`frame`], [`outbox`], [`writers`], [`socket`] | event frames, what waits to be sent, and sending it |
//! | [`cursor`], [`history`], [`catchup`] | where a client stands, events of the past, and bringing them |
//! | [`drain`] | leaving in order |
//! | [`crossbar`] | requests that are passed on to KAZOO's HTTP API |
//! | [`targeted`] | messages that are passed on to one process of KAZOO |
//! | [`registry`] | the sessions as they are listed |
//! | [`control`] | what is told and answered on NATS beside events |
//! | [`rate`], [`config`], [`metrics`] | limits, configuration, counters |

pub mod authorizer;
pub mod binding;
pub mod catchup;
pub mod close;
pub mod config;
pub mod control;
pub mod crossbar;
pub mod cursor;
pub mod drain;
pub mod families;
pub mod fanout;
pub mod feed;
pub mod frame;
pub mod history;
pub mod http;
pub mod metrics;
pub mod outbox;
pub mod rate;
pub mod registry;
pub mod reply;
pub mod request;
pub mod session;
pub mod socket;
pub mod targeted;
pub mod writers;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use blackhole_common::{
    admin::{AdminResponse, AdminServer, Verb},
    catalogue::{Catalogue, CatalogueError},
    nats::{self, NatsError},
    readiness::{Latch, Readiness},
    telemetry,
    wire::{SessionsReply, SessionsRequest, Subjects},
};
use hyper::StatusCode;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{
    authorizer::Authorizer,
    catchup::{Catchup, Wants},
    config::{EdgeConfig, WsConfig},
    control::{Control, ControlError},
    crossbar::Crossbar,
    drain::Sessions,
    families::Families,
    fanout::Fanout,
    feed::{Feed, FeedError, stream::StreamInfo},
    history::History,
    http::{Pace, Places},
    metrics::Metrics,
    registry::Registry,
    targeted::Targeted,
    writers::Writers,
};

/// Sessions that have not ended so long after they were closed are cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Why the edge did not start.
#[derive(Debug, Error)]
pub enum EdgeError {
    /// A mistake in the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// NATS is configured wrongly.
    #[error(transparent)]
    Nats(#[from] NatsError),
    /// The reader of events did not start.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The NATS service did not start.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// An address cannot be had.
    #[error(transparent)]
    Listen(#[from] std::io::Error),
}

/// What all sessions share.
#[derive(Debug)]
pub struct Edge {
    /// Their limits.
    pub config: WsConfig,
    /// What can be bound.
    pub catalogue: Catalogue,
    /// What of it serves.
    pub families: Arc<Families>,
    /// What all events' subjects begin with.
    pub event_root: String,
    /// Who gets which events.
    pub fanout: Arc<Fanout>,
    /// Who sends them.
    pub writers: Arc<Writers>,
    /// Events of the past.
    pub history: History,
    /// What the stream is, as of at most a second ago; `None` where there is none.
    pub stream: watch::Receiver<Option<StreamInfo>>,
    /// Who may what.
    pub authorizer: Authorizer,
    /// The way to KAZOO's exchange `targeted`.
    pub targeted: Targeted,
    /// The way to Crossbar, if there is one.
    pub crossbar: Option<Crossbar>,
    /// How many sessions there are.
    pub places: Places,
    /// How fast they come.
    pub pace: Pace,
    /// Which there are, to be closed.
    pub sessions: Arc<Sessions>,
    /// Which there are, as they are listed.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// An edge whose ports are open.
pub struct Running {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where metrics and health are.
    pub admin: SocketAddr,
    edge: Arc<Edge>,
    listener: TcpListener,
    catchup: Arc<Catchup>,
    feed: std::thread::JoinHandle<()>,
    feed_shutdown: CancellationToken,
    accepting: Latch,
    control: Control,
    admin_server: AdminServer,
}

/// Opens the ports and connects to NATS, which need not be there yet.
///
/// # Errors
/// What waiting does not mend.
pub async fn start(config: EdgeConfig) -> Result<Running, EdgeError> {
    let catalogue = Catalogue::load(config.catalogue.file.as_deref())?;
    let mut registry = telemetry::registry("ws-edge", env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(Metrics::default());
    metrics.register(&mut registry);
    let readiness = Readiness::default();

    let listener = http::listen(config.ws.listen).map_err(|error| {
        std::io::Error::new(
            error.kind(),
            format!("cannot listen on ws.listen = {}: {error}", config.ws.listen),
        )
    })?;
    let admin_server = AdminServer::bind(&config.admin, registry, readiness.clone()).await?;

    let subjects = Subjects::new(&config.nats.prefix);
    let event_root = subjects.event();
    let events = readiness.latch("events");
    // A connection of its own, so that a flood of events does not delay the questions to auth-svc.
    let client = nats::connect(&config.nats, "ws-edge", readiness.latch("nats")).await?;
    let history = History::new(client.clone(), subjects.clone());
    let wants = Arc::new(Wants::default());
    let writers = Arc::new(Writers::new(Arc::clone(&wants)));
    let fanout =
        Arc::new(Fanout::new(&event_root, config.ws.linger, Arc::clone(&writers), Arc::clone(&metrics)));
    let feed_shutdown = CancellationToken::new();
    let (feed, stream) = Feed::start(
        config.nats.clone(),
        Arc::clone(&fanout),
        history.clone(),
        Arc::clone(&metrics),
        events,
        feed_shutdown.clone(),
    )
    .await?;
    let catchup =
        Catchup::new(wants, Arc::clone(&fanout), history.clone(), stream.clone(), Arc::clone(&metrics));
    let registry = Arc::new(Registry::new(&config.ws.host));
    let families = Arc::new(Families::new(&catalogue, Arc::clone(&metrics)));
    let (listed, switched) = (Arc::clone(&registry), Arc::clone(&families));
    let control = Control::start(client.clone(), subjects.clone(), &config.ws.host, listed, switched).await?;
    let admin_server = sessions_page(admin_server, control.edge(), &registry);
    let targeted = Targeted::new(client.clone(), &subjects, config.ws.request_timeout, &config.ws.host);
    let authorizer = Authorizer::new(
        client,
        &subjects,
        config.ws.request_timeout,
        config.ws.auth_cache,
        Arc::clone(&metrics),
    );
    let crossbar = match &config.ws.crossbar_url {
        Some(url) => Some(Crossbar::new(url, &config.ws).map_err(|error| {
            std::io::Error::new(error.kind(), format!("ws.crossbar_url = {url}: {error}"))
        })?),
        None => None,
    };
    let places = Places::new(config.ws.max_connections, config.ws.max_connections_per_ip);
    let pace = Pace::new(config.ws.accept_per_second);
    let edge = Edge {
        config: config.ws,
        catalogue,
        families,
        event_root,
        fanout,
        writers,
        history,
        stream,
        authorizer,
        targeted,
        crossbar,
        places,
        pace,
        sessions: Arc::default(),
        registry,
        metrics,
    };
    Ok(Running {
        address: listener.local_addr()?,
        admin: admin_server.address()?,
        edge: Arc::new(edge),
        listener,
        catchup: Arc::new(catchup),
        feed,
        feed_shutdown,
        accepting: readiness.latch("the end: it is draining"),
        control,
        admin_server,
    })
}

/// `GET /sessions?account_id=&session_id=`: this edge's sessions, for people.
fn sessions_page(server: AdminServer, edge: &str, registry: &Arc<Registry>) -> AdminServer {
    let (edge, registry): (Arc<str>, _) = (edge.into(), Arc::clone(registry));
    server.route(Verb::Get, "/sessions", move |request| {
        let (edge, registry) = (Arc::clone(&edge), Arc::clone(&registry));
        async move {
            let wanted = SessionsRequest {
                account_id: request.parameter("account_id"),
                session_id: request.parameter("session_id"),
            };
            let sessions = registry.list(&wanted).await;
            let list = SessionsReply { edge: edge.to_string(), last: true, sessions };
            match serde_json::to_vec(&list) {
                Ok(json) => AdminResponse::json(json),
                Err(error) => AdminResponse::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
    })
}

impl Running {
    /// Serves until `shutdown`, then leaves in order: not ready any more, no new sessions after `ws.drain_wait`, every
    /// session closed with code 1012 at a pace, what waited for it sent first.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Running {
            edge, listener, catchup, feed, feed_shutdown, accepting, control, admin_server, ..
        } = self;
        tracing::info!(address = %self.address, admin = %self.admin, "serving");
        let admin_shutdown = CancellationToken::new();
        let admin_server = drain_page(admin_server, shutdown.clone());
        let admin = tokio::spawn(admin_server.serve(admin_shutdown.clone()));
        let accept_shutdown = CancellationToken::new();
        let control_shutdown = CancellationToken::new();
        let control = tokio::spawn(control.serve(control_shutdown.clone()));
        tokio::spawn(Arc::clone(&edge.writers).run(feed_shutdown.clone()));
        tokio::spawn(catchup.run(feed_shutdown.clone()));
        let sessions = tokio::spawn(http::serve(Arc::clone(&edge), listener, accept_shutdown.clone()));
        accepting.set(true);

        shutdown.cancelled().await;
        accepting.set(false);
        tokio::time::sleep(edge.config.drain_wait).await;
        accept_shutdown.cancel();
        edge.sessions.close_all(edge.config.drain, edge.config.drain_per_second).await;
        if tokio::time::timeout(STOP_TIMEOUT, sessions).await.is_err() {
            tracing::warn!("some sessions did not end in time and are cut off");
        }
        // Sessions are listed to their end.
        control_shutdown.cancel();
        let _ = control.await;
        feed_shutdown.cancel();
        admin_shutdown.cancel();
        let _ = admin.await;
        let _ = tokio::task::spawn_blocking(|| feed.join()).await;
    }
}

/// `POST /drain`: stops the edge in order, as SIGTERM does.
fn drain_page(server: AdminServer, shutdown: CancellationToken) -> AdminServer {
    server.route(Verb::Post, "/drain", move |_| {
        shutdown.cancel();
        async { AdminResponse::text(StatusCode::ACCEPTED, "draining\n") }
    })
}
