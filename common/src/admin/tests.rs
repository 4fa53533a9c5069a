use std::net::Ipv4Addr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::config::Secret;

async fn responses(requests: &[&str]) -> Vec<(String, String)> {
    responses_with(&Readiness::default(), requests).await
}

async fn responses_with(readiness: &Readiness, requests: &[&str]) -> Vec<(String, String)> {
    let site = Running::start(&loopback(), readiness, Limits::default()).await;
    let mut responses = Vec::new();
    for request in requests {
        responses.push(site.response(request).await);
    }
    site.stop().await;
    responses
}

/// The configuration of a server on a free port of this machine.
fn loopback() -> AdminConfig<0> {
    AdminConfig::default()
}

/// More than the kernel buffers for a client that does not read.
const LONG_LIST: usize = 16 << 20;

/// A server with these routes: `/list`, `/long`, a list that takes up memory until the client has read it, `/never`, which
/// has no answer, and `/do`.
struct Running {
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(config: &AdminConfig<0>, readiness: &Readiness, limits: Limits) -> Running {
        let mut registry = Registry::default();
        registry.register("a", "A gauge", prometheus_client::metrics::gauge::Gauge::<i64>::default());
        let mut server = AdminServer::bind(config, registry, readiness.clone())
            .await
            .unwrap()
            .route(Verb::Get, "/list", |request| async move {
                AdminResponse::json(format!("{:?}", request.parameter("of").unwrap_or_default()))
            })
            .route(Verb::Get, "/long", |_| async { AdminResponse::json(vec![b' '; LONG_LIST]) })
            .route(Verb::Post, "/never", |_| std::future::pending())
            .route(Verb::Post, "/do", |_| async { AdminResponse::text(StatusCode::ACCEPTED, "done\n") });
        server.limits = limits;
        let address = server.address().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        Running { address, shutdown, serving }
    }

    /// A new connection that has sent this.
    async fn client(&self, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.address.port())).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// The status line and body of the response to a request: a line without the version, then header lines.
    async fn response(&self, request: &str) -> (String, String) {
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        let sent = format!("{line} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}\r\n");
        let response = rest(self.client(&sent).await).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    async fn status(&self, request: &str) -> String {
        self.response(request).await.0
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }
}

const LIVE: &str = "HTTP/1.1 200 OK";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(50);

/// What the server sends until it ends the connection. A client that waits for longer than all limits here fails.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    // The end may be a reset, where the server has not read everything.
    let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn services_can_add_routes() {
    let responses = responses(&[
        "GET /list?a=b&of=x%20y+z",
        "GET /list",
        "POST /do",
        "GET /health/live",
        "HEAD /health/ready",
        "GET /nothing",
    ])
    .await;
    let expected = [
        ("HTTP/1.1 200 OK", "\"x y z\""),
        ("HTTP/1.1 200 OK", "\"\""),
        ("HTTP/1.1 202 Accepted", "done\n"),
        ("HTTP/1.1 200 OK", "live\n"),
        ("HTTP/1.1 200 OK", ""),
        (
            "HTTP/1.1 404 Not Found",
            "not found; available: /metrics, /health/live, /health/ready, /list, /long, /never, /do\n",
        ),
    ];
    assert_eq!(responses, expected.map(|(head, body)| (head.to_owned(), body.to_owned())));
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let readiness = Readiness::default();
    let nats = readiness.latch("nats");
    let (east, west) = (readiness.latch_in_group("amqp", "east"), readiness.latch_in_group("amqp", "west"));
    let ready = async || responses_with(&readiness, &["GET /health/ready"]).await.remove(0);
    let unavailable = |body: &str| ("HTTP/1.1 503 Service Unavailable".to_owned(), body.to_owned());
    let ok = |body: &str| ("HTTP/1.1 200 OK".to_owned(), body.to_owned());
    assert_eq!(ready().await, unavailable("waiting for nats, amqp east, amqp west\n"));
    west.set(true);
    assert_eq!(ready().await, unavailable("waiting for nats\n"));
    nats.set(true);
    assert_eq!(ready().await, ok("without amqp east\nready\n"));
    east.set(true);
    assert_eq!(ready().await, ok("ready\n"));
}

#[tokio::test]
async fn metrics_are_in_the_openmetrics_format() {
    let expected = "# HELP a A gauge.\n# TYPE a gauge\na 0\n# HELP part_ready Whether a part is available (1) or missing (0), see /health/ready\n# TYPE part_ready gauge\n# EOF\n";
    let responses = responses(&["GET /metrics"]).await;
    let [(head, body)] = &*responses else { panic!("{responses:?}") };
    let (process, own) = body.split_at(body.len().saturating_sub(expected.len()));
    assert_eq!((head.as_str(), own), ("HTTP/1.1 200 OK", expected));
    // Only once: the end of the text is the end of the metrics.
    assert!(process.contains("\nprocess_resident_memory_bytes ") && !process.contains("# EOF"), "{process}");
}

#[tokio::test]
async fn wrong_methods_and_posts_from_web_pages_are_refused() {
    let responses =
        responses(&["POST /list", "GET /do", "POST /metrics", "POST /do\norigin: null\r\n"]).await;
    let expected = [
        ("HTTP/1.1 405 Method Not Allowed", "only GET is allowed\n"),
        ("HTTP/1.1 405 Method Not Allowed", "only POST is allowed\n"),
        ("HTTP/1.1 405 Method Not Allowed", "only GET is allowed\n"),
        ("HTTP/1.1 403 Forbidden", "not allowed from a web page\n"),
    ];
    assert_eq!(responses, expected.map(|(head, body)| (head.to_owned(), body.to_owned())));
}

