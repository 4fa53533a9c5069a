//! The NATS micro service: `nats micro ls` shows it as `blackhole-auth`.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client,
    connection::State,
    service::{Request, ServiceExt, error::Error as ServiceError},
};
use blackhole_common::{
    readiness::Latch,
    version,
    wire::{Access, AuthReply, AuthRequest, NumberReply, NumberRequest, Subjects},
};
use futures_util::{FutureExt, StreamExt};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{authority::Authority, claims::unix_now, error::Error, metrics::Metrics, numbers::Numbers};

/// The service's name.
pub const NAME: &str = "blackhole-auth";
/// NATS delivers each request to one member of the queue group.
const QUEUE_GROUP: &str = "auth-svc";
/// Requests processed concurrently. More wait in the subscription's queue.
///
/// They verify on the runtime's own threads: the slowest key, RSA with 4096 bits, takes 75 µs, and handing that to another
/// thread costs as much again as most keys need. So 64 of them delay the connection to NATS and the admin port by a few
/// milliseconds.
const MAX_CONCURRENT_REQUESTS: u32 = 64;
/// Requests that wait for a source, such as CouchDB. They do not count as processed meanwhile. Further ones are answered that no
/// decision is possible.
const MAX_WAITING_REQUESTS: usize = 8192;
/// Questions for numbers that are answered at once. More wait in their subscription's queue.
const MAX_NUMBERS: usize = 256;
/// While no decisions are possible, one of this many seconds has a line in the log.
const LOG_INTERVAL_SECONDS: u64 = 5;
/// How long requests may take to finish during shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers requests for decisions and for numbers, from the moment at which `subscribed` is ready until `shutdown` is cancelled, then finishes those that have arrived.
/// Requests that the server sends before it processes the unsubscribe are lost (async-nats drops them, see
/// `Endpoint::stop`), so callers must retry, as they must when a service is killed.
///
/// The client resubscribes by itself after a reconnect.
///
/// # Errors
/// If the service cannot be set up, or its subscription ends before `shutdown`.
pub async fn serve(
    client: &Client,
    subjects: &Subjects,
    (authority, numbers): (Arc<Authority>, Arc<Numbers>),
    metrics: Metrics,
    subscribed: Latch,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let failed = |error: async_nats::Error| Error::Service(error.to_string());
    let service = client
        .service_builder()
        .description("verifies tokens and decides which accounts they can access")
        .queue_group(QUEUE_GROUP)
        .metadata([("commit".to_owned(), version::COMMIT.to_owned())].into())
        .start(NAME, version::RELEASE)
        .await
        .map_err(failed)?;
    let check = subjects.auth_check();
    let mut requests = service.endpoint_builder().name("check").add(check).await.map_err(failed)?;
    let number =
        service.endpoint_builder().name("number").add(subjects.auth_number()).await.map_err(failed)?;
    let ended = shutdown.clone();
    let counted = metrics.clone();
    tokio::spawn(async move {
        ended.run_until_cancelled(serve_numbers(number, numbers, counted)).await;
    });
    // Sent before anybody is told to ask.
    client.flush().await.map_err(|error| Error::Service(error.to_string()))?;
    subscribed.set(true);
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS as usize));
    let waiting = Arc::new(Semaphore::new(MAX_WAITING_REQUESTS));
    let handle = async |request: Request| {
        let arrived = Instant::now();
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let (authority, metrics) = (Arc::clone(&authority), metrics.clone());
        let waiting = Arc::clone(&waiting);
        tokio::spawn(async move {
            let response = {
                let mut response = pin!(respond(&request.message.payload, &authority));
                match response.as_mut().now_or_never() {
                    Some(response) => response,
                    // A slow source must not hold up those that need none.
                    None => {
                        drop(permit);
                        match waiting.try_acquire() {
                            Ok(_place) => response.await,
                            Err(_) => unavailable("too_many_waiting"),
                        }
                    }
                }
            };
            answer(&request, arrived, response, &metrics).await;
        });
    };
    loop {
        let request = tokio::select! {
            () = shutdown.cancelled() => break,
            request = requests.next() => request,
        };
        match request {
            Some(request) => handle(request).await,
            None => return Err(Error::Service("the subscription ended".into())),
        }
    }
    let finish = async {
        let _ = requests.stop().await;
        while let Some(request) = requests.next().await {
            handle(request).await;
        }
        let _ = permits.acquire_many(MAX_CONCURRENT_REQUESTS).await;
        let _ = service.stop().await;
        // Without a connection a flush would wait for a reconnect.
        if client.connection_state() == State::Connected {
            let _ = client.flush().await;
        }
    };
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, finish).await.is_err() {
        tracing::warn!("stopped before all requests were answered");
    }
    Ok(())
}

