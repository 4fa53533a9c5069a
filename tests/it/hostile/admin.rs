//! Clients that hold connections to the admin ports open.

use blackhole_dev::{http, services::Service};
use blackhole_tests::{raw::RawClient, stack::Stack};

/// More than an admin port has places.
const CLIENTS: usize = 64;

fn port(service: &Service) -> u16 {
    service.admin().rsplit(':').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn clients_that_send_nothing_or_read_nothing_lock_nobody_out_of_an_admin_port() {
    let stack = Stack::shared();
    // Services of their own, because other tests have the same address.
    let edge = stack.another_edge("edge-admin-held", &[]).await;
    let ingest = stack.another_ingest("ingest-admin-held", &[]).await;
    for service in [&edge.service, &ingest] {
        let mut held = Vec::new();
        for sent in
            ["", "GET /metrics HTTP/1.1\r\nHost: loc", "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"]
        {
            for _ in 0..CLIENTS {
                let mut client = RawClient::connect_with_receive_buffer(1024, port(service)).await;
                client.send(sent).await;
                held.push(client);
            }
            // A request that gets no answer within 5 s is an error.
            let live = http::get(service.admin(), "/health/live").await.unwrap();
            assert_eq!((live.status, live.body.as_str()), (200, "live\n"), "{sent}");
            let metrics = http::get(service.admin(), "/metrics").await.unwrap();
            assert!(metrics.body.ends_with("# EOF\n"), "{}", metrics.body);
        }
    }
}

#[tokio::test]
async fn a_flood_of_one_client_displaces_no_other_clients_connection() {
    let stack = Stack::shared();
    let service = stack.another_edge("edge-admin-flood", &[]).await.service;
    let mut probe = RawClient::connect_from([127, 0, 0, 7].into(), port(&service)).await;
    probe.send("GET /health/ready HTTP/1.1\r\n").await;
    let mut flood = Vec::new();
    for _ in 0..CLIENTS {
        flood.push(RawClient::connect(port(&service)).await);
    }
    assert!(flood[0].rest().await.is_empty(), "the oldest of the flood is closed");
    probe.send("Host: localhost\r\n\r\n").await;
    assert_eq!(probe.response().await.status, 200);
}
