use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// Starts a server with two routes, sends the requests and returns the status line and body of each response.
async fn responses(requests: &[&str]) -> Vec<(String, String)> {
    let config = AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
    let server = AdminServer::bind(&config, Registry::default(), Readiness::default())
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