/// Answers whose numbers are, until the subscription ends. Who asks does not wait for long, and goes on without an answer.
async fn serve_numbers(
    requests: impl futures_util::Stream<Item = Request>,
    numbers: Arc<Numbers>,
    metrics: Metrics,
) {
    requests
        .for_each_concurrent(MAX_NUMBERS, |request| {
            let (numbers, metrics) = (Arc::clone(&numbers), metrics.clone());
            async move {
                let (response, outcome) = respond_number(&request.message.payload, &numbers).await;
                if let Err(error) = request.respond(response.map(Into::into)).await {
                    tracing::debug!(%error, "sending the reply failed");
                }
                metrics.number(outcome);
            }
        })
        .await;
}

/// The response, and the label `outcome`.
async fn respond_number(payload: &[u8], numbers: &Numbers) -> (Result<Vec<u8>, ServiceError>, &'static str) {
    let Ok(request) = serde_json::from_slice::<NumberRequest>(payload) else {
        let status = "the request is not a JSON object with numbers".to_owned();
        return (Err(ServiceError { code: 400, status }), "malformed");
    };
    let reply = match numbers.answer(&request).await {
        Ok(reply) => reply,
        Err(failure) => {
            log_unavailable(&failure);
            return (unavailable(failure.kind()).0, "unavailable");
        }
    };
    let outcome = match &reply {
        NumberReply::Assigned { .. } => "assigned",
        NumberReply::Unassigned => "unassigned",
        NumberReply::Unserved => "unserved",
    };
    let internal = |failure: serde_json::Error| ServiceError { code: 500, status: failure.to_string() };
    (serde_json::to_vec(&reply).map_err(internal), outcome)
}

/// The response, and the labels `outcome` and `reason`.
type Response = (Result<Vec<u8>, ServiceError>, &'static str, Option<&'static str>);

async fn answer(request: &Request, arrived: Instant, response: Response, metrics: &Metrics) {
    let (response, outcome, reason) = response;
    // Log neither the token nor anything else that a client chose.
    tracing::debug!(outcome, reason, "request answered");
    if let Err(error) = request.respond(response.map(Into::into)).await {
        tracing::debug!(%error, "sending the reply failed");
    }
    metrics.answered(outcome, reason, arrived.elapsed());
}

/// The response if no decision is possible for now.
fn unavailable(reason: &'static str) -> Response {
    let error = ServiceError { code: 503, status: "no decision possible at the moment".to_owned() };
    (Err(error), "unavailable", Some(reason))
}

/// Logs that no decision is possible, not more often than anybody can read.
fn log_unavailable(failure: &Error) {
    static LOGGED_AT: AtomicU64 = AtomicU64::new(0);
    let (now, before) = (unix_now(), LOGGED_AT.load(Ordering::Relaxed));
    let is_due = now.saturating_sub(before) >= LOG_INTERVAL_SECONDS;
    if is_due && LOGGED_AT.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        tracing::warn!(error = %failure, kind = failure.kind(), "no decision possible");
    }
}

async fn respond(payload: &[u8], authority: &Authority) -> Response {
    let error = |code, status: &str| Err(ServiceError { code, status: status.to_owned() });
    let Ok(request) = serde_json::from_slice::<AuthRequest>(payload) else {
        return (error(400, "the request is not a JSON object with a token"), "malformed", None);
    };
    let answer = match authority.answer(&request).await {
        Ok(answer) => answer,
        Err(failure) => {
            log_unavailable(&failure);
            return unavailable(failure.kind());
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
            tracing::error!(error = %failure, "serializing the reply failed");
            (error(500, "serializing the reply failed"), "unavailable", Some("internal"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[test]
    fn each_outcome_has_its_response_and_labels() {
        let authority = testing::authority(testing::ACCOUNTS);
        let accepted = |access: &str| {
            format!(
                r#"{{"token":"accepted","bearer":{{"account_id":"child","expires_at":9,"superduper_admin":false,"token_id":"id of child"}},"access":{access}}}"#
            )
        };
        let malformed = "400 the request is not a JSON object with a token";
        for (request, response, outcome, reason) in [
            (
                json!({"token": "child"}),
                accepted(r#"{"access":"account","account_id":"child","realm":"child.example.com"}"#),
                "accepted",
                None,
            ),
            (
                json!({"token": "child", "account_id": "reseller", "other": 1}),
                accepted(r#"{"access":"denied","reason":"neither the token's account nor below it"}"#),
                "denied",
                Some("not_below"),
            ),
            (
                json!({"token": "bad"}),
                r#"{"token":"refused","reason":"bad signature"}"#.into(),
                "refused",
                Some("signature"),
            ),
            (
                json!({"token": "later"}),
                "503 no decision possible at the moment".into(),
                "unavailable",
                Some("unavailable"),
            ),
            (json!({}), malformed.into(), "malformed", None),
            (json!("child"), malformed.into(), "malformed", None),
        ] {
            let payload = request.to_string().into_bytes();
            // All futures here complete immediately.
            let (got, got_outcome, got_reason) = respond(&payload, &authority).now_or_never().unwrap();
            let got = match got {
                Ok(json) => String::from_utf8(json).unwrap(),
                Err(error) => format!("{} {}", error.code, error.status),
            };
            assert_eq!((got, got_outcome, got_reason), (response, outcome, reason), "{request}");
        }
    }
}
