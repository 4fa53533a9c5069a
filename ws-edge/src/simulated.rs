//! An edge in the simulator: the whole edge but for its ports, its threads and its connections, which are the caller's.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use blackhole_common::{
    catalogue::Catalogue,
    nats::{link::Servers, requests::Requests},
    readiness::Readiness,
    wire::Subjects,
};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::EdgeConfig,
    edge::{Edge, Events},
    ids::SessionNumber,
    limits::client_network::ClientNetwork,
    session::{start::SessionStart, task::Session, transport::Carrier, websocket::ClientSocket},
    upstream::history::StoredStream,
};

/// An edge that runs on the current runtime until it is dropped.
#[derive(Debug)]
pub struct SimulatedEdge {
    edge: Arc<Edge>,
    shutdown: CancellationToken,
}

impl SimulatedEdge {
    /// Starts an edge that gets its live events from `servers`, its past ones from the stream that is `stored`, and asks
    /// auth-svc by `requests`.
    pub fn start(
        config: EdgeConfig,
        catalogue: Catalogue,
        servers: Servers,
        stored: Arc<dyn StoredStream>,
        requests: Arc<dyn Requests>,
    ) -> SimulatedEdge {
        let subjects = Subjects::new(&config.nats.prefix);
        let (events, reader) =
            Events::new(&config.ws, &subjects, servers, stored, Arc::default(), &Readiness::default());
        let shutdown = CancellationToken::new();
        tokio::spawn(reader.run(shutdown.clone()));
        tokio::spawn(Arc::clone(&events.catchup).run(shutdown.clone()));
        tokio::spawn(Arc::clone(&events.flusher).run(shutdown.clone()));
        let edge = Edge::new(config.ws, catalogue, &subjects, requests, events, None);
        SimulatedEdge { edge: Arc::new(edge), shutdown }
    }

    /// Serves a client whose upgrade was answered. `None` if the edge has no room.
    pub fn serve(&self, number: SessionNumber, socket: Arc<dyn ClientSocket>) -> Option<JoinHandle<()>> {
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let connections = &self.edge.limits.connections;
        let start = SessionStart {
            number,
            address,
            view: self.edge.config.view,
            carrier: Carrier::WebSocket { early: Bytes::new(), is_compressed: false },
            identity: None,
            permit: connections.connection(ClientNetwork::of(address)).ok()?,
            session_permit: connections.session().ok()?,
        };
        let session = Session::new(Arc::clone(&self.edge), socket, start);
        Some(tokio::spawn(session.run()))
    }
}

impl Drop for SimulatedEdge {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}
