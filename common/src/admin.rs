//! The admin HTTP server of every service:
//!
//! | path | response |
//! |---|---|
//! | `GET /metrics` | metrics in the OpenMetrics text format |
//! | `GET /health/live` | 200 while the process is running |
//! | `GET /health/ready` | 200 when ready, else 503 with the names of the missing dependencies; 200 also lists those that are missing but not required |
//!
//! Services add their own routes with [`AdminServer::route`]. These list or change something, and may require the
//! operator's token.

pub mod access;
mod connection_limit;

use std::{convert::Infallible, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
pub use hyper::StatusCode;
use hyper::{
    Method, Request, Response,
    body::{Body, Incoming},
    header::{self, CONTENT_TYPE, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::text::{encode, encode_registry},
    registry::Registry,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    access::Access,
    connection_limit::{ConnectionLimit, ConnectionPermit},
};
use crate::{config::AdminConfig, listen::listen, process_metrics::ProcessMetrics, readiness::Readiness};

/// A scraper and a few probes need no more.
const MAX_CONNECTIONS: usize = 32;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Lists may be large, and wait in memory while the client reads.
const MAX_LISTS: usize = 4;
const MAX_HEADER_BYTES: usize = 16 * 1024;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const BUILT_IN: [&str; 3] = ["/metrics", "/health/live", "/health/ready"];

/// An admin server, bound to its address but not serving yet.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    limits: Limits,
    site: Site,
}

/// How long a connection's phases may take. There is one request per connection.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// From the connection to the end of the request's header.
    header: Duration,
    /// For a route's answer.
    answer: Duration,
    /// For the whole connection, until the client has taken the answer.
    connection: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            connection: Duration::from_secs(60),
        }
    }
}

/// What is served.
#[derive(Debug)]
struct Site {
    access: Access,
    registry: Registry,
    /// The metrics without the registry's prefix.
    process: Registry,
    readiness: Readiness,
    routes: Vec<Route>,
    lists: Arc<Semaphore>,
}

/// The HTTP method of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Lists, without side effects. Also serves `HEAD`.
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
    /// If the address is not available, or the token not acceptable; the error names it.
    pub async fn bind<const PORT: u16>(
        config: &AdminConfig<PORT>,
        mut registry: Registry,
        readiness: Readiness,
    ) -> io::Result<AdminServer> {
        registry.register_collector(Box::new(readiness.clone()));
        let mut process = Registry::default();
        process.register_collector(Box::new(ProcessMetrics));
        let token = config.read_token().map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {}", error.key, error.reason))
        })?;
        let listener = listen(config.listen, BACKLOG, |_| Ok(())).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on admin.listen = {}: {error}", config.listen),
            )
        })?;
        let site = Site {
            access: Access::new(token, config.dangerous_without_token, config.listen),
            registry,
            process,
            readiness,
            routes: Vec::new(),
            lists: Arc::new(Semaphore::new(MAX_LISTS)),
        };
        Ok(AdminServer { listener, limits: Limits::default(), site })
    }

    /// Adds a route. `handler` is dropped if it does not answer in time.
    #[must_use]
    pub fn route<F, A>(mut self, verb: Verb, path: &'static str, handler: F) -> AdminServer
    where
        F: Fn(AdminRequest) -> A + Send + Sync + 'static,
        A: Future<Output = AdminResponse> + Send + 'static,
    {
        let handler: Box<Handler> = Box::new(move |request| Box::pin(handler(request)));
        self.site.routes.push(Route { verb, path, handler });
        self
    }

    /// The local address of the listener.
    ///
    /// # Errors
    /// If the operating system does not report it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled.
    pub async fn serve(self, shutdown: CancellationToken) {
        let limit = ConnectionLimit::new(MAX_CONNECTIONS);
        let (limits, site) = (self.limits, Arc::new(self.site));
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                // Out of file descriptors: retry once some have been closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let permit = limit.take(peer.ip()).await;
            let (site, shutdown) = (Arc::clone(&site), shutdown.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = serve_connection(stream, &site, limits, permit) => {}
                }
            });
        }
    }
}

/// Answers one request. Without keep-alive, so that no client has a connection for longer than it needs it.
async fn serve_connection(stream: TcpStream, site: &Site, limits: Limits, permit: ConnectionPermit) {
    // Held until the client has the list.
    let list: Mutex<Option<OwnedSemaphorePermit>> = Mutex::default();
    let service = service_fn(|request| async {
        let answer = timeout(limits.answer, site.answer(request, &list)).await;
        Ok::<_, Infallible>(response(answer.unwrap_or_else(|_| {
            AdminResponse::text(StatusCode::SERVICE_UNAVAILABLE, "no answer in time, try again\n")
        })))
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // How it ends does not matter here.
    tokio::select! {
        () = permit.displaced() => {}
        _ = timeout(limits.connection, connection) => {}
    }
}

impl Site {
    async fn answer(
        &self,
        request: Request<Incoming>,
        list: &Mutex<Option<OwnedSemaphorePermit>>,
    ) -> AdminResponse {
        let path = request.uri().path();
        let route = self.routes.iter().find(|route| route.path == path);
        if route.is_none() && !BUILT_IN.contains(&path) {
            let mut paths: Vec<&str> = BUILT_IN.to_vec();
            paths.extend(self.routes.iter().map(|route| route.path));
            return AdminResponse::text(
                StatusCode::NOT_FOUND,
                format!("not found; available: {}\n", paths.join(", ")),
            );
        }
        let verb = route.map_or(Verb::Get, |route| route.verb);
        if !verb.accepts(request.method()) {
            return AdminResponse::text(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("only {} is allowed\n", verb.name()),
            );
        }
        if !request.body().is_end_stream() {
            return AdminResponse::text(StatusCode::PAYLOAD_TOO_LARGE, "send no body\n");
        }
        let Some(route) = route else { return self.built_in(path) };
        // Cross-site request forgery: a page open in an operator's browser must not trigger side effects.
        if verb == Verb::Post && request.headers().contains_key(header::ORIGIN) {
            return AdminResponse::text(StatusCode::FORBIDDEN, "not allowed from a web page\n");
        }
        if let Err(refusal) = self.access.check(request.headers()) {
            return refusal;
        }
        if verb == Verb::Get {
            *list.lock() = Arc::clone(&self.lists).acquire_owned().await.ok();
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        (route.handler)(AdminRequest { query }).await
    }

    fn built_in(&self, path: &str) -> AdminResponse {
        match path {
            "/metrics" => {
                let mut body = String::new();
                // Writing to a String cannot fail.
                let _ = encode_registry(&mut body, &self.process);
                let _ = encode(&mut body, &self.registry);
                AdminResponse { status: StatusCode::OK, content_type: OPENMETRICS, body: body.into() }
            }
            "/health/ready" => match self.readiness.missing().as_slice() {
                [] => AdminResponse::text(StatusCode::OK, ready_text(&self.readiness.degraded())),
                missing => AdminResponse::text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!("waiting for {}\n", missing.join(", ")),
                ),
            },
            _ => AdminResponse::text(StatusCode::OK, "live\n"),
        }
    }
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
    if from.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests;
