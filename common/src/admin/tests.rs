use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// Starts a server with two routes, sends the requests and gives the first line and the body of each answer.
async fn answers(requests: &[&str]) -> Vec<(String, String)> {
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
    let mut answers = Vec::new();
    for request in requests {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
        let text = format!("{line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        answers.push((head.lines().next().unwrap().to_owned(), body.to_owned()));
    }
    shutdown.cancel();
    serving.await.unwrap();
    answers
}

#[tokio::test]
async fn a_service_adds_routes_of_its_own() {
    let answers = answers(&[
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
        ("HTTP/1.1 404 Not Found", "there are /metrics, /health/live, /health/ready, /list, /do\n"),
    ];
    assert_eq!(answers, expected.map(|(head, body)| (head.to_owned(), body.to_owned())));
}

#[tokio::test]
async fn a_route_is_asked_by_its_own_method_and_changes_nothing_for_a_web_page() {
    let answers = answers(&["POST /list", "GET /do", "POST /metrics", "POST /do\norigin: null\r\n"]).await;
    let expected = [
        ("HTTP/1.1 405 Method Not Allowed", "only GET here\n"),
        ("HTTP/1.1 405 Method Not Allowed", "only POST here\n"),
        ("HTTP/1.1 405 Method Not Allowed", "only GET here\n"),
        ("HTTP/1.1 403 Forbidden", "not from a web page\n"),
    ];
    assert_eq!(answers, expected.map(|(head, body)| (head.to_owned(), body.to_owned())));
}