#[tokio::test]
async fn clients_that_hold_connections_open_lock_out_nobody() {
    // Only the limit of connections can help here.
    let limits = Limits { header: LONG, answer: LONG, connection: LONG };
    for sent in [
        "",
        "GET /metrics HTTP/1.1\r\nhost:",
        "POST /never HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
        "GET /long HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
    ] {
        let site = Running::start(&loopback(), &Readiness::default(), limits).await;
        let mut held = Vec::new();
        for _ in 0..2 * MAX_CONNECTIONS {
            held.push(site.client(sent).await);
        }
        assert_eq!(site.status("GET /health/live").await, LIVE, "{sent}");
        assert_eq!(site.status("POST /do").await, "HTTP/1.1 202 Accepted", "{sent}");
        drop(held);
        site.stop().await;
    }
}

#[tokio::test]
async fn each_phase_of_a_connection_has_a_time_limit() {
    let start = async |limits| Running::start(&loopback(), &Readiness::default(), limits).await;
    let site = start(Limits { header: SHORT, answer: LONG, connection: LONG }).await;
    for sent in ["", "GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n"] {
        let answer = rest(site.client(sent).await).await;
        assert!(answer.is_empty(), "{answer}");
    }
    site.stop().await;

    let site = start(Limits { header: LONG, answer: SHORT, connection: LONG }).await;
    let answer = site.response("POST /never").await;
    assert_eq!(answer, (UNAVAILABLE.to_owned(), "no answer in time, try again\n".to_owned()));
    site.stop().await;

    let site = start(Limits { header: LONG, answer: LONG, connection: SHORT }).await;
    let slow = site.client("GET /long HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
    // It begins to read when the time is over.
    rest(site.client("").await).await;
    let answer = rest(slow).await;
    assert!(answer.len() < LONG_LIST, "the answer is complete");
    site.stop().await;
}

#[tokio::test]
async fn a_connection_is_for_one_request() {
    let site = Running::start(&loopback(), &Readiness::default(), Limits::default()).await;
    let request = "GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: keep-alive\r\n\r\n";
    let answer = rest(site.client(&request.repeat(2)).await).await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(answer.matches("live\n").count(), 1, "{answer}");
    site.stop().await;
}

#[tokio::test]
async fn few_lists_at_a_time_wait_for_slow_clients() {
    let limits = Limits { answer: SHORT, header: LONG, connection: LONG };
    let site = Running::start(&loopback(), &Readiness::default(), limits).await;
    let mut slow = Vec::new();
    for _ in 0..MAX_LISTS {
        let mut client = site.client("GET /long HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await;
        client.read_u8().await.unwrap();
        slow.push(client);
    }
    assert_eq!(site.status("GET /list").await, UNAVAILABLE);
    assert_eq!(site.status("GET /metrics").await, LIVE);
    assert_eq!(site.status("POST /do").await, "HTTP/1.1 202 Accepted");
    slow.pop();
    while site.status("GET /list").await != LIVE {}
    site.stop().await;
}

#[tokio::test]
async fn requests_with_a_body_or_a_large_header_are_refused() {
    let site = Running::start(&loopback(), &Readiness::default(), Limits::default()).await;
    for (more, expected) in [
        ("content-length: 5\r\n", "HTTP/1.1 413 Payload Too Large"),
        ("transfer-encoding: chunked\r\n", "HTTP/1.1 413 Payload Too Large"),
        ("content-length: 0\r\n", "HTTP/1.1 202 Accepted"),
        (&format!("a: {}\r\n", "a".repeat(MAX_HEADER_BYTES)), "HTTP/1.1 431 Request Header Fields Too Large"),
    ] {
        assert_eq!(site.status(&format!("POST /do\n{more}")).await, expected, "{more}");
    }
    site.stop().await;
}

#[tokio::test]
async fn lists_and_changes_need_the_token_and_nothing_else_does() {
    let with_token = AdminConfig { token: Some(Secret::new("the-operators-token")), ..loopback() };
    let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let open = AdminConfig { listen: everywhere, ..loopback() };
    let dangerous = AdminConfig { dangerous_without_token: true, ..open.clone() };
    for (config, header, expected) in [
        (&with_token, "", "HTTP/1.1 401 Unauthorized"),
        (&with_token, "authorization: Bearer the-operators-tokem\r\n", "HTTP/1.1 401 Unauthorized"),
        (&with_token, "authorization: Bearer the-operators-token\r\n", LIVE),
        (&open, "", "HTTP/1.1 403 Forbidden"),
        (&open, "authorization: Bearer the-operators-token\r\n", "HTTP/1.1 403 Forbidden"),
        (&dangerous, "", LIVE),
    ] {
        let site = Running::start(config, &Readiness::default(), Limits::default()).await;
        for path in ["/metrics", "/health/live", "/health/ready"] {
            assert_eq!(site.status(&format!("GET {path}")).await, LIVE);
        }
        assert_eq!(site.status(&format!("GET /list\n{header}")).await, expected);
        let changed = if expected == LIVE { "HTTP/1.1 202 Accepted" } else { expected };
        assert_eq!(site.status(&format!("POST /do\n{header}")).await, changed);
        site.stop().await;
    }
}
