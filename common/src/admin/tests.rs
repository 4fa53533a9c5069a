use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

async fn responses(requests: &[&str]) -> Vec<(String, String)> {
    responses_with(&Readiness::default(), requests).await
}

/// Starts a server with two routes, sends the requests and returns the status line and body of each response.
async fn responses_with(readiness: &Readiness, requests: &[&str]) -> Vec<(String, String)> {
    let config = AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
    let mut registry = Registry::default();
    registry.register("a", "A gauge", prometheus_client::metrics::gauge::Gauge::<i64>::default());
    let server = AdminServer::bind(&config, registry, readiness.clone())
        .await
        .unwrap()
        .route(Verb::Get, "/list", |request| async move {
            AdminResponse::json(format!("{:?}", request.parameter("of").unwrap_or_default()))
        })
        .route(Verb::Post, "/do", |_| async { AdminResponse::text(StatusCode::ACCEPTED, "done\n") });
    let address = server.address().unwrap();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    let mut responses = Vec::new();
    for request in requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        let text = format!("{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        responses.push((head.lines().next().unwrap().to_owned(), body.to_owned()));
    }
    shutdown.cancel();
    serving.await.unwrap();
    responses
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
            "not found; available: /metrics, /health/live, /health/ready, /list, /do\n",
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
    let expected = "# HELP a A gauge.\n# TYPE a gauge\na 0\n# EOF\n";
    let responses = responses(&["GET /metrics"]).await;
    assert_eq!(responses, [("HTTP/1.1 200 OK".to_owned(), expected.to_owned())]);
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
