//! The admin server of every service:
//!
//! | path | answer |
//! |---|---|
//! | `GET /metrics` | metrics in the OpenMetrics text form |
//! | `GET /health/live` | 200 while the process serves |
//! | `GET /health/ready` | 200 when everything it needs is there, else 503 with the names of what is missing; where one of several is enough, 200 tells those that are away |
//!
//! A service adds routes of its own by [`AdminServer::route`].

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

/// More connections than this wait: a scraper and a few probes need no more.
const MOST_CONNECTIONS: usize = 32;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const BUILT_IN: [&str; 3] = ["/metrics", "/health/live", "/health/ready"];

/// The listening admin server.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: Readiness,
    routes: Vec<Route>,
}

/// The method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Asks; changes nothing.
    Get,
    /// Changes something. Refused where it comes from a web page.
    Post,
}

impl Verb {
    fn fits(self, method: &Method) -> bool {
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

/// What a route is asked with.
#[derive(Clone, Debug, Default)]
pub struct AdminRequest {
    query: String,
}

impl AdminRequest {
    /// The first parameter of this name in the URL's query, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.into_owned())
    }
}

/// What a route answers.
#[derive(Clone, Debug)]
pub struct AdminResponse {
    /// The status.
    pub status: StatusCode,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
}

impl AdminResponse {
    /// Plain text, for people; it should end its line.
    pub fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
        AdminResponse { status, content_type: PLAIN, body: body.into() }
    }

    /// JSON with status 200.
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
        Ok(AdminServer { listener, registry: Arc::new(registry), readiness, routes: Vec::new() })
    }

    /// Answers `path` by `handler` as well. Nothing limits how long that takes: it has to come to an end itself.
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
        let (registry, readiness, routes) = (self.registry, self.readiness, Arc::new(self.routes));
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
            let (registry, readiness, routes) =
                (Arc::clone(&registry), readiness.clone(), Arc::clone(&routes));
            let shutdown = shutdown.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| async {
                    Ok::<_, Infallible>(answer(request, &registry, &readiness, &routes).await)
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

async fn answer(
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
            format!("there are {}\n", paths.join(", ")),
        ));
    }
    let verb = route.map_or(Verb::Get, |route| route.verb);
    if !verb.fits(request.method()) {
        return response(AdminResponse::text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("only {} here\n", verb.name()),
        ));
    }
    // A web page that its user has open must not have the services do something.
    if verb == Verb::Post && request.headers().contains_key(header::ORIGIN) {
        return response(AdminResponse::text(StatusCode::FORBIDDEN, "not from a web page\n"));
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
            [] => AdminResponse::text(StatusCode::OK, ready(&readiness.degraded())),
            missing => AdminResponse::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for {}\n", missing.join(", ")),
            ),
        },
        _ => AdminResponse::text(StatusCode::OK, "live\n"),
    })
}

/// The last line is what counts; what is away stands before it.
fn ready(away: &[Arc<str>]) -> String {
    match away {
        [] => "ready\n".to_owned(),
        away => format!("without {}\nready\n", away.join(", ")),
    }
}

fn response(answer: AdminResponse) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    response
}

#[cfg(test)]
mod tests;
