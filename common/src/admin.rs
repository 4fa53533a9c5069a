//! The admin HTTP server of every service:
//!
//! | path | response |
//! |---|---|
//! | `GET /metrics` | metrics in the OpenMetrics text format |
//! | `GET /health/live` | 200 while the process is running |
//! | `GET /health/ready` | 200 when ready, else 503 with the names of the missing dependencies; 200 also lists those that are missing but not required |
//!
//! Services add their own routes with [`AdminServer::route`].

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
pub use hyper::StatusCode;
use hyper::{
    Method, Request, Response,
    body::Incoming,
    header::{self, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{config::AdminConfig, readiness::Readiness};

/// Further connections wait. A scraper and a few probes need no more.
const MAX_CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const BUILT_IN: [&str; 3] = ["/metrics", "/health/live", "/health/ready"];

/// An admin server, bound to its address but not serving yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    routes: Vec<Route>,
}

/// The HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Reads, without side effects. Also serves `HEAD`.
    Get,
    /// Has side effects. Requests from web pages are refused.
    Post,
}

impl Verb {
    fn accepts(self, method: &Method) -> bool {
        match self {
            Verb::Get => matches!(*method, Method::GET | Method::HEAD),
            Verb::Post => *method == Method::POST,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
        }
    }
}

/// A request to a route.
#[derive(Clone, Debug, Default)]
pub struct AdminRequest {
    query: String,
}

impl AdminRequest {
    /// The decoded value of the first query parameter with this name.
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// The response of a route.
#[derive(Clone, Debug)]
pub struct AdminResponse {
    /// The status code.
    pub status: StatusCode,
    /// The `Content-Type` header.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl AdminResponse {
    /// A plain text response. `body` should end with a newline.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
        AdminResponse { status, content_type: PLAIN, body: body.into() }
    }

    /// A JSON response with status 200.
    pub fn json(body: impl Into<Bytes>) -> AdminResponse {
        AdminResponse { status: StatusCode::OK, content_type: "application/json", body: body.into() }
    }
}

type Handler = dyn Fn(AdminRequest) -> Pin<Box<dyn Future<Output = AdminResponse> + Send>> + Send + Sync;

struct Route {
    verb: Verb,
    path: &'static str,
    handler: Box<Handler>,
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.verb, self.path)
    }
}

impl AdminServer {
    /// Binds the configured address.
    ///
    /// # Errors
    /// If the address is not available; the error names it.
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
        Ok(AdminServer { listener, registry: Arc::new(registry), readiness, routes: Vec::new() })
    }

    /// Adds a route. The server sets no time limit for `handler`.
    #[must_use]
    pub fn route<F, A>(mut self, verb: Verb, path: &'static str, handler: F) -> AdminServer
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = AdminResponse> + Send + 'static,
    {
        let handler: Box<Handler> = Box::new(move |request| Box::pin(handler(request)));
        self.routes.push(Route { verb, path, handler });
        self
    }

    /// The local address of the listener.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled.
    pub async fn serve(self, shutdown: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let (registry, readiness, routes) = (self.registry, self.readiness, Arc::new(self.routes));
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file descriptors: retry once some have been closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (registry, readiness, routes) =
                (Arc::clone(&registry), readiness.clone(), Arc::clone(&routes));
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| async {
                    Ok::<_, Infallible>(respond(request, &registry, &readiness, &routes).await)
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    // Errors of a client's connection do not matter here.
                    _ = connection => {}
                }
                drop(permit);
            });
        }
    }
}

async fn respond(
    request: Request<Incoming>,
    registry: &Registry,
    readiness: &Readiness,
    routes: &[Route],
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let route = routes.iter().find(|route| route.path == path);
    if route.is_none() && !BUILT_IN.contains(&path) {
        let mut paths: Vec<&str> = BUILT_IN.to_vec();
        paths.extend(routes.iter().map(|route| route.path));
        return response(AdminResponse::text(
            StatusCode::NOT_FOUND,
            format!("not found; available: {}\n", paths.join(", ")),
        ));
    }
    let verb = route.map_or(Verb::Get, |route| route.verb);
    if !verb.accepts(request.method()) {
        return response(AdminResponse::text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("only {} is allowed\n", verb.name()),
        ));
    }
    // Cross-site request forgery: a page open in an operator's browser must not trigger side effects.
    if verb == Verb::Post && request.headers().contains_key(header::ORIGIN) {
        return response(AdminResponse::text(StatusCode::FORBIDDEN, "not allowed from a web page\n"));
    }
    if let Some(route) = route {
        let query = request.uri().query().unwrap_or_default().to_owned();
        return response((route.handler)(AdminRequest { query }).await);
    }
    response(match path {
        "/metrics" => {
            let mut body = String::new();
            // Writing to a String cannot fail.
            let _ = prometheus_client::encoding::text::encode(&mut body, registry);
            AdminResponse { status: StatusCode::OK, content_type: OPENMETRICS, body: body.into() }
        }
        "/health/ready" => match readiness.missing().as_slice() {
            [] => AdminResponse::text(StatusCode::OK, ready_text(&readiness.degraded())),
            missing => AdminResponse::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for {}\n", missing.join(", ")),
            ),
        },
        _ => AdminResponse::text(StatusCode::OK, "live\n"),
    })
}

/// `--check-health` reads the last line, so `ready` comes last.
fn ready_text(degraded: &[Arc<str>]) -> String {
    match degraded {
        [] => "ready\n".to_owned(),
        degraded => format!("without {}\nready\n", degraded.join(", ")),
    }
}

fn response(from: AdminResponse) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(from.body));
    *response.status_mut() = from.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(from.content_type));
    response
}

#[cfg(test)]
mod tests;
