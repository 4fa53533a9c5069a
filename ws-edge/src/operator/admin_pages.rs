//! The operator's pages on the admin port: `/sessions` and `/drain`.

use std::sync::Arc;

use blackhole_common::{
    admin::{AdminResponse, AdminServer, Verb},
    wire::{SessionsReply, SessionsRequest},
};
use hyper::StatusCode;
use tokio_util::sync::CancellationToken;

use super::registry::Registry;

/// `GET /sessions?account_id=&session_id=`: lists this edge's sessions.
pub(crate) fn sessions(server: AdminServer, edge: &str, registry: &Arc<Registry>) -> AdminServer {
    let (edge, registry): (Arc<str>, _) = (edge.into(), Arc::clone(registry));
    server.route(Verb::Get, "/sessions", move |request| {
        let (edge, registry) = (Arc::clone(&edge), Arc::clone(&registry));
        async move {
            let filter = SessionsRequest {
                account_id: request.parameter("account_id"),
                session_id: request.parameter("session_id"),
            };
            let sessions = registry.list(&filter).await;
            let reply = SessionsReply { edge: edge.to_string(), last: true, sessions };
            match serde_json::to_vec(&reply) {
                Ok(json) => AdminResponse::json(json),
                Err(error) => AdminResponse::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
    })
}

/// `POST /drain`: drains and stops the edge, as SIGTERM does.
pub(crate) fn drain(server: AdminServer, shutdown: CancellationToken) -> AdminServer {
    server.route(Verb::Post, "/drain", move |_| {
        shutdown.cancel();
        async { AdminResponse::text(StatusCode::ACCEPTED, "draining\n") }
    })
}
