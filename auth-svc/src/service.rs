//! The NATS micro service: `nats micro ls` shows it as `blackhole-auth`.

use std::{sync::Arc, time::Duration};

use async_nats::{
    Client,
    connection::State,
    service::{Request, ServiceExt, error::Error as ServiceError},
};
use blackhole_common::wire::{Access, AuthReply, AuthRequest};
use futures_util::StreamExt;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{authority::Authority, error::Error, metrics::Metrics};

/// The service's name.
pub const NAME: &str = "blackhole-auth";
/// One of all running services gets a request.
const QUEUE_GROUP: &str = "auth-svc";
/// So many requests are worked on at once; more wait in the subscription.
const MOST_AT_ONCE: u32 = 64;
/// How long requests that are being worked on may take when the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// Answers requests on `subject` until `shutdown`, then finishes those that have arrived. What the server sends in
/// the instant before it sees the subscription end is lost (async-nats drops it, see `Endpoint::stop`): whoever
/// asks has to be ready to ask again, as with a service that was killed.
///
/// The client subscribes again by itself when it has lost and found NATS.
///
/// # Errors
/// When the service cannot be set up, or its subscription ends without `shutdown`.
pub async fn serve(
    client: &Client,
    subject: String,
    authority: Arc<Authority>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let failed = |error: async_nats::Error| Error::Service(error.to_string());
    let service = client
        .service_builder()
        .description("says who bears a token and what of an account it may see")
        .queue_group(QUEUE_GROUP)
        .start(NAME, env!("CARGO_PKG_VERSION"))
        .await
        .map_err(failed)?;
    let mut requests = service.endpoint_builder().name("check").add(subject).await.map_err(failed)?;
    let places = Arc::new(Semaphore::new(MOST_AT_ONCE as usize));
    let take = async |request: Request| {
        let arrived = Instant::now();
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (authority, metrics) = (Arc::clone(&authority), metrics.clone());
        tokio::spawn(async move {
            answer(&request, arrived, &authority, &metrics).await;
            drop(place);
        });
    };
    loop {
        let request = tokio::select! {
            () = shutdown.cancelled() => break,
            request = requests.next() => request,
        };
        match request {
            Some(request) => take(request).await,
            None => return Err(Error::Service("the subscription ended".into())),
        }
    }
    let finish = async {
        let _ = requests.stop().await;
        while let Some(request) = requests.next().await {
            take(request).await;
        }
        let _ = places.acquire_many(MOST_AT_ONCE).await;
        let _ = service.stop().await;
        // Without a connection there is nobody to flush to, and nothing to wait for.
        if client.connection_state() == State::Connected {
            let _ = client.flush().await;
        }
    };
    if tokio::time::timeout(GRACE, finish).await.is_err() {
        tracing::warn!("stopped with requests unanswered");
    }
    Ok(())
}

async fn answer(request: &Request, arrived: Instant, authority: &Authority, metrics: &Metrics) {
    let (response, outcome, reason) = respond(&request.message.payload, authority).await;
    // Never the token, and nothing that a client chose.
    tracing::debug!(outcome, reason, "request answered");
    if let Err(error) = request.respond(response.map(Into::into)).await {
        tracing::debug!(%error, "request could not be answered");
    }
    metrics.answered(outcome, reason, arrived.elapsed());
}

/// The response, what became of the request, and why.
async fn respond(
    payload: &[u8],
    authority: &Authority,
) -> (Result<Vec<u8>, ServiceError>, &'static str, Option<&'static str>) {
    let error = |code, status: &str| Err(ServiceError { code, status: status.to_owned() });
    let Ok(request) = serde_json::from_slice::<AuthRequest>(payload) else {
        return (error(400, "the request is no JSON object with a token"), "malformed", None);
    };
    let answer = match authority.answer(&request).await {
        Ok(answer) => answer,
        Err(failure) => {
            tracing::warn!(error = %failure, kind = failure.kind(), "no verdict");
            return (error(503, "no verdict at the moment"), "unavailable", Some(failure.kind()));
        }
    };
    let outcome = match &answer.reply {
        AuthReply::Refused { .. } => "refused",
        AuthReply::Accepted { access: Access::Denied { .. }, .. } => "denied",
        AuthReply::Accepted { .. } => "accepted",
    };
    match serde_json::to_vec(&answer.reply) {
        Ok(json) => (Ok(json), outcome, answer.reason),
        Err(failure) => {
            tracing::error!(error = %failure, "answer could not be written");
            (error(500, "the answer could not be written"), "unavailable", Some("internal"))
        }
    }
}
