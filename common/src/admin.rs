//! The admin server of every service:
//!
//! | path | answer |
//! |---|---|
//! | `GET /metrics` | metrics in the OpenMetrics text form |
//! | `GET /health/live` | 200 while the process serves |
//! | `GET /health/ready` | 200 when everything it needs is there, else 503 with the names of what is missing |

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{config::AdminConfig, readiness::Readiness};

/// More connections than this wait: a scraper and a few probes need no more.
const MOST_CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The listening admin server.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
}

impl AdminServer {
    /// Listens where `config` says.
    ///
    /// # Errors
    /// When the address cannot be had; the error names it.
    pub async fn bind(
        config: &AdminConfig,
        registry: Registry,
        readiness: Readiness,
    ) -> std::io::Result<AdminServer> {
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            std::io::Error::new(
                error.kind(),
                format!("cannot listen on admin.listen = {}: {error}", config.listen),
            )
        })?;
        Ok(AdminServer { listener, registry: Arc::new(registry), readiness })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown`.
    pub async fn serve(self, shutdown: CancellationToken) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors: try again when some have been closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (registry, readiness) = (Arc::clone(&self.registry), self.readiness.clone());
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = answer(&request, &registry, &readiness);
                    async { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    // A client that breaks off is its own matter.
                    _ = connection => {}
                }
                drop(place);
            });
        }
    }
}

fn answer(request: &Request<Incoming>, registry: &Registry, readiness: &Readiness) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n".into());
    }
    match request.uri().path() {
        "/health/live" => text(StatusCode::OK, "live\n".into()),
        "/health/ready" => match readiness.missing().as_slice() {
            [] => text(StatusCode::OK, "ready\n".into()),
            missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", "))),
        },
        "/metrics" => {
            let mut body = String::new();
            // Writing to a String cannot fail.
            let _ = prometheus_client::encoding::text::encode(&mut body, registry);
            let mut response = text(StatusCode::OK, body);
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(OPENMETRICS));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /health/live and /health/ready\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
