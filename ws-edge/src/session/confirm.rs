//! Waiting for the NATS server to confirm subscriptions.

use tokio::{sync::oneshot, time::timeout};

use crate::{delivery::table::Refused, edge::Edge};

/// Waits for the confirmation, at most `ws.request_timeout`. Without a receiver there is nothing to confirm.
pub(super) async fn confirmed(
    edge: &Edge,
    confirmation: Option<oneshot::Receiver<Result<(), Refused>>>,
) -> Result<(), String> {
    let Some(confirmation) = confirmation else { return Ok(()) };
    match timeout(edge.config.request_timeout, confirmation).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(Refused))) => Err("the server of the events refuses this subscription".to_owned()),
        _ => Err("events are not available at the moment, try again".to_owned()),
    }
}
